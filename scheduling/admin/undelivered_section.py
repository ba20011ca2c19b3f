"""What the page of a run says about its undelivered rows and its deliveries."""

from collections import Counter
from typing import Any

from django.db.models import Count, Sum

from kafka_sink.models import Delivery
from scheduling import replays
from scheduling.admin.links import run_link, status_badge
from scheduling.models import SchedulingHistoryItem


def undelivered_section(run: SchedulingHistoryItem) -> dict[str, Any]:
    """The template's values; nothing for a run that sends no messages."""
    if not run.kafka_topic:
        return {}
    return {
        "waiting": replays.waiting(run),
        "in_files": run.undelivered_files.aggregate(rows=Sum("rows"))["rows"] or 0,
        "taken": [(run_link(pk), rows) for pk, rows in sorted(_taken(run).items())],
        "replay_of": run_link(run.replay_of_id) if run.replay_of_id else "",
        "replays": [
            (run_link(pk), status_badge(status))
            for pk, status in run.replays.order_by("pk").values_list("pk", "status")
        ],
        "deliveries": _deliveries(run),
    }


def _taken(run: SchedulingHistoryItem) -> dict[int, int]:
    """How many of the run's kept rows each later run has taken."""
    taken: Counter[int] = Counter()
    messages = run.undelivered.order_by().values_list("taken_by").annotate(Count("pk"))
    files = run.undelivered_files.order_by().values_list("taken_by").annotate(Sum("rows"))
    for table in (messages, files):
        for pk, rows in table.exclude(taken_by=None):
            taken[pk] += rows
    return taken


def _deliveries(run: SchedulingHistoryItem) -> list[Delivery]:
    """All that carried the run's export id: its own, and those that sent its rows again."""
    if not run.export_id:
        return []
    return list(Delivery.objects.filter(export_id=run.export_id).order_by("started_at", "pk"))
