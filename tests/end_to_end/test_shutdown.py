"""A worker that is told to stop lets its runs end within the grace time, and ends the others."""

import os
import signal
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.end_to_end.installation import install, sleeping_items
from tests.services.postgresql import PostgreSQL

pytestmark = [pytest.mark.services, pytest.mark.slow]

GRACE_SEC = 8
WITHIN_SEC = 60
SLEEPING = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(97)%' AND pid <> "


def test_a_worker_that_is_told_to_stop_stops_in_order(
    tmp_path: Path, postgresql: PostgreSQL
) -> None:
    installation = install(
        tmp_path / "installation",
        SOURCE_PASSWORD=postgresql.password,
        SHUTDOWN_GRACE_SEC=str(GRACE_SEC),
    )
    installation.load(
        sleeping_items(postgresql, {"short": {"sleep_sec": 4}, "long": {"sleep_sec": 97}})
    )
    with installation.celery("worker", "--concurrency=2") as worker:
        installation.run_all()
        deadline = time.monotonic() + WITHIN_SEC
        while [run["status"] for run in installation.history()] != ["running", "running"]:
            assert time.monotonic() < deadline, installation.log("worker").read_text()
            time.sleep(0.2)
        told = time.monotonic()
        os.kill(worker.pid, signal.SIGTERM)
        assert worker.wait(GRACE_SEC + WITHIN_SEC) == 0
        took_sec = time.monotonic() - told
    print(f"\nthe worker ended after {took_sec:.1f} s, with a grace time of {GRACE_SEC} s")
    short, long, again = installation.history()
    assert (short["status"], short["error"]) == ("success", "")
    assert long["status"] == "lost"
    assert long["error"].startswith("The worker was shut down, and the run did not end within")
    assert (again["status"], again["attempt"], again["retry_of"]) == ("queued", 2, long["pk"])
    assert GRACE_SEC < took_sec < GRACE_SEC + 15
    written = [path.name for path in installation.exports.rglob("*") if path.is_file()]
    assert written == [Path(short["place"]).name]
    with closing(postgresql.connect(autocommit=True)) as connection:
        [sessions] = connection.execute(f"{SLEEPING} pg_backend_pid()").fetchone()
    assert sessions == 0
