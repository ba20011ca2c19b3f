"""Runs by a watermark on real servers: over many runs, every row is delivered exactly once."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

import pytest

from kafka_sink.broker import EmbeddedBroker
from queryexport.errors import ConfigurationError
from scheduling.models import SchedulingItem
from scheduling.watermark_values import parse
from tests.factories import MakeItem, make_connection
from tests.scheduling.test_watermarks import ids, mark, run_next, set_mark
from tests.services.mariadb import MariaDB
from tests.services.postgresql import PostgreSQL

pytestmark = [pytest.mark.services, pytest.mark.django_db]

Table = Callable[[str, str], "Parts"]
ROUNDS, ROWS_A_ROUND = 5, 4
SQL = (
    "SELECT id, stamp FROM {} WHERE stamp > :watermark_from AND stamp <= :watermark_to ORDER BY id;"
    " -- the newest"
)


class Parts:
    """A table of a server, which rows are added to by a session of its own."""

    def __init__(self, server: PostgreSQL | MariaDB, name: str) -> None:
        self.name = name
        self.sql = SQL.format(name)
        self._server = server
        self._ids = count(1)

    def add(self, *stamps: Any) -> list[int]:
        """The ids of the new rows, which are committed."""
        added = [next(self._ids) for _ in stamps]
        with closing(self._server.connect(autocommit=True)) as session, session.cursor() as cursor:
            for row in zip(added, stamps, strict=True):
                cursor.execute(f"INSERT INTO {self.name} VALUES (%s, %s)", row)
        return added


@pytest.fixture
def table(request: pytest.FixtureRequest) -> Iterator[Table]:
    """Makes a table whose column `stamp` is of that type, on that server."""
    made: list[tuple[Any, str]] = []

    def table(server: str, kind: str) -> Parts:
        running = request.getfixturevalue(server)
        name = f"parts_{len(made)}"
        made.append((running, name))
        with closing(running.connect(autocommit=True)) as session, session.cursor() as cursor:
            cursor.execute(f"DROP TABLE IF EXISTS {name}")
            cursor.execute(f"CREATE TABLE {name} (id bigint, stamp {kind})")
        return Parts(running, name)

    yield table
    for running, name in made:
        with closing(running.connect(autocommit=True)) as session, session.cursor() as cursor:
            cursor.execute(f"DROP TABLE {name}")


@pytest.fixture
def in_rome(postgresql: PostgreSQL) -> Iterator[None]:
    """PostgreSQL answers in a zone whose clock goes back in the middle of the test's times."""
    with postgresql.connect(autocommit=True) as session:
        session.execute("ALTER ROLE CURRENT_USER SET timezone = 'Europe/Rome'")
    yield
    with postgresql.connect(autocommit=True) as session:
        session.execute("ALTER ROLE CURRENT_USER RESET timezone")


def connection_to(server: PostgreSQL | MariaDB) -> Any:
    engine = "postgresql" if isinstance(server, PostgreSQL) else "mysql"
    return make_connection(
        server.database, engine=engine, host=server.host, port=server.port,
        username=server.user, password=server.password,
    )  # fmt: skip


def instants(n: int) -> datetime:
    """Seven minutes and a microsecond apart, over the hour that Rome has twice."""
    return datetime(2026, 10, 25, tzinfo=UTC) + n * timedelta(minutes=7, microseconds=1)


def naive(n: int) -> datetime:
    return datetime(2026, 11, 23, 8, 0, 0, 999_990) + n * timedelta(microseconds=1)


def big(n: int) -> int:
    """Where a float could not tell one from the next."""
    return 2**60 + n


def fine(n: int) -> Decimal:
    return Decimal("1234567890123456.0000000001") + n * Decimal("0.0000000001")


def text(n: int) -> str:
    return f"2026-11-23 08:{n:02d}:00"


@pytest.mark.usefixtures("in_rome")
@pytest.mark.parametrize(
    ("server", "kind", "watermark", "value"),
    [
        ("postgresql", "timestamptz", "time", instants),
        ("postgresql", "timestamp", "time", naive),
        ("postgresql", "bigint", "number", big),
        ("postgresql", "numeric(30, 10)", "number", fine),
        ("postgresql", "numeric", "number", fine),
        ("postgresql", "varchar(30)", "text", text),
        ("mariadb", "datetime(6)", "time", naive),
        ("mariadb", "timestamp(6)", "time", naive),
        ("mariadb", "bigint", "number", big),
        ("mariadb", "decimal(30, 10)", "number", fine),
        ("mariadb", "varchar(30)", "text", text),
    ],
)
def test_every_row_is_delivered_exactly_once(
    make_item: MakeItem, table: Table, request: pytest.FixtureRequest,
    server: str, kind: str, watermark: str, value: Callable[[int], Any],
) -> None:  # fmt: skip
    """Rows come between the runs and while they read; every other run fails half way."""
    parts = table(server, kind)
    item = make_item(
        connection=connection_to(request.getfixturevalue(server)), sql=parts.sql,
        watermark_column="stamp", watermark_kind=watermark,
    )  # fmt: skip
    set_mark(item, str(value(0)).replace(" ", "T") if watermark == "time" else str(value(0)))
    parts.add(value(0))  # Delivered before, as the mark says.
    numbers, expected, delivered = count(1), list[int](), Counter[Any]()

    def more(*, twice: bool = False) -> None:
        stamps = [value(next(numbers)) for _ in range(ROWS_A_ROUND)]
        expected.extend(parts.add(*stamps, *(stamps[-1:] if twice else ())))

    for _ in range(ROUNDS):
        more(twice=True)
        fail_half_way(item, more)
        run = run_next(item)
        delivered.update(ids(run))
        assert run.watermark_moved
    delivered.update(ids(run_next(item)))
    assert delivered == Counter(expected)
    assert parse(watermark, mark(item) or "") == value(next(numbers) - 1)


def fail_half_way(item: SchedulingItem, meanwhile: Callable[[], None]) -> None:
    def broken(progress: object) -> None:
        meanwhile()
        raise ConfigurationError("Broken half way.")

    before = mark(item)
    run = run_next(item, watch=broken)
    assert (run.status, run.row_count > 0, mark(item)) == ("fail", True, before)


def test_a_killed_workers_rows_are_covered_by_the_next_attempt(
    make_item: MakeItem, table: Table, postgresql: PostgreSQL
) -> None:
    parts = table("postgresql", "timestamp")
    item = make_item(connection=connection_to(postgresql), sql=parts.sql, watermark_column="stamp")
    set_mark(item, "2026-11-23")
    expected = parts.add(naive(1), naive(2))

    def die(progress: object) -> None:
        raise SystemExit

    with pytest.raises(SystemExit):
        run_next(item, watch=die)
    lost = item.history.get(attempt=1)
    assert (lost.status, lost.watermark_moved, mark(item)) == ("lost", False, "2026-11-23")
    expected += parts.add(naive(3))
    assert ids(run_next(item)) == expected


def test_rows_that_come_while_a_run_reads_wait_for_the_next(
    make_item: MakeItem, table: Table, postgresql: PostgreSQL
) -> None:
    parts = table("postgresql", "timestamptz")
    item = make_item(connection=connection_to(postgresql), sql=parts.sql, watermark_column="stamp")
    set_mark(item, "2026-10-25T00:00:00Z")
    first, late = parts.add(instants(1), instants(2)), list[int]()

    def meanwhile(progress: object) -> None:
        if not late:
            late.extend(parts.add(instants(3)))

    assert ids(run_next(item, watch=meanwhile)) == first
    assert ids(run_next(item)) == late


def test_with_a_lag_a_row_that_is_committed_late_is_not_lost(
    make_item: MakeItem, table: Table, postgresql: PostgreSQL
) -> None:
    parts = table("postgresql", "timestamptz")
    item = make_item(
        connection=connection_to(postgresql), sql=parts.sql, watermark_column="stamp",
        watermark_lag_sec=3600,
    )  # fmt: skip
    stamp = datetime.now(UTC) - timedelta(minutes=10)
    set_mark(item, (stamp - timedelta(days=1)).isoformat())
    with postgresql.connect() as slow:
        slow.execute(f"INSERT INTO {parts.name} VALUES (100, %s)", [stamp])
        younger = parts.add(stamp + timedelta(minutes=1))
        assert ids(run_next(item)) == []
        slow.commit()
    # An hour later both are old enough.
    SchedulingItem.objects.update(watermark_lag_sec=60)
    assert sorted(ids(run_next(SchedulingItem.objects.get()))) == [*younger, 100]


@pytest.mark.usefixtures("in_rome")
def test_messages_that_the_database_writes_itself_are_bound_alike(
    make_item: MakeItem, table: Table, postgresql: PostgreSQL, broker: EmbeddedBroker
) -> None:
    parts = table("postgresql", "timestamptz")
    item = make_item(
        connection=connection_to(postgresql), sql=parts.sql, watermark_column="stamp",
        sharing_mode="kafka", kafka_topic="events", kafka_key_field="id",
    )  # fmt: skip
    set_mark(item, "2026-10-25T00:00:00Z")
    for places in ("events: partition 0 offsets 0–8", "events: partition 0 offsets 9–17"):
        parts.add(*(instants(n + item.history.count() * 9) for n in range(1, 10)))
        run = run_next(item)
        assert (run.status, run.rows_delivered, run.place) == ("success", 9, places)
