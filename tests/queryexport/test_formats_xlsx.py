"""A workbook holds what the query returned: types, text and every row, or there is no workbook."""

import errno
import gc
import io
import tempfile
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import openpyxl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from openpyxl.worksheet.worksheet import Worksheet

from queryexport.errors import DeliveryError, QueryError
from queryexport.formats import xlsx
from queryexport.formats.xlsx import Xlsx
from queryexport.rows import Column, Result
from tests.fakes import result_of

ROME = ZoneInfo("Europe/Rome")
XML_TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff")
    | st.sampled_from("\t\n _x0=#'"),
    min_size=1,
    max_size=60,
)


def written(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> io.BytesIO:
    file = io.BytesIO()
    assert Xlsx(ROME).write(result_of(names, rows), file).rows == len(rows)
    return file


def read(file: io.BytesIO) -> Worksheet:
    sheet = openpyxl.load_workbook(file).active
    assert isinstance(sheet, Worksheet)
    return sheet


def cell_of(value: Any) -> Any:
    """The cell that one value ends in."""
    return read(written(["v"], [[value]]))["A2"]


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, empty at first, in which openpyxl makes its temporary files."""
    folder = tmp_path / "spool"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (7, 7),
        (-7, -7),
        (0.1, 0.1),
        (Decimal("1.25"), 1.25),
        (True, True),
        (False, False),
        (None, None),
        (date(2024, 2, 29), datetime(2024, 2, 29)),
        (datetime(2024, 2, 29, 23, 59, 58), datetime(2024, 2, 29, 23, 59, 58)),
        (time(6, 30, 5), time(6, 30, 5)),
        (timedelta(days=1, hours=2), timedelta(days=1, hours=2)),
        ("text", "text"),
        ("007", "007"),
        ("1e5", "1e5"),
        ("2024-01-01", "2024-01-01"),
        ("TRUE", "TRUE"),
        (" padded ", " padded "),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
    ],
)
def test_a_value_keeps_its_type(value: Any, expected: Any) -> None:
    found = cell_of(value).value
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    "text",
    ["=1+1", '=HYPERLINK("http://example.com","x")', "#N/A", "#REF!", "=", "+1", "-1", "@SUM(1)"],
)
def test_text_that_looks_like_a_formula_or_an_error_stays_text(text: str) -> None:
    cell = cell_of(text)
    assert (cell.value, cell.data_type) == (text, "s")


def test_a_column_name_that_looks_like_a_formula_stays_text() -> None:
    cell = read(written(["=1+1"], []))["A1"]
    assert (cell.value, cell.data_type) == ("=1+1", "s")


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (999_999_999_999_999, 999_999_999_999_999),
        (1_000_000_000_000_000, "1000000000000000"),
        (-1_000_000_000_000_000, "-1000000000000000"),
        (2**70, str(2**70)),
        (Decimal("12345678901234.5"), 12345678901234.5),
        (Decimal("123456789012345.6"), "123456789012345.6"),
        (Decimal("0.1234567890123456"), "0.1234567890123456"),
    ],
)
def test_a_number_of_over_15_digits_is_exact_text(number: Any, expected: Any) -> None:
    assert cell_of(number).value == expected


@pytest.mark.parametrize("number", [Decimal("1E+400"), Decimal("-1E+309"), 1.7e308])
def test_a_number_too_large_for_excel_is_text(number: Any) -> None:
    assert cell_of(number).data_type == "s"


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (Decimal("NaN"), "NaN"),
        (Decimal("Infinity"), "Infinity"),
    ],
)
def test_nan_and_infinity_are_text(number: Any, expected: str) -> None:
    assert cell_of(number).value == expected


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (datetime(2024, 7, 1, 10, tzinfo=UTC), datetime(2024, 7, 1, 12)),
        (datetime(2024, 12, 31, 23, 30, tzinfo=UTC), datetime(2025, 1, 1, 0, 30)),
    ],
)
def test_a_moment_with_a_zone_is_shown_in_the_chosen_zone(
    moment: datetime, expected: datetime
) -> None:
    assert cell_of(moment).value == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (date(1900, 2, 28), "1900-02-28"),
        (date(1, 1, 1), "0001-01-01"),
        (date(1900, 3, 1), datetime(1900, 3, 1)),
        (datetime(1899, 12, 31, 12), "1899-12-31 12:00:00"),
        (datetime(1900, 3, 1, 1), datetime(1900, 3, 1, 1)),
        (time(1, 2, tzinfo=UTC), "01:02:00+00:00"),
    ],
)
def test_a_date_that_excel_cannot_count_is_text(value: Any, expected: Any) -> None:
    assert cell_of(value).value == expected


@pytest.mark.parametrize(
    "moment",
    [datetime(1, 1, 1, tzinfo=ZoneInfo("Asia/Tokyo")), datetime(9999, 12, 31, 23, 30, tzinfo=UTC)],
)
def test_a_moment_outside_the_calendar_of_its_zone_is_not_a_crash(moment: datetime) -> None:
    try:
        cell = cell_of(moment)
    except DeliveryError as error:
        assert "Row 1, column v" in error.message  # noqa: PT017  Either answer is a good one.
    else:
        assert cell.data_type == "s"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (b"\x00\xff", "AP8="),
        (bytearray(b"\x00\xff"), "AP8="),
        (memoryview(b"\x00\xff"), "AP8="),
        (ip_address("10.0.0.1"), "10.0.0.1"),
        ([1, "à", None], '[1,"à",null]'),
        ((1, 2), "[1,2]"),
        ({"a": date(2024, 1, 1)}, '{"a":"2024-01-01"}'),
        ({date(2024, 1, 1): 1}, '{"2024-01-01":1}'),
    ],
)
def test_what_excel_has_no_type_for_is_text(value: Any, expected: str) -> None:
    cell = cell_of(value)
    assert (cell.value, cell.data_type) == (expected, "s")


@given(XML_TEXT)
@example("_x0041_")
@example("_x005F_x0041_")
@example("__x000D_")
@example("\U0001f600" * 30)
def test_any_text_comes_back_equal(text: str) -> None:
    cell = cell_of(text)
    assert (openpyxl.utils.escape.unescape(cell.value), cell.data_type) == (text, "s")


@pytest.mark.parametrize("text", ["a\r\nb", "a\rb"])
def test_a_carriage_return_comes_back(text: str) -> None:
    assert openpyxl.utils.escape.unescape(cell_of(text).value) == text


@given(st.lists(st.integers(-(10**20), 10**20), min_size=1, max_size=20))
def test_any_integers_come_back_equal_and_in_order(numbers: list[int]) -> None:
    sheet = read(written(["n"], [[number] for number in numbers]))
    assert [int(row[0].value) for row in sheet.iter_rows(min_row=2)] == numbers


def test_an_empty_result_still_has_its_header() -> None:
    sheet = read(written(["a", "b"], []))
    assert list(sheet.values) == [("a", "b")]


def test_the_header_is_bold_and_frozen() -> None:
    sheet = read(written(["a", "b"], [[1, 2]]))
    assert [cell.font.bold for cell in sheet[1]] == [True, True]
    assert not sheet["A2"].font.bold
    assert sheet.freeze_panes == "A2"


def test_rows_and_columns_keep_their_order() -> None:
    rows = [(number, str(number)) for number in range(7)]
    assert list(read(written(["n", "t"], rows)).values) == [("n", "t"), *rows]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("bell\x07", r"'\\x07'"),
        ("half\ud83d", r"\\ud83d"),
        ("\uffff", r"\\uffff"),
        ("x" * 40_000, "40000 characters, a cell holds 32767"),
        ("\U0001f600" * 20_000, "40000 characters"),
        (["\ud83d"], "surrogates"),
        (object(), "type object"),
        (1j, "type complex"),
    ],
)
def test_an_unwritable_value_fails_with_its_row_and_column(value: Any, reason: str) -> None:
    rows = [["ok", 1]] * 4 + [["ok", value]]
    with pytest.raises(DeliveryError, match=reason) as caught:
        written(["fine", "broken"], rows)
    assert "Row 5, column broken," in caught.value.message


def test_the_longest_text_fits() -> None:
    assert cell_of("x" * 32_767).value == "x" * 32_767


@pytest.mark.parametrize("name", ["bell\x07", "half\ud83d", "x" * 40_000])
def test_an_unwritable_column_name_is_a_delivery_error(name: str) -> None:
    with pytest.raises(DeliveryError, match="column"):
        written([name], [])


def test_too_many_columns_are_refused() -> None:
    with pytest.raises(DeliveryError, match="16385 columns; an Excel sheet holds 16384"):
        written([f"c{number}" for number in range(16_385)], [])


def test_rows_over_the_limit_of_a_sheet_continue_on_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(xlsx, "MOST_ROWS", 4)  # Excel's own limit would take a minute to reach.
    workbook = openpyxl.load_workbook(written(["n"], [[number] for number in range(7)]))
    assert {sheet.title: [row[0] for row in sheet.values] for sheet in workbook} == {
        "data": ["n", 0, 1, 2],
        "data_2": ["n", 3, 4, 5],
        "data_3": ["n", 6],
    }


def test_a_full_sheet_is_not_followed_by_an_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xlsx, "MOST_ROWS", 4)  # As above.
    assert openpyxl.load_workbook(written(["n"], [[1], [2], [3]])).sheetnames == ["data"]


def test_nothing_temporary_stays_behind_a_workbook(spool: Path) -> None:
    written(["n"], [[1]])
    assert list(spool.iterdir()) == []


def test_nothing_temporary_stays_behind_an_unwritable_value(spool: Path) -> None:
    with pytest.raises(DeliveryError):
        written(["n"], [["\x00"]])
    assert list(spool.iterdir()) == []


def test_nothing_temporary_stays_behind_a_broken_stream(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xlsx, "MOST_ROWS", 3)  # So that there are several sheets to give up.

    def batches():
        yield [[1], [2], [3], [4]]
        raise QueryError("The connection was lost.")

    with pytest.raises(QueryError, match="was lost"):
        Xlsx(ROME).write(Result((Column("n"),), batches()), io.BytesIO())
    assert list(spool.iterdir()) == []


class SmallDisk(io.BytesIO):
    """A file on a disk with room for so many bytes."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self._room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


# The archive's own clean-up meets the full disk once more.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("share", [0, 0.2, 0.4, 0.6, 0.8, 0.99])
def test_nothing_temporary_stays_behind_a_full_disk(
    spool: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    monkeypatch.setattr(xlsx, "MOST_ROWS", 3)  # So that there are several sheets to give up.
    rows = [[number] for number in range(9)]
    room = int(len(written(["n"], rows).getvalue()) * share)
    with pytest.raises(OSError, match="No space left"):
        Xlsx(ROME).write(result_of(["n"], rows), SmallDisk(room))
    gc.collect()
    assert list(spool.iterdir()) == []
