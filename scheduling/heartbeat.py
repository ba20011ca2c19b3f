"""The sign of life of a running attempt, also while its query or its destination is silent."""

import logging
import threading
from types import TracebackType
from typing import Self

from django.db import DatabaseError, connection

from queryexport.errors import RunSuperseded
from scheduling.models import SchedulingHistoryItem

log = logging.getLogger(__name__)

EVERY_SEC = 10.0


class Heartbeat:
    """Writes to the row every `EVERY_SEC` inside its `with` block, from a thread of its own.

    A database that is away for a while does not end it. It ends by itself when the run is no longer
    this process's, which the run's own next write finds out as well.
    """

    def __init__(self, run: SchedulingHistoryItem, *, every_sec: float = EVERY_SEC) -> None:
        self._run = run
        self._every_sec = every_sec
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"run-{run.pk}", daemon=True)

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

    def _beat(self) -> None:
        while not self._over.wait(self._every_sec):
            try:
                self._run.record()
            except RunSuperseded as error:
                log.warning("%s", error)
                return
            except DatabaseError:
                log.exception("The sign of life of run %s could not be written", self._run.pk)
            finally:
                connection.close()  # Of this thread; the run has its own.
