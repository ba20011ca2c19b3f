"""An installation without any server: SQLite, Celery over a folder, mail to files."""

import time
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.installation import Installation, install
from tests.factories import make_database

pytestmark = pytest.mark.slow

SWEEP_MUCH_LATER = """
from datetime import timedelta
from django.utils import timezone
from scheduling import runs, sweep
from scheduling.models import SchedulingItem
runs.queue(SchedulingItem.objects.get(), timezone.now(), trigger=runs.Trigger.SCHEDULE)
print(sweep.sweep(timezone.now() + timedelta(hours=1)))
"""


def rows(database: Path, **item: Any) -> list[dict[str, Any]]:
    """A connection, a query and an item, in the form of Django's fixtures."""
    connection = {"name": "tracking", "engine": "sqlite", "database": str(database)}
    defaults = {
        "name": "Events",
        "query": 1,
        "connection": 1,
        "scheduling_mode": "cron",
        "cron_expression": "0 8 * * *",
    }
    query = {"name": "Q.sql", "sql": "SELECT * FROM events"}
    return [
        {"model": "queryexport.databaseconnection", "pk": 1, "fields": connection},
        {"model": "queryexport.query", "pk": 1, "fields": query},
        {"model": "scheduling.schedulingitem", "pk": 1, "fields": defaults | item},
    ]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return make_database(
        tmp_path / "tracking.sqlite3",
        "CREATE TABLE events (id INTEGER)",
        "INSERT INTO events VALUES (1), (2), (3)",
    )


def ended(installation: Installation, *, within_sec: float) -> list[dict[str, Any]]:
    deadline = time.monotonic() + within_sec
    while True:
        history = installation.history()
        if all(row["finished_at"] for row in history) or time.monotonic() > deadline:
            return history
        time.sleep(0.5)


def test_a_worker_runs_what_was_queued(tmp_path: Path, database: Path) -> None:
    installation = install(tmp_path / "installation")
    installation.load(rows(database, sharing_mode="email", email_to="ops@example.com"))
    installation.run_all()
    with installation.celery("worker", "--concurrency=2"):
        [run] = ended(installation, within_sec=60)
    assert (run["status"], run["rows_delivered"]) == ("success", 3), installation.log("worker")
    [mail] = (installation.folder / "mail").iterdir()
    assert "To: ops@example.com" in mail.read_text()


def test_a_run_that_cannot_reach_the_broker_says_so(tmp_path: Path, database: Path) -> None:
    installation = install(tmp_path / "installation", CELERY_BROKER_URL="redis://127.0.0.1:1/0")
    installation.load(rows(database))
    installation.run_all()
    [run] = installation.history()
    assert run["status"] == "fail"
    assert "could not be handed to the workers" in run["error"]
    assert "CELERY_BROKER_URL" in run["error"]


def test_a_run_that_waits_goes_on_waiting_while_the_broker_is_away(
    tmp_path: Path, database: Path
) -> None:
    installation = install(tmp_path / "installation", CELERY_BROKER_URL="redis://127.0.0.1:1/0")
    installation.load(rows(database))
    assert "Swept(slots=0, lost=0, dispatched=0)" in installation.manage(
        "shell", "-c", SWEEP_MUCH_LATER
    )
    [run] = installation.history()
    assert run["status"] == "queued"


def test_run_item_has_an_exit_status_that_tells_the_truth(tmp_path: Path, database: Path) -> None:
    installation = install(tmp_path / "installation")
    installation.load(rows(database))
    assert "Success: 3 of 3 rows" in installation.manage("run_item", "Events")
    database.unlink()
    with pytest.raises(AssertionError, match="unable to open database file"):
        installation.manage("run_item", "Events")
