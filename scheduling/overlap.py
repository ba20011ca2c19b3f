"""Decides whether a queued run may begin while others of its item are going on."""

from datetime import datetime, timedelta
from typing import Any

from django.db import transaction

from scheduling.models import Overlap, SchedulingHistoryItem, SchedulingItem

Status = SchedulingHistoryItem.Status
Trigger = SchedulingHistoryItem.Trigger

LOOK_AGAIN_AFTER = timedelta(seconds=30)


def claim(run: SchedulingHistoryItem, worker: str, *, now: datetime) -> bool:
    """Takes the run for this process; False when another process has it, or it has to give way.

    What gives way is `skipped`, or goes on waiting and is looked at again after half a minute. The
    item's row is locked meanwhile, so that of two runs that begin at once one sees the other.
    """
    if run.item is None or run.item.overlap == Overlap.ALLOW or run.trigger == Trigger.REPLAY:
        return run.claim(worker)
    with transaction.atomic():
        SchedulingItem.objects.select_for_update().filter(pk=run.item.pk).first()
        others = run.item.history.exclude(pk=run.pk).exclude(trigger=Trigger.REPLAY)
        going_on = others.filter(status=Status.RUNNING).order_by("pk").first()
        if going_on is None:
            return run.claim(worker)
        _give_way(run, going_on, now)
    return False


def _give_way(run: SchedulingHistoryItem, going_on: SchedulingHistoryItem, now: datetime) -> None:
    assert run.item
    waits = run.attempt > 1 or (run.item.overlap == Overlap.QUEUE and not _one_waits_before(run))
    if waits:
        changes: dict[str, Any] = {"not_before": now + LOOK_AGAIN_AFTER}
    else:
        reason = (
            f"Run {going_on.pk} of the same item was still going on, since "
            f"{going_on.started_at:%Y-%m-%d %H:%M:%S %Z}. The item's choice for that is "
            f"“{run.item.get_overlap_display()}”. Let it run less often, or make its query faster."
        )
        changes = {"status": Status.SKIPPED, "error": reason, "finished_at": now}
    SchedulingHistoryItem.objects.filter(pk=run.pk, status=Status.QUEUED).update(**changes)


def _one_waits_before(run: SchedulingHistoryItem) -> bool:
    """Whether an earlier run of the item waits for its turn already."""
    assert run.item
    queued = run.item.history.filter(status=Status.QUEUED, attempt=1, pk__lt=run.pk)
    return queued.exclude(trigger=Trigger.REPLAY).exists()
