"""The admin pages of the history: what became of each run, and sending its rows again."""

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.decorators import method_decorator
from django.utils.html import format_html, format_html_join
from django.utils.text import Truncator
from django.views.decorators.http import require_http_methods

from queryexport.errors import ExportError
from queryexport.read_only import ReadOnlyAdmin
from scheduling import replays
from scheduling.admin.again import AgainPage
from scheduling.admin.cancelling import CancelPage
from scheduling.admin.files import FilesOfRun, place_in_list
from scheduling.admin.links import run_link, status_badge
from scheduling.admin.undelivered_section import undelivered_section
from scheduling.admin.watermarks import WatermarkOfRun
from scheduling.forms import ReplayForm
from scheduling.models import SchedulingHistoryItem
from scheduling.replays import Waiting

LONGEST_ERROR_IN_LIST = 160
TEMPLATES = "admin/scheduling/schedulinghistoryitem"
PAGE = "admin:scheduling_schedulinghistoryitem"


@admin.register(SchedulingHistoryItem)
class SchedulingHistoryItemAdmin(WatermarkOfRun, AgainPage, CancelPage, FilesOfRun, ReadOnlyAdmin):
    """Read-only: what happened cannot be edited, added or deleted here."""

    change_form_template = f"{TEMPLATES}/change_form.html"
    list_display = (
        "timestamp", "item_name", "status_shown", "export_mode", "rows", "duration", "result",
    )  # fmt: skip
    list_filter = ("export_mode", "status", ("timestamp", admin.DateFieldListFilter), "item")
    list_display_links = ("timestamp", "item_name")
    search_fields = ("item_name", "query", "kafka_topic", "export_id", "error")
    date_hierarchy = "timestamp"
    fieldsets = (
        (
            "Outcome",
            {
                "fields": (
                    "status_shown", "waits_for", "error", "place", "row_count", "rows_delivered",
                    "rows_skipped", "conversions", "size_bytes",
                )
            },
        ),
        (
            "Run",
            {
                "fields": (
                    "item", "query", "connection", "export_mode", "scheduled_for", "attempt",
                    "attempt_before", "attempt_after", "trigger", "replayed_run", "user",
                    "start_date", "export_id",
                )
            },
        ),
        (
            "Kafka",
            {
                "fields": (
                    "kafka_topic", "kafka_messages_sent", "kafka_messages_failed",
                    "kafka_duration_sec", "undelivered_kept", "dead_letters",
                )
            },
        ),
        (
            "Times",
            {
                "fields": (
                    "timestamp", "not_before", "dispatched_at", "started_at", "finished_at",
                    "heartbeat_at", "duration_sec", "phases", "worker", "cancel_requested_at",
                    "cancelled_by",
                )
            },
        ),
        ("As run", {"fields": ("sql_shown", "parameters", "given_parameters")}),
    )  # fmt: skip

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        return super().changelist_view(request, {"title": "History", **(extra_context or {})})

    def get_queryset(self, request: HttpRequest) -> QuerySet[SchedulingHistoryItem]:
        rows = super().get_queryset(request).select_related("item", "user", "cancelled_by")
        return rows.prefetch_related("destinations")

    @admin.display(description="attempt before")
    def attempt_before(self, run: SchedulingHistoryItem) -> str:
        return run_link(run.retry_of_id)

    @admin.display(description="next attempt")
    def attempt_after(self, run: SchedulingHistoryItem) -> str:
        after = run.next_attempts.order_by("pk").values_list("pk", flat=True)
        return format_html_join(", ", "{}", ((run_link(pk),) for pk in after)) or "—"

    @admin.display(description="status", ordering="status")
    def status_shown(self, run: SchedulingHistoryItem) -> str:
        badge = status_badge(run.status)
        if run.cancel_requested_at and not run.is_over:
            return format_html("{} (cancelling)", badge)
        return badge

    @admin.display(description="rows", ordering="row_count")
    def rows(self, run: SchedulingHistoryItem) -> str:
        if run.rows_delivered == run.row_count:
            return format_html('<span class="number">{}</span>', f"{run.row_count:,}")
        return format_html(
            '<span class="number">{} of {}</span>', f"{run.rows_delivered:,}", f"{run.row_count:,}"
        )

    @admin.display(description="duration", ordering="duration_sec")
    def duration(self, run: SchedulingHistoryItem) -> str:
        if run.duration_sec is None:
            return "—"
        return format_html('<span class="number">{} s</span>', f"{run.duration_sec:,.1f}")

    @admin.display(description="result")
    def result(self, run: SchedulingHistoryItem) -> str:
        """Where the rows are, or why they are not there."""
        if run.error:
            return Truncator(run.error).chars(LONGEST_ERROR_IN_LIST)
        rows = run.destinations.all()
        if len(rows) == 1:
            return place_in_list(rows[0])
        places = format_html_join(
            "", "<div>{}: {}</div>", ((row.name, place_in_list(row)) for row in rows)
        )
        return places or run.place or "—"

    @admin.display(description="replay of")
    def replayed_run(self, run: SchedulingHistoryItem) -> str:
        return run_link(run.replay_of_id)

    @admin.display(description="SQL")
    def sql_shown(self, run: SchedulingHistoryItem) -> str:
        return format_html('<pre class="sql">{}</pre>', run.sql or "—")

    def get_urls(self) -> list[URLPattern]:
        wrap, name = self.admin_site.admin_view, "scheduling_schedulinghistoryitem"
        return [
            path("<int:object_id>/replay/", wrap(self.replay), name=f"{name}_replay"),
            *super().get_urls(),
        ]

    def has_replay_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("scheduling.replay_schedulinghistoryitem")

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: SchedulingHistoryItem | None = None,
    ) -> HttpResponse:
        if obj:
            context["can_cancel"] = self.has_cancel_permission(request) and not obj.is_over
            context |= undelivered_section(obj)
            context["can_replay"] = (
                self.has_replay_permission(request) and context.get("waiting", Waiting()).rows
            )
        return super().render_change_form(request, context, add, change, form_url, obj)

    @method_decorator(require_http_methods(["GET", "POST"]))
    def replay(self, request: HttpRequest, object_id: int) -> HttpResponse:
        """Says what sending the run's undelivered rows again would do; a POST does it."""
        run = get_object_or_404(self.get_queryset(request), pk=object_id)
        if not (self.has_view_permission(request, run) and self.has_replay_permission(request)):
            raise PermissionDenied
        form = ReplayForm(request.POST if request.method == "POST" else None)
        if request.method == "POST" and form.is_valid():
            return self._replayed(
                request, run, include_unknown=form.cleaned_data["include_unknown"]
            )
        context = {
            **self.admin_site.each_context(request),
            "title": f"Send undelivered rows of run {run.pk} again",
            "opts": self.opts,
            "run": run,
            "waiting": replays.waiting(run),
            "form": form,
        }
        return TemplateResponse(request, f"{TEMPLATES}/replay.html", context)

    def _replayed(
        self, request: HttpRequest, run: SchedulingHistoryItem, *, include_unknown: bool
    ) -> HttpResponse:
        try:
            again = replays.replay(run, user=request.user, include_unknown=include_unknown)
        except ExportError as error:
            self.message_user(request, error.message, messages.ERROR)
            return redirect(f"{PAGE}_change", run.pk)
        self.message_user(request, f"{again.row_count} rows are queued.", messages.SUCCESS)
        return redirect(f"{PAGE}_change", again.pk)
