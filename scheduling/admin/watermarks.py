"""The admin pages of watermarks: where an item has come to, and setting it."""

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.views.decorators.http import require_http_methods

from queryexport.errors import ExportError
from queryexport.read_only import ReadOnlyAdmin
from scheduling import watermarks
from scheduling.admin.links import run_link, status_badge
from scheduling.admin.watermark_forms import KEEP, WatermarkedItemForm, WatermarkForm
from scheduling.models import SchedulingHistoryItem, SchedulingItem, WatermarkChange

NAME = "scheduling_schedulingitem_watermark"
TEMPLATE = "admin/scheduling/schedulingitem/watermark.html"
MOST_SHOWN = 100

Status = SchedulingHistoryItem.Status
Trigger = SchedulingHistoryItem.Trigger


class WatermarkPage(admin.ModelAdmin):
    """The part of the items' admin that shows and sets watermarks."""

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.watermark)
        return [path("<int:object_id>/watermark/", view, name=NAME), *super().get_urls()]

    def has_set_watermark_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("scheduling.set_watermark")

    def get_fieldsets(self, request: HttpRequest, obj: SchedulingItem | None = None) -> Any:
        found = super().get_fieldsets(request, obj)
        if obj is None or not self.has_change_permission(request, obj) or not _is_set(obj):
            return found
        return [
            (name, {**options, "fields": (*options["fields"], "marks")})
            if name == "Watermark"
            else (name, options)
            for name, options in found
        ]

    def save_model(
        self, request: HttpRequest, obj: SchedulingItem, form: WatermarkedItemForm, change: bool
    ) -> None:
        super().save_model(request, obj, form, change)
        if form.decision:
            keep = form.decision == KEEP
            words = f"{'Kept' if keep else 'Emptied'} when the item itself was changed."
            watermarks.keep_or_empty(obj, keep=keep, user=request.user, reason=words)

    @admin.display(description="current mark")
    def watermark_shown(self, item: SchedulingItem) -> str:
        """Where it has come to, with the link to the page on which it is set."""
        if item.pk is None:
            return "Set on its own page once the item is saved."
        latest = watermarks.current(item)
        words = f"{latest.value or 'none'}, {_when(latest)}" if latest else "none"
        url = reverse(f"admin:{NAME}", args=[item.pk])
        return format_html('{} · <a href="{}">history, set or rewind</a>', words, url)

    @method_decorator(require_http_methods(["GET", "POST"]))
    def watermark(self, request: HttpRequest, object_id: int) -> HttpResponse:
        """Shows the item's watermark and how it came about; a POST sets it."""
        item = self.get_object(request, str(object_id))
        if item is None:
            raise Http404
        if not self.has_view_permission(request, item):
            raise PermissionDenied
        may_set = self.has_set_watermark_permission(request)
        if request.method == "POST" and not may_set:
            raise PermissionDenied
        form = WatermarkForm(item, request.POST if request.method == "POST" else None)
        if form.is_valid() and self._is_done(request, item, form):
            return redirect(f"admin:{NAME}", item.pk)
        context = {
            **self.admin_site.each_context(request),
            "title": f"Watermark of “{item}”",
            "opts": self.opts,
            "item": item,
            "form": form if may_set and item.watermark_column else None,
            **_history(item),
            **_unfinished(item),
        }
        return TemplateResponse(request, TEMPLATE, context)

    def _is_done(self, request: HttpRequest, item: SchedulingItem, form: WatermarkForm) -> bool:
        """False when the form now says why not."""
        seen = request.POST.get("seen", "")
        try:
            change = watermarks.set_by_hand(
                item,
                form.cleaned_data["value"],
                user=request.user,
                reason=form.cleaned_data["reason"],
                seen=int(seen) if seen.isascii() and seen.isdecimal() else None,
            )
        except ExportError as error:
            form.add_error(None, error.message)
            return False
        words = f"Set to {change.value}" if change.value else "Emptied"
        self.log_change(request, item, f"Watermark: {words}. {change.reason}")
        self.message_user(request, f"{words}.", messages.SUCCESS)
        return True


class WatermarkOfRun(ReadOnlyAdmin):
    """The part of the history's admin that says which rows a run got by a watermark."""

    def get_fieldsets(self, request: HttpRequest, obj: SchedulingHistoryItem | None = None) -> Any:
        found = super().get_fieldsets(request, obj)
        if obj is None or not obj.watermark_from:
            return found
        fields = ("watermark_from", "watermark_to", "watermark_moved", "watermark_outcome")
        return [*found, ("Watermark", {"fields": fields})]

    @admin.display(description="what became of it")
    def watermark_outcome(self, run: SchedulingHistoryItem) -> str:
        return outcome(run)


def outcome(run: SchedulingHistoryItem) -> str:
    """Whether the run moved the watermark of its item, and why not."""
    if run.watermark_moved:
        return "Moved to the upper bound, because everything was delivered."
    if not run.is_over:
        return "Moves to the upper bound when everything is delivered."
    if run.watermark_from == run.watermark_to:
        return "Not moved: there was nothing new."
    if run.status != Status.SUCCESS:
        return "Not moved: not everything was delivered. The next run gets these rows again."
    if change := _set_meanwhile(run):
        return (
            f"Not moved: it was set while this run went on ({change.value or 'none'}, "
            f"{_when(change)}), and stays as it was set. The next run begins there."
        )
    if run.trigger == Trigger.RERUN:
        return "Not moved: it was not at the lower bound of this run when that began."
    return "Not moved: it is no longer the one that this run began with."


def _set_meanwhile(run: SchedulingHistoryItem) -> WatermarkChange | None:
    if run.item is None:
        return None
    changes = run.item.watermark_changes.filter(
        changed_at__range=(run.started_at, run.finished_at)
    ).exclude(run=run)
    return changes.order_by("pk").first()


def _is_set(item: SchedulingItem) -> bool:
    latest = watermarks.current(item)
    return bool(latest and latest.value)


def _when(change: WatermarkChange) -> str:
    by = f"run {change.run_id}" if change.run_id else str(change.user or "a person")
    return f"by {by} at {timezone.localtime(change.changed_at):%Y-%m-%d %H:%M:%S %Z}"


def _history(item: SchedulingItem) -> dict[str, Any]:
    changes = list(item.watermark_changes.select_related("user")[: MOST_SHOWN + 1])
    return {
        "latest": changes[0] if changes else None,
        "changes": [
            {"change": change, "by": _by(change)} for change in changes[:MOST_SHOWN]
        ],
        "most_shown": MOST_SHOWN if len(changes) > MOST_SHOWN else 0,
    }  # fmt: skip


def _by(change: WatermarkChange) -> str | SafeString:
    return run_link(change.run_id) if change.run_id else str(change.user or "a person")


def _unfinished(item: SchedulingItem) -> dict[str, Any]:
    """The runs that a change would concern: those that have begun, and those that wait."""
    rows = item.history.exclude(trigger=Trigger.REPLAY).order_by("pk")
    return {
        name: [(run_link(pk), status_badge(status)) for pk in pks]
        for name, status in (("running", Status.RUNNING), ("queued", Status.QUEUED))
        for pks in [list(rows.filter(status=status).values_list("pk", flat=True)[:10])]
    }
