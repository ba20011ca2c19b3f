"""Looks after what no process does: slots without a row, runs of dead workers, runs that wait.

Rows are the truth and a broker's messages are not: whatever a broker or a worker forgot is found
here by the clock. Any number of sweeps at once do no more than one, because each change is one
conditional update.
"""

import logging
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q
from django.db.models.functions import Coalesce

from queryexport.errors import ConfigurationError
from queryexport.sinks.parts import clear_parts
from scheduling import attempts, runs, slots
from scheduling.models import SchedulingHistoryItem, SharingMode

log = logging.getLogger(__name__)

Status = SchedulingHistoryItem.Status

# Five heartbeats that did not come.
LOST_AFTER = timedelta(seconds=50)
# A queued run that no worker has taken by then is handed over once more: its message may be gone.
DISPATCH_AGAIN_AFTER = timedelta(minutes=5)
MOST_AT_ONCE = 20_000


@dataclass(frozen=True)
class Swept:
    """How many slots got their row, how many runs were found lost, and how many were handed to
    the workers.
    """

    slots: int
    lost: int
    dispatched: int


def sweep(now: datetime) -> Swept:
    """Looks after everything that is due at `now`."""
    return Swept(slots.fill(now), _find_lost(now), _dispatch_waiting(now))


def _find_lost(now: datetime) -> int:
    running = SchedulingHistoryItem.objects.filter(status=Status.RUNNING)
    # Signs from before the clock was set back: whoever is alive gives another one soon, and the
    # others are given as long as if theirs were of now.
    running.filter(heartbeat_at__gt=now + LOST_AFTER).update(heartbeat_at=now)
    # A row that was never written to after its claim has the time of the claim.
    silent = SchedulingHistoryItem.objects.alias(
        sign_of_life=Coalesce("heartbeat_at", "started_at", "timestamp")
    ).filter(status=Status.RUNNING, sign_of_life__lt=now - LOST_AFTER)
    found = list(silent.select_related("item__query", "item__connection", "user")[:MOST_AT_ONCE])
    return sum(_declare_lost(run, now) for run in found)


def _declare_lost(run: SchedulingHistoryItem, now: datetime) -> bool:
    with transaction.atomic():
        if not run.lose(now):
            return False  # It has given a sign of life, or ended.
        again = attempts.try_again(run, now=now)
    _clear_up(run)
    after = f"attempt {again.attempt} is queued" if again else "it was the last attempt"
    log.warning("Run %s is lost, %s: %s", run.pk, after, run.error)
    return True


def _clear_up(run: SchedulingHistoryItem) -> None:
    """Removes the files that its worker was writing, unless it writes still."""
    for output in run.item.outputs if run.item else ():
        if output.sharing_mode == SharingMode.FILESYSTEM and not output.output_url:
            with suppress(ConfigurationError):  # Of an item that was changed since.
                clear_parts(output.folder(), root=Path(settings.EXPORT_ROOT))


def _dispatch_waiting(now: datetime) -> int:
    waiting = SchedulingHistoryItem.objects.filter(
        Q(not_before__isnull=True) | Q(not_before__lte=now), status=Status.QUEUED
    )
    due = waiting.filter(
        Q(dispatched_at__lt=now - DISPATCH_AGAIN_AFTER)
        | Q(dispatched_at__gt=now + DISPATCH_AGAIN_AFTER)  # The clock was set back.
        # It gave way since then, which a fast worker may do before the hand-over is written down.
        | Q(dispatched_at__lt=F("not_before"))
        | Q(dispatched_at__isnull=True, not_before__isnull=False)
        | Q(dispatched_at__isnull=True, timestamp__lt=now - DISPATCH_AGAIN_AFTER)
    )
    return runs.dispatch_all(
        due.order_by("pk").select_related("item").only("pk", "item__work_queue")[:MOST_AT_ONCE], now
    )
