"""How a run looks on every page: its status, and the link to its own page."""

from django.urls import reverse
from django.utils.html import format_html

from scheduling.models import SchedulingHistoryItem

STATUS_ICONS = {
    "queued": "◷", "running": "▶", "success": "✓", "partial": "◐", "fail": "✗", "skipped": "»",
    "missed": "∅", "held": "‖", "cancelled": "■", "lost": "?",
}  # fmt: skip


def status_badge(status: str) -> str:
    return format_html(
        '<span class="status status-{}"><span aria-hidden="true">{}</span> {}</span>',
        status,
        STATUS_ICONS[status],
        SchedulingHistoryItem.Status(status).label,
    )


def run_link(pk: int | None) -> str:
    """A link that says the run's number; a dash for none."""
    if pk is None:
        return "—"
    url = reverse("admin:scheduling_schedulinghistoryitem_change", args=[pk])
    return format_html('<a href="{}">run {}</a>', url, pk)
