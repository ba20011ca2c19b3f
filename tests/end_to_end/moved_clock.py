"""Runs Celery, or `manage`, in processes whose clock a file moves, as somebody's hand might.

Called like `python -m tests.end_to_end.moved_clock celery …` or `… manage …`. The file that
CLOCK_FILE names holds the seconds to add to the machine's clock. It is looked at all the time, also
by the processes that a worker forks. `time.monotonic` goes on as it does in reality.
"""

import os
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import time_machine
from celery.signals import worker_process_init

LOOK_EVERY_SEC = 0.1


class Clock:
    """This process's clock, which follows the file from `follow` on."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._moved_sec = 0.0
        self._travel = time_machine.travel(datetime.now(UTC), tick=True).start()
        self._look()

    def follow(self, **kwargs: object) -> None:
        threading.Thread(target=self._watch, name="clock", daemon=True).start()

    def _watch(self) -> None:
        while True:
            time.sleep(LOOK_EVERY_SEC)
            self._look()

    def _look(self) -> None:
        wanted_sec = float(self._file.read_text())
        if wanted_sec != self._moved_sec:
            self._travel.shift(wanted_sec - self._moved_sec)
            self._moved_sec = wanted_sec


def set_clock(file: Path, moved_sec: float) -> None:
    """Moves the clock of every process that follows the file."""
    unfinished = file.with_name(f".{file.name}")
    unfinished.write_text(str(moved_sec))
    unfinished.rename(file)


if __name__ == "__main__":
    clock = Clock(Path(os.environ["CLOCK_FILE"]))
    clock.follow()
    worker_process_init.connect(clock.follow)
    name = sys.argv.pop(1)
    if name == "celery":
        from celery.__main__ import main

        main()
    else:
        from django.core.management import execute_from_command_line

        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "queryexport.settings")
        execute_from_command_line(sys.argv)
