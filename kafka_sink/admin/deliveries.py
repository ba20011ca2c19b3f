"""The admin's pages of the ledger of deliveries."""

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.text import Truncator

from kafka_sink.models import Delivery
from queryexport.read_only import ReadOnlyAdmin

LONGEST_ERROR_IN_LIST = 160


@admin.register(Delivery)
class DeliveryAdmin(ReadOnlyAdmin):
    """Read-only: the ledger is written by deliveries alone."""

    list_display = (
        "started_at", "topic", "connection", "source", "messages", "duration", "latency", "error",
    )  # fmt: skip
    list_filter = (
        "connection", "topic", "source", ("started_at", admin.DateFieldListFilter),
    )  # fmt: skip
    search_fields = ("export_id", "topic", "last_error")
    date_hierarchy = "started_at"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Delivery]:
        return super().get_queryset(request).select_related("user")

    @admin.display(description="messages", ordering="handed")
    def messages(self, delivery: Delivery) -> str:
        shown = f"{delivery.acked:,}"
        if delivery.acked != delivery.handed:
            shown += f" of {delivery.handed:,}"
        return format_html('<span class="number">{}</span>', shown)

    @admin.display(description="duration", ordering="duration_sec")
    def duration(self, delivery: Delivery) -> str:
        return format_html('<span class="number">{} s</span>', f"{delivery.duration_sec:,.1f}")

    @admin.display(description="p99 latency", ordering="latency_p99_ms")
    def latency(self, delivery: Delivery) -> str:
        if delivery.latency_p99_ms is None:
            return "—"
        return format_html('<span class="number">{} ms</span>', f"{delivery.latency_p99_ms:,.0f}")

    @admin.display(description="last error")
    def error(self, delivery: Delivery) -> str:
        return Truncator(delivery.last_error).chars(LONGEST_ERROR_IN_LIST) or "—"
