"""A workbook holds what the query returned: types, text and every row, or there is no workbook."""

import errno
import gc
import io
import json
import resource
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from uuid import UUID

import openpyxl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from queryexport.errors import DeliveryError, QueryError
from queryexport.formats import xlsx
from queryexport.formats.xlsx import Xlsx
from queryexport.rows import Column, Result
from tests.fakes import result_of
from tests.queryexport.workbooks import ROME, book_of, column_of

REPLACED = "texts with characters that Excel cannot hold to texts with � in their place"
CUT = "texts over 32,767 characters to their beginning"
XML_TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff")
    | st.sampled_from("\t\n\r _x0041=#'&<>]"),
    min_size=1,
    max_size=60,
)


class Shown(str):
    """Text that shows itself as another, as that of an enumeration may."""

    def __str__(self) -> str:
        return "shown"

    __format__ = __str__


# Single values -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (7, 7),
        (-7, -7),
        (0.1, 0.1),
        (0.1 + 0.2, 0.1 + 0.2),
        (1.7976931348623157e100, 1.7976931348623157e100),
        (Decimal("1.25"), 1.25),
        (Decimal("1E+5"), 100_000),
        (Decimal("1.5E+200"), 1.5e200),
        (True, True),
        (False, False),
        (None, None),
        (date(2024, 2, 29), datetime(2024, 2, 29)),
        (datetime(2024, 2, 29, 23, 59, 58), datetime(2024, 2, 29, 23, 59, 58)),
        (time(6, 30, 5), time(6, 30, 5)),
        (time(0, 0), time(0, 0)),
        (timedelta(days=1, hours=2), timedelta(days=1, hours=2)),
        (timedelta(hours=24), timedelta(hours=24)),
        (timedelta(0), timedelta(0)),
        ("text", "text"),
        ("007", "007"),
        ("24:00", "24:00"),
        ("1e5", "1e5"),
        ("2024-01-01", "2024-01-01"),
        ("TRUE", "TRUE"),
        (Shown("itself"), "itself"),
        (" padded ", " padded "),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("a & b <c> ]]>", "a & b <c> ]]>"),
    ],
)
def test_a_value_keeps_its_type(value: Any, expected: Any) -> None:
    [found] = column_of(value).column()
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    "text",
    [
        "=1+1", '=HYPERLINK("http://example.com","x")', "#N/A", "#REF!", "=", "+1", "-1", "@SUM(1)",
        "http://example.com", "{=1+1}", "<f>1+1</f>",
    ],
)  # fmt: skip
def test_text_that_looks_like_a_formula_an_error_or_a_link_stays_text(text: str) -> None:
    cell = column_of(text).sheet["A2"]
    assert (cell.value, cell.data_type, cell.hyperlink) == (text, "s", None)


def test_a_column_name_that_looks_like_a_formula_stays_text() -> None:
    cell = book_of(["=1+1"], []).sheet["A1"]
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
        (Decimal("-0.00123456789012345"), -0.00123456789012345),
        (Decimal("1.000000000000000000000000000000001"), "1.000000000000000000000000000000001"),
        (Decimal("1.000000000000000000000000000000000"), 1),
    ],
)
def test_a_number_of_over_15_digits_is_exact_text(number: Any, expected: Any) -> None:
    assert column_of(number).column() == [expected]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (Decimal("1E+400"), "1E+400"),
        (Decimal("-1E+309"), "-1E+309"),
        (1.7e308, "1.7e+308"),
        (5e-324, "5e-324"),
        (Decimal("1E-310"), "1E-310"),
        (Decimal("12345E+90"), "12345" + "0" * 90),
    ],
)
def test_a_number_out_of_excels_range_is_text(number: Any, text: str) -> None:
    """The second value is one that needs text in any case."""
    assert column_of(number, 10**15).column() == [text, "1000000000000000"]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (float("nan"), "NaN"),
        (float("inf"), "Infinity"),
        (float("-inf"), "-Infinity"),
        (Decimal("NaN"), "NaN"),
        (Decimal("sNaN12"), "NaN"),
        (Decimal("-Infinity"), "-Infinity"),
    ],
)
def test_nan_and_infinity_are_empty_in_a_column_of_numbers_and_words_in_one_of_text(
    number: Any, text: str
) -> None:
    book = column_of(1, number, 2.5)
    assert book.column() == [1, None, 2.5]
    assert book.conversions == {"NaN or infinity to an empty cell": 1}
    book = column_of(1, number, "text")
    assert (book.column(), book.conversions) == (["1", text, "text"], {})


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (datetime(2024, 7, 1, 10, tzinfo=UTC), datetime(2024, 7, 1, 12)),
        (datetime(2024, 12, 31, 23, 30, tzinfo=UTC), datetime(2025, 1, 1, 0, 30)),
        (datetime(2024, 10, 27, 0, 30, tzinfo=UTC), datetime(2024, 10, 27, 2, 30)),
        (datetime(2024, 10, 27, 1, 30, tzinfo=UTC), datetime(2024, 10, 27, 2, 30)),
        (datetime(2024, 10, 27, 2, 30, tzinfo=ROME, fold=1), datetime(2024, 10, 27, 2, 30)),
    ],
)
def test_a_moment_with_a_zone_is_shown_in_the_chosen_zone(
    moment: datetime, expected: datetime
) -> None:
    book = column_of(moment)
    assert book.column() == [expected]
    assert book.formats() == {'yyyy-mm-dd hh:mm:ss "Europe/Rome"'}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (date(1900, 2, 28), "1900-02-28"),
        (date(1, 1, 1), "0001-01-01"),
        (date(1900, 3, 1), datetime(1900, 3, 1)),
        (date(9999, 12, 31), datetime(9999, 12, 31)),
        (datetime(1900, 2, 28, 23, 59, 59), "1900-02-28T23:59:59"),
        (datetime(1899, 12, 31, 12, 0, 0, 500_000), "1899-12-31T12:00:00.5"),
        (datetime(1900, 3, 1, 1), datetime(1900, 3, 1, 1)),
        (datetime(1900, 2, 28, 23, 30, tzinfo=UTC), datetime(1900, 3, 1, 0, 30)),
        (datetime(1900, 2, 28, 12, tzinfo=UTC), "1900-02-28T13:00:00+01:00"),
        (datetime(1, 1, 1, tzinfo=UTC), "0001-01-01T00:49:56+00:49:56"),
        (time(1, 2, tzinfo=UTC), "01:02:00+00:00"),
        (timedelta(hours=-1.5), "-P0DT5400S"),
        (timedelta(days=2_958_465), timedelta(days=2_958_465)),
        (timedelta(days=2_958_466), "P2958466DT0S"),
    ],
)
def test_a_time_that_excel_cannot_count_is_iso_8601(value: Any, expected: Any) -> None:
    assert column_of(value).column() == [expected]


def test_a_moment_outside_the_calendar_of_the_zone_keeps_its_own() -> None:
    late = datetime(9999, 12, 31, 23, 30, tzinfo=UTC)
    assert column_of(late).column() == ["9999-12-31T23:30:00+00:00"]


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
        ({"a": "bell\x07"}, '{"a":"bell\\u0007"}'),
        ({7}, "[7]"),
    ],
)
def test_what_excel_has_no_type_for_is_text(value: Any, expected: str) -> None:
    book = column_of(value)
    assert (book.column(), book.sheet["A2"].data_type) == ([expected], "s")
    assert book.conversions == {}


def test_json_in_a_cell_is_read_back_as_json() -> None:
    value = {"list": [1, 2.5, None, "à\n"], "nested": {"_x0041_": True}}
    assert json.loads(column_of(value).column()[0]) == value


# Text --------------------------------------------------------------------------------------------


@given(st.lists(XML_TEXT, min_size=1, max_size=5), st.integers(1, 5))
@example(["_x0041_"], 1)
@example(["_x005F_x0041_"], 1)
@example(["_x0041_x0042_"], 1)
@example(["__x000D_"], 1)
@example(["_X0041_", "_x004_", "_xabCD_"], 1)
@example(["\U0001f600" * 30], 1)
@example(["a\r\nb\rc"], 1)
@example(["]]>", "plain", "&amp;"], 3)
def test_any_text_comes_back_equal(texts: list[str], batch_rows: int) -> None:
    book = column_of(*texts, batch_rows=batch_rows)
    assert (book.column(), book.conversions) == (texts, {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bell\x07", "bell�"),
        ("\x00", "�"),
        ("a\x00b\x1f", "a�b�"),
        ("half\ud83d", "half�"),
        ("\ud83d\ude00", "��"),
        ("\ufffe and \uffff", "� and �"),
        (["half\ud83d", {"\udc00": 1}], '["half�",{"�":1}]'),
        ("<\x0b&_x0041_\r>", "<�&_x0041_\r>"),
    ],
)
def test_what_xml_cannot_hold_is_replaced_and_counted(text: Any, expected: str) -> None:
    book = column_of("before", text, "after", text, batch_rows=4)
    assert book.column() == ["before", expected, "after", expected]
    assert book.conversions == {REPLACED: 2}


def test_empty_text_and_null_differ() -> None:
    assert column_of("", None, "x").column() == ["", None, "x"]


def test_the_longest_text_fits() -> None:
    book = column_of("x" * 32_767, "\U0001f600" * 16_383)
    assert book.column() == ["x" * 32_767, "\U0001f600" * 16_383]
    assert book.conversions == {}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("x" * 32_768, "x" * (32_767 - 26)),
        ("&" * 40_000, "&" * (32_767 - 26)),
        ("\U0001f600" * 20_000, "\U0001f600" * ((32_767 - 26) // 2)),
        ("x\U0001f600" * 20_000, "x\U0001f600" * ((32_767 - 26) // 3)),
        (b"\0" * 30_000, "A" * (32_767 - 26)),
    ],
)
def test_a_longer_text_is_cut_marked_and_counted(text: Any, kept: str) -> None:
    book = column_of("short", text, batch_rows=2)
    length = 40_000 if isinstance(text, bytes) else len(text.encode("utf-16-le")) // 2
    mark = f"… [cut, {length:,} characters]"
    assert len(mark) == 26
    [_, found] = book.column()
    assert found.endswith(mark)
    assert found.removesuffix(mark).startswith(kept)
    assert len(found.encode("utf-16-le")) // 2 in (32_766, 32_767)
    assert book.conversions == {CUT: 1}


# The sheet ---------------------------------------------------------------------------------------


def test_an_empty_result_still_has_its_header() -> None:
    book = book_of(["a", "b"], [])
    assert book.rows_read_only() == [["a", "b"]]
    assert (book.sheet.auto_filter.ref, book.sheet.freeze_panes) == ("A1:B1", "A2")


def test_the_header_is_bold_and_frozen_and_has_a_filter_over_all_rows() -> None:
    sheet = book_of(["a", "b"], [[1, 2], [3, 4]]).sheet
    assert [cell.font.bold for cell in sheet[1]] == [True, True]
    assert not sheet["A2"].font.bold
    assert sheet.freeze_panes == "A2"
    assert sheet.sheet_view.pane.state == "frozen"
    assert sheet.auto_filter.ref == "A1:B3"


def test_column_names_are_treated_as_text() -> None:
    names = ["same", "same", "bell\x07", "_x0041_", "007", "two\r\nlines", "x" * 40_000]
    book = book_of(names, [[1] * 7])
    [header, row] = book.rows_read_only()
    assert header[:6] == ["same", "same", "bell�", "_x0041_", "007", "two\r\nlines"]
    assert header[6].endswith("… [cut, 40,000 characters]")
    assert row == [1] * 7
    assert book.conversions == {REPLACED: 1, CUT: 1}


def test_columns_are_as_wide_as_their_first_rows_within_bounds() -> None:
    names = ["a", "a name that is long", "text", "long", "wide", "moment", "day", "lines"]
    moment = datetime(2024, 7, 1, 10, tzinfo=UTC)
    row = [
        1,
        1,
        "twenty characters...",
        "x" * 500,
        "漢" * 10,
        moment,
        date.max,
        "short\n" + "l" * 30,
    ]
    sheet = book_of(names, [row, [10**12, *row[1:]]], batch_rows=1).sheet
    widths = [sheet.column_dimensions[letter].width for letter in "ABCDEFGH"]
    assert widths == [8, 24, 22, 60, 22, 35, 12, 32]


def test_rows_and_columns_keep_their_order() -> None:
    rows = [[number, str(number)] for number in range(7)]
    assert book_of(["n", "t"], rows).rows_read_only() == [["n", "t"], *rows]


def test_a_large_batch_is_written_in_pieces_that_lose_nothing() -> None:
    rows = [[number, -number] for number in range(xlsx.CELLS_AT_ONCE)]
    book = book_of(["n", "m"], rows, batch_rows=len(rows))
    assert book.rows_read_only() == [["n", "m"], *rows]


def test_rows_of_long_text_are_written_in_pieces_that_lose_nothing() -> None:
    rows = [[number, "x" * 30_000] for number in range(400)] + [
        [number, "y"] for number in range(900)
    ]
    book = book_of(["n", "text"], rows, batch_rows=300)
    assert book.rows_read_only() == [["n", "text"], *rows]


def test_a_row_that_is_larger_than_a_piece_is_followed_by_others() -> None:
    rows = [["x" * 30_000] * 150, ["y"] * 150, ["z"] * 150]
    names = [f"c{number}" for number in range(150)]
    assert book_of(names, rows, batch_rows=1).rows_read_only() == [names, *rows]


def test_a_row_without_columns_that_match_is_a_bug_and_not_a_file() -> None:
    with pytest.raises(ValueError, match="zip"):
        Xlsx(ROME).write(result_of(["a", "b"], [[1, 2], [3]], batch_rows=1), io.BytesIO())


def test_too_many_columns_are_refused_before_any_row_is_read() -> None:
    def batches() -> Iterator[Sequence[Sequence[Any]]]:
        raise AssertionError("a row was read")
        yield []

    columns = tuple(Column(f"c{number}") for number in range(16_385))
    file = io.BytesIO()
    with pytest.raises(DeliveryError, match="16385 columns; an Excel sheet holds 16384"):
        Xlsx(ROME).write(Result(columns, batches()), file)
    assert file.getvalue() == b""


def test_a_result_without_columns_is_refused() -> None:
    with pytest.raises(DeliveryError, match="no columns"):
        Xlsx(ROME).write(Result((), iter([[[]]])), io.BytesIO())


def test_the_most_columns_fit() -> None:
    names = [f"c{number}" for number in range(16_384)]
    [header, row] = book_of(names, [range(16_384)]).rows_read_only()
    assert (header, row) == (names, list(range(16_384)))


# Values that no cell can hold --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "reason"),
    [(object(), "type object"), (1j, "type complex"), ([object()], "object")],
)
@pytest.mark.parametrize("batch_rows", [1, 3, 10])
def test_an_unwritable_value_fails_with_its_row_and_column(
    value: Any, reason: str, batch_rows: int
) -> None:
    rows = [["ok", 1]] * 4 + [["ok", value]] + [[object(), 1]]
    with pytest.raises(DeliveryError, match=reason) as caught:
        book_of(["fine", "broken"], rows, batch_rows=batch_rows)
    assert "Row 5, column broken," in caught.value.message


def test_an_integer_that_python_refuses_to_print_fails_with_its_row_and_column() -> None:
    with pytest.raises(DeliveryError, match="Row 2, column v,"):
        column_of(1, 10**5000)


# What stays behind -------------------------------------------------------------------------------


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, empty at first, for temporary files."""
    folder = tmp_path / "spool"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_nothing_temporary_stays_behind_a_workbook(spool: Path) -> None:
    column_of(1)
    assert list(spool.iterdir()) == []


def test_nothing_temporary_stays_behind_an_unwritable_value(spool: Path) -> None:
    with pytest.raises(DeliveryError):
        column_of(object())
    assert list(spool.iterdir()) == []


def test_a_broken_stream_raises_its_own_error_and_writes_nothing(spool: Path) -> None:
    def batches() -> Iterator[Sequence[Sequence[Any]]]:
        yield [[1], [2], [3], [4]]
        raise QueryError("The connection was lost.")

    file = io.BytesIO()
    with pytest.raises(QueryError, match="was lost"):
        Xlsx(ROME).write(Result((Column("n"),), batches()), file)
    assert (file.getvalue(), list(spool.iterdir())) == (b"", [])


def test_the_rows_wait_beside_a_file_that_has_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with (tmp_path / "rows.xlsx").open("w+b") as file:
        Xlsx(ROME).write(result_of(["n"], [[1]]), file)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.xlsx"]
    with pytest.raises(FileNotFoundError):
        Xlsx(ROME).write(result_of(["n"], [[1]]), io.BytesIO())


class SmallDisk(io.BytesIO):
    """A file on a disk with room for so many bytes."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self._room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


@pytest.mark.parametrize("share", [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99])
def test_nothing_temporary_stays_behind_a_full_disk(
    spool: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    monkeypatch.setattr(xlsx, "MOST_ROWS", 3)  # So that there are several sheets to give up.
    rows = [[number] for number in range(9)]
    room = int(len(book_of(["n"], rows).file.getvalue()) * share)
    with pytest.raises(OSError, match="No space left"):
        Xlsx(ROME).write(result_of(["n"], rows), SmallDisk(room))
    gc.collect()  # What is unraisable in a destructor fails the test.
    assert list(spool.iterdir()) == []


def test_a_disk_too_small_for_the_waiting_rows_is_an_os_error(spool: Path) -> None:
    rows = ([str(number) * 20] for number in range(100_000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            Xlsx(ROME).write(result_of(["n"], rows, batch_rows=1000), io.BytesIO())
        gc.collect()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(spool.iterdir()) == []


# Sheets after the first --------------------------------------------------------------------------


@pytest.mark.parametrize("batch_rows", [1, 2, 7])
def test_rows_over_the_limit_of_a_sheet_continue_on_the_next(
    monkeypatch: pytest.MonkeyPatch, batch_rows: int
) -> None:
    monkeypatch.setattr(xlsx, "MOST_ROWS", 4)  # Excel's own limit has a test of its own, below.
    book = book_of(["n"], [[number] for number in range(7)], batch_rows=batch_rows)
    workbook = openpyxl.load_workbook(book.file)
    assert {sheet.title: [row[0] for row in sheet.values] for sheet in workbook} == {
        "data": ["n", 0, 1, 2],
        "data_2": ["n", 3, 4, 5],
        "data_3": ["n", 6],
    }
    filters = [sheet.auto_filter.ref for sheet in workbook]
    assert filters == ["A1:A4", "A1:A4", "A1:A2"]


def test_a_full_sheet_is_not_followed_by_an_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xlsx, "MOST_ROWS", 4)  # As above.
    book = book_of(["n"], [[1], [2], [3]])
    assert openpyxl.load_workbook(book.file).sheetnames == ["data"]


def test_a_column_has_one_type_on_all_sheets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xlsx, "MOST_ROWS", 3)  # As above.
    workbook = openpyxl.load_workbook(column_of(1, 2, 3, "x", 5).file)
    found = [list(sheet.iter_rows(min_row=2, values_only=True)) for sheet in workbook]
    assert found == [[("1",), ("2",)], [("3",), ("x",)], [("5",)]]


@pytest.mark.slow
def test_the_1_048_576th_row_is_on_the_second_sheet(tmp_path: Path) -> None:
    path = tmp_path / "rows.xlsx"
    rows = ([number] for number in range(1_048_577))
    with path.open("w+b") as file:
        assert Xlsx(ROME).write(result_of(["n"], rows, batch_rows=1000), file).rows == 1_048_577
    workbook = openpyxl.load_workbook(path, read_only=True)
    first = workbook["data"].iter_rows(values_only=True)
    assert next(first) == ("n",)
    assert [row for (row,) in first] == list(range(1_048_575))
    assert list(workbook["data_2"].iter_rows(values_only=True)) == [
        ("n",), (1_048_575,), (1_048_576,),
    ]  # fmt: skip
    workbook.close()
