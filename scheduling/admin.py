"""Admin pages of items and of their history; beat's own tables are not edited by hand."""

from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import FileResponse, Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.html import format_html
from django.utils.text import Truncator
from django.views.decorators.http import require_POST
from django_celery_beat import models as beat_models

from queryexport.errors import ConfigurationError
from scheduling import runs
from scheduling.forms import SchedulingItemForm
from scheduling.models import SchedulingHistoryItem, SchedulingItem, SharingMode

# With its permission anybody could run any registered task with any arguments.
for model in (
    beat_models.PeriodicTask,
    beat_models.CrontabSchedule,
    beat_models.IntervalSchedule,
    beat_models.SolarSchedule,
    beat_models.ClockedSchedule,
):
    admin.site.unregister(model)

LONGEST_ERROR_IN_LIST = 160
STATUS_ICONS = {
    "queued": "◷", "running": "▶", "success": "✓", "partial": "◐", "fail": "✗", "skipped": "»",
    "missed": "∅", "held": "‖", "cancelled": "■", "lost": "?",
}  # fmt: skip


@admin.register(SchedulingItem)
class SchedulingItemAdmin(admin.ModelAdmin):
    form = SchedulingItemForm
    change_form_template = "admin/scheduling/schedulingitem/change_form.html"
    list_display = (
        "name", "enabled", "query", "connection", "sharing_mode", "when", "next_run", "last_run",
    )  # fmt: skip
    list_filter = ("enabled", "sharing_mode", "connection")
    list_select_related = ("query", "connection")
    search_fields = ("name", "description", "query__name", "kafka_topic", "email_to")
    autocomplete_fields = ("query", "connection")
    readonly_fields = ("next_run",)
    actions = ("run_selected",)
    fieldsets = (
        (None, {"fields": ("name", "query", "connection", "parameters", "description")}),
        (
            "When",
            {
                "fields": (
                    "enabled", "scheduling_mode", "days_of_week", ("hour", "minute"),
                    "cron_expression", "timezone", "end_date", "next_run",
                )
            },
        ),
        ("Where to", {"fields": ("sharing_mode",)}),
        (
            "File or attachment",
            {
                "fields": (
                    "output_filename_template", "output_date_format", "output_offset_days",
                    "output_compress_gz", "output_dir",
                )
            },
        ),
        ("E-mail", {"fields": ("email_to", "email_cc", "email_subject", "email_body")}),
        (
            "Kafka",
            {
                "fields": (
                    "kafka_connection", "kafka_topic", "kafka_key_field", "kafka_null_key",
                    "kafka_timestamp_field", "kafka_headers", "kafka_decimals_as_numbers",
                    "kafka_include_metadata", "kafka_batch_size", "kafka_guarantee",
                    "kafka_least_percent", "kafka_allow_duplicates",
                )
            },
        ),
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[SchedulingItem]:
        latest = SchedulingHistoryItem.objects.filter(item=OuterRef("pk"))
        items: QuerySet[SchedulingItem] = super().get_queryset(request)
        return items.annotate(
            last_run_pk=Subquery(latest.values("pk")[:1]),
            last_run_status=Subquery(latest.values("status")[:1]),
        )

    @admin.display(description="when")
    def when(self, item: SchedulingItem) -> str:
        return f"{item.schedule.expression} {item.timezone}"

    @admin.display(description="next run")
    def next_run(self, item: SchedulingItem) -> str:
        if item.pk is None:
            return "—"
        if not item.enabled:
            return "disabled"
        try:
            slot = next(iter(item.schedule.after(timezone.now())), None)
        except ConfigurationError as error:
            return error.message
        return f"{slot:%Y-%m-%d %H:%M %Z}" if slot else "ended"

    @admin.display(description="last run")
    def last_run(self, item: Any) -> str:
        if item.last_run_pk is None:
            return "never run"
        url = reverse("admin:scheduling_schedulinghistoryitem_change", args=[item.last_run_pk])
        return format_html('<a href="{}">{}</a>', url, status_badge(item.last_run_status))

    @admin.action(description="Run now", permissions=["run"])
    def run_selected(self, request: HttpRequest, queryset: QuerySet[SchedulingItem]) -> None:
        for item in queryset.select_related("query", "connection"):
            runs.run_now(item, trigger=runs.Trigger.MANUAL, user=request.user)
        self.message_user(request, f"{len(queryset)} runs queued; their outcome is in the history.")

    def has_run_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("scheduling.run_schedulingitem")

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.run_now)
        name = "scheduling_schedulingitem_run"
        return [path("<path:object_id>/run/", view, name=name), *super().get_urls()]

    @method_decorator(require_POST)
    def run_now(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Queues a run and shows its history row."""
        if not self.has_run_permission(request):
            raise PermissionDenied
        item = get_object_or_404(self.get_queryset(request), pk=object_id)
        run = runs.run_now(item, trigger=runs.Trigger.MANUAL, user=request.user)
        self.message_user(request, f"“{item}” is queued.", messages.SUCCESS)
        return redirect("admin:scheduling_schedulinghistoryitem_change", run.pk)

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        context = {"can_run": self.has_run_permission(request), **(extra_context or {})}
        return super().change_view(request, object_id, form_url, context)


@admin.register(SchedulingHistoryItem)
class SchedulingHistoryItemAdmin(admin.ModelAdmin):
    """Read-only: what happened cannot be edited, added or deleted here."""

    list_display = (
        "timestamp", "item_name", "status_shown", "export_mode", "rows", "duration", "result",
    )  # fmt: skip
    list_filter = ("export_mode", "status", ("timestamp", admin.DateFieldListFilter), "item")
    list_display_links = ("timestamp", "item_name")
    search_fields = ("item_name", "query", "kafka_topic", "export_id", "error")
    date_hierarchy = "timestamp"
    show_full_result_count = False
    list_per_page = 50
    fieldsets = (
        (
            "Outcome",
            {
                "fields": (
                    "status_shown", "error", "output", "row_count", "rows_delivered",
                    "rows_skipped", "conversions", "size_bytes",
                )
            },
        ),
        (
            "Run",
            {
                "fields": (
                    "item", "query", "connection", "export_mode", "scheduled_for", "attempt",
                    "trigger", "user", "start_date", "export_id",
                )
            },
        ),
        (
            "Kafka",
            {
                "fields": (
                    "kafka_topic", "kafka_messages_sent", "kafka_messages_failed",
                    "kafka_duration_sec",
                )
            },
        ),
        (
            "Times",
            {
                "fields": (
                    "timestamp", "started_at", "finished_at", "heartbeat_at", "duration_sec",
                    "phases", "worker",
                )
            },
        ),
        ("As run", {"fields": ("sql_shown", "parameters")}),
    )  # fmt: skip

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        return super().changelist_view(request, {"title": "History", **(extra_context or {})})

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[SchedulingHistoryItem]:
        return super().get_queryset(request).select_related("item", "user")

    @admin.display(description="status", ordering="status")
    def status_shown(self, run: SchedulingHistoryItem) -> str:
        return status_badge(run.status)

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

    @admin.display(description="output")
    def output(self, run: SchedulingHistoryItem) -> str:
        if output_file(run):
            url = reverse("admin:scheduling_schedulinghistoryitem_file", args=[run.pk])
            return format_html('<a href="{}">{}</a>', url, Path(run.place).name)
        return run.place or "—"

    @admin.display(description="result")
    def result(self, run: SchedulingHistoryItem) -> str:
        """Where the rows are, or why they are not there."""
        return Truncator(run.error).chars(LONGEST_ERROR_IN_LIST) if run.error else self.output(run)

    @admin.display(description="SQL")
    def sql_shown(self, run: SchedulingHistoryItem) -> str:
        return format_html('<pre class="sql">{}</pre>', run.sql or "—")

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.file)
        name = "scheduling_schedulinghistoryitem_file"
        return [path("<path:object_id>/file/", view, name=name), *super().get_urls()]

    def file(self, request: HttpRequest, object_id: str) -> FileResponse:
        """The file that a run wrote, for those who may see the run and its item."""
        run = get_object_or_404(self.get_queryset(request), pk=object_id)
        may_see_item = request.user.has_perm("scheduling.view_schedulingitem")
        if not (self.has_view_permission(request, run) and may_see_item):
            raise PermissionDenied
        if not (place := output_file(run)):
            raise Http404("The file is gone, or a later run has replaced it.")
        return FileResponse(place.open("rb"), as_attachment=True, filename=place.name)


def output_file(run: SchedulingHistoryItem) -> Path | None:
    """The run's file, if it still stands under the export root as the run left it."""
    if run.export_mode != SharingMode.FILESYSTEM or not run.place:
        return None
    place = Path(run.place).resolve()
    inside = place.is_relative_to(Path(settings.EXPORT_ROOT).resolve())
    same = inside and place.is_file() and place.stat().st_size == run.size_bytes
    return place if same else None


def status_badge(status: str) -> str:
    return format_html(
        '<span class="status status-{}"><span aria-hidden="true">{}</span> {}</span>',
        status,
        STATUS_ICONS[status],
        SchedulingHistoryItem.Status(status).label,
    )
