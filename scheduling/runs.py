"""The one way in which an item runs: a history row first, then a claim, then query and sink."""

import logging
import os
import socket
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from celery import current_app
from celery.utils import uuid
from django.contrib.auth.models import AnonymousUser, User
from django.db import IntegrityError, transaction
from django.utils import timezone
from kombu.exceptions import OperationalError
from kombu.messaging import Producer

from queryexport.errors import (
    ConfigurationError,
    DeliveryUnknown,
    ExportError,
    RunCancelled,
    RunSuperseded,
    WorkerStopping,
)
from queryexport.rows import Receipt
from scheduling import bulk, turns
from scheduling.execution import Execution
from scheduling.models import SchedulingHistoryItem, SchedulingItem, WorkQueue
from scheduling.progress import RunProgress
from scheduling.slots import PUNCTUAL
from scheduling.watchdog import Watchdog

log = logging.getLogger(__name__)

Status = SchedulingHistoryItem.Status
Trigger = SchedulingHistoryItem.Trigger

EXECUTE_TASK = "scheduling.execute"


def due_slot(item: SchedulingItem, now: datetime) -> datetime | None:
    """The slot that a tick at `now` stands for, or None when there is none to run.

    Beat may send a tick a day late; a slot that is no longer punctual is left to `slots.fill`.
    Slots from before the schedule was last changed are never due, so that saving, enabling or
    restoring an item starts nothing.
    """
    slot = item.schedule.latest(now) if item.enabled else None
    if slot is None or slot <= item.schedule_changed_at or now - slot > PUNCTUAL:
        return None
    return slot


def queue(
    item: SchedulingItem,
    scheduled_for: datetime,
    *,
    trigger: SchedulingHistoryItem.Trigger,
    user: User | None = None,
    attempt: int = 1,
) -> SchedulingHistoryItem | None:
    """Writes the history row of a run; None when that slot and attempt has one already."""
    try:
        with transaction.atomic():
            run = SchedulingHistoryItem.of(
                item, scheduled_for, trigger=trigger, user=user, attempt=attempt
            )
            run.save(force_insert=True)
            return run
    except IntegrityError:
        slot = {"item": item, "scheduled_for": scheduled_for, "attempt": attempt}
        if SchedulingHistoryItem.objects.filter(**slot).exists():
            return None
        raise


def run_now(
    item: SchedulingItem,
    *,
    trigger: SchedulingHistoryItem.Trigger,
    user: User | AnonymousUser | None,
) -> SchedulingHistoryItem:
    """Queues a run for this moment and hands it to the workers once it is committed.

    When the broker cannot be reached the row says so and has failed.
    """
    person = user if isinstance(user, User) else None
    run = queue(item, timezone.now(), trigger=trigger, user=person)
    if run is None:
        raise ConfigurationError(f"“{item}” was asked to run twice in one instant. Try again.")
    transaction.on_commit(lambda: dispatch(run))
    return run


def execute(
    pk: int, *, watch: Callable[[RunProgress], None] | None = None
) -> SchedulingHistoryItem | None:
    """Runs a queued history row in this process; None when another process has claimed it, or
    another run of the item is going on.

    An `ExportError` ends in the row and goes no further. Anything else is a bug: it ends in the
    row as well, and is raised again with its traceback.
    """
    run = SchedulingHistoryItem.objects.select_related("item__query", "item__connection").get(pk=pk)
    worker = f"{socket.gethostname()}:{os.getpid()}"
    if not turns.claim(run, worker, now=timezone.now()):
        return None
    work = Execution(run, watch=watch)
    try:
        with Watchdog(run, work.progress, work.stop):
            _carry_out(run, work)
    finally:
        _wake_next(run)
    return run


def _wake_next(run: SchedulingHistoryItem) -> None:
    """Hands over at once what waited for this run; a sweep would do so later."""
    now = timezone.now()
    if waiting := turns.next_in_line(run, now=now):
        rows = SchedulingHistoryItem.objects.filter(pk__in=[each.pk for each in waiting])
        rows.filter(status=Status.QUEUED).update(not_before=now)
        dispatch_all(waiting, now)


def _carry_out(run: SchedulingHistoryItem, work: Execution) -> None:
    try:
        work.export()
    except ExportError as error:
        # What was told to stop may fail in any way on its way to the end.
        known = None if isinstance(error, DeliveryUnknown) else work.stop.reason
        _break_off(run, work, known or error, receipt=error.receipt)
    except Exception as error:
        work.break_off(_fault(error))
        raise
    except BaseException as error:
        work.break_off(_shutdown(error), status=Status.LOST, may_pass=True)
        raise
    else:
        work.finish()


def _break_off(
    run: SchedulingHistoryItem, work: Execution, reason: ExportError, *, receipt: Receipt | None
) -> None:
    log.warning("Run %s ends: %s", run.pk, reason)
    match reason:
        case RunSuperseded():
            work.abandon()
        case RunCancelled():
            work.break_off(reason.message, status=Status.CANCELLED, receipt=receipt)
        case WorkerStopping():
            work.break_off(reason.message, status=Status.LOST, receipt=receipt, may_pass=True)
        case _:
            work.break_off(reason.message, receipt=receipt, may_pass=reason.retryable)


def _fault(error: Exception) -> str:
    return (
        f"The program itself failed ({type(error).__name__}: {error}), which is a fault in it and "
        "not in the item. The worker's log has the traceback; report it."
    )


def _shutdown(error: BaseException) -> str:
    return f"The worker was shut down during the run ({type(error).__name__})."


def dispatch(run: SchedulingHistoryItem) -> None:
    """Hands a queued run to the workers; when that cannot be done, the row says so and failed."""
    try:
        _hand_over(run, timezone.now())
    except (OperationalError, OSError) as error:
        log.exception("Run %s could not be handed to the workers", run.pk)
        SchedulingHistoryItem.objects.filter(pk=run.pk, status=Status.QUEUED).update(
            status=Status.FAIL,
            finished_at=timezone.now(),
            error=f"The run could not be handed to the workers: {type(error).__name__}. "
            "Check that the broker in CELERY_BROKER_URL is running, then run the item again.",
        )


def dispatch_all(waiting: Iterable[SchedulingHistoryItem], now: datetime) -> int:
    """The same for runs that wait; they go on waiting when the broker cannot be reached."""
    handed: list[int] = []
    declared: set[str] = set()
    try:
        with current_app.producer_or_acquire() as producer:
            for run in waiting:
                _send(run, producer, declared)
                handed.append(run.pk)
    except (OperationalError, OSError):
        log.exception("Runs still wait: the broker cannot be reached")
    if handed:
        rows = SchedulingHistoryItem.objects.filter(pk__in=bulk.any_of(handed))
        with transaction.atomic():
            bulk.lock(rows)
            rows.update(dispatched_at=now)
    return len(handed)


def _hand_over(run: SchedulingHistoryItem, now: datetime) -> None:
    with current_app.producer_or_acquire() as producer:
        _send(run, producer, set())
    SchedulingHistoryItem.objects.filter(pk=run.pk).update(dispatched_at=now)


def _send(run: SchedulingHistoryItem, producer: Producer, declared: set[str]) -> None:
    """Does what Celery's `send_task` does, without what is the same for every run.

    The run's queue is made known to the broker unless it is one of those `declared`.
    """
    queue = run.item.work_queue if run.item else WorkQueue.SHORT
    message = current_app.amqp.create_task_message(
        uuid(), EXECUTE_TASK, [run.pk], {}, argsrepr=f"[{run.pk}]", kwargsrepr="{}"
    )
    options: dict[str, Any] = {"declare": []} if queue in declared else {}
    current_app.amqp.send_task_message(producer, EXECUTE_TASK, message, queue=str(queue), **options)
    declared.add(queue)
