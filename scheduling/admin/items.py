"""The admin pages of items: what runs when and where to, and Run now."""

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.html import format_html
from django.views.decorators.http import require_POST

from queryexport.errors import ConfigurationError
from scheduling import runs
from scheduling.admin.backfill import BackfillPage
from scheduling.admin.destinations import OUTPUT_FIELDSETS, DestinationInline
from scheduling.admin.file_names import FileNamesPage
from scheduling.admin.links import status_badge
from scheduling.admin.next_runs import NextRunsPage
from scheduling.admin.watermark_forms import WatermarkedItemForm
from scheduling.admin.watermarks import WatermarkPage
from scheduling.models import SchedulingHistoryItem, SchedulingItem


@admin.register(SchedulingItem)
class SchedulingItemAdmin(
    WatermarkPage, BackfillPage, NextRunsPage, FileNamesPage, admin.ModelAdmin
):
    form = WatermarkedItemForm
    change_form_template = "admin/scheduling/schedulingitem/change_form.html"
    list_display = (
        "name", "enabled", "query", "connection", "sharing_mode", "when", "next_run", "last_run",
    )  # fmt: skip
    list_filter = ("enabled", "sharing_mode", "connection")
    list_select_related = ("query", "connection")
    search_fields = ("name", "description", "query__name", "kafka_topic", "email_to")
    autocomplete_fields = ("query", "connection")
    readonly_fields = (
        "next_run", "next_runs", "watermark_shown", "file_example", "mail_example",
    )  # fmt: skip
    inlines = (DestinationInline,)
    actions = ("run_selected",)
    fieldsets = (
        (None, {"fields": ("name", "query", "connection", "parameters", "description")}),
        (
            "When",
            {
                "fields": (
                    "enabled", "scheduling_mode", "days_of_week", ("hour", "minute"),
                    "cron_expression", "timezone", "end_date", "next_runs",
                    "overlap", ("catch_up", "catch_up_minutes"),
                    ("most_attempts", "retry_delay_minutes"),
                    "work_queue", ("no_progress_minutes", "time_limit_minutes"),
                )
            },
        ),
        (
            "Watermark",
            {
                "fields": (
                    "watermark_column", ("watermark_kind", "watermark_lag_sec"), "watermark_shown",
                )
            },
        ),
        ("Where to", {"fields": ("sharing_mode",)}),
        *OUTPUT_FIELDSETS,
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[SchedulingItem]:
        # Sending rows of an old run again says nothing about the item as it is.
        own = SchedulingHistoryItem.objects.exclude(trigger=runs.Trigger.REPLAY)
        # An attempt that waits for its time says nothing yet.
        begun = own.exclude(status=runs.Status.QUEUED, not_before__isnull=False)
        latest = begun.filter(item=OuterRef("pk"))
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
        return [path("<int:object_id>/run/", view, name=name), *super().get_urls()]

    @method_decorator(require_POST)
    def run_now(self, request: HttpRequest, object_id: int) -> HttpResponse:
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
