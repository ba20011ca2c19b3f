"""A query is limited in time and memory, and leaves nothing running behind."""

import gc
import os
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from queryexport.engines import ConnectionSettings
from queryexport.errors import QueryError
from queryexport.source import BATCH_ROWS, open_query, probe
from tests.queryexport.conftest import MakeSettings, OurSessions
from tests.queryexport.statements import ENDLESS, SLOW_ROWS, WIDE, numbers, rows_of
from tests.services.mariadb import MariaDB

FEW_SECONDS = 5.0


class SinkError(Exception):
    """What a consumer of rows raises in these tests."""


def wait_until(holds: Callable[[], bool], seconds: float = FEW_SECONDS) -> bool:
    deadline = time.monotonic() + seconds
    while not (held := holds()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return held


def test_a_statement_over_its_time_is_stopped(make_settings: MakeSettings) -> None:
    settings = make_settings(statement_timeout_sec=1)
    started = time.monotonic()
    with pytest.raises(QueryError, match="longer than its statement timeout of 1 s") as caught:
        rows_of(settings, ENDLESS[settings.engine])
    assert time.monotonic() - started < 1 + FEW_SECONDS
    assert f"“{settings.name}”" in caught.value.message


@pytest.mark.services
def test_a_statement_over_its_time_is_stopped_in_the_database(
    make_server: MakeSettings, sessions: OurSessions
) -> None:
    settings = make_server(statement_timeout_sec=1)
    with pytest.raises(QueryError, match="statement timeout"):
        rows_of(settings, ENDLESS[settings.engine])
    assert wait_until(lambda: sessions(settings) == [])


@pytest.mark.services
def test_the_time_of_all_batches_is_added_up(make_server: MakeSettings) -> None:
    settings = make_server(statement_timeout_sec=1)
    started = time.monotonic()
    with pytest.raises(QueryError, match="longer than its statement timeout of 1 s"):
        rows_of(settings, SLOW_ROWS[settings.engine])
    assert time.monotonic() - started < 3


@pytest.mark.services
def test_the_running_statement_is_seen_by_these_tests(
    make_server: MakeSettings, sessions: OurSessions
) -> None:
    settings = make_server()
    with open_query(settings, WIDE[settings.engine].format(100_000)):
        assert any("wide" in statement or "FETCH" in statement for statement in sessions(settings))


@pytest.mark.services
@pytest.mark.parametrize("batches_read", [0, 1])
def test_a_consumers_error_stops_the_statement(
    make_server: MakeSettings,
    sessions: OurSessions,
    batches_read: int,
) -> None:
    settings = make_server()
    started = time.monotonic()
    with pytest.raises(SinkError):
        give_up_after(batches_read, settings, WIDE[settings.engine].format(3_000_000))
    assert time.monotonic() - started < FEW_SECONDS
    assert wait_until(lambda: sessions(settings) == [])


@pytest.mark.services
def test_leaving_early_stops_the_statement(
    make_server: MakeSettings, sessions: OurSessions
) -> None:
    settings = make_server()
    started = time.monotonic()
    with open_query(settings, WIDE[settings.engine].format(2_000_000)) as result:
        assert len(next(result.batches)) == BATCH_ROWS
    assert time.monotonic() - started < FEW_SECONDS
    assert wait_until(lambda: sessions(settings) == [])


def test_a_consumers_error_is_raised_as_it_was(make_settings: MakeSettings) -> None:
    settings = make_settings()
    with pytest.raises(SinkError):
        give_up_after(1, settings, numbers(settings, 100_000))


def give_up_after(batches: int, settings: ConnectionSettings, sql: str) -> None:
    """Reads so many batches and then fails as a sink might."""
    with open_query(settings, sql) as result:
        for _ in range(batches):
            next(result.batches)
        raise SinkError


def test_the_sinks_time_does_not_count(make_settings: MakeSettings) -> None:
    settings = make_settings(statement_timeout_sec=1)
    with open_query(settings, numbers(settings, 2 * BATCH_ROWS)) as result:
        next(result.batches)
        time.sleep(1.2)
        assert len(next(result.batches)) == BATCH_ROWS


@pytest.mark.services
@pytest.mark.slow
def test_the_sinks_time_does_not_count_while_the_server_waits_to_send(
    make_server: MakeSettings,
) -> None:
    # Far more than the buffers between server and client hold, so the server has to wait.
    settings = make_server(statement_timeout_sec=3)
    with open_query(settings, WIDE[settings.engine].format(60_000)) as result:
        next(result.batches)
        time.sleep(4)
        assert sum(len(batch) for batch in result.batches) == 60_000 - BATCH_ROWS


@pytest.mark.services
@pytest.mark.slow
def test_a_slow_sink_does_not_lose_the_connection_to_mariadb(
    make_mariadb: MakeSettings, mariadb: MariaDB
) -> None:
    # The server's default is 60 s, which no test wants to wait for.
    with closing(mariadb.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SET GLOBAL net_write_timeout = 1")
        try:
            settings = make_mariadb()
            with open_query(settings, WIDE["mysql"].format(60_000)) as result:
                next(result.batches)
                time.sleep(3)
                assert sum(len(batch) for batch in result.batches) == 60_000 - BATCH_ROWS
        finally:
            cursor.execute("SET GLOBAL net_write_timeout = DEFAULT")


@pytest.mark.services
def test_a_lost_connection_is_retryable(
    make_server: MakeSettings, sessions: OurSessions, request: Any
) -> None:
    settings = make_server()
    with open_query(settings, WIDE[settings.engine].format(100_000)) as result:
        next(result.batches)
        _end_our_sessions(request, settings)
        with pytest.raises(QueryError, match=f"“{settings.name}”") as caught:
            list(result.batches)
    assert caught.value.retryable
    assert "was lost" in caught.value.message
    del caught, result
    gc.collect()  # What the driver leaves behind would complain here, and not in a later test.


def _end_our_sessions(request: pytest.FixtureRequest, settings: ConnectionSettings) -> None:
    if settings.engine == "postgresql":
        with request.getfixturevalue("postgresql").connect(autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'query-export'"
            )
        return
    with closing(request.getfixturevalue("mariadb").connect()) as connection:
        cursor = connection.cursor()
        cursor.execute(
            "SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID()"
            " AND user = SUBSTRING_INDEX(CURRENT_USER(), '@', 1)"
        )
        for (number,) in cursor.fetchall():
            cursor.execute(f"KILL CONNECTION {number}")


# Memory ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_memory_does_not_grow_with_the_result(make_settings: MakeSettings) -> None:
    settings = make_settings()
    rows, most_bytes = 200_000, 60_000_000  # The rows together are more than 200 MB.
    _memory_used(settings, rows // 10)  # The first run loads modules and fills caches.
    assert _memory_used(settings, rows) < most_bytes


def _memory_used(settings: ConnectionSettings, rows: int) -> int:
    """By how many bytes the process is at most larger while it reads the rows."""
    gc.collect()
    before = _process_bytes()
    largest = count = 0
    with open_query(settings, WIDE[settings.engine].format(rows)) as result:
        for batch in result.batches:
            count += len(batch)
            largest = max(largest, _process_bytes())
    assert count == rows
    return largest - before


def _process_bytes() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.services
def test_a_probe_leaves_no_session(make_server: MakeSettings, sessions: OurSessions) -> None:
    probe(make_server())
    assert wait_until(lambda: sessions(make_server()) == [])
