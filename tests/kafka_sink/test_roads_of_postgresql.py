"""PostgreSQL writes a row's JSON itself, and the messages are the same to the byte."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic, sleep
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kafka_sink.builder import MessageBuilder, MessageOptions, NullKey
from kafka_sink.messages import Batch, Envelope
from queryexport.engines import ConnectionSettings
from queryexport.errors import DeliveryError, QueryError
from queryexport.rows import JsonShape
from queryexport.source import BATCH_ROWS, open_query
from tests.services.postgresql import PostgreSQL

pytestmark = pytest.mark.services

ENVELOPE = Envelope("q.sql", "cdg", datetime(2026, 1, 18, 8, tzinfo=UTC), "q.sql-1")
SAME = (
    "'x'::text AS k, 1::int2, (-2)::int4, 9223372036854775807::int8, true, false, NULL::text, "
    "'ab  '::char(6), 'v'::varchar(9), 'n'::name, date '2026-01-18', date '0099-12-31', "
    "time '08:30', time '08:30:00.5', time '23:59:59.123456', "
    "timestamptz '2026-01-18 08:00+01', timestamptz '2026-07-18 08:00:00.120+00', "
    "timestamptz '2026-01-18 08:00:00.000001+00', timestamptz '1900-01-01 00:00+00', "
    "timestamptz '1971-12-31 00:00+00', '12345678-1234-5678-1234-567812345678'::uuid, "
    "1.50::numeric, 0.000000001::numeric, 1e30::numeric, (-0.0)::numeric, NULL::numeric, "
    "'NaN'::numeric, 'Infinity'::numeric, '-Infinity'::numeric, 123456789012345678901234::numeric"
)
SECOND_BATCH_IS_SLOW = (
    f"SELECT n AS k FROM generate_series(1, {BATCH_ROWS + 5}) n "
    f"WHERE n <= {BATCH_ROWS} OR pg_sleep(30) IS NULL"
)
OUR_SESSIONS = "FROM pg_stat_activity WHERE application_name = 'query-export'"
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@pytest.fixture
def source(postgresql: PostgreSQL) -> ConnectionSettings:
    return ConnectionSettings(
        name="elephant",
        engine="postgresql",
        host=postgresql.host,
        port=postgresql.port,
        database=postgresql.database,
        username=postgresql.user,
        password=postgresql.password,
    )


@pytest.fixture(scope="module", params=["UTC", "Europe/Rome", "Africa/Monrovia"])
def in_zone(request: pytest.FixtureRequest, postgresql: PostgreSQL) -> Iterator[str]:
    """The time zone of every new session."""
    with closing(postgresql.connect(autocommit=True)) as connection:
        connection.execute(f"ALTER DATABASE {postgresql.database} SET timezone = '{request.param}'")
        yield request.param
        connection.execute(f"ALTER DATABASE {postgresql.database} RESET timezone")


def numbered(expressions: str) -> str:
    """The expressions as columns with names of their own, the first called k."""
    return f"SELECT * FROM (SELECT {expressions}) AS v(k, {', '.join(f'c{n}' for n in range(29))})"


def built(
    source: ConnectionSettings, sql: str, *, rendered: bool, key: str = "k", **options: object
) -> tuple[list[Batch], MessageBuilder]:
    values = options.pop("values", None)
    with open_query(source, sql, values) as result:
        builder = MessageBuilder(
            result.columns,
            key,
            envelope=options.pop("envelope", None),
            zone=ZoneInfo("Europe/Rome"),
            options=MessageOptions(**options),
        )
        batches = result.as_json(builder.shape) if rendered else result.batches
        assert batches is not None, "PostgreSQL did not write the rows"
        return [builder.build(rows, 1) for rows in batches], builder


def assert_same(source: ConnectionSettings, sql: str, **options: object) -> Sequence[bytes]:
    fast, one = built(source, sql, rendered=True, **options)
    general, other = built(source, sql, rendered=False, **options)
    assert [list(each.messages(())) for each in fast] == [
        list(each.messages(())) for each in general
    ]
    assert (one.nulled, one.skipped) == (other.nulled, other.skipped)
    return [value for each in fast for value in each.values]


@pytest.mark.parametrize("decimals_as_numbers", [False, True])
@pytest.mark.parametrize("envelope", [None, ENVELOPE])
def test_every_type_that_it_may_write_comes_out_the_same(
    source: ConnectionSettings, in_zone: str, decimals_as_numbers: bool, envelope: Envelope | None
) -> None:
    [value] = assert_same(
        source,
        numbered(SAME),
        decimals_as_numbers=decimals_as_numbers,
        envelope=envelope,
    )
    assert value.startswith(b'{"k":"x","c0":1,"c1":-2,"c2":9223372036854775807,')


@given(text=TEXT)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_text_comes_out_the_same_as_value_and_as_key(
    source: ConnectionSettings, text: str
) -> None:
    assert_same(source, "SELECT :t::text AS k, 1 AS n", values={"t": text})


def test_every_character_comes_out_the_same(source: ConnectionSettings) -> None:
    everything = (
        "SELECT chr(n) AS k FROM generate_series(1, 70000) n WHERE n NOT BETWEEN 55296 AND 57343"
    )
    assert len(assert_same(source, everything)) == 70_000 - 2048


@pytest.mark.parametrize(
    "key", ["'k'::char(4)", "7", "-7::int8", "'12345678-1234-5678-1234-567812345678'::uuid", "''"]
)
def test_the_key_comes_out_the_same(source: ConnectionSettings, key: str) -> None:
    assert_same(source, f"SELECT {key} AS k, 1 AS n")


@pytest.mark.parametrize("name", ['a "quoted" one', "100 %", "with:colon", "ÀÈ", "a\\b", "tab\t"])
def test_a_column_may_have_any_name(source: ConnectionSettings, name: str) -> None:
    quoted = name.replace('"', '""').replace(":", "\\:")
    for other in ("1", "1.5"):  # A decimal takes another way.
        assert_same(source, f"SELECT 'x' AS k, {other} AS \"{quoted.replace(chr(92) + ':', ':')}\"")


@pytest.mark.parametrize(
    "sql",
    [
        "WITH a AS (SELECT 'x' AS k) SELECT k FROM a -- the end",
        "VALUES ('x'), ('y') /* two */",
        "SELECT 'x' AS column1 UNION ALL SELECT 'y' ORDER BY 1 DESC LIMIT 1;",
        "SELECT 'a;b' AS k WHERE 'x' IN (:names)",
        "SELECT 'x' AS k FOR UPDATE",
        "SELECT q.k FROM (SELECT 'x' AS k) AS q",
    ],
)
def test_a_statement_may_have_any_form(source: ConnectionSettings, sql: str) -> None:
    key = "column1" if "k" not in sql else "k"
    values = {"names": ["x", "y"]} if ":names" in sql else None
    assert_same(source, sql, key=key, values=values)


def test_the_order_of_the_query_is_kept(source: ConnectionSettings) -> None:
    sql = f"SELECT n AS k FROM generate_series(1, {2 * BATCH_ROWS + 5}) n ORDER BY n % 97, n DESC"
    assert len(assert_same(source, sql)) == 2 * BATCH_ROWS + 5


@pytest.mark.parametrize("null_key", [NullKey.SEND, NullKey.SKIP])
def test_rows_without_a_key_are_treated_the_same(
    source: ConnectionSettings, null_key: NullKey
) -> None:
    sql = "SELECT nullif(n, 2)::text AS k, 'NaN'::numeric AS v FROM generate_series(1, 3) n"
    assert len(assert_same(source, sql, null_key=null_key)) == (
        2 if null_key == NullKey.SKIP else 3
    )


@pytest.mark.parametrize("rendered", [True, False])
def test_a_row_that_must_have_a_key_is_named(source: ConnectionSettings, rendered: bool) -> None:
    with pytest.raises(DeliveryError, match="Row 2 has NULL in its key column “k”"):
        built(source, "SELECT nullif(n, 2) AS k FROM generate_series(1, 3) n", rendered=rendered)


@pytest.mark.parametrize(
    "expression",
    ["1.5::float8", "now()::timestamp", "ARRAY[1]", "'{\"a\": 1}'::jsonb", "'a'::bytea",
     "interval '1 day'", "ROW(1, 2)", "'10.0.0.1'::inet"],
)  # fmt: skip
def test_a_type_that_would_come_out_differently_is_left_to_python(
    source: ConnectionSettings, expression: str
) -> None:
    with open_query(source, f"SELECT 'x' AS k, {expression} AS v") as result:
        assert result.as_json(JsonShape("k")) is None
        [[row]] = result.batches
        assert row[0] == "x"


@pytest.mark.parametrize("rendered", [True, False])
def test_an_error_in_the_middle_is_told_as_postgresql_says_it(
    source: ConnectionSettings, rendered: bool
) -> None:
    sql = f"SELECT 1 / ({3 * BATCH_ROWS} - n) AS k FROM generate_series(1, {4 * BATCH_ROWS}) n"
    with pytest.raises(QueryError, match="refused the query: division by zero") as caught:
        built(source, sql, rendered=rendered)
    assert not caught.value.retryable


@pytest.mark.parametrize("rendered", [True, False])
def test_a_slow_batch_is_stopped_by_the_statements_timeout(
    source: ConnectionSettings, rendered: bool, postgresql: PostgreSQL
) -> None:
    with pytest.raises(QueryError, match="ran longer than its statement timeout of 1 s"):
        built(replace(source, statement_timeout_sec=1), SECOND_BATCH_IS_SLOW, rendered=rendered)
    assert_no_session_is_left(postgresql)


@pytest.mark.parametrize("rendered", [True, False])
def test_a_result_that_is_given_up_leaves_no_session(
    source: ConnectionSettings, rendered: bool, postgresql: PostgreSQL
) -> None:
    with open_query(source, SECOND_BATCH_IS_SLOW) as result:
        next(result.as_json(JsonShape("k")) if rendered else result.batches)
    assert_no_session_is_left(postgresql)


def assert_no_session_is_left(postgresql: PostgreSQL) -> None:
    until = monotonic() + 5
    with closing(postgresql.connect(autocommit=True)) as connection:
        while connection.execute(f"SELECT count(*) {OUR_SESSIONS}").fetchone() != (0,):
            assert monotonic() < until, "a session is left in the database"
            sleep(0.05)


@pytest.mark.parametrize("rendered", [True, False])
def test_a_lost_server_may_be_tried_again(
    source: ConnectionSettings, rendered: bool, postgresql: PostgreSQL
) -> None:
    sql = f"SELECT n AS k FROM generate_series(1, {9 * BATCH_ROWS}) n"
    with open_query(source, sql) as result:
        batches = result.as_json(JsonShape("k")) if rendered else result.batches
        next(batches)
        with closing(postgresql.connect(autocommit=True)) as connection:
            connection.execute(f"SELECT pg_terminate_backend(pid) {OUR_SESSIONS}")
        with pytest.raises(QueryError, match="was lost") as caught:
            list(batches)
    assert caught.value.retryable
