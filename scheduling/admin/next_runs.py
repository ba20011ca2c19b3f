"""The items' next runs in the admin, also those of a schedule that is not saved yet."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any, ClassVar

from django.contrib import admin
from django.core.exceptions import NON_FIELD_ERRORS, PermissionDenied
from django.forms import ModelForm, Script, modelform_factory
from django.http import HttpRequest, JsonResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.html import format_html, format_html_join
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from queryexport.errors import ConfigurationError
from scheduling.forms import SchedulingItemForm
from scheduling.models import SchedulingItem

NAME = "scheduling_schedulingitem_next_runs"
FIELDS = (
    "scheduling_mode", "days_of_week", "hour", "minute", "cron_expression", "timezone", "end_date",
)  # fmt: skip
SHOWN = 10
ENDED = "ended"


# The part of the item's form that says when it runs, with the same rules.
ScheduleForm = modelform_factory(SchedulingItem, form=SchedulingItemForm, fields=FIELDS)


class NextRunsPage(admin.ModelAdmin):
    """The part of the items' admin that shows next runs, anew while somebody types."""

    class Media:
        js: ClassVar = [Script("queryexport/next_runs.js", defer=True)]

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.next_runs_of_form)
        return [path("next-runs/", view, name=NAME), *super().get_urls()]

    @method_decorator([require_safe, never_cache])
    def next_runs_of_form(self, request: HttpRequest) -> JsonResponse:
        """The schedule is in the query string; `runs` are texts, `error` is empty or says why."""
        may_see = self.has_view_or_change_permission(request) or self.has_add_permission(request)
        if not may_see:
            raise PermissionDenied
        form = ScheduleForm(request.GET)
        if not form.is_valid():
            return JsonResponse({"runs": [], "error": " ".join(_errors(form))})
        try:
            return JsonResponse({"runs": next_runs(form.instance) or [ENDED], "error": ""})
        except ConfigurationError as error:
            return JsonResponse({"runs": [], "error": error.message})

    @admin.display(description="next 10 runs")
    def next_runs(self, item: SchedulingItem) -> str:
        """As the schedule is stored, also of a disabled item, until the form is changed."""
        url = reverse(f"admin:{NAME}")
        return format_html(
            '<div id="next-runs" aria-live="polite" data-url="{}">{}</div>', url, _stored(item)
        )


def next_runs(item: SchedulingItem) -> list[str]:
    """The item's next slots, each in its own zone and in UTC; none when the schedule has ended."""
    return [_text(slot) for slot in islice(item.schedule.after(timezone.now()), SHOWN)]


def _text(slot: datetime) -> str:
    utc = slot.astimezone(UTC)
    elsewhere = f"{utc:%H:%M}" if utc.date() == slot.date() else f"{utc:%a %H:%M}"
    return f"{slot:%a %Y-%m-%d %H:%M %Z} ({elsewhere} UTC)"


def _stored(item: SchedulingItem) -> str:
    if item.pk is None:
        return "Shown as soon as the schedule is filled in, or once the item is saved."
    try:
        runs = next_runs(item)
    except ConfigurationError as error:
        return error.message
    return format_html_join("", "<div>{}</div>", ((run,) for run in runs)) or ENDED


def _errors(form: "ModelForm[Any]") -> Iterator[str]:
    """What the form says, each with the field that it is about."""
    for name, messages in form.errors.items():
        label = "" if name == NON_FIELD_ERRORS else f"{form[name].label}: "
        yield from (f"{label}{message}" for message in messages)
