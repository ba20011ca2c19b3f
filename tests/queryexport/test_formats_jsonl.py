"""JSON Lines hold one object per row, in the form of Kafka messages, and every value in it."""

import io
import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from queryexport.errors import DeliveryError
from queryexport.formats import Written
from queryexport.formats.jsonl import NULLED, JsonLines
from tests.fakes import result_of

ROME = ZoneInfo("Europe/Rome")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
FINITE = st.floats(allow_nan=False, allow_infinity=False)  # The others are null, and counted.
VALUES = st.none() | st.booleans() | st.integers() | FINITE | TEXT


def write(
    names: Sequence[str], rows: Sequence[Sequence[Any]], **options: Any
) -> tuple[bytes, Written]:
    file = io.BytesIO()
    written = JsonLines(ROME, **options).write(result_of(names, rows), file)
    assert written.rows == len(rows)
    return file.getvalue(), written


def test_each_row_is_an_object_on_its_line() -> None:
    data, written = write(["n", "città"], [[1, "Forlì"], [2, None], [3, "two\nlines"]])
    assert data.decode() == (
        '{"n":1,"città":"Forlì"}\n{"n":2,"città":null}\n{"n":3,"città":"two\\nlines"}\n'
    )
    assert written.conversions == {}


def test_no_rows_are_an_empty_file() -> None:
    assert write(["n"], [])[0] == b""


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, "true"),
        (2**70, "1180591620717411303424"),
        (0.1, "0.1"),
        (Decimal("1.250"), '"1.250"'),
        (date(2024, 2, 29), '"2024-02-29"'),
        (datetime(2024, 7, 1, 10), '"2024-07-01T10:00:00+02:00"'),
        (datetime(2024, 7, 1, 10, tzinfo=UTC), '"2024-07-01T10:00:00+00:00"'),
        (timedelta(days=1), '"P1DT0S"'),
        (b"\x00\xff", '"AP8="'),
        (UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        ([1, {"a": Decimal("1.5")}], '[1,{"a":"1.5"}]'),
    ],
)
def test_a_value_has_its_stated_form(value: Any, expected: str) -> None:
    assert write(["v"], [[value]])[0].decode() == f'{{"v":{expected}}}\n'


def test_decimals_are_numbers_with_every_digit_on_request() -> None:
    number = Decimal("12345678901234567890.1234567890")
    data, _ = write(["v"], [[number]], decimals_as_numbers=True)
    assert data == b'{"v":12345678901234567890.1234567890}\n'


def test_nan_and_infinity_are_null_and_counted() -> None:
    rows = [[float("nan"), Decimal("NaN")], [1.5, Decimal("Infinity")], [float("-inf"), None]]
    data, written = write(["f", "d"], rows)
    assert [json.loads(line) for line in data.splitlines()] == [
        {"f": None, "d": None},
        {"f": 1.5, "d": None},
        {"f": None, "d": None},
    ]
    assert written.conversions == {NULLED: 4}


def test_two_columns_of_one_name_are_refused_before_any_row() -> None:
    file = io.BytesIO()
    result = result_of(["id", "x", "id"], (pytest.fail("a row was read") for _ in range(1)))
    with pytest.raises(DeliveryError, match="more than one column called 'id'"):
        JsonLines(ROME).write(result, file)
    assert file.getvalue() == b""


def test_a_column_name_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(DeliveryError, match=r"'half\\ud83d' is not valid Unicode"):
        write(["half\ud83d"], [])


@pytest.mark.parametrize("value", [object(), "half\ud83d", [object()]])
def test_what_has_no_form_is_named_by_row_and_column(value: Any) -> None:
    rows = [[number, "fine"] for number in range(4)] + [[4, value]]
    with pytest.raises(DeliveryError, match="Row 5, column text, cannot be written") as caught:
        write(["n", "text"], rows)
    assert not caught.value.retryable


@given(st.lists(st.tuples(VALUES, VALUES), max_size=8))
def test_json_reads_the_same_values(rows: list[tuple[Any, Any]]) -> None:
    data, _ = write(["a", "b c"], rows)
    lines = data.decode().split("\n")
    assert lines.pop() == ""
    assert [json.loads(line) for line in lines] == [{"a": a, "b c": b} for a, b in rows]


def test_duckdb_reads_the_same_values(tmp_path: Path) -> None:
    rows = [(number, f"row {number} à\n", None if number % 2 else 0.5) for number in range(9)]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(write(["n", "t", "f"], rows)[0])
    with duckdb.connect() as connection:
        found = connection.execute(
            f"SELECT * FROM read_json('{path}', format='newline_delimited')"
        ).fetchall()
    assert found == rows
