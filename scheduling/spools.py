"""Where the rows of runs with several destinations wait until all of them have got theirs."""

import re
from datetime import datetime, timedelta
from math import inf
from pathlib import Path

from django.conf import settings
from django.utils.crypto import salted_hmac

from queryexport.spool import Spool
from scheduling.models import SchedulingHistoryItem

# A file that is this young may be of a run whose row does not name it yet.
YOUNG = timedelta(hours=1)
PART = re.compile(r"\.run-(\d+)-")


def new_name(run: SchedulingHistoryItem) -> str:
    assert run.claim_token
    return f"run-{run.pk}-{run.claim_token.hex[:12]}.rows"


def spool(name: str) -> Spool:
    return Spool(root() / name, salted_hmac("query-export-spool", "", algorithm="sha256").digest())


def root() -> Path:
    return Path(settings.SPOOL_ROOT)


def release(run: SchedulingHistoryItem) -> None:
    """Deletes the rows of a run that has ended, unless an attempt is still to deliver from them."""
    if run.spool and not _needed([run.spool]):
        spool(run.spool).delete()


def clear(now: datetime) -> int:
    """Deletes what no unfinished run needs any more, for example after a kill; returns how many."""
    if not root().is_dir():
        return 0
    young = (now - YOUNG).timestamp()
    files = [path for path in root().iterdir() if _modified(path) < young]
    needed = _needed([path.name for path in files])
    found = [path for path in files if path.name not in needed and not _is_written(path)]
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


def _is_written(path: Path) -> bool:
    """Whether a run that still goes on is writing it: its query may give nothing for long."""
    run = PART.match(path.name)
    running = SchedulingHistoryItem.objects.filter(status=SchedulingHistoryItem.Status.RUNNING)
    return run is not None and running.filter(pk=run[1]).exists()


def _modified(path: Path) -> float:
    """Never, for a file that its run has deleted meanwhile."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return inf


def _needed(names: list[str]) -> set[str]:
    unfinished = SchedulingHistoryItem.objects.filter(status__in=SchedulingHistoryItem.UNFINISHED)
    return set(unfinished.exclude(spool="").filter(spool__in=names).values_list("spool", flat=True))
