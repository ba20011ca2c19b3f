"""A backfill by the command, with beat and a worker of two processes: each slot runs, in turn."""

from itertools import pairwise
from pathlib import Path

import pytest

from tests.end_to_end.installation import install
from tests.end_to_end.test_embedded import ended, rows
from tests.factories import make_database

SLOW = """
WITH RECURSIVE numbers (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers
WHERE number < 4000000) SELECT count(*) AS numbers FROM numbers
"""


@pytest.mark.slow
def test_of_an_item_that_skips_overlaps_every_slot_runs_and_one_at_a_time(tmp_path: Path) -> None:
    installation = install(tmp_path / "installation")
    stored = rows(make_database(tmp_path / "tracking.sqlite3"), enabled=False)
    stored[1]["fields"]["sql"] = SLOW
    installation.load(stored)
    printed = installation.manage(
        "backfill", "Events", "--from", "2026-01-01", "--to", "2026-01-04"
    )
    assert printed.count("will run") == 4
    with installation.celery("beat"), installation.celery("worker", "--concurrency=2"):
        history = ended(installation, within_sec=240)
    assert [(run["status"], run["attempt"]) for run in history] == [("success", 1)] * 4
    in_turn = sorted(history, key=lambda run: run["started_at"])
    assert all(one["finished_at"] <= other["started_at"] for one, other in pairwise(in_turn))
    assert len(list(installation.exports.iterdir())) == 4
