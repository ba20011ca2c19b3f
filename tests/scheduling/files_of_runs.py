"""Files that runs have written, with the rows that the history has of them."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from scheduling.models import Destination, RunDestination, SchedulingHistoryItem, SchedulingItem

WRITTEN = datetime(2026, 1, 10, 8, 0, tzinfo=UTC)

Wrote = Callable[..., RunDestination]


def a_run(item: SchedulingItem, slot: datetime = WRITTEN, **values: Any) -> SchedulingHistoryItem:
    """A run that has succeeded at its slot, with nothing to deliver."""
    attempt = item.history.filter(scheduled_for=slot).count() + 1
    run = SchedulingHistoryItem.of(
        item, slot, trigger=SchedulingHistoryItem.Trigger.SCHEDULE, status="success",
        attempt=attempt, started_at=slot, finished_at=slot, timestamp=slot, **values,
    )  # fmt: skip
    run.save()
    return run


def wrote(
    item: SchedulingItem,
    name: str = "rows.xlsx",
    content: bytes = b"rows",
    *,
    day: int = 0,
    destination: Destination | None = None,
    run: SchedulingHistoryItem | None = None,
    **values: Any,
) -> RunDestination:
    """What a run `day` days after `WRITTEN` has written: the file in the item's folder, which
    replaces one of that name, and its row.
    """
    moment = WRITTEN + timedelta(days=day)
    path = item.folder() / name
    put(path, content, moment)
    given = {
        "run": run or a_run(item, moment),
        "destination": destination,
        "is_own": destination is None,
        "name": destination.name if destination else "File",
        "sharing_mode": "filesystem",
        "status": "success",
        "rows_delivered": 5,
        "place": str(path),
        "path": str(path),
        "size_bytes": len(content),
        "sha256": sha256(content).hexdigest(),
        "finished_at": moment,
    }
    return RunDestination.objects.create(**(given | values))


def put(path: Path, content: bytes, moment: datetime = WRITTEN) -> Path:
    """A file as it is when it was written at that moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name("part").write_bytes(content)
    path.with_name("part").replace(path)
    os.utime(path, (moment.timestamp(), moment.timestamp()))
    return path
