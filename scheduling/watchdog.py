"""Looks after a running attempt from a thread of its own, also while all else in it is silent."""

import logging
import threading
from time import monotonic
from types import TracebackType
from typing import Self

from django.db import DatabaseError, connection
from django.utils import timezone

from queryexport.errors import (
    ExportError,
    LimitExceeded,
    RunCancelled,
    RunSuperseded,
    WorkerStopping,
)
from queryexport.stopping import Stop
from scheduling import shutdown
from scheduling.cancelling import NOBODY_NAMED
from scheduling.models import SchedulingHistoryItem
from scheduling.progress import RunProgress

log = logging.getLogger(__name__)

LOOK_EVERY_SEC = 2.0
SIGN_OF_LIFE_EVERY_SEC = 10.0
# A run that goes on for so long after it was told to end is stuck beyond this process's help.
STOP_WITHIN_SEC = 60.0


class Watchdog:
    """Tells the run to stop when it has to, and gives its signs of life, inside its `with` block.

    It has to when a person cancels it, when it is past a limit of its item, when the worker's time
    to shut down is over, and when its row is another process's. A run that does not stop when told
    gives no more signs of life, so that it is found lost. A database that is away for a while
    ends nothing.
    """

    def __init__(self, run: SchedulingHistoryItem, progress: RunProgress, stop: Stop) -> None:
        self._run = run
        self._progress = progress
        self._stop = stop
        self._over = threading.Event()
        self._started = self._signed_at = monotonic()
        self._told_at: float | None = None
        self._thread = threading.Thread(target=self._watch, name=f"run-{run.pk}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        try:
            while not self._over.wait(LOOK_EVERY_SEC):
                try:
                    self._look()
                except DatabaseError:
                    log.exception("The row of run %s could not be read or written", self._run.pk)
                    connection.close()
        finally:
            connection.close()  # Of this thread; the run has its own.

    def _look(self) -> None:
        now = monotonic()
        if self._told_at is None and (reason := self._limit(now) or self._told_by_row()):
            log.warning("Run %s has to stop: %s", self._run.pk, reason.message)
            self._told_at = now
            self._stop.request(reason)
        stuck = self._told_at is not None and now - self._told_at > STOP_WITHIN_SEC
        if now - self._signed_at >= SIGN_OF_LIFE_EVERY_SEC and not stuck:
            self._signed_at = now
            try:
                self._run.record()
            except RunSuperseded as superseded:
                self._stop.request(superseded)

    def _limit(self, now: float) -> ExportError | None:
        if shutdown.is_overdue():
            return WorkerStopping(
                "The worker was shut down, and the run did not end within the grace time of "
                f"{shutdown.grace_sec():.0f} s (SHUTDOWN_GRACE_SEC)."
            )
        item = self._run.item
        if item is None:
            return None
        if now - self._started > item.time_limit_minutes * 60:
            return LimitExceeded(
                f"The run was stopped at its time limit of {item.time_limit_minutes} minutes. Make "
                "the query or its destination faster, or raise the item's time limit.",
                retryable=True,
            )
        if now - self._progress.moved_at > item.no_progress_minutes * 60:
            return LimitExceeded(
                "The run was stopped at its no-progress limit: no row was read or delivered for "
                f"{item.no_progress_minutes} minutes. Look at the database and the destination, or "
                "raise the item's limit.",
                retryable=True,
            )
        return None

    def _told_by_row(self) -> ExportError | None:
        row = SchedulingHistoryItem.objects.filter(
            pk=self._run.pk,
            status=SchedulingHistoryItem.Status.RUNNING,
            claim_token=self._run.claim_token,
        ).values("cancel_requested_at", "cancelled_by__username")
        if (mine := row.first()) is None:
            return RunSuperseded(f"Run {self._run.pk} was ended or taken over by another process.")
        if not (asked_at := mine["cancel_requested_at"]):
            return None
        by = mine["cancelled_by__username"] or NOBODY_NAMED
        return RunCancelled(
            f"Cancelled by {by} at {timezone.localtime(asked_at):%Y-%m-%d %H:%M:%S %Z}."
        )
