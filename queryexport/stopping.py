"""Ends a run before its time: asked for from any thread, learnt of in the one that works."""

import threading
from collections.abc import Callable

from queryexport.errors import ExportError


class Stop:
    """Whether a run is to end, and why. It starts unasked, and is asked for once.

    Whoever waits for something that can be interrupted adds a call that does so. Calls are made in
    threads of their own, and may block.
    """

    def __init__(self) -> None:
        self.reason: ExportError | None = None
        self._calls: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    def request(self, reason: ExportError) -> None:
        """Asks that the run end, for the first reason that is given; later ones change nothing."""
        with self._lock:
            if self.reason:
                return
            self.reason = reason
            calls = list(self._calls)
        for call in calls:
            threading.Thread(target=call, name="interruption", daemon=True).start()

    def check(self) -> None:
        """Raises the reason, once there is one."""
        if self.reason:
            raise self.reason

    def add(self, call: Callable[[], None]) -> None:
        """Has `call` made as soon as the end is asked for; raises the reason if it is already."""
        with self._lock:
            self.check()
            self._calls.append(call)

    def remove(self, call: Callable[[], None]) -> None:
        with self._lock:
            self._calls.remove(call)
