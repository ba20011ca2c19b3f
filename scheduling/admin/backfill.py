"""The admin page that shows the past slots of an item, and runs those that are ticked."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.views.decorators.http import require_http_methods

from queryexport.errors import ConfigurationError, ExportError
from scheduling import backfill
from scheduling.admin.links import run_link, status_badge
from scheduling.backfill import PlannedSlot
from scheduling.models import SchedulingHistoryItem, SchedulingItem
from scheduling.moments import moment

NAME = "scheduling_schedulingitem"
HISTORY = "admin:scheduling_schedulinghistoryitem_changelist"
TEMPLATE = "admin/scheduling/schedulingitem/backfill.html"
AT_FIRST = timedelta(days=7)
MOST_LINKS = 10


class RangeForm(forms.Form):
    """From when to when, in the item's zone; both become instants."""

    first = forms.CharField(label="From", widget=forms.DateTimeInput({"type": "datetime-local"}))
    last = forms.CharField(label="To", widget=forms.DateTimeInput({"type": "datetime-local"}))

    def __init__(self, item: SchedulingItem, data: Mapping[str, Any] | None) -> None:
        self._zone = item.timezone
        now = timezone.now()
        moments = {"first": now - AT_FIRST, "last": now}
        shown = {
            name: f"{at.astimezone(self._zone):%Y-%m-%dT%H:%M}" for name, at in moments.items()
        }
        super().__init__(data, initial=shown)

    def clean_first(self) -> datetime:
        return self._moment("first", last=False)

    def clean_last(self) -> datetime:
        return self._moment("last", last=True)

    def _moment(self, name: str, *, last: bool) -> datetime:
        try:
            return moment(self.cleaned_data[name], self._zone, last=last)
        except ConfigurationError as error:
            raise ValidationError(error.message) from error


class BackfillPage(admin.ModelAdmin):
    """The part of the items' admin that runs past slots."""

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.backfill)
        name = f"{NAME}_backfill"
        return [path("<int:object_id>/backfill/", view, name=name), *super().get_urls()]

    @method_decorator(require_http_methods(["GET", "POST"]))
    def backfill(self, request: HttpRequest, object_id: int) -> HttpResponse:
        """Lists the slots of a range with what became of them; a POST runs the ticked ones."""
        item = get_object_or_404(self.get_queryset(request), pk=object_id)
        may_run = request.user.has_perm("scheduling.run_schedulingitem")
        if not (self.has_view_permission(request, item) and may_run):
            raise PermissionDenied
        if request.method == "POST" and self._started(request, item):
            return redirect(f"{reverse(HISTORY)}?item__id__exact={item.pk}")
        data = request.POST if request.method == "POST" else request.GET
        form = RangeForm(item, data if "first" in data else None)
        context = {
            **self.admin_site.each_context(request),
            "title": f"Backfill “{item}”",
            "opts": self.opts,
            "item": item,
            "form": form,
            **self._slots(item, form),
        }
        return TemplateResponse(request, TEMPLATE, context)

    def _slots(self, item: SchedulingItem, form: RangeForm) -> dict[str, Any]:
        if not form.is_valid():
            return {}
        try:
            planned = backfill.plan(item, form.cleaned_data["first"], form.cleaned_data["last"])
        except ExportError as error:
            return {"refused": error.message}
        return {"slots": [_shown(item, each) for each in planned]}

    def _started(self, request: HttpRequest, item: SchedulingItem) -> bool:
        """Queues the runs and says so; False, with the reason as a message, when none is."""
        try:
            slots = [moment(slot, item.timezone) for slot in request.POST.getlist("slot")]
            started = backfill.start(item, slots, user=request.user)
        except ExportError as error:
            self.message_user(request, error.message, messages.ERROR)
            return False
        if started.left_out:
            words = _left_out(item, started.left_out)
            self.message_user(request, words, messages.WARNING)
        if started.runs:
            self.message_user(request, _queued(started.runs), messages.SUCCESS)
        return True


def _shown(item: SchedulingItem, planned: PlannedSlot) -> dict[str, Any]:
    latest = planned.latest
    return {
        "planned": planned,
        "value": planned.slot.astimezone(UTC).isoformat(),
        "local": backfill.local(item, planned.slot),
        "status": status_badge(latest.status) if latest else "no run",
        "run": run_link(latest.pk) if latest else "",
    }


def _queued(runs: Sequence[SchedulingHistoryItem]) -> SafeString:
    """Links to the runs, or to the first and the last of many."""
    several = len(runs) > 1
    few = runs if len(runs) <= MOST_LINKS else (runs[0], runs[-1])
    between = ", " if few is runs else " to "
    links = format_html_join(between, "{}", ((run_link(run.pk),) for run in few))
    words = f"{len(runs)} runs are" if several else "1 run is"
    return format_html("{} queued: {}.", words, links)


def _left_out(item: SchedulingItem, left_out: Sequence[PlannedSlot]) -> SafeString:
    parts = (
        (backfill.local(item, each.slot), run_link(each.latest.pk), each.state)
        for each in left_out[:MOST_LINKS]
        if each.latest
    )
    number = len(left_out)
    return format_html(
        "{} left out, because somebody else queued a run meanwhile: {}{}.",
        f"{number} slots were" if number > 1 else "1 slot was",
        format_html_join(", ", "{} ({} is {})", parts),
        " and others" if number > MOST_LINKS else "",
    )
