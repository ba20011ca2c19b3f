"""What an installation has done, read from outside: its history, its mail, and its logs.

The history is read from the database itself, because a process of Django's for each look would take
more of the machine than what is looked at.
"""

import re
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

import psycopg

from tests.end_to_end.installation import Installation

COLUMNS = (
    "id", "item_name", "status", "attempt", "scheduled_for", "timestamp", "started_at",
    "finished_at", "dispatched_at", "duration_sec", "worker", "error",
)  # fmt: skip
TIMES = {name for name in COLUMNS if name.endswith(("_at", "_for")) or name == "timestamp"}
SELECT = f"SELECT {', '.join(COLUMNS)} FROM scheduling_schedulinghistoryitem ORDER BY id"
SWEPT = re.compile(r"^(\S+ \S+),\d+ INFO celery\S* Task scheduling\.sweep\[\S+\] succeeded", re.M)


@dataclass(frozen=True)
class Run:
    """One row of the history."""

    id: int
    item_name: str
    status: str
    attempt: int
    scheduled_for: datetime
    timestamp: datetime
    started_at: datetime | None
    finished_at: datetime | None
    dispatched_at: datetime | None
    duration_sec: float | None
    worker: str
    error: str

    @classmethod
    def of(cls, row: tuple[Any, ...]) -> Self:
        values = dict(zip(COLUMNS, row, strict=True))
        return cls(**{name: _value(name, value) for name, value in values.items()})

    @property
    def waited_sec(self) -> float:
        """From the moment when it was asked for to its start."""
        assert self.started_at, self
        return (self.started_at - self.timestamp).total_seconds()

    @property
    def late_sec(self) -> float:
        """From its slot to its start."""
        assert self.started_at, self
        return (self.started_at - self.scheduled_for).total_seconds()


def history(installation: Installation, item_name: str = "") -> list[Run]:
    """The rows as they are now, oldest first: all of them, or those of one item."""
    url = installation.environment["DATABASE_URL"]
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=20)) as database:
            found = database.execute(SELECT).fetchall()
    else:
        with psycopg.connect(url) as connection:
            found = connection.execute(SELECT).fetchall()
    runs = [Run.of(row) for row in found]
    return [run for run in runs if item_name in ("", run.item_name)]


def until(
    installation: Installation,
    reached: Callable[[list[Run]], object],
    item_name: str = "",
    *,
    within_sec: float,
) -> list[Run]:
    """The rows once they satisfy `reached`."""
    deadline = time.monotonic() + within_sec
    while not reached(found := history(installation, item_name)):
        assert time.monotonic() < deadline, (found, f"see the logs in {installation.folder}")
        time.sleep(0.5)
    return found


def mails(installation: Installation) -> Counter[str]:
    """How often a mail of each subject was sent."""
    folder = installation.folder / "mail"
    texts = [path.read_text() for path in folder.iterdir()] if folder.is_dir() else []
    return Counter(re.findall(r"^Subject: (.*)$", "\n".join(texts), re.M))


def sweeps(installation: Installation) -> list[datetime]:
    """When each sweep ended, by the logs of all workers, to the second."""
    logs = installation.folder.glob("*.log")
    found = [moment for log in logs for moment in SWEPT.findall(log.read_text(errors="replace"))]
    return sorted(
        datetime.strptime(each, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC) for each in found
    )


def _value(name: str, value: Any) -> Any:
    if name not in TIMES or value is None:
        return value
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
