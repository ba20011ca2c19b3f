"""A minute in which 500 items are due, and two sweeps at once that look after them."""

import json
from base64 import b64decode
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.installation import Installation, install, new_database
from tests.services.postgresql import PostgreSQL

pytestmark = pytest.mark.slow

ITEMS = 500
SLOT = "2026-01-18T08:00:00Z"
MAKE_ITEMS = f"""
from queryexport.models import DatabaseConnection, Query
from scheduling.models import SchedulingItem
source = DatabaseConnection.objects.create(name="lite", engine="sqlite", database="x.sqlite3")
query = Query.objects.create(name="Q.sql", sql="SELECT 1 AS id")
SchedulingItem.objects.bulk_create(
    SchedulingItem(
        name=f"Item {{number}}", query=query, connection=source, scheduling_mode="cron",
        cron_expression="0 8 * * *", timezone="UTC", next_slot="{SLOT}",
    )
    for number in range({ITEMS})
)
"""
# The two begin when both have come so far.
SWEEP = """
import json, time
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from uuid import uuid4
from scheduling.sweep import sweep
folder = Path({folder!r})
Path(folder, str(uuid4())).touch()
while len(list(folder.iterdir())) < {sweeps}:
    time.sleep(0.001)
print(json.dumps(asdict(sweep(datetime.fromisoformat({slot!r}) + timedelta(seconds=30)))))
"""


def swept(installation: Installation, name: str, sweeps: int) -> list[dict[str, int]]:
    """What so many sweeps at once found, each in a process of its own."""
    folder = installation.folder / name
    folder.mkdir()
    code = SWEEP.format(folder=str(folder), sweeps=sweeps, slot=SLOT)
    with ThreadPoolExecutor() as pool:
        printed = pool.map(lambda _: installation.manage("shell", "-c", code), range(sweeps))
    return [json.loads(text.splitlines()[-1]) for text in printed]


def run_of(message: Path) -> Any:
    """The run that a message of Celery's asks for."""
    ((pk,), _, _) = json.loads(b64decode(json.loads(message.read_text())["body"]))
    return pk


def check(installation: Installation) -> None:
    installation.manage("shell", "-c", MAKE_ITEMS)
    both = swept(installation, "both", sweeps=2)
    assert sum(each["slots"] for each in both) == ITEMS
    rows = installation.history()
    assert sorted(row["item"] for row in rows) == list(range(1, ITEMS + 1))
    assert {(row["scheduled_for"], row["status"]) for row in rows} == {(SLOT, "queued")}
    # Each run is handed over, and by each of the sweeps no more than once.
    sent = Counter(run_of(path) for path in installation.folder.glob("celery/*.msg"))
    assert set(sent) == {row["pk"] for row in rows}
    assert max(sent.values()) <= len(both)
    assert sent.total() == sum(each["dispatched"] for each in both)
    nothing = {"slots": 0, "lost": 0, "dispatched": 0}
    assert swept(installation, "after", sweeps=1) == [nothing]


def test_two_sweeps_write_and_hand_over_each_run(tmp_path: Path) -> None:
    check(install(tmp_path / "installation"))


@pytest.mark.services
def test_so_they_do_with_postgresql(tmp_path: Path, postgresql: PostgreSQL) -> None:
    check(install(tmp_path / "installation", DATABASE_URL=new_database(postgresql)))
