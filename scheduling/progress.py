"""Counts what a run has read and delivered, and writes it to its history row as it goes."""

from collections.abc import Callable
from time import monotonic

from scheduling.models import SchedulingHistoryItem

WRITE_EVERY_SEC = 1.0


class RunProgress:
    """The `Progress` that sinks report to.

    The row is written at most every `WRITE_EVERY_SEC`, and each write is also the heartbeat and the
    check that the run still belongs to this process. `watch` is told of every change.
    """

    def __init__(
        self,
        run: SchedulingHistoryItem,
        *,
        watch: Callable[["RunProgress"], None] | None = None,
    ) -> None:
        self.rows_read = 0
        self.rows_delivered = 0
        self.first_row_sec: float | None = None
        self._run = run
        self._watch = watch
        self._started = self._written = monotonic()

    def read(self, rows: int) -> None:
        if self.first_row_sec is None:
            self.first_row_sec = monotonic() - self._started
        self.rows_read += rows
        self._changed()

    def delivered(self, rows: int) -> None:
        self.rows_delivered += rows
        self._changed()

    def check(self) -> None:
        self._run.record(row_count=self.rows_read, rows_delivered=self.rows_delivered)
        self._written = monotonic()

    def _changed(self) -> None:
        if self._watch:
            self._watch(self)
        if monotonic() - self._written >= WRITE_EVERY_SEC:
            self.check()
