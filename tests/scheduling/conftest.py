"""A small tracking database, and items over it."""

from pathlib import Path
from typing import Any

import pytest

from queryexport.models import Query
from scheduling.models import SchedulingItem
from tests.factories import MakeItem, make_connection, make_database, make_query

ROWS = 5


@pytest.fixture
def tracking(tmp_path: Path) -> Path:
    """A SQLite file with the table `events`: id 1 to 5, day 2026-01-01 to 2026-01-05, text."""
    rows = (f"INSERT INTO events VALUES ({n}, '2026-01-0{n}', 'event {n}')" for n in range(1, 6))
    return make_database(
        tmp_path / "tracking.sqlite3",
        "CREATE TABLE events (id INTEGER, day TEXT, note TEXT)",
        *rows,
    )


@pytest.fixture
def make_item(db: None, tracking: Path, export_root: Path) -> MakeItem:
    """Creates an item that runs daily at 08:00 UTC; the keywords are its fields, and `sql`."""

    def make(*, sql: str = "SELECT id, day, note FROM events", **values: Any) -> SchedulingItem:
        number = SchedulingItem.objects.count() + 1
        query = Query.objects.filter(sql=sql).first()
        defaults = {
            "name": f"Item {number}",
            "query": query or make_query(sql, name=f"CDG-TEST-{number:03d}--Rows.sql"),
            "scheduling_mode": "cron",
            "cron_expression": "0 8 * * *",
            "timezone": "UTC",
        }
        if "connection" not in values:
            values["connection"] = getattr(make, "connection", None) or make_connection(tracking)
            make.connection = values["connection"]  # type: ignore[attr-defined]
        return SchedulingItem.objects.create(**(defaults | values))

    return make
