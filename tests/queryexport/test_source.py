"""A query is read-only, takes values and no text, and hands out its rows in batches."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from queryexport.engines import ConnectionSettings
from queryexport.errors import ConfigurationError, QueryError
from queryexport.source import BATCH_ROWS, open_query, probe
from tests.queryexport.conftest import MakeSettings, write_sqlite
from tests.queryexport.statements import numbers, rows_of
from tests.services.postgresql import PostgreSQL

# What comes back ---------------------------------------------------------------------------------


def test_rows_come_with_their_columns(make_settings: MakeSettings) -> None:
    with open_query(make_settings(), "SELECT n, n * 2 AS d FROM things ORDER BY n") as result:
        assert result.names == ("n", "d")
        assert [tuple(row) for batch in result.batches for row in batch] == [(1, 2), (2, 4), (3, 6)]


def test_a_result_without_rows_keeps_its_columns(make_settings: MakeSettings) -> None:
    with open_query(make_settings(), "SELECT n FROM things WHERE n < 0") as result:
        assert result.names == ("n",)
        assert list(result.batches) == []


def test_every_row_comes_once_in_batches(make_settings: MakeSettings) -> None:
    settings = make_settings()
    with open_query(settings, numbers(settings, 2 * BATCH_ROWS + 1)) as result:
        batches = [[row[0] for row in batch] for batch in result.batches]
    assert [len(batch) for batch in batches] == [BATCH_ROWS, BATCH_ROWS, 1]
    assert sorted(chain.from_iterable(batches)) == list(range(1, 2 * BATCH_ROWS + 2))


def test_a_closing_semicolon_is_fine(make_settings: MakeSettings) -> None:
    assert rows_of(make_settings(), "SELECT count(*) AS c FROM things;") == [(3,)]


def test_a_column_name_is_taken_as_it_is(make_settings: MakeSettings) -> None:
    settings = make_settings()
    mark = "`" if settings.engine == "mysql" else '"'
    with open_query(settings, f"SELECT n AS {mark}unit.price %{mark} FROM things") as result:
        assert result.names == ("unit.price %",)


@pytest.mark.services
def test_postgresqls_types_arrive_as_python_values(make_postgresql: MakeSettings) -> None:
    names = iter("abcdefg")
    parts = [
        "1.10::numeric",
        "'2024-02-29'::date",
        "'2024-07-01 12:00+02'::timestamptz",
        "true",
        "'{\"a\": [1]}'::jsonb",
        "ARRAY[1, 2]",
        "NULL::int",
    ]
    sql = "SELECT " + ", ".join(f"{part} AS {next(names)}" for part in parts)
    assert rows_of(make_postgresql(), sql) == [
        (
            Decimal("1.10"),
            date(2024, 2, 29),
            datetime(2024, 7, 1, 10, tzinfo=UTC),
            True,
            {"a": [1]},
            [1, 2],
            None,
        )
    ]


def test_duckdbs_moments_arrive_as_python_values(make_duckdb: MakeSettings) -> None:
    sql = "SELECT '2024-07-01 12:00:00+02'::timestamptz AS t"
    assert rows_of(make_duckdb(), sql) == [(datetime(2024, 7, 1, 10, tzinfo=UTC),)]


# Parameters --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "literal", ["100%", "%s %(x)s", ":x", "a::b", "12:30:00", "C:/x", "a:x:b", "?", "$1"]
)
def test_a_literal_reaches_the_database_unchanged(
    make_settings: MakeSettings, literal: str
) -> None:
    assert rows_of(make_settings(), f"SELECT '{literal}' AS v") == [(literal,)]
    sql = f"SELECT '{literal}' AS v, n FROM things WHERE n = :n"
    assert rows_of(make_settings(), sql, n=2) == [(literal, 2)]


@pytest.mark.parametrize("literal", [r"C:\temp", r"\:x", r"a\b", r"\\"])
def test_a_backslash_reaches_the_database_unchanged(
    make_settings: MakeSettings, literal: str
) -> None:
    settings = make_settings()
    # MySQL reads a backslash in a literal as an escape, so there it is written twice.
    sql_literal = literal.replace("\\", "\\\\") if settings.engine == "mysql" else literal
    sql = f"SELECT '{sql_literal}' AS v, n FROM things WHERE n = :n"
    assert rows_of(settings, sql, n=2) == [(literal, 2)]


@pytest.mark.services
@pytest.mark.parametrize("literal", [r"'it\'s :x'", r'"say \" :x"', r"'a\\'':x'"])
def test_a_colon_after_mysqls_escaped_quote_is_no_parameter(
    make_mariadb: MakeSettings, literal: str
) -> None:
    expected = literal[1:-1].replace("\\\\", "\0").replace("\\", "").replace("\0", "\\")
    assert rows_of(make_mariadb(), f"SELECT {literal} AS v") == [(expected.replace("''", "'"),)]


@pytest.mark.services
def test_a_value_never_leaves_mysqls_literal(make_mariadb: MakeSettings) -> None:
    with pytest.raises(ConfigurationError, match="does not use"):
        rows_of(make_mariadb(), r"SELECT 'it\'s :x' AS v", x=" UNION SELECT 'injected")


@pytest.mark.parametrize(
    "value",
    ["' OR 1=1 --", '" OR 1=1', "\\", "\\' OR 1=1 --", "%s", "%(v)s", ":v", "{today}", "à😀", ""],
)
def test_a_text_value_comes_back_as_it_was_given(make_settings: MakeSettings, value: str) -> None:
    assert rows_of(make_settings(), "SELECT :v AS v", v=value) == [(value,)]


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(value=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_any_text_value_comes_back_as_it_was_given(make_sqlite: MakeSettings, value: str) -> None:
    assert rows_of(make_sqlite(), "SELECT :v AS v", v=value) == [(value,)]


@pytest.mark.services
@hypothesis_settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None
)
@given(value=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_any_text_value_comes_back_from_a_server(make_server: MakeSettings, value: str) -> None:
    assert rows_of(make_server(), "SELECT :v AS v, ':v' AS w", v=value) == [(value, ":v")]


@pytest.mark.parametrize("value", [7, -1, 2**40, True, None, date(2024, 2, 29), Decimal("1.5")])
def test_a_value_of_each_type_is_bound(make_settings: MakeSettings, value: Any) -> None:
    settings = make_settings()
    if settings.engine == "sqlite" and isinstance(value, Decimal):
        pytest.skip("SQLite has no decimals")
    sql = "SELECT n FROM things WHERE n = 1 AND (:v = :v OR :v IS NULL)"
    assert rows_of(settings, sql, v=value) == [(1,)]


@pytest.mark.parametrize(("values", "expected"), [([1, 3], [1, 3]), ((2,), [2]), ([], [])])
def test_a_list_expands(make_settings: MakeSettings, values: Any, expected: list[int]) -> None:
    sql = "SELECT n FROM things WHERE n IN :wanted ORDER BY n"
    assert [row[0] for row in rows_of(make_settings(), sql, wanted=values)] == expected


def test_a_list_in_its_own_brackets_expands(make_settings: MakeSettings) -> None:
    sql = "SELECT n FROM things WHERE n IN (:wanted) ORDER BY n"
    assert rows_of(make_settings(), sql, wanted=[1, 3]) == [(1,), (3,)]


def test_a_list_of_text_cannot_change_the_statement(make_settings: MakeSettings) -> None:
    sql = "SELECT n FROM things WHERE 'x' IN :wanted"
    assert rows_of(make_settings(), sql, wanted=["') OR 1=1 --", "y"]) == []


def test_a_parameter_can_be_used_twice_beside_a_cast(make_settings: MakeSettings) -> None:
    sql = "SELECT n FROM things WHERE n >= :low AND n <> CAST(:low AS decimal) /* :no */"
    assert sorted(rows_of(make_settings(), sql, low=2)) == [(3,)]


@pytest.mark.services
@pytest.mark.parametrize("day", [date(2024, 2, 29), "2024-02-29"])
def test_postgresql_takes_a_cast_parameter(make_postgresql: MakeSettings, day: Any) -> None:
    sql = "SELECT :day::date AS d, (ARRAY[1, 2, 3])[1:2] AS a"
    assert rows_of(make_postgresql(), sql, day=day) == [(date(2024, 2, 29), [1, 2])]


@pytest.mark.services
def test_a_date_given_as_text_is_compared_with_a_date(make_server: MakeSettings) -> None:
    sql = "SELECT 1 AS one WHERE DATE '2024-02-29' = :day"
    assert rows_of(make_server(), sql, day="2024-02-29") == [(1,)]


@pytest.mark.parametrize("values", [{}, {"a": 1, "b": 2}])
def test_parameters_that_do_not_match_are_refused_before_connecting(values: dict) -> None:
    nowhere = ConnectionSettings("nowhere", "sqlite", database="/nonexistent/file")
    with pytest.raises(ConfigurationError), open_query(nowhere, "SELECT :a", values):
        pass


# What is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO things VALUES (4)",
        "INSERT INTO things VALUES (4) RETURNING n",
        "UPDATE things SET n = 0",
        "DELETE FROM things",
        "DROP TABLE things",
        "CREATE TABLE more (n integer)",
        "ALTER TABLE things ADD COLUMN m integer",
        "CREATE TABLE more AS SELECT 1 AS n",
        "SELECT 1 AS a; DELETE FROM things",
        "COMMIT; DELETE FROM things",
    ],
)
def test_a_statement_that_changes_anything_is_refused(
    make_settings: MakeSettings, sql: str
) -> None:
    settings = make_settings()
    with pytest.raises(QueryError, match=f"“{settings.name}”|no rows|one statement"):
        rows_of(settings, sql)
    assert rows_of(settings, "SELECT n FROM things ORDER BY n") == [(1,), (2,), (3,)]
    with pytest.raises(QueryError):
        rows_of(settings, "SELECT n FROM more")


@pytest.mark.services
@pytest.mark.parametrize(
    "sql",
    [
        "WITH gone AS (DELETE FROM things RETURNING n) SELECT n FROM gone",
        "SELECT set_config('transaction_read_only', 'off', false) AS v",
        "SELECT nextval('counter') AS v",
    ],
)
def test_postgresql_changes_nothing_through_a_select(
    make_postgresql: MakeSettings, postgresql: PostgreSQL, sql: str
) -> None:
    with postgresql.connect(autocommit=True) as connection:
        connection.execute("CREATE SEQUENCE IF NOT EXISTS counter")
    with pytest.raises(QueryError):
        rows_of(make_postgresql(), sql)
    assert len(rows_of(make_postgresql(), "SELECT n FROM things")) == 3


def test_duckdb_reaches_no_other_file(make_duckdb: MakeSettings, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    for sql in (f"SELECT * FROM read_csv('{secret}')", f"SELECT * FROM '{secret}'"):
        with pytest.raises(QueryError, match="“duck”"):
            rows_of(make_duckdb(), sql)


def test_duckdb_writes_no_other_file(make_duckdb: MakeSettings, tmp_path: Path) -> None:
    target = tmp_path / "stolen.csv"
    with pytest.raises(QueryError):
        rows_of(make_duckdb(), f"COPY (SELECT 1) TO '{target}'")
    assert not target.exists()


def test_sqlite_makes_no_other_file(make_sqlite: MakeSettings, tmp_path: Path) -> None:
    with pytest.raises(QueryError):
        rows_of(make_sqlite(), f"ATTACH '{tmp_path / 'new.sqlite3'}' AS new")
    assert not (tmp_path / "new.sqlite3").exists()


def test_several_statements_are_refused(make_settings: MakeSettings) -> None:
    with pytest.raises(QueryError):
        rows_of(make_settings(), "SELECT 1 AS a; SELECT 2 AS b")


@pytest.mark.parametrize("sql", ["SELECT n, n FROM things", "SELECT 1 AS n, things.* FROM things"])
def test_two_columns_of_one_name_are_refused(make_settings: MakeSettings, sql: str) -> None:
    with pytest.raises(QueryError, match="more than one column called n"):
        rows_of(make_settings(), sql)


@pytest.mark.parametrize("sql", ["", "-- nothing", "SET @x = 1", "PRAGMA query_only = OFF"])
def test_a_statement_without_rows_is_refused(make_settings: MakeSettings, sql: str) -> None:
    with pytest.raises(QueryError):
        rows_of(make_settings(), sql)


def test_a_missing_table_is_named_with_its_connection(make_settings: MakeSettings) -> None:
    settings = make_settings()
    with pytest.raises(QueryError) as caught:
        rows_of(settings, "SELECT * FROM nowhere_to_be_found")
    assert f"“{settings.name}”" in caught.value.message
    assert "nowhere_to_be_found" in caught.value.message
    assert not caught.value.retryable


@pytest.mark.parametrize("engine", ["sqlite", "duckdb"])
def test_a_missing_file_is_not_made(tmp_path: Path, engine: str) -> None:
    path = tmp_path / "missing.db"
    with pytest.raises(QueryError, match="Cannot connect to “gone”"):
        probe(ConnectionSettings("gone", engine, database=str(path)))
    assert not path.exists()


def test_a_file_name_with_special_characters_is_opened(tmp_path: Path) -> None:
    path = write_sqlite(tmp_path / "a b?c#d%20.db", "CREATE TABLE t AS SELECT 1 AS n")
    assert rows_of(ConnectionSettings("odd", "sqlite", database=str(path)), "SELECT * FROM t") == [
        (1,)
    ]


def test_an_option_that_is_not_listed_is_refused(make_settings: MakeSettings) -> None:
    with pytest.raises(ConfigurationError, match="init_command is no option"):
        rows_of(make_settings(options={"init_command": "x"}), "SELECT 1 AS n")


@pytest.mark.parametrize("engine", ["postgresql", "mysql", "oracle", "mssql"])
@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_a_server_that_is_not_there_is_a_retryable_error(engine: str, host: str) -> None:
    settings = ConnectionSettings(
        "far", engine, host, 1, "sales", "reader", "hunter-2", connect_timeout_sec=2
    )
    with pytest.raises(QueryError, match="Cannot connect to “far”") as caught:
        probe(settings)
    assert caught.value.retryable
    assert "b'" not in caught.value.message
    assert_hidden("hunter-2", caught.value)


@pytest.mark.services
def test_a_wrong_password_names_the_connection_and_not_the_password(
    make_server: MakeSettings,
) -> None:
    settings = make_server(password="hunter-2")
    with pytest.raises(QueryError, match=f"Cannot connect to “{settings.name}”") as caught:
        probe(settings)
    assert f"“{settings.username}”" in caught.value.message
    assert_hidden("hunter-2", caught.value)


@pytest.mark.services
@pytest.mark.parametrize(
    "wrong", [{"password": "hunter-2"}, {"username": "nobody"}, {"database": "x"}]
)
def test_a_log_in_that_is_refused_is_not_tried_again(
    make_server: MakeSettings, wrong: dict[str, str]
) -> None:
    with pytest.raises(QueryError) as caught:
        probe(make_server(**wrong))
    assert not caught.value.retryable


@pytest.mark.services
def test_a_failing_query_shows_no_password(make_server: MakeSettings) -> None:
    settings = make_server()
    with pytest.raises(QueryError) as caught:
        rows_of(settings, "SELECT nope FROM things")
    assert_hidden(settings.password, caught.value)


def assert_hidden(secret: str, error: BaseException) -> None:
    for link in _chain(error):
        assert secret not in f"{link} {link!r} {link.args}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
