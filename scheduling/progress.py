"""Counts what a run has read and delivered, and writes it to its history row as it goes."""

from collections.abc import Callable
from time import monotonic

from queryexport.stopping import Stop
from scheduling.models import SchedulingHistoryItem

WRITE_EVERY_SEC = 1.0


class RunProgress:
    """The `Progress` that sinks report to.

    The row is written at most every `WRITE_EVERY_SEC`, and each write is also the heartbeat and the
    check that the run still belongs to this process. Each report raises the reason once `stop` is
    requested. `watch` is told of every change.
    """

    def __init__(
        self,
        run: SchedulingHistoryItem,
        stop: Stop | None = None,
        *,
        watch: Callable[["RunProgress"], None] | None = None,
    ) -> None:
        self.rows_read = 0
        self.rows_delivered = 0
        self.first_row_sec: float | None = None
        self._run = run
        self._stop = stop or Stop()
        self._watch = watch
        self._started = self._written = self.moved_at = monotonic()

    @property
    def elapsed_sec(self) -> float:
        """Since the run began here, by a clock that is never set."""
        return monotonic() - self._started

    def read(self, rows: int) -> None:
        if self.first_row_sec is None:
            self.first_row_sec = self.elapsed_sec
        self.rows_read += rows
        self._changed(rows)

    def delivered(self, rows: int) -> None:
        self.rows_delivered += rows
        self._changed(rows)

    def arrived(self, rows: int) -> None:
        self.rows_delivered += rows
        if self._watch:
            self._watch(self)

    def check(self) -> None:
        self._stop.check()
        self._run.record(row_count=self.rows_read, rows_delivered=self.rows_delivered)
        self._written = monotonic()

    def moved(self, rows: int) -> None:
        """`rows` more were delivered somewhere, which the run as a whole does not count."""
        self._changed(rows)

    def _changed(self, rows: int) -> None:
        if rows:
            self.moved_at = monotonic()
        if self._watch:
            self._watch(self)
        self._stop.check()
        if monotonic() - self._written >= WRITE_EVERY_SEC:
            self.check()


class PartProgress:
    """The `Progress` of one of several destinations: it counts for itself."""

    def __init__(self, whole: RunProgress) -> None:
        self.rows_delivered = 0
        self._whole = whole

    def delivered(self, rows: int) -> None:
        self.rows_delivered += rows
        self._whole.moved(rows)

    def arrived(self, rows: int) -> None:
        self.rows_delivered += rows

    def check(self) -> None:
        self._whole.check()
