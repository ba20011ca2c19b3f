"""Each minute has one run: though beat was away at first, and though two beats tick after that."""

import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.installation import Installation, install
from tests.factories import make_database

pytestmark = pytest.mark.slow

MINUTE = timedelta(minutes=1)
TICKED_MINUTES = 2
WITHIN_SEC = 240
EVERY_MINUTE = """
from scheduling.models import SchedulingItem
item = SchedulingItem.objects.get()
item.cron_expression = "* * * * *"
item.save()
"""


def rows(database: Path) -> list[dict[str, Any]]:
    """A connection, a query and an item, in the form of Django's fixtures."""
    connection = {"name": "tracking", "engine": "sqlite", "database": str(database)}
    item = {
        "name": "Events",
        "query": 1,
        "connection": 1,
        "scheduling_mode": "cron",
        "cron_expression": "0 8 * * *",
        "catch_up": "all",
        "overlap": "allow",
        "output_filename_template": "{query_name}_{timestamp}.xlsx",
    }
    query = {"name": "Q.sql", "sql": "SELECT * FROM events"}
    return [
        {"model": "queryexport.databaseconnection", "pk": 1, "fields": connection},
        {"model": "queryexport.query", "pk": 1, "fields": query},
        {"model": "scheduling.schedulingitem", "pk": 1, "fields": item},
    ]


def sleep_past_the_next_minute() -> datetime:
    """Returns the minute that began meanwhile."""
    minute = datetime.now(UTC).replace(second=0, microsecond=0) + MINUTE
    time.sleep((minute - datetime.now(UTC)).total_seconds() + 5)
    return minute


def slots(history: list[dict[str, Any]]) -> list[datetime]:
    return sorted(datetime.fromisoformat(run["scheduled_for"]) for run in history)


def history_with(installation: Installation, minutes: list[datetime]) -> list[dict[str, Any]]:
    """The history once it has a finished run of each of the minutes."""
    deadline = time.monotonic() + WITHIN_SEC
    while True:
        history = installation.history()
        finished = [run for run in history if run["finished_at"]]
        if set(minutes) <= set(slots(finished)):
            return finished
        assert time.monotonic() < deadline, (history, installation.log("worker").read_text())
        time.sleep(1)


def test_each_minute_runs_once_without_a_beat_and_with_two(tmp_path: Path) -> None:
    database = make_database(
        tmp_path / "tracking.sqlite3",
        "CREATE TABLE events (id INTEGER)",
        "INSERT INTO events VALUES (1), (2), (3)",
    )
    installation = install(tmp_path / "installation")
    installation.load(rows(database))
    installation.manage("shell", "-c", EVERY_MINUTE)
    with ExitStack() as processes:
        processes.enter_context(installation.celery("worker", "--concurrency=2"))
        missed = sleep_past_the_next_minute()
        assert installation.history() == []
        for number in (1, 2):
            schedule = f"--schedule={tmp_path}/beat-{number}"
            pidfile = f"--pidfile={tmp_path}/beat-{number}.pid"
            processes.enter_context(installation.celery("beat", schedule, pidfile))
        back = datetime.now(UTC)
        minutes = [missed + number * MINUTE for number in range(TICKED_MINUTES + 1)]
        history = history_with(installation, minutes)
    first = min(history, key=lambda run: run["scheduled_for"])
    late = datetime.fromisoformat(first["timestamp"]) - back
    print(
        f"\nthe minute without a beat had its row {late.total_seconds():.0f} s after beat's return"
    )
    assert late < 2 * MINUTE
    assert len(slots(history)) == len(set(slots(history)))
    assert slots(history)[: len(minutes)] == minutes
    assert {(run["status"], run["attempt"]) for run in history} == {("success", 1)}
