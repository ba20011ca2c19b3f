"""The newest value of a statement's column, asked of the database itself."""

from datetime import date
from threading import Timer
from time import monotonic

import pytest

from queryexport.engines import DIALECTS, ConnectionSettings
from queryexport.errors import QueryError, RunCancelled
from queryexport.newest import _quoted, newest
from queryexport.parameters import first_statement
from queryexport.stopping import Stop
from tests.queryexport.conftest import MakeSettings
from tests.queryexport.statements import ENDLESS, numbers

REFUSED = {
    "sqlite": "no such column",
    "duckdb": "does not have a column",
    "postgresql": "does not exist",
    "mysql": "Unknown column",
}


def test_the_greatest_value_comes_as_the_driver_gives_it(make_settings: MakeSettings) -> None:
    settings = make_settings()
    assert newest(settings, numbers(settings, 120), "n", {}) == 120


def test_parameters_are_bound_in_it(make_settings: MakeSettings) -> None:
    sql = "SELECT n FROM things WHERE n > :low AND n <= :high"
    assert newest(make_settings(), sql, "n", {"low": 1, "high": 2}) == 2


def test_without_rows_there_is_none(make_settings: MakeSettings) -> None:
    assert newest(make_settings(), "SELECT n FROM things WHERE n > 9", "n", {}) is None


@pytest.mark.parametrize("ending", ["", ";", " -- all of them", ";\n-- done", "\n;\n", " /* ; */"])
def test_whatever_ends_the_statement_ends_inside(make_settings: MakeSettings, ending: str) -> None:
    assert newest(make_settings(), f"SELECT n FROM things ORDER BY n{ending}", "n", {}) == 3


@pytest.mark.services
def test_a_comment_of_mysql_ends_inside(make_mariadb: MakeSettings) -> None:
    assert newest(make_mariadb(), "SELECT n FROM things # all: of them;", "n", {}) == 3


@pytest.mark.parametrize("column", ["order", "select", "key", "nothing", "value"])
def test_a_column_may_have_the_name_of_a_word_of_sql(
    make_settings: MakeSettings, column: str
) -> None:
    settings = make_settings()
    name = f"`{column}`" if settings.engine == "mysql" else f'"{column}"'
    assert newest(settings, f"SELECT n AS {name} FROM things", column, {}) == 3


@pytest.mark.parametrize("column", ["nowhere", "n) FROM things) x; --", 'n" OR "', "n`) -- "])
def test_a_column_that_is_none_is_refused_by_the_database(
    make_settings: MakeSettings, column: str
) -> None:
    settings = make_settings()
    with pytest.raises(QueryError, match=REFUSED[settings.engine]):
        newest(settings, "SELECT n FROM things", column, {})


def test_a_second_statement_is_refused(make_settings: MakeSettings) -> None:
    with pytest.raises(QueryError, match="more than one statement"):
        newest(make_settings(), "SELECT n FROM things; SELECT 1 AS n", "n", {})


def test_it_stops_when_the_run_is_stopped(make_settings: MakeSettings) -> None:
    settings, stop = make_settings(), Stop()
    timer = Timer(0.5, stop.request, [RunCancelled("Cancelled by ops.")])
    timer.start()
    began = monotonic()
    with pytest.raises(RunCancelled, match="by ops"):
        newest(settings, ENDLESS[settings.engine], "n", {}, stop=stop)
    assert monotonic() - began < 10


@pytest.mark.parametrize(
    ("engine", "column", "quoted"),
    [
        ("postgresql", "updated_at", '"updated_at"'),
        ("postgresql", "UpdatedAt", '"UpdatedAt"'),
        ("mysql", "updated_at", "`updated_at`"),
        ("mssql", "updated_at", "[updated_at]"),
        ("sqlite", "updated_at", '"updated_at"'),
        ("duckdb", "updated_at", '"updated_at"'),
        # Oracle stores names in upper case; in quotes, this one would be another.
        ("oracle", "updated_at", "updated_at"),
        ("oracle", "order", '"order"'),
    ],
)
def test_the_column_is_quoted_as_the_engine_does(engine: str, column: str, quoted: str) -> None:
    settings = ConnectionSettings(name="x", engine=engine, host="127.0.0.1", database="x")
    assert _quoted(column, DIALECTS[engine].create(settings).dialect) == quoted


def test_the_first_statement_keeps_what_stands_before_its_end() -> None:
    sql = "SELECT ';' AS n -- a; b\n FROM things ; -- done"
    assert first_statement(sql) == "SELECT ';' AS n -- a; b\n FROM things "


def test_dates_stay_dates(make_duckdb: MakeSettings) -> None:
    assert newest(make_duckdb(), "SELECT DATE '2026-11-23' AS d", "d", {}) == date(2026, 11, 23)
