"""The Celery tasks: an id comes in, the service is called."""

from celery import shared_task
from django.utils import timezone

from scheduling import retention, runs, spools
from scheduling import sweep as sweeping
from scheduling.beat import TICK_TASK
from scheduling.models import SchedulingItem


@shared_task(name=TICK_TASK)
def run_item(item_id: int) -> None:
    """Beat's tick: runs the item's slot, if one is due and has no row yet."""
    item = SchedulingItem.objects.select_related("query", "connection").filter(pk=item_id).first()
    slot = runs.due_slot(item, timezone.now()) if item else None
    if item and slot and (run := runs.queue(item, slot, trigger=runs.Trigger.SCHEDULE)):
        runs.execute(run.pk)


@shared_task(name=runs.EXECUTE_TASK)
def execute(history_id: int) -> None:
    """Runs a history row that was queued by a person or another process."""
    runs.execute(history_id)


@shared_task(name="scheduling.sweep")
def sweep() -> None:
    """Looks after runs whose worker died and attempts that are due; beat asks for it often."""
    sweeping.sweep(timezone.now())


@shared_task(name="scheduling.retention")
def retain() -> None:
    """Deletes files that are kept no longer; what it does not come to goes on behind the sweep."""
    spools.clear(timezone.now())
    if retention.retain(timezone.now()).unfinished:
        retain.apply_async()
