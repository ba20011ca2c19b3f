"""All cells of a column have one type, and what a column cannot hold as it was is counted."""

import base64
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from math import isfinite
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from queryexport.formats import xlsx
from tests.queryexport.workbooks import ROME, Book, book_of, column_of

NOT_FINITE = "NaN or infinity to an empty cell"
MICROSECONDS = "times with microseconds to milliseconds"
REPLACED = "texts with characters that Excel cannot hold to texts with � in their place"
MOMENT = "yyyy-mm-dd hh:mm:ss"
NEW_YORK = ZoneInfo("America/New_York")
BATCHES = pytest.mark.parametrize("batch_rows", [1, 2, 10])


# Rules by hand -----------------------------------------------------------------------------------


@BATCHES
@pytest.mark.parametrize(
    ("values", "expected", "number_format"),
    [
        ([1, Decimal("2.50"), None, 3.5], [1, 2.5, None, 3.5], "General"),
        ([1, -99_999_999_999], [1, -99_999_999_999], "General"),
        ([1, 100_000_000_000], [1, 100_000_000_000], "0"),
        ([-100_000_000_000, None, 1], [-100_000_000_000, None, 1], "0"),
        ([100_000_000_000, 1.5], [100_000_000_000, 1.5], "General"),
        ([1.5, 100_000_000_000], [1.5, 100_000_000_000], "General"),
        ([Decimal("123456789012"), Decimal("1")], [123456789012, 1], "0"),
        ([Decimal("1234567890.50"), Decimal("-1.1")], [1234567890.5, -1.1], "0.00"),
        ([Decimal("1"), 100_000_000_000, Decimal("0.125")], [1, 100_000_000_000, 0.125], "0.000"),
        ([Decimal("123456.50"), Decimal("1")], [123456.5, 1], "General"),
        ([Decimal("1234567890.50"), 0.5], [1234567890.5, 0.5], "General"),
        ([Decimal("1234567890.50"), Decimal("1E+200")], [1234567890.5, 1e200], "General"),
        ([True, None, False], [True, None, False], "General"),
        ([date(2024, 1, 2), None], [datetime(2024, 1, 2), None], "yyyy-mm-dd"),
        (
            [date(2024, 1, 2), datetime(2024, 1, 2, 3, 4, 5)],
            [datetime(2024, 1, 2), datetime(2024, 1, 2, 3, 4, 5)],
            MOMENT,
        ),
        (
            [datetime(2024, 1, 2, 3, 4, 5), date(2024, 1, 2)],
            [datetime(2024, 1, 2, 3, 4, 5), datetime(2024, 1, 2)],
            MOMENT,
        ),
        (
            [datetime(2024, 1, 2, 3), datetime(2024, 1, 2, 3, tzinfo=UTC)],
            [datetime(2024, 1, 2, 3), datetime(2024, 1, 2, 4)],
            f'{MOMENT} "Europe/Rome"',
        ),
        (
            [datetime(2024, 1, 2, 3, 0, 0, 250_000, tzinfo=UTC)],
            [datetime(2024, 1, 2, 4, 0, 0, 250_000)],
            f'{MOMENT}.000 "Europe/Rome"',
        ),
        ([datetime(2024, 1, 2), None], [datetime(2024, 1, 2), None], MOMENT),
        ([time(1, 2, 3), time(0)], [time(1, 2, 3), time(0)], "hh:mm:ss"),
        ([time(1), time(2, 0, 0, 5000)], [time(1), time(2, 0, 0, 5000)], "hh:mm:ss.000"),
        ([timedelta(hours=30)], [timedelta(hours=30)], "[h]:mm:ss"),
        ([timedelta(seconds=1.5)], [timedelta(seconds=1.5)], "[h]:mm:ss.000"),
        (["a", None, "1"], ["a", None, "1"], "@"),
        ([None, None], [None, None], None),
    ],
)
def test_a_column_has_one_type_and_one_number_format(
    values: list[Any], expected: list[Any], number_format: str | None, batch_rows: int
) -> None:
    book = column_of(*values, batch_rows=batch_rows)
    assert (book.column(), book.conversions) == (expected, {})
    assert list(map(type, book.column())) == list(map(type, expected))
    assert book.formats() == ({number_format} if number_format else set())


@BATCHES
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([7, None, "007"], ["7", None, "007"]),
        (["007", 7], ["007", "7"]),
        ([1, -5, 10**15], ["1", "-5", "1000000000000000"]),
        ([1, 2.5, Decimal("1.50"), 2**63], ["1", "2.5", "1.50", "9223372036854775808"]),
        ([Decimal("1.10"), Decimal("1234567890123456.1")], ["1.10", "1234567890123456.1"]),
        ([Decimal("1E+3"), 1e300, 1e-7, "x"], ["1000", "1e+300", "1e-07", "x"]),
        ([True, False, None, 1], ["true", "false", None, "1"]),
        ([1, True], ["1", "true"]),
        ([date(2024, 1, 2), None, date(1900, 2, 28)], ["2024-01-02", None, "1900-02-28"]),
        ([date(2024, 1, 2), "soon"], ["2024-01-02", "soon"]),
        (
            [date(2024, 1, 2), datetime(2024, 1, 2), "soon"],
            ["2024-01-02", "2024-01-02T00:00:00", "soon"],
        ),
        (
            [datetime(2024, 1, 2, 3, 4, 5, 678_901), datetime(1, 1, 1)],
            ["2024-01-02T03:04:05.678901", "0001-01-01T00:00:00"],
        ),
        (
            [
                datetime(2024, 7, 1, 12, tzinfo=UTC),
                datetime(2024, 10, 27, 0, 30, tzinfo=UTC),
                datetime(2024, 10, 27, 1, 30, tzinfo=UTC),
                datetime(2024, 10, 27, 2, 30),
                datetime(2024, 12, 31, 22, 59, 59, 999_999, tzinfo=UTC),
                datetime(9999, 12, 31, 23, 59, 59, 999_999),
                1,
            ],
            [
                "2024-07-01T14:00:00+02:00",
                "2024-10-27T02:30:00+02:00",
                "2024-10-27T02:30:00+01:00",
                "2024-10-27T02:30:00",
                "2024-12-31T23:59:59.999999+01:00",
                "9999-12-31T23:59:59.999999",
                "1",
            ],
        ),
        (
            [time(1, 2, 3), time(23, 59, 59, 999_999), time(1, tzinfo=UTC)],
            ["01:02:03", "23:59:59.999999", "01:00:00+00:00"],
        ),
        ([timedelta(hours=30), -timedelta(seconds=1)], ["P1DT21600S", "-P0DT1S"]),
        ([time(1), timedelta(hours=1)], ["01:00:00", "P0DT3600S"]),
        ([1, UUID(int=1)], ["1", str(UUID(int=1))]),
        ([b"\xff", "x"], ["/w==", "x"]),
        ([1, [1]], ["1", "[1]"]),
    ],
)
def test_a_column_that_cannot_hold_a_value_is_text_from_its_first_row(
    values: list[Any], expected: list[Any], batch_rows: int
) -> None:
    book = column_of(*values, batch_rows=batch_rows)
    assert (book.column(), book.conversions) == (expected, {})
    assert book.formats() == {"@"}
    assert {cell.data_type for cell in book.sheet["A"][1:] if cell.value is not None} == {"s"}


@pytest.mark.parametrize("piece_bytes", [1, 7, 30, 100, 1 << 20])
def test_cells_become_text_wherever_they_are_read_from_the_disk(
    monkeypatch: pytest.MonkeyPatch, piece_bytes: int
) -> None:
    monkeypatch.setattr(xlsx, "PIECE_BYTES", piece_bytes)
    names = [f"c{number}" for number in range(12)]
    rows = [[row, row / 2, None, True, f"<{row}>", *range(7)] for row in range(30)]
    last = ["x", 1.5, "y", "z", "<v>7</v>", *range(6), 10**20]
    book = book_of(names, [*rows, last])
    texts = [[f"{row}", row / 2, None, "true", f"<{row}>", *range(6), "6"] for row in range(30)]
    assert book.rows_read_only() == [names, *texts, [*last[:-1], str(10**20)]]


def test_text_that_looks_like_our_cells_is_left_alone() -> None:
    text = '<c s="2"><v>1</v></c>'
    assert book_of(["n", "t"], [[1, text], ["x", text]]).column("B") == [text, text]


def test_a_time_with_microseconds_is_shown_to_the_millisecond_and_counted() -> None:
    values = [
        datetime(2024, 1, 1, 0, 0, 0, 1001),
        datetime(2024, 1, 1, 0, 0, 0, 1000),
        None,
        datetime(2024, 1, 1, 0, 0, 0, 999),
    ]
    book = column_of(*values)
    milliseconds = [datetime(2024, 1, 1, 0, 0, 0, 1000)] * 2
    assert book.column() == [*milliseconds, None, milliseconds[0]]
    assert book.conversions == {MICROSECONDS: 2}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime(2024, 12, 31, 23, 59, 59, 999_999), datetime(2024, 12, 31, 23, 59, 59, 999_000)),
        (datetime.max, datetime(9999, 12, 31, 23, 59, 59, 999_000)),
        (time.max, time(23, 59, 59, 999_000)),
        (timedelta(days=1) - timedelta.resolution, timedelta(days=1, milliseconds=-1)),
    ],
)
def test_the_last_microsecond_of_a_day_is_not_the_next_day(value: Any, expected: Any) -> None:
    assert column_of(value).column() == [expected]


def test_conversions_are_added_up_over_columns() -> None:
    nan, moment = float("nan"), datetime(2024, 1, 1, 0, 0, 0, 1)
    book = book_of(["a", "b", "c"], [[nan, moment, "\x01"], [1, None, "\x02"], [nan, moment, nan]])
    assert book.conversions == {NOT_FINITE: 2, MICROSECONDS: 2, REPLACED: 2}


def test_the_types_of_columns_do_not_mix() -> None:
    book = book_of(list("abcd"), [[1, "x", date(2024, 1, 1), None], [None, "1", None, True]])
    assert book.rows_read_only()[1:] == [
        [1, "x", datetime(2024, 1, 1), None],
        [None, "1", None, True],
    ]
    assert [book.formats(letter) for letter in "ABCD"] == [
        {"General"}, {"@"}, {"yyyy-mm-dd"}, {"General"},
    ]  # fmt: skip


# The model: what any column becomes --------------------------------------------------------------


@dataclass(frozen=True)
class Expected:
    """The cells of a column, each a value or the time that it may be off, and the conversions."""

    cells: Sequence[Any]
    conversions: Counter[str]
    is_text: bool


def expected_of(values: Sequence[Any]) -> Expected:
    """The documented rules, one value after the other."""
    present = [value for value in values if value is not None]
    kinds = {_kind(value) for value in present}
    kinds = {"moment"} if kinds == {"date", "moment"} else kinds
    counts: Counter[str] = Counter()
    if len(kinds) > 1 or kinds == {"text"} or not all(map(_fits, present)):
        for value in present:
            counts[REPLACED] += isinstance(value, str) and _clean(value) != value
        texts = [None if value is None else _clean(_text(value)) for value in values]
        return Expected(texts, +counts, True)
    for value in present:
        counts[NOT_FINITE] += isinstance(value, float | Decimal) and not _finite(value)
        counts[MICROSECONDS] += _microsecond(value) % 1000 != 0
    cells = [None if value is None else _typed(value) for value in values]
    return Expected(cells, +counts, False)


def _kind(value: Any) -> str:
    for kind, types in {
        "boolean": bool,
        "number": int | float | Decimal,
        "moment": datetime,
        "date": date,
        "time": time,
        "duration": timedelta,
    }.items():
        if isinstance(value, types):
            return kind
    return "text"


def _finite(value: float | Decimal) -> bool:
    return value.is_finite() if isinstance(value, Decimal) else isfinite(value)


def _microsecond(value: Any) -> int:
    if isinstance(value, timedelta):
        return value.microseconds
    return value.microsecond if isinstance(value, datetime | time) else 0


def _fits(value: Any) -> bool:
    match value:
        case bool():
            return True
        case int():
            return abs(value) < 10**15
        case float() | Decimal() if not _finite(value):
            return True
        case float():
            return value == 0 or 2.2251e-308 <= abs(value) <= 9.99e307
        case Decimal():
            digits = "".join(map(str, value.as_tuple().digits)).strip("0")
            size = abs(value)
            in_range = Decimal("2.2251E-308") <= size <= Decimal("9.99E307")
            return len(digits) <= 15 and (value == 0 or in_range)
        case datetime():
            try:
                return _local(value) >= datetime(1900, 3, 1)
            except OverflowError:
                return False
        case date():
            return value >= date(1900, 3, 1)
        case time():
            return value.tzinfo is None
        case timedelta():
            return 0 <= value.days <= 2_958_465
    return False


def _local(value: datetime) -> datetime:
    return value.astimezone(ROME).replace(tzinfo=None) if value.tzinfo else value


def _typed(value: Any) -> Any:
    match value:
        case float() | Decimal() if not _finite(value):
            return None
        case datetime():
            return _local(value)
        case date():
            return datetime(value.year, value.month, value.day)
    return value


def _text(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | UUID():
            return str(value)
        case float() | Decimal() if not _finite(value):
            is_nan = value.is_nan() if isinstance(value, Decimal) else value != value
            return "NaN" if is_nan else "Infinity" if value > 0 else "-Infinity"
        case float():
            return repr(value)
        case Decimal():
            return f"{value:f}" if -100 < value.adjusted() < 100 else str(value)
        case datetime() if value.tzinfo:
            try:
                return _iso(value.astimezone(ROME))
            except OverflowError:
                return _iso(value)
        case datetime() | time():
            return _iso(value)
        case date():
            return f"{value.year:04}-{value.month:02}-{value.day:02}"
        case timedelta():
            size = abs(value)
            seconds = re.sub(r"\.?0*$", "", f"{size.seconds}.{size.microseconds:06}")
            return f"{'-' if value.days < 0 else ''}P{size.days}DT{seconds or 0}S"
        case bytes():
            return base64.b64encode(value).decode()
        case list():
            return json.dumps(value, separators=(",", ":"))
    return str(value)


def _iso(value: datetime | time) -> str:
    """Without the zeros at the end of a fraction."""
    whole = value.replace(microsecond=0)
    text = whole.replace(tzinfo=None).isoformat()
    fraction = f".{value.microsecond:06}".rstrip("0") if value.microsecond else ""
    return f"{text}{fraction}{whole.isoformat().removeprefix(text)}"


def _clean(text: str) -> str:
    def is_xml(character: str) -> bool:
        code = ord(character)
        return (
            code in (9, 10, 13)
            or 0x20 <= code <= 0xD7FF
            or 0xE000 <= code <= 0xFFFD
            or code > 0xFFFF
        )

    return "".join(character if is_xml(character) else "�" for character in text)


def assert_is(found: Any, expected: Any) -> None:
    match expected:
        case None | bool() | str():
            assert (found, type(found)) == (expected, type(expected))
        case int() | float():
            assert found == expected
            assert type(found) in (int, float)
        case Decimal():
            assert Decimal(repr(found)) == expected
        case timedelta():
            assert isinstance(found, timedelta)
            assert_near(found, expected)
        case time():
            assert isinstance(found, time)
            day = date(2000, 1, 1)
            assert_near(
                _since(datetime.combine(day, found)), _since(datetime.combine(day, expected))
            )
        case _:
            assert isinstance(found, datetime)
            assert_near(_since(found), _since(expected))


def _since(moment: datetime) -> timedelta:
    return moment - datetime.min


def assert_near(found: timedelta, expected: timedelta) -> None:
    """The same to the nearest millisecond, of the same day."""
    assert found.days == expected.days
    assert found.microseconds % 1000 == 0
    is_last = expected.seconds == 86_399 and expected.microseconds > 999_000
    most = 999 if is_last else 541  # Half a millisecond, and what a double cannot tell in 9999.
    assert abs(found - expected) <= timedelta(microseconds=most)


ZONES: st.SearchStrategy[tzinfo] = st.sampled_from([UTC, ROME, NEW_YORK])
TEXTS = st.text(max_size=8) | st.text(
    st.sampled_from("<>&_x0041\r\n\x00\x1f\ud800\ufffe=#'"), max_size=12
)
TYPES = (
    st.booleans(),
    st.integers(-(10**16), 10**16) | st.integers(-100, 100),
    st.floats(),
    st.decimals() | st.decimals(places=2, min_value=-(10**9), max_value=10**9),
    st.dates() | st.dates(date(1890, 1, 1), date(1910, 1, 1)),
    st.datetimes(timezones=st.none() | ZONES),
    st.datetimes(datetime(1900, 4, 1), timezones=ZONES),
    st.datetimes(datetime(2024, 10, 26), datetime(2024, 10, 28), timezones=ZONES),
    st.times() | st.times(timezones=st.just(UTC)),
    st.timedeltas() | st.timedeltas(timedelta(0), timedelta(3)),
    TEXTS,
    st.uuids(),
    st.binary(max_size=20),
    st.ip_addresses(),
    st.lists(st.integers(0, 9) | st.none() | st.booleans(), max_size=3),
)
ANYTHING = st.one_of(*TYPES)
# A column of one type, one that breaks it now and then, and one of anything.
COLUMNS = st.one_of(
    *(st.lists(st.none() | each, min_size=4, max_size=4) for each in TYPES),
    *(st.tuples(each, each, each, each | ANYTHING).map(list) for each in TYPES),
    st.lists(ANYTHING, min_size=4, max_size=4),
)


@settings(deadline=None, max_examples=200)
@given(st.lists(COLUMNS, min_size=1, max_size=6), st.integers(1, 5))
@example([[datetime.max, datetime(1900, 3, 1), datetime.min, None]], 1)
@example([[Decimal("0E+20"), Decimal("-0"), Decimal("1E-400"), 5e-324]], 2)
@example([[time.max, time.min, timedelta.max, timedelta.min]], 1)
def test_any_columns_come_back_as_documented(columns: list[list[Any]], batch_rows: int) -> None:
    names = [f"c{number}" for number in range(len(columns))]
    book = book_of(names, list(zip(*columns, strict=True)), batch_rows=batch_rows)
    expected = [expected_of(column) for column in columns]
    found = book.rows_read_only()
    assert found[0] == names
    assert found[1:] == _all_rows(book)
    for cells, of_column in zip(zip(*found[1:], strict=True), expected, strict=True):
        for cell, expected_cell in zip(cells, of_column.cells, strict=True):
            assert_is(cell, expected_cell)
    assert book.conversions == sum((each.conversions for each in expected), Counter())


@settings(deadline=None)
@given(COLUMNS)
def test_any_cells_of_text_are_text_and_no_formulas(values: list[Any]) -> None:
    cells = [cell for cell in column_of(*values).sheet["A"][1:] if cell.value is not None]
    types = {"s"} if expected_of(values).is_text else {"n", "b", "d"}
    assert {cell.data_type for cell in cells} <= types


@given(st.lists(st.integers(-(10**20), 10**20), min_size=1, max_size=20))
def test_any_integers_come_back_equal_and_in_order(numbers: list[int]) -> None:
    assert [int(value) for value in column_of(*numbers).column()] == numbers


def _all_rows(book: Book) -> list[list[Any]]:
    """The same rows, not streamed."""
    letters = [cell.column_letter for cell in book.sheet[1]]
    return [list(row) for row in zip(*map(book.column, letters), strict=True)]
