"""A run whose worker is killed or stands still is lost within 90 seconds and tried again."""

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
QUERIES_SEC = {"silent": SILENT_SEC, "killed": 30, "stopped": 30}
ENDS_WITHIN_SEC = 150
Rows = list[dict[str, Any]]


def rows(postgresql: PostgreSQL) -> Rows:
    """Items whose queries say nothing for a long time, in the form of Django's fixtures."""
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
    for pk, (name, seconds) in enumerate(QUERIES_SEC.items(), 1):
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


def by_name(history: Rows) -> dict[str, list[tuple[int, str]]]:
    """The attempts and statuses of each item."""
    return {
        name: [(run["attempt"], run["status"]) for run in history if run["item_name"] == name]
        for name in QUERIES_SEC
    }


def signal_the_process_of(history: Rows, name: str, number: signal.Signals) -> None:
    [run] = [run for run in history if (run["item_name"], run["attempt"]) == (name, 1)]
    os.kill(int(run["worker"].rpartition(":")[2]), number)


def lost(history: Rows) -> set[str]:
    return {run["item_name"] for run in history if run["status"] == "lost"}


def test_what_is_killed_or_stands_still_is_lost_and_tried_again_and_what_is_silent_goes_on(
    tmp_path: Path, postgresql: PostgreSQL
) -> None:
    installation = install(tmp_path / "installation", SOURCE_PASSWORD=postgresql.password)
    installation.load(rows(postgresql))
    with installation.celery("worker", "--concurrency=4"), installation.celery("beat"):
        installation.run_all()
        history = wait_for(
            installation, lambda found: all(run["started_at"] for run in found), within_sec=60
        )
        signal_the_process_of(history, "killed", signal.SIGKILL)
        signal_the_process_of(history, "stopped", signal.SIGSTOP)
        struck = time.monotonic()
        history = wait_for(
            installation, lambda found: len(lost(found)) == 2, within_sec=LOST_WITHIN_SEC
        )
        print(f"\nlost after {time.monotonic() - struck:.0f} s")
        assert lost(history) == {"killed", "stopped"}
        signal_the_process_of(history, "stopped", signal.SIGCONT)
        history = wait_for(
            installation,
            lambda found: len(found) == 5 and all(run["finished_at"] for run in found),
            within_sec=ENDS_WITHIN_SEC,
        )
    assert by_name(history) == {
        "silent": [(1, "success")],
        "killed": [(1, "lost"), (2, "success")],
        "stopped": [(1, "lost"), (2, "success")],
    }
    assert all("gave no sign of life" in run["error"] for run in history if run["error"])
    # What came back has written nothing: neither to its row, nor to the folder of the exports.
    assert [run["place"] for run in history if run["status"] == "lost"] == ["", ""]
    written = {Path(run["place"]) for run in history if run["status"] == "success"}
    assert set(installation.exports.rglob("*.xlsx")) == written
    sizes = {Path(run["place"]): run["size_bytes"] for run in history if run["place"]}
    assert all(path.stat().st_size == size for path, size in sizes.items())
