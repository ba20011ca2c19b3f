"""A CSV file holds every value as stated text, and every reader finds the same fields in it."""

import codecs
import csv
import io
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import duckdb
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from queryexport.errors import ConfigurationError, DeliveryError
from queryexport.formats import Written
from queryexport.formats.csv import DEFUSED, DELIMITERS, ENCODINGS, Csv, CsvDialect
from tests.fakes import result_of

ROME = ZoneInfo("Europe/Rome")
PLAIN = CsvDialect(formula_safe=False)
TEXT = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from(";,\"'|\t\r\n =+-@"), max_size=20
)
TABLES = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(st.none() | TEXT, min_size=width, max_size=width), max_size=8)
)

# What DuckDB has no word for, it cannot give back.
MOMENTS = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)).filter(lambda at: not at.fold)


def write(
    names: Sequence[str], rows: Sequence[Sequence[Any]], dialect: CsvDialect = PLAIN
) -> tuple[bytes, Written]:
    file = io.BytesIO()
    written = Csv(ROME, dialect).write(result_of(names, rows), file)
    assert written.rows == len(rows)
    return file.getvalue(), written


def field_of(value: Any, **options: Any) -> str:
    """What one value becomes, beside another column."""
    data, _ = write(["v", "w"], [[value, 0]], CsvDialect(**{"formula_safe": False} | options))
    return data.decode().split("\r\n")[1].removesuffix(",0")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ""),
        ("", '""'),
        ("text", "text"),
        (" padded ", " padded "),
        ("007", "007"),
        ('say "hi"', '"say ""hi"""'),
        ("a,b", '"a,b"'),
        ("a\nb", '"a\nb"'),
        ("a\rb", '"a\rb"'),
        ("NULL", "NULL"),
        (True, "true"),
        (False, "false"),
        (-7, "-7"),
        (2**70, "1180591620717411303424"),
        (0.1, "0.1"),
        (1e300, "1e+300"),
        (float("nan"), "NaN"),
        (float("-inf"), "-Infinity"),
        (Decimal("1.250"), "1.250"),
        (Decimal("1E+3"), "1000"),
        (Decimal("0.0000001"), "0.0000001"),
        (Decimal("12345678901234567890.123456789"), "12345678901234567890.123456789"),
        (Decimal("NaN"), "NaN"),
        (Decimal("sNaN"), "NaN"),
        (Decimal("Infinity"), "Infinity"),
        (date(2024, 2, 29), "2024-02-29"),
        (date(1, 1, 1), "0001-01-01"),
        (time(6, 30, 5, 500_000), "06:30:05.5"),
        (datetime(2024, 7, 1, 10), "2024-07-01T10:00:00"),
        (datetime(2024, 7, 1, 10, tzinfo=UTC), "2024-07-01T12:00:00+02:00"),
        (datetime(2024, 1, 1, 10, 0, 0, 120_000, UTC), "2024-01-01T11:00:00.12+01:00"),
        (datetime(9999, 12, 31, 23, 30, tzinfo=UTC), "9999-12-31T23:30:00+00:00"),
        (timedelta(days=1, hours=1), "P1DT3600S"),
        (timedelta(seconds=-0.5), "-P0DT0.5S"),
        (b"\x00\xff", "AP8="),
        (bytearray(b"\x00\xff"), "AP8="),
        (memoryview(b"\x00\xff"), "AP8="),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (ip_address("10.0.0.1"), "10.0.0.1"),
        ([1, "à", None], '"[1,""à"",null]"'),
        ({"a": date(2024, 1, 1)}, '"{""a"":""2024-01-01""}"'),
        ({1}, "[1]"),
    ],
)
def test_a_value_has_its_stated_form(value: Any, expected: str) -> None:
    assert field_of(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1.5, '"1,5"'), (Decimal("-0.25"), '"-0,25"'), (3, "3"), ("1.5", "1.5"), (True, "true")],
)
def test_a_decimal_comma_is_that_of_numbers_alone(value: Any, expected: str) -> None:
    assert field_of(value, decimal_comma=True) == expected


def test_a_column_of_several_types_has_the_form_of_each() -> None:
    data, _ = write(["v", "w"], [[1, 0], ["x", 0], [None, 0], [True, 0], [Decimal("1.0"), 0]])
    assert data == b"v,w\r\n1,0\r\nx,0\r\n,0\r\ntrue,0\r\n1.0,0\r\n"


def test_the_dialect_says_how_the_file_looks() -> None:
    dialect = CsvDialect(";", "cp1252", decimal_comma=True, line_feed=True)
    data, _ = write(["città", "n"], [["Forlì; €", 1.5]], dialect)
    assert data == 'città;n\n"Forlì; €";1,5\n'.encode("cp1252")


def test_no_rows_are_a_file_with_the_column_names() -> None:
    data, written = write(["a", "b,c"], [])
    assert (data, dict(written.conversions)) == (b'a,"b,c"\r\n', {})


@pytest.mark.parametrize("delimiter", ["", "a", ",,", '"', "\n"])
def test_an_unusable_delimiter_is_refused(delimiter: str) -> None:
    with pytest.raises(ConfigurationError, match="between its columns"):
        CsvDialect(delimiter)


@pytest.mark.parametrize("encoding", ["", "utf-7", "latin-one", "base64", "undefined", "idna"])
def test_an_unknown_encoding_is_refused_by_its_name(encoding: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'{encoding}' of a CSV file"):
        CsvDialect(encoding=encoding)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(1)", "\tx", "\rx", "=cmd|' /C calc'!A"])
def test_text_that_starts_like_a_formula_gets_an_apostrophe(text: str) -> None:
    data, written = write(["=name", "n"], [[text, -1], ["fine", -2.5]], CsvDialect())
    [header, defused, fine] = csv.reader(io.StringIO(data.decode(), newline=""))
    assert (header[0], defused, fine) == ("'=name", [f"'{text}", "-1"], ["fine", "-2.5"])
    assert written.conversions == {DEFUSED: 2}


@pytest.mark.parametrize("value", [-1, -0.5, Decimal("-1.5"), float("-inf")])
def test_a_number_never_gets_an_apostrophe(value: Any) -> None:
    data, written = write(["v"], [[value], ["-text"]], CsvDialect())
    [_, number, text] = data.decode().splitlines()
    assert (number[0], text) == ("-", "'-text")
    assert written.conversions == {DEFUSED: 1}


def test_bytes_and_intervals_that_look_like_a_formula_get_an_apostrophe() -> None:
    rows = [[b"\xf8", timedelta(seconds=-1)]]
    data, written = write(["b", "i"], rows, CsvDialect())
    assert data.decode().splitlines()[1] == "'+A==,'-P0DT1S"
    assert written.conversions == {DEFUSED: 2}


def test_what_the_encoding_cannot_hold_is_replaced_and_counted() -> None:
    rows = [["Łódź €"], ["日本"], ["fine"]]
    data, written = write(["v"], rows, CsvDialect(encoding="iso-8859-15"))
    assert data.decode("iso-8859-15") == "v\r\n?ód? €\r\n??\r\nfine\r\n"
    assert written.conversions == {"characters outside iso-8859-15 to ?": 4}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
def test_half_a_character_is_replaced_and_counted(encoding: str) -> None:
    data, written = write(["v"], [["half\ud83d"]] * 3, CsvDialect(encoding=encoding))
    assert data.decode(encoding).splitlines() == ["v"] + ["half\ufffd"] * 3
    assert written.conversions == {f"characters outside {encoding} to \ufffd": 3}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_is_written_over_several_batches(encoding: str) -> None:
    rows = [[number, f"row {number}"] for number in range(9)]
    data, _ = write(["n", "v"], rows, CsvDialect(encoding=encoding))
    expected = [["n", "v"], *([str(number), text] for number, text in rows)]
    assert list(csv.reader(io.StringIO(data.decode(encoding), newline=""))) == expected


@pytest.mark.parametrize(
    ("encoding", "mark"), [("utf-8-sig", codecs.BOM_UTF8), ("utf-16", codecs.BOM_UTF16)]
)
def test_a_byte_order_mark_comes_once(encoding: str, mark: bytes) -> None:
    data, _ = write(["v"], [["à"]] * 5, CsvDialect(encoding=encoding))
    assert (data[: len(mark)], data.count(mark)) == (mark, 1)


def test_what_has_no_form_is_named_by_row_and_column() -> None:
    rows = [[number, "fine"] for number in range(4)] + [[4, object()]]
    with pytest.raises(DeliveryError, match=r"Row 5, column text, .* type object") as caught:
        write(["n", "text"], rows)
    assert not caught.value.retryable


def test_an_integer_beyond_what_python_writes_is_named() -> None:
    with pytest.raises(DeliveryError, match="Row 2, column v, cannot be written"):
        write(["v"], [[1], [10**5_000]])


def test_half_a_character_in_json_is_named_by_row_and_column() -> None:
    with pytest.raises(DeliveryError, match=r"Row 2, column j\b"):
        write(["j"], [[{"a": 1}], [{"a": "half\ud83d"}]])


@given(TABLES, st.sampled_from(DELIMITERS), st.booleans())
@example([["a\rb"], ["\r"], ["\n"], [""], [None]], ",", True)
@example([[None]], ",", False)
def test_python_reads_the_same_fields(
    table: list[list[str | None]], delimiter: str, line_feed: bool
) -> None:
    names = [f"c{number}" for number in range(len(table[0]) if table else 2)]
    dialect = CsvDialect(delimiter, line_feed=line_feed, formula_safe=False)
    data, _ = write(names, table, dialect)
    lines = csv.reader(io.StringIO(data.decode(), newline=""), delimiter=delimiter, strict=True)
    # A line with nothing on it is a row of one NULL.
    found = [line or [""] for line in lines]
    assert found == [names, *([text or "" for text in row] for row in table)]


@given(st.lists(st.tuples(st.integers(), st.none() | TEXT), min_size=1, max_size=8), st.booleans())
def test_a_formula_safe_file_has_no_field_that_starts_like_a_formula(
    rows: list[tuple[int, str | None]], line_feed: bool
) -> None:
    data, written = write(["n", "v"], rows, CsvDialect(line_feed=line_feed))
    _, *found = csv.reader(io.StringIO(data.decode(), newline=""))
    starts = ("=", "+", "-", "@", "\t", "\r")
    changed = [text for _, text in rows if text and text.startswith(starts)]
    expected = [f"'{text}" if text in changed else text or "" for _, text in rows]
    assert [line[1] for line in found] == expected
    assert written.conversions.get(DEFUSED, 0) == len(changed)


@given(
    st.lists(
        st.tuples(
            st.integers(-(2**63), 2**63 - 1),
            st.none() | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12),
            st.none() | st.decimals(-(10**9), 10**9, places=4).filter(lambda value: value != 0),
            st.none() | MOMENTS,
            st.none() | st.booleans(),
            st.none() | st.floats(),
        ),
        max_size=6,
    )
)
@settings(deadline=None, max_examples=50)
@example([(1, "", None, None, None, None), (2, None, None, None, None, float("nan"))])
def test_duckdb_reads_the_same_values_and_tells_null_from_empty(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[Any, ...]]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "rows.csv"
    path.write_bytes(write(["n", "t", "d", "m", "b", "f"], rows)[0])
    found = read_by_duckdb(path)
    assert list(map(repr, found)) == list(map(repr, rows))


def read_by_duckdb(path: Path) -> list[tuple[Any, ...]]:
    types = ("BIGINT", "VARCHAR", "DECIMAL(18,4)", "TIMESTAMP", "BOOLEAN", "DOUBLE")
    columns = dict(zip("ntdmbf", types, strict=True))
    options = "header=true, auto_detect=false, quote='\"', escape='\"', allow_quoted_nulls=false"
    with duckdb.connect() as connection:
        return connection.execute(
            f"SELECT * FROM read_csv('{path}', columns={columns}, {options})"
        ).fetchall()
