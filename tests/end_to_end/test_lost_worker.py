"""A run whose worker is killed is lost within 90 seconds and tried again; a silent one is not."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.installation import Installation, install
from tests.services.postgresql import PostgreSQL

pytestmark = [pytest.mark.services, pytest.mark.slow]

LOST_WITHIN_SEC = 90
SILENT_SEC = 75  # Longer than a run without a sign of life is let live.
ENDS_WITHIN_SEC = 120
RUN_ALL = """
from scheduling import runs
from scheduling.models import SchedulingItem
for item in SchedulingItem.objects.order_by("pk"):
    runs.run_now(item, trigger=runs.Trigger.COMMAND, user=None)
"""
Rows = list[dict[str, Any]]


def rows(postgresql: PostgreSQL) -> Rows:
    """Two items whose queries say nothing for a long time, in the form of Django's fixtures."""
    connection = {
        "name": "elephant",
        "engine": "postgresql",
        "host": postgresql.host,
        "port": postgresql.port,
        "database": postgresql.database,
        "username": postgresql.user,
        "password": "${SOURCE_PASSWORD}",
    }
    item = {
        "connection": 1,
        "scheduling_mode": "cron",
        "cron_expression": "0 8 * * *",
        "retry_delay_minutes": 0,
    }
    found = [{"model": "queryexport.databaseconnection", "pk": 1, "fields": connection}]
    for pk, (name, seconds) in enumerate((("silent", SILENT_SEC), ("killed", 30)), 1):
        query = {"name": f"{name}.sql", "sql": f"SELECT 1 AS id FROM pg_sleep({seconds})"}
        found.append({"model": "queryexport.query", "pk": pk, "fields": query})
        fields = {**item, "name": name, "query": pk}
        found.append({"model": "scheduling.schedulingitem", "pk": pk, "fields": fields})
    return found


def wait_for(
    installation: Installation, reached: Callable[[Rows], bool], *, within_sec: float
) -> Rows:
    deadline = time.monotonic() + within_sec
    while not reached(history := installation.history()):
        assert time.monotonic() < deadline, (history, installation.log("worker").read_text())
        time.sleep(1)
    return history


def statuses(history: Rows) -> list[tuple[str, int, str]]:
    return [(run["item_name"], run["attempt"], run["status"]) for run in history]


def test_a_killed_run_is_lost_and_tried_again_and_a_silent_one_goes_on(
    tmp_path: Path, postgresql: PostgreSQL
) -> None:
    installation = install(tmp_path / "installation", SOURCE_PASSWORD=postgresql.password)
    installation.load(rows(postgresql))
    with installation.celery("worker", "--concurrency=3"), installation.celery("beat"):
        installation.manage("shell", "-c", RUN_ALL)
        history = wait_for(
            installation, lambda found: all(run["started_at"] for run in found), within_sec=60
        )
        os.kill(int(history[1]["worker"].rpartition(":")[2]), signal.SIGKILL)
        killed = time.monotonic()
        history = wait_for(
            installation, lambda found: found[1]["status"] == "lost", within_sec=LOST_WITHIN_SEC
        )
        print(f"\nlost after {time.monotonic() - killed:.0f} s")
        assert "gave no sign of life" in history[1]["error"]
        history = wait_for(
            installation,
            lambda found: all(run["finished_at"] for run in found),
            within_sec=ENDS_WITHIN_SEC,
        )
    assert statuses(history) == [
        ("silent", 1, "success"),
        ("killed", 1, "lost"),
        ("killed", 2, "success"),
    ]
    assert history[2]["retry_of"] == history[1]["pk"]
