"""Decides whether a queued run may begin now, or has to give way, and whose turn is next."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from queryexport.models import DatabaseConnection
from scheduling.models import Overlap, SchedulingHistoryItem, SchedulingItem

Status = SchedulingHistoryItem.Status
Trigger = SchedulingHistoryItem.Trigger

LOOK_AGAIN_AFTER = timedelta(seconds=30)


@dataclass(frozen=True)
class Hindrance:
    """Why a run may not begin now. It waits `until` then; with None it does not run at all."""

    reason: str
    until: datetime | None


def claim(run: SchedulingHistoryItem, worker: str, *, now: datetime) -> bool:
    """Takes the run for this process; False when another process has it, or it has to give way.

    What gives way is `skipped`, or goes on waiting and is looked at again. The rows of the item and
    of the connection are locked meanwhile, so that of two runs that begin at once one sees the
    other. Runs that send kept rows again read from no connection and never give way.
    """
    item = run.item
    if item is None or run.trigger == Trigger.REPLAY:
        return run.claim(worker)
    with transaction.atomic():
        hindrance = _other_runs(run, item, now) or _connection(item, now)
        if hindrance is None:
            return run.claim(worker)
        _give_way(run, hindrance, now)
    return False


def next_in_line(run: SchedulingHistoryItem, *, now: datetime) -> list[SchedulingHistoryItem]:
    """Of the runs that gave way, those whose turn may have come by the end of this one."""
    item = run.item
    if item is None:
        return []
    waiting = (
        SchedulingHistoryItem.objects.filter(
            status=Status.QUEUED, not_before__lte=now + LOOK_AGAIN_AFTER
        )
        .exclude(waits_for="")
        .select_related("item")
        .order_by("scheduled_for", "pk")
    )
    same_item = waiting.filter(item=item).first()
    of_others = waiting.exclude(item=item).filter(item__connection=item.connection_id)
    found = [same_item, of_others.first() if item.connection.most_runs else None]
    return [each for each in found if each]


def _other_runs(
    run: SchedulingHistoryItem, item: SchedulingItem, now: datetime
) -> Hindrance | None:
    if item.overlap == Overlap.ALLOW:
        return None
    SchedulingItem.objects.select_for_update().filter(pk=item.pk).first()
    others = _reading().filter(item=item).exclude(pk=run.pk)
    going_on = others.order_by("pk").first()
    if going_on is None:
        return None
    if _may_wait(run, item):
        return Hindrance(f"run {going_on.pk} of the same item", now + LOOK_AGAIN_AFTER)
    return Hindrance(
        f"Run {going_on.pk} of the same item was still going on, since "
        f"{going_on.started_at:%Y-%m-%d %H:%M:%S %Z}. The item's choice for that is "
        f"“{item.get_overlap_display()}”. Let it run less often, or make its query faster.",
        until=None,
    )


def _may_wait(run: SchedulingHistoryItem, item: SchedulingItem) -> bool:
    if run.attempt > 1 or run.trigger == Trigger.BACKFILL:
        return True
    return item.overlap == Overlap.QUEUE and not _one_waits_before(run, item)


def _one_waits_before(run: SchedulingHistoryItem, item: SchedulingItem) -> bool:
    """Whether an earlier run of the item waits for its turn already."""
    queued = item.history.filter(status=Status.QUEUED, attempt=1, pk__lt=run.pk)
    return queued.exclude(trigger__in=[Trigger.REPLAY, Trigger.BACKFILL]).exists()


def _connection(item: SchedulingItem, now: datetime) -> Hindrance | None:
    connection = item.connection
    if (end := connection.blackout_end(now)) is not None:
        return Hindrance(f"the end of a black-out of the connection {connection.name}", end)
    if connection.most_runs is None:
        return None
    DatabaseConnection.objects.select_for_update().filter(pk=connection.pk).first()
    running = _reading().filter(item__connection=connection).count()
    if running < connection.most_runs:
        return None
    return Hindrance(
        f"the connection {connection.name}, which is used by {running} runs, of at most "
        f"{connection.most_runs} at once",
        now + LOOK_AGAIN_AFTER,
    )


def _reading() -> QuerySet[SchedulingHistoryItem]:
    """The runs that are going on and read from a connection."""
    running = SchedulingHistoryItem.objects.filter(status=Status.RUNNING)
    return running.exclude(trigger=Trigger.REPLAY)


def _give_way(run: SchedulingHistoryItem, hindrance: Hindrance, now: datetime) -> None:
    if hindrance.until:
        changes: dict[str, Any] = {"not_before": hindrance.until, "waits_for": hindrance.reason}
    else:
        skipped = {"status": Status.SKIPPED, "finished_at": now}
        changes = {**skipped, "error": hindrance.reason, "waits_for": ""}
    SchedulingHistoryItem.objects.filter(pk=run.pk, status=Status.QUEUED).update(**changes)
