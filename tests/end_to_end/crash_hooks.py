"""Wraps functions from outside, so that a process dies at the point that its run is named after."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from django.conf import settings

from scheduling.models import SchedulingHistoryItem
from tests.end_to_end.crash_points import CASES, Case

FOLDER = Path(os.environ["CRASH_FOLDER"])
DIES_WITHIN_SEC = 60

Around = Callable[..., Any]


@dataclass
class Process:
    """What this process does now: whose run it carries out, and how far, or that it sweeps."""

    case: Case | None = None
    exports: bool = False
    sweeps: bool = False


this = Process()


def reach(place: str, case: Case | None = None) -> None:
    """Ends this process if its run, or the given one, is to be killed here and was not yet."""
    case = case or this.case
    if case is None or place not in case.point.kills or not _mark(case, place):
        return
    if case.whole_worker:
        os.killpg(os.getpgid(0), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(DIES_WITHIN_SEC)


def _mark(case: Case, place: str) -> bool:
    """Leaves the mark of the kill; False when it is there.

    With it goes what a reader of the item's folder sees at this moment: the names of the files, and
    a copy of the export.
    """
    folder = Path(settings.EXPORT_ROOT) / case.slug
    told = {"case": case.name, "place": place, "files": [path.name for path in folder.glob("*")]}
    try:
        with _mark_of(case, place).open("x") as mark:
            mark.write(json.dumps(told))
    except FileExistsError:
        return False
    for export in folder.glob("*.xlsx"):
        shutil.copy(export, _mark_of(case, place).with_suffix(".xlsx"))
    return True


def _mark_of(case: Case, place: str) -> Path:
    return FOLDER / f"{case.slug}.{case.point.kills.index(place)}.json"


def is_still_to_die(place: str) -> bool:
    """Whether the run of this process is to be killed there, and was not yet."""
    case = this.case
    return bool(case and place in case.point.kills and not _mark_of(case, place).exists())


def case_of(run: SchedulingHistoryItem) -> Case:
    return CASES[run.item_name]


def wrap(owner: Any, name: str, around: Around) -> None:
    """Puts `around(real, *arguments)` in the place of a function or method."""
    real = getattr(owner, name)

    @wraps(real)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        return around(real, *arguments, **options)

    setattr(owner, name, wrapped)


def kill_before(owner: Any, name: str, place: str) -> None:
    def around(real: Around, *arguments: Any, **options: Any) -> Any:
        reach(place)
        return real(*arguments, **options)

    wrap(owner, name, around)


def kill_after(owner: Any, name: str, place: str) -> None:
    def around(real: Around, *arguments: Any, **options: Any) -> Any:
        answer = real(*arguments, **options)
        reach(place)
        return answer

    wrap(owner, name, around)
