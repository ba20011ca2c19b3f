"""`make bench-sweep`: one sweep over items that are all due in the same minute, 100 to 10,000.

Each size in an installation of its own: on SQLite and on PostgreSQL with Celery's messages in a
folder, and on PostgreSQL with Redis. Timed are the rows of the slots, and their hand-over to the
workers.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.end_to_end.installation import install
from tests.services import postgresql, redis_server

SIZES = (100, 1000, 10_000)
MEASURE = """
import json, time
from datetime import UTC, datetime, timedelta
from django.db import connection
from queryexport.models import DatabaseConnection, Query
from scheduling import slots
from scheduling.models import SchedulingHistoryItem, SchedulingItem
from scheduling.sweep import sweep
SLOT = datetime(2026, 1, 18, 8, tzinfo=UTC)
source = DatabaseConnection.objects.create(name="lite", engine="sqlite", database="x.sqlite3")
query = Query.objects.create(name="Q.sql", sql="SELECT 1 AS id")
SchedulingItem.objects.bulk_create(
    [
        SchedulingItem(
            name=f"Item {{number}}", query=query, connection=source, scheduling_mode="cron",
            cron_expression="0 8 * * *", timezone="UTC", next_slot=SLOT,
        )
        for number in range({size})
    ],
    500,
)
found = []
for now in (SLOT + timedelta(seconds=30), SLOT + timedelta(seconds=60)):
    queries = []
    def counted(execute, *arguments):
        queries.append(arguments[0])
        return execute(*arguments)
    with connection.execute_wrapper(counted):
        started = time.perf_counter()
        swept = sweep(now)
        found.append([time.perf_counter() - started, len(queries), swept.slots, swept.dispatched])
assert SchedulingHistoryItem.objects.filter(status="queued").count() == {size}
print(json.dumps(found))
"""


def main() -> int:
    table = Table(title="One sweep, all items due", title_justify="left")
    columns = (
        "database",
        "broker",
        "items",
        "rows",
        "handed over",
        "seconds",
        "queries",
        "idle sweep, s",
    )
    for title in columns:
        table.add_column(title, justify="left" if title in columns[:2] else "right")
    for database, broker, settings in _installations():
        for size in SIZES:
            due, idle = _measured(settings, size)
            seconds, queries, rows, handed = due
            table.add_row(
                database, broker, f"{size:,}", f"{rows:,}", f"{handed:,}", f"{seconds:.2f}",
                f"{queries}", f"{idle[0]:.3f}",
            )  # fmt: skip
    Console().print(table)
    return 0


def _installations() -> Iterator[tuple[str, str, dict[str, str]]]:
    """Database, broker, and the settings that lead to them."""
    yield "SQLite", "folder", {}
    with postgresql.running() as server:
        database = f"PostgreSQL {server.version}"
        yield database, "folder", {"DATABASE_URL": server.url}
        with redis_server.running() as broker:
            settings = {"DATABASE_URL": server.url, "CELERY_BROKER_URL": broker.url}
            yield database, f"Redis {broker.version}", settings


def _measured(settings: dict[str, str], size: int) -> list[list[float]]:
    with tempfile.TemporaryDirectory(prefix="query-export-benchmark-") as folder:
        installation = install(Path(folder, "installation"), **settings)
        if settings:
            installation.manage("flush", "--no-input")
        printed = installation.manage("shell", "-c", MEASURE.format(size=size))
    return json.loads(printed.strip().splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())
