"""Parameters are found where they are meant, and a value never becomes part of the statement."""

import sqlite3
from contextlib import closing
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine, text
from sqlalchemy.dialects import sqlite

from queryexport.errors import ConfigurationError, QueryError
from queryexport.parameters import bind, find_parameters, resolve

PIECES = ("'it''s :no'", '"no :no"', "`no :no`", "-- :no '\n", "/* :no ' */", "$$ :no ' $$")
PIECES += ("$tag$ :no $$ $tag$", r"E'it\'s :no'", "a::int", "a[1:no]", ":yes", "%", "\\", "x:=1")


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT :a", ("a",)),
        ("SELECT :b, :a, :b", ("b", "a")),
        ("SELECT x WHERE y=:day_1 AND z>:Z", ("day_1", "Z")),
        ("SELECT (:a),:b;", ("a", "b")),
        ("SELECT :day::date", ("day",)),
        ("SELECT 1", ()),
    ],
)
def test_a_parameter_is_found_once_in_order_of_appearance(sql: str, expected: tuple) -> None:
    assert find_parameters(sql) == expected


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT ':no'",
        "SELECT 'it''s :no'",
        "SELECT '12:30:no'",
        r"SELECT E'it\'s :no'",
        r"SELECT 'C:\' || ':no'",
        'SELECT 1 AS "a :no"',
        'SELECT 1 AS "a "" :no"',
        "SELECT 1 AS `a :no`",
        "SELECT 1 -- :no",
        "SELECT 1 -- it's :no\n",
        "SELECT 1 /* it's\n:no */",
        "SELECT $$ it's :no $$",
        "SELECT $body$ $$ :no $$ $body$",
        "SELECT x::no",
        "SELECT '1'::no::no",
        "SELECT @v:=no",
        "SELECT a[1:no]",
        "SELECT a[lower:upper]",
        "SELECT a[:2], 1 : 2",
        r"SELECT \:no",
    ],
)
def test_a_colon_elsewhere_is_no_parameter(sql: str) -> None:
    assert find_parameters(sql) == ()


@pytest.mark.parametrize(
    "sql",
    ["-- it's\nSELECT :yes", "/* ' */ SELECT :yes", "SELECT '' || :yes", 'SELECT "it\'s", :yes'],
)
def test_a_parameter_after_a_quote_in_a_comment_or_name_is_found(sql: str) -> None:
    assert find_parameters(sql) == ("yes",)


@given(st.lists(st.sampled_from(PIECES), max_size=8))
def test_pieces_do_not_change_each_other(pieces: list[str]) -> None:
    assert find_parameters(" ".join(pieces)) == (("yes",) if ":yes" in pieces else ())


@given(st.text(alphabet=":aé1'\"`$\\%-/*[]E \n=", max_size=30))
def test_any_statement_reaches_the_driver_unchanged(sql: str) -> None:
    statement = bind(sql, dict.fromkeys(find_parameters(sql), "x"))
    compiled = text(statement.text).compile(dialect=sqlite.dialect())
    assert set(compiled.params) == set(find_parameters(sql))
    assert _with_marks_named(str(compiled), compiled.positiontup or []) == sql


def _with_marks_named(compiled: str, names: list[str]) -> str:
    for name in names:
        compiled = compiled.replace("?", f":{name}", 1)
    return compiled


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_given_as_a_value_comes_back_as_that_text(value: str) -> None:
    assert _selected("SELECT :v, 'kept :v'", {"v": value}) == (value, "kept :v")


@pytest.mark.parametrize(
    "value",
    ["' OR 1=1 --", "'; DROP TABLE t; --", ":v", "%s", "%(v)s", "\\", "?", "{today}", "x\x00y"],
)
def test_text_that_looks_like_sql_stays_a_value(value: str) -> None:
    assert _selected("SELECT :v", {"v": value}) == (value,)


def _selected(sql: str, values: dict[str, Any]) -> tuple:
    statement = bind(sql, values)
    engine = create_engine("sqlite://")
    with closing(engine.raw_connection().driver_connection) as connection:
        assert isinstance(connection, sqlite3.Connection)
        compiled = text(statement.text).compile(engine)
        marks = [statement.values[name] for name in compiled.positiontup or []]
        return connection.execute(str(compiled), marks).fetchone()


@pytest.mark.parametrize(
    "sql",
    [
        r"SELECT 'it\'s :no'",
        r'SELECT "say \" :no"',
        r"SELECT 'ends with \\', ':no'",
        "SELECT 1 # it's :no",
        "SELECT 1 -- it's :no",
        "SELECT 'it''s :no'",
        "SELECT `a :no`",
    ],
)
def test_mysqls_literals_and_comments_hold_no_parameter(sql: str) -> None:
    assert find_parameters(sql, mysql=True) == ()


def test_mysql_needs_a_blank_to_begin_a_comment_with_two_dashes() -> None:
    assert find_parameters("SELECT 1--:n", mysql=True) == ("n",)
    assert find_parameters("SELECT 1 -- :n", mysql=True) == ()
    assert find_parameters("SELECT 1--'\n:x'", mysql=True) == ()


def test_a_parameter_after_mysqls_literals_and_comments_is_found() -> None:
    sql = "SELECT 'it\\'s' # isn't\n, 'C:\\\\', :yes"
    assert find_parameters(sql, mysql=True) == ("yes",)


@pytest.mark.parametrize("end", [";", " ; ", ";;", "; -- done", ";\n/* done; */\n"])
def test_a_closing_semicolon_is_dropped(end: str) -> None:
    assert bind(f"SELECT ':;' AS a{end}", {}).text.strip() == r"SELECT '\:;' AS a"


@pytest.mark.parametrize(
    "sql", ["SELECT 1; SELECT 2", "SELECT 1;\n-- and\nDELETE FROM t", "; SELECT 1", "SELECT 1;'x'"]
)
def test_a_second_statement_is_refused(sql: str) -> None:
    with pytest.raises(QueryError, match="more than one statement"):
        bind(sql, {})


@pytest.mark.parametrize("sql", ["SELECT ';'", 'SELECT 1 AS "a;b"', "SELECT 1 /* ; */ + 1"])
def test_a_semicolon_elsewhere_ends_nothing(sql: str) -> None:
    assert bind(sql, {}).text == sql


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("n IN (:ids)", "n IN :ids"),
        ("n not in ( :ids )", "n not in  :ids "),
        ("n IN :ids", "n IN :ids"),
        ("f(:ids)", "f(:ids)"),
        ("n IN (:ids, 3)", "n IN (:ids, 3)"),
    ],
)
def test_only_the_brackets_that_a_list_brings_itself_are_dropped(sql: str, expected: str) -> None:
    assert bind(sql, {"ids": [1, 2]}).text == expected


def test_a_single_value_keeps_its_brackets() -> None:
    assert bind("n IN (:n)", {"n": 1}).text == "n IN (:n)"


def test_a_parameter_without_a_value_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match=r":b, :c .*no value"):
        bind("SELECT :a, :b, :c", {"a": 1})


def test_a_value_without_a_parameter_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="value for b, which the query does not use"):
        bind("SELECT :a, ':b'", {"a": 1, "b": 2})


def test_only_the_values_of_real_parameters_are_bound() -> None:
    assert bind("SELECT :a", {"a": None}).values == {"a": None}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("{today}", date(2024, 3, 1)),
        ("{today-1}", date(2024, 2, 29)),
        ("{today+31}", date(2024, 4, 1)),
        ("today", "today"),
        ("a {today}", "a {today}"),
        (5, 5),
        (["{today}"], [date(2024, 3, 1)]),
    ],
)
def test_a_relative_day_is_counted_from_the_slots_day(value: Any, expected: Any) -> None:
    assert resolve({"v": value}, today=date(2024, 3, 1)) == {"v": expected}


@pytest.mark.parametrize("value", ["{tomorrow}", "{today-}", "{today*2}", "{}", "{today -1}"])
def test_an_unknown_relative_day_is_refused_with_its_parameter(value: str) -> None:
    with pytest.raises(ConfigurationError, match="Parameter day has the unknown relative date"):
        resolve({"day": value}, today=date(2024, 3, 1))
