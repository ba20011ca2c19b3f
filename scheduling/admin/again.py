"""The admin page that says what running a slot again would do, and does it."""

import json
from collections.abc import Mapping
from typing import Any, assert_never

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.core.serializers.json import DjangoJSONEncoder
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.decorators import method_decorator
from django.views.decorators.http import require_http_methods

from queryexport.errors import ExportError
from queryexport.read_only import ReadOnlyAdmin
from queryexport.stores import redacted
from scheduling import again, replays
from scheduling.again import ParametersDoNotFit
from scheduling.backfill import local
from scheduling.models import (
    OnExisting,
    Output,
    SchedulingHistoryItem,
    SchedulingItem,
    SharingMode,
)

NAME = "scheduling_schedulinghistoryitem"
TEMPLATE = "admin/scheduling/schedulinghistoryitem/again.html"


IF_IT_EXISTS = {
    OnExisting.REPLACE: "One of that name is replaced.",
    OnExisting.REFUSE: "If there is one of that name, the run fails.",
    OnExisting.NUMBER: "If there is one of that name, the new one gets a number.",
    OnExisting.KEEP: "One of that name is kept under a number.",
}


class AgainForm(forms.Form):
    """What a person decides when a slot is run again."""

    present_parameters = forms.BooleanField(
        required=False, label="With the item's present parameters"
    )
    missing_only = forms.BooleanField(required=False)


class AgainPage(ReadOnlyAdmin):
    """The part of the history's admin that runs slots again."""

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.again)
        return [path("<int:object_id>/again/", view, name=f"{NAME}_again"), *super().get_urls()]

    def has_run_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("scheduling.run_schedulingitem")

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        if run := context.get("original"):
            is_replay = run.trigger == SchedulingHistoryItem.Trigger.REPLAY
            can = run.item_id and run.is_over and not is_replay
            context["can_run_again"] = can and self.has_run_permission(request)
        return super().render_change_form(request, context, *args, **kwargs)

    @method_decorator(require_http_methods(["GET", "POST"]))
    def again(self, request: HttpRequest, object_id: int) -> HttpResponse:
        """Says what running the slot again would do; a POST does it."""
        rows = self.get_queryset(request).select_related("item__query", "item__connection", "user")
        run = get_object_or_404(rows, pk=object_id)
        if not (self.has_view_permission(request, run) and self.has_run_permission(request)):
            raise PermissionDenied
        form = AgainForm(request.POST if request.method == "POST" else None)
        if form.is_valid():
            return self._queued(request, run, form.cleaned_data)
        context = {
            **self.admin_site.each_context(request),
            "title": f"Run the slot of run {run.pk} again",
            "opts": self.opts,
            "run": run,
            "form": form,
            **_what_it_does(run),
        }
        return TemplateResponse(request, TEMPLATE, context)

    def _queued(
        self, request: HttpRequest, run: SchedulingHistoryItem, decided: Mapping[str, bool]
    ) -> HttpResponse:
        try:
            new = again.run_again(
                run,
                user=request.user,
                present_parameters=decided["present_parameters"],
                missing_only=decided["missing_only"],
            )
        except ParametersDoNotFit as error:
            self.message_user(request, error.message, messages.ERROR)
            return redirect(f"admin:{NAME}_again", run.pk)
        except ExportError as error:
            self.message_user(request, error.message, messages.ERROR)
            return redirect(f"admin:{NAME}_change", run.pk)
        self.message_user(request, f"Attempt {new.attempt} is queued.", messages.SUCCESS)
        return redirect(f"admin:{NAME}_change", new.pk)


def _what_it_does(run: SchedulingHistoryItem) -> dict[str, Any]:
    """The template's values; only `refused` when the slot cannot be run again in any way."""
    try:
        given, misfit = again.check(run), ""
    except ParametersDoNotFit as error:
        given, misfit = None, error.message
    except ExportError as error:
        return {"refused": error.message}
    assert run.item
    item = run.item
    return {
        "item": item,
        "slot": local(item, run.scheduled_for),
        "given": given,
        "misfit": misfit,
        "parameters": None if given is None else _bound(run, item, given),
        "present": _bound(run, item, None),
        "sql_changed": run.sql != item.query.sql,
        "destinations": [_destination(run, output) for output in item.outputs],
        "missing": ", ".join(f"“{name}”" for name in again.missing(run)),
        "kept": replays.waiting(run).rows,
    }


def _bound(run: SchedulingHistoryItem, item: SchedulingItem, given: Any) -> str:
    """The values as they would be bound, or why they cannot be."""
    try:
        item.check_parameters(run.scheduled_for, given)
        values = item.bound_parameters(run.scheduled_for, given)
    except ExportError as error:
        return error.message
    return json.dumps(values, cls=DjangoJSONEncoder, ensure_ascii=False)


def _destination(run: SchedulingHistoryItem, output: Output) -> str:
    """Where the rows go as the item is now, and what that means for those that went before."""
    mode = SharingMode(output.sharing_mode)
    match mode:
        case SharingMode.FILESYSTEM:
            if_it_exists = IF_IT_EXISTS[OnExisting(output.output_on_existing)]
            return f"The file {_file(run, output)} is written. {if_it_exists}"
        case SharingMode.EMAIL:
            people = ", ".join([*output.to, *output.cc, *output.bcc])
            return f"The mail is sent anew to {people}."
        case SharingMode.KAFKA:
            return (
                f"All rows are sent anew to the topic {output.kafka_topic}, by the Kafka "
                f"connection {output.kafka_connection}. Those that arrived before will be there "
                "twice."
            )
        case _:
            assert_never(mode)


def _file(run: SchedulingHistoryItem, output: Output) -> str:
    """Without the number that the new run will have, if the name holds one."""
    name = output.file_name(run.scheduled_for, run_id=run.pk)
    folder = redacted(output.output_url).rstrip("/") if output.output_url else output.output_dir
    return "/".join(filter(None, [folder, name]))
