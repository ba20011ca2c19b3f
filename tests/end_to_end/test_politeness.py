"""Of many runs at once, no more read from a connection than it allows, and all get there."""

import time
from datetime import datetime
from itertools import accumulate
from pathlib import Path

import pytest

from tests.end_to_end.installation import install, new_database, sleeping_items
from tests.services.postgresql import PostgreSQL

pytestmark = [pytest.mark.services, pytest.mark.slow]

RUNS = 8
AT_ONCE = 2
SLEEP_SEC = 2
WITHIN_SEC = 120


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_no_more_runs_than_allowed_and_none_waits_longer_than_it_has_to(
    tmp_path: Path, postgresql: PostgreSQL, database: str
) -> None:
    own = {"DATABASE_URL": new_database(postgresql)} if database == "postgresql" else {}
    installation = install(tmp_path / "installation", SOURCE_PASSWORD=postgresql.password, **own)
    items = {f"item {number}": {"sleep_sec": SLEEP_SEC} for number in range(RUNS)}
    connection, *others = sleeping_items(postgresql, items)
    connection["fields"]["most_runs"] = AT_ONCE
    installation.load([connection, *others])
    with installation.celery("worker", f"--concurrency={RUNS}"):
        installation.run_all()
        deadline = time.monotonic() + WITHIN_SEC
        while None in (ends := [run["finished_at"] for run in installation.history()]):
            assert time.monotonic() < deadline, installation.log("worker").read_text()
            time.sleep(0.5)
    history = installation.history()
    assert {run["status"] for run in history} == {"success"}
    begun = [(run["started_at"], 1) for run in history]
    ended = [(end, -1) for end in ends]
    at_once = list(accumulate(step for _, step in sorted(begun + ended)))
    took_sec = seconds(max(ends)) - seconds(min(begun)[0])
    print(f"\n{database}: {RUNS} runs, at most {max(at_once)} at once, {took_sec:.1f} s in all")
    assert max(at_once) == AT_ONCE
    assert took_sec < RUNS / AT_ONCE * SLEEP_SEC + 20, "nobody waited for the next sweep"


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
