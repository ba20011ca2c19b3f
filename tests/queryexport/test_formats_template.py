"""An operator's workbook is filled where a cell says so, and loses nothing that it had."""

import io
import re
import struct
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import openpyxl
import pytest
import xlsxwriter
from hypothesis import example, given, settings
from hypothesis import strategies as st
from openpyxl import Workbook
from openpyxl.chart import BarChart, Reference
from openpyxl.styles import Font, PatternFill
from openpyxl.utils.escape import unescape
from openpyxl.workbook.defined_name import DefinedName
from openpyxl.worksheet.table import Table

from queryexport.errors import ConfigurationError, DeliveryError, QueryError
from queryexport.formats import Written, template
from queryexport.formats.cell_texts import CUT, REPLACED
from queryexport.formats.cells import MICROSECONDS, NOT_FINITE
from queryexport.formats.template import TemplateWorkbook, check_template
from queryexport.formats.template_values import TO_TEXT
from queryexport.rows import Column, Result
from tests.fakes import result_of

ROME = ZoneInfo("Europe/Rome")
SHEET = "Anna's report"
BOLD = Font(bold=True)
PIXEL = (
    b"\x89PNG\r\n\x1a\n"
    + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in [
            (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)),
            (b"IDAT", zlib.compress(b"\x00\xff\x00\x00")),
            (b"IEND", b""),
        ]
    )
)  # fmt: skip
Change = Callable[[Workbook], object]


def template_with(*changes: Change, start: str = "$B$5") -> bytes:
    """A workbook whose cell B5 is called data, with a title, a total above and a second sheet."""
    workbook = Workbook()
    sheet = workbook.worksheets[0]
    sheet.title = SHEET
    sheet["B1"], sheet["B2"], sheet["B5"] = "Report", "=SUM(B6:B1000)", "example"
    sheet["B5"].font = BOLD
    sheet["C6"].fill = PatternFill("solid", fgColor="00FF00")
    sheet["C6"].number_format = "0.00"
    sheet.row_dimensions[6].height = 33
    sheet.column_dimensions["B"].width = 44
    workbook.create_sheet("Notes")["A1"] = "kept"
    quoted = SHEET.replace("'", "''")
    workbook.defined_names["data"] = DefinedName("data", attr_text=f"'{quoted}'!{start}")
    for change in changes:
        change(workbook)
    file = io.BytesIO()
    workbook.save(file)
    return file.getvalue()


def fill(
    content: bytes, names: Sequence[str], rows: Sequence[Sequence[Any]], **options: Any
) -> tuple[Any, Written]:
    """The filled workbook, and what was written."""
    file = io.BytesIO()
    filled = TemplateWorkbook(content, "data", ROME, **options)
    filled.check()
    written = filled.write(result_of(names, rows), file)
    assert written.rows == len(rows)
    return openpyxl.load_workbook(file), written


def cell_of(value: Any) -> tuple[Any, dict[str, int]]:
    """The cell that one value ends in, and what was counted."""
    workbook, written = fill(template_with(), ["v"], [[value]])
    return workbook[SHEET]["B6"], dict(written.conversions)


def with_part(name: str, data: bytes = b"<x/>", *, content: bytes | None = None) -> bytes:
    """The template with one more part."""
    file = io.BytesIO(content or template_with())
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return file.getvalue()


def with_change_of(part: str, old: str, new: str, *, content: bytes | None = None) -> bytes:
    """The template with one of its parts changed."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content or template_with())) as source,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name in source.namelist():
            data = source.read(name).decode()
            if name == part:
                assert old in data
                data = data.replace(old, new, 1)
            archive.writestr(name, data)
    return file.getvalue()


def test_rows_go_downwards_from_the_start_below_their_names() -> None:
    workbook, written = fill(template_with(), ["n", "text"], [[1, "a"], [2, None], [3, "c"]])
    sheet = workbook[SHEET]
    found = [[cell.value for cell in row] for row in sheet["B5:C9"]]
    assert found == [["n", "text"], [1, "a"], [2, None], [3, "c"], [None, None]]
    assert written == Written(3, {})


def test_rows_begin_in_the_start_when_the_template_has_its_own_headings() -> None:
    workbook, _ = fill(template_with(), ["n", "text"], [[1, "a"], [2, "b"]], with_header=False)
    assert [[cell.value for cell in row] for row in workbook[SHEET]["B5:C6"]] == [
        [1, "a"],
        [2, "b"],
    ]


def test_everything_else_of_the_template_stays() -> None:
    workbook, _ = fill(template_with(), ["n"], [[1], [2]])
    sheet = workbook[SHEET]
    assert workbook.sheetnames == [SHEET, "Notes"]
    assert (sheet["B1"].value, sheet["B2"].value) == ("Report", "=SUM(B6:B1000)")
    assert (sheet["B2"].data_type, sheet.column_dimensions["B"].width) == ("f", 44)
    assert workbook["Notes"]["A1"].value == "kept"
    assert workbook.calculation.fullCalcOnLoad


def test_every_row_has_the_styles_and_the_height_of_the_first() -> None:
    workbook, _ = fill(template_with(), ["a", "b"], [[1, 1.5], [2, 2.5], [3, 3.5]])
    sheet = workbook[SHEET]
    assert sheet["B5"].font.bold and not sheet["B6"].font.bold
    for row in (6, 7, 8):
        assert sheet.cell(row, 3).fill.fgColor.rgb == "0000FF00"
        assert sheet.cell(row, 3).number_format == "0.00"
        assert sheet.row_dimensions[row].height == 33


def test_an_example_in_the_first_row_is_replaced() -> None:
    content = template_with(lambda workbook: workbook[SHEET].cell(6, 2, "example"))
    workbook, _ = fill(content, ["n"], [[1], [2]])
    assert [workbook[SHEET].cell(row, 2).value for row in (5, 6, 7)] == ["n", 1, 2]


def test_no_rows_leave_no_example_behind() -> None:
    example = template_with(lambda workbook: workbook[SHEET].cell(6, 2, "example"))
    with_names, _ = fill(example, ["n", "m"], [])
    without, _ = fill(template_with(), ["n"], [], with_header=False)
    assert [with_names[SHEET][each].value for each in ("B5", "C5", "B6")] == ["n", "m", None]
    assert without[SHEET]["B5"].value is None


def test_a_table_around_the_start_grows_with_the_rows() -> None:
    def add_table(workbook: Workbook) -> None:
        sheet = workbook[SHEET]
        sheet["B4"], sheet["C4"] = "n", "text"
        sheet["B5"] = None
        sheet.add_table(Table(displayName="Rows", ref="B4:C5"))

    rows = [[number, "x"] for number in range(7)]
    workbook, _ = fill(template_with(add_table), ["n", "text"], rows, with_header=False)
    assert workbook[SHEET].tables["Rows"].ref == "B4:C11"


@pytest.mark.parametrize(
    "change",
    [
        lambda workbook: workbook[SHEET].cell(8, 3, "Total"),
        lambda workbook: workbook[SHEET].merge_cells("C8:D8"),
        lambda workbook: workbook[SHEET].merge_cells("A8:C8"),
    ],
)
def test_a_cell_in_the_way_is_named_and_not_overwritten(change: Change) -> None:
    content = template_with(change)
    rows = [[number, "x"] for number in range(3)]
    assert fill(content, ["a", "b"], rows[:2])[1].rows == 2
    with pytest.raises(
        DeliveryError, match=r"The cell [BC]8 of the template's sheet Anna's report"
    ):
        fill(content, ["a", "b"], rows)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (7, 7),
        (0.1, 0.1),
        (Decimal("1.25"), 1.25),
        (0.1 + 0.2, 0.30000000000000004),
        (1e-300, 1e-300),
        (Decimal("1000000000000000000"), 10**18),
        (datetime(1970, 6, 4, 7, 41, 40, 5_000), datetime(1970, 6, 4, 7, 41, 40, 5_000)),
        (True, True),
        (None, None),
        (date(2024, 2, 29), datetime(2024, 2, 29)),
        (datetime(2024, 2, 29, 23, 59, 58), datetime(2024, 2, 29, 23, 59, 58)),
        (datetime(2024, 7, 1, 10, tzinfo=UTC), datetime(2024, 7, 1, 12)),
        (time(6, 30, 5), time(6, 30, 5)),
        (timedelta(days=1, hours=2), timedelta(days=1, hours=2)),
        ("text", "text"),
        ("007", "007"),
        (" padded ", " padded "),
        (b"\x00\xff", "AP8="),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ([1, "à"], '[1,"à"]'),
    ],
)
def test_a_value_keeps_its_type(value: Any, expected: Any) -> None:
    cell, conversions = cell_of(value)
    assert (cell.value, conversions) == (expected, {})


@pytest.mark.parametrize(
    ("value", "expected", "what"),
    [
        (10**15, "1000000000000000", TO_TEXT),
        (Decimal("0.1234567890123456"), "0.1234567890123456", TO_TEXT),
        (Decimal("1E+309"), "1" + "0" * 309, TO_TEXT),
        (date(1900, 2, 28), "1900-02-28", TO_TEXT),
        (datetime(1, 1, 1), "0001-01-01T00:00:00", TO_TEXT),
        (datetime(9999, 12, 31, 23, 30, tzinfo=UTC), "9999-12-31T23:30:00+00:00", TO_TEXT),
        (time(1, 2, tzinfo=UTC), "01:02:00+00:00", TO_TEXT),
        (timedelta(seconds=-1), "-P0DT1S", TO_TEXT),
        (datetime(2024, 1, 1, 0, 0, 1, 400), datetime(2024, 1, 1, 0, 0, 1), MICROSECONDS),
        (time(0, 0, 1, 400), time(0, 0, 1), MICROSECONDS),
        (timedelta(0, 1, 400), timedelta(0, 1), MICROSECONDS),
        (float("nan"), None, NOT_FINITE),
        (Decimal("Infinity"), None, NOT_FINITE),
        ("half\ud83d", "half\ufffd", REPLACED),
        ("\x00a\ufffe", "\ufffda\ufffd", REPLACED),
    ],
)
def test_what_a_cell_cannot_hold_is_counted(value: Any, expected: Any, what: str) -> None:
    cell, conversions = cell_of(value)
    assert (cell.value, conversions) == (expected, {what: 1})


def test_text_that_is_too_long_is_cut_and_counted() -> None:
    cell, conversions = cell_of("\U0001f600" * 20_000)
    assert len(cell.value.encode("utf-16-le")) // 2 <= 32_767
    assert cell.value.endswith("\U0001f600… [cut, 40,000 characters]")
    assert conversions == {CUT: 1}


@given(
    st.text(
        st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff")
        | st.sampled_from("\t\n\r _x0=#'+-@"),
        min_size=1,
        max_size=30,
    )
)
@settings(deadline=None, max_examples=50)
@example("=1+1")
@example("#N/A")
@example("_x0041_")
@example("a\r\nb")
def test_text_is_never_a_formula_and_comes_back_equal(text: str) -> None:
    cell, _ = cell_of(text)
    assert (unescape(cell.value), cell.data_type) == (text, "s")


def test_a_column_name_is_never_a_formula() -> None:
    workbook, _ = fill(template_with(), ["=1+1"], [])
    assert (workbook[SHEET]["B5"].value, workbook[SHEET]["B5"].data_type) == ("=1+1", "s")


def test_what_has_no_form_is_named_by_row_and_column() -> None:
    rows = [[number, "fine"] for number in range(4)] + [[4, object()]]
    with pytest.raises(DeliveryError, match="Row 5, column text, cannot be written to a workbook"):
        fill(template_with(), ["n", "text"], rows)


def test_more_cells_than_fit_into_memory_fail_before_they_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(template, "MOST_CELLS", 20)
    assert fill(template_with(), ["a", "b"], [[1, 2]] * 10)[1].rows == 10
    with pytest.raises(DeliveryError, match=r"with 2 columns, 10\. Use a plain workbook"):
        fill(template_with(), ["a", "b"], [[1, 2]] * 11)


@pytest.mark.parametrize(
    ("start", "names", "rows", "message"),
    [("$XFC$5", 3, 0, "room for 2"), ("$B$1048575", 1, 2, "1,048,576 rows")],
)
def test_what_does_not_fit_beside_or_below_the_start_is_refused(
    start: str, names: int, rows: int, message: str
) -> None:
    with pytest.raises(DeliveryError, match=message):
        fill(template_with(start=start), ["a"] * names, [[1] * names] * rows)


def test_a_broken_stream_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    error = QueryError("The connection was lost.")

    def batches() -> Any:
        yield [[1]]
        raise error

    with pytest.raises(QueryError) as caught:
        TemplateWorkbook(template_with(), "data", ROME).write(
            Result((Column("n"),), batches()), io.BytesIO()
        )
    assert (caught.value, list(tmp_path.iterdir())) == (error, [])


def test_a_template_can_be_filled_again_and_into_a_file_that_cannot_seek() -> None:
    class Forward(io.RawIOBase):
        data = b""

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.data += bytes(data)
            return len(data)

    filled = TemplateWorkbook(template_with(), "data", ROME)
    for rows in (2, 1):
        file = Forward()
        filled.write(result_of(["n"], [[number] for number in range(rows)]), file)  # type: ignore[arg-type]
        sheet = openpyxl.load_workbook(io.BytesIO(file.data))[SHEET]
        assert sheet.max_row == 5 + rows if rows > 1 else sheet["B7"].value is None


def local_name(workbook: Workbook) -> None:
    sheet = workbook[SHEET]
    sheet.defined_names["local"] = DefinedName("local", attr_text=f"'{SHEET}'!$B$5")


def table_below(workbook: Workbook) -> None:
    sheet = workbook[SHEET]
    sheet["C5"] = "text"
    sheet.add_table(Table(displayName="Rows", ref="B5:C6"))


def table_with_totals(workbook: Workbook) -> None:
    sheet = workbook[SHEET]
    sheet["B4"], sheet["C4"] = "n", "text"
    sheet.add_table(Table(displayName="Rows", ref="B4:C6", totalsRowCount=1))


@pytest.mark.parametrize(
    ("change", "name", "message"),
    [
        (None, "rows", r"has no name 'rows'; it has: data\. Give a cell this name"),
        (None, "", "has no name ''"),
        (local_name, "local", "'local' belongs to the sheet Anna's report alone"),
        (
            "$B$5:$C$6",
            "data",
            r"stands for 'Anna''s report'!\$B\$5:\$C\$6, and has to stand for one",
        ),
        ("$B:$B", "data", "has to stand for one cell"),
        ("#REF!", "data", "has to stand for one cell"),
        (lambda book: book[SHEET].merge_cells("B5:C5"), "data", "B5, .* is merged with others"),
        (table_below, "data", "B5, .* is a heading of the table Rows"),
        (table_with_totals, "data", "The table Rows around the cell B5 .* totals row"),
    ],
)
def test_a_start_that_is_no_single_cell_is_refused(
    change: Change | str | None, name: str, message: str
) -> None:
    changes = [change] if callable(change) else []
    start = change if isinstance(change, str) else "$B$5"
    with pytest.raises(ConfigurationError, match=message):
        check_template(template_with(*changes, start=start), name)


def test_a_name_is_found_as_excel_finds_it() -> None:
    check_template(template_with(), "DATA")


def test_a_name_for_something_else_than_a_cell_is_refused() -> None:
    def constant(workbook: Workbook) -> None:
        workbook.defined_names["rate"] = DefinedName("rate", attr_text="0.19")

    with pytest.raises(ConfigurationError, match=r"stands for 0\.19"):
        check_template(template_with(constant), "rate")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no .xlsx workbook"),
        (b"a;b;c\n", "no .xlsx workbook"),
        (b"PK\x03\x04 cut off", "no .xlsx workbook"),
        (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
            "encrypted, or a workbook of Excel before",
        ),
        (bytes(10_000_001), "10,000,001 bytes, of 10,000,000"),
    ],
)
def test_what_is_no_workbook_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        check_template(content, "data")


def test_another_kind_of_package_is_refused() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("word/document.xml", "<w/>")
    with pytest.raises(ConfigurationError, match=r"has no part xl/workbook\.xml"):
        check_template(file.getvalue(), "data")


def test_damage_anywhere_in_the_file_is_a_configuration_error() -> None:
    content = template_with()
    messages = []
    for place in range(0, len(content), 97):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        try:
            check_template(bytes(damaged), "data")
        except ConfigurationError as error:
            messages.append(error.message)
    assert messages
    assert all("emplate" in message for message in messages)


def test_a_zip_bomb_is_refused_by_what_it_says_of_itself() -> None:
    content = with_part("xl/worksheets/sheet9.xml", b" " * 21_000_000)
    assert len(content) < 100_000
    with pytest.raises(ConfigurationError, match=r"bytes in \d+ parts when it is unpacked"):
        check_template(content, "data")


def test_a_zip_bomb_that_lies_about_its_size_is_refused() -> None:
    content = with_part("xl/worksheets/sheet9.xml", b" " * 21_000_000)
    size = struct.pack("<I", 21_000_000)
    assert size in content
    with pytest.raises(ConfigurationError, match="a damaged one"):
        check_template(content.replace(size, struct.pack("<I", 1_000)), "data")


def test_an_entity_bomb_is_refused() -> None:
    declared = "<!DOCTYPE x [<!ENTITY a 'aaaa'>]><workbook"
    content = with_change_of("xl/workbook.xml", "<workbook", declared)
    with pytest.raises(ConfigurationError, match=r"xl/workbook\.xml .* document type declaration"):
        check_template(content, "data")


@pytest.mark.parametrize(
    ("part", "what"),
    [
        ("xl/vbaProject.bin", "macros"),
        ("xl/charts/chart1.xml", "charts"),
        ("xl/chartsheets/sheet1.xml", "charts"),
        ("xl/pivotTables/pivotTable1.xml", "pivot tables"),
        ("xl/pivotCache/pivotCacheDefinition1.xml", "pivot tables"),
        ("xl/slicers/slicer1.xml", "slicers"),
        ("xl/timelines/timeline1.xml", "timelines"),
        ("xl/activeX/activeX1.xml", "controls"),
        ("xl/embeddings/oleObject1.bin", "embedded objects"),
        ("xl/diagrams/data1.xml", "diagrams"),
        ("xl/threadedComments/threadedComment1.xml", "threaded comments"),
        ("xl/connections.xml", "queries or connections"),
        ("xl/media/image1.emf", r"pictures that are drawings \(EMF, WMF\)"),
        ("xl/metadata.xml", "formulas that spill, or data types"),
        ("customUI/customUI14.xml", "a ribbon of its own"),
        ("_xmlsignatures/sig1.xml", "digital signatures"),
        ("xl/somethingNew.xml", r"the part 'xl/somethingNew\.xml'"),
    ],
)
def test_what_would_be_missing_is_refused_by_its_name(part: str, what: str) -> None:
    with pytest.raises(
        ConfigurationError, match=f"The template has {what}, which would be missing"
    ):
        check_template(with_part(part), "data")


def test_a_workbook_with_macros_is_refused() -> None:
    content = with_change_of(
        "[Content_Types].xml",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml",
        "application/vnd.ms-excel.sheet.macroEnabled.main+xml",
    )
    with pytest.raises(ConfigurationError, match="The template has macros"):
        check_template(content, "data")


def test_a_real_chart_is_refused() -> None:
    def chart(workbook: Workbook) -> None:
        made = BarChart()
        made.add_data(Reference(workbook[SHEET], min_col=2, min_row=1, max_row=3))
        workbook[SHEET].add_chart(made, "F1")

    with pytest.raises(ConfigurationError, match="The template has charts"):
        check_template(template_with(chart), "data")


def made_by_xlsxwriter(folder: Path, change: Callable[[Any, Any], object]) -> bytes:
    path = folder / "template.xlsx"
    with xlsxwriter.Workbook(path) as workbook:
        sheet = workbook.add_worksheet("Rows")
        workbook.define_name("data", "=Rows!$A$3")
        change(workbook, sheet)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _, sheet: sheet.insert_textbox("F1", "note"), "The template has shapes"),
        (lambda _, sheet: sheet.insert_button("F1"), "The template has .*"),
        (
            lambda _, sheet: sheet.set_header(
                "&G", {"image_left": "logo.png", "image_data_left": LOGO()}
            ),
            "pictures in headers or footers",
        ),
        (lambda _, sheet: sheet.set_background(LOGO()), "background pictures"),
        (
            lambda _, sheet: sheet.add_sparkline("F1", {"range": "Rows!A1:E1"}),
            "Something in the template would be missing .* extension is not supported",
        ),
        (
            lambda _, sheet: sheet.conditional_format(
                "A1:A9", {"type": "data_bar", "data_bar_2010": True}
            ),
            "Conditional Formatting extension is not supported",
        ),
        (
            lambda _, sheet: sheet.write_dynamic_array_formula("F1", "=UNIQUE(A1:A3)"),
            "formulas that spill",
        ),
    ],
)
def test_what_openpyxl_would_leave_out_of_a_sheet_is_refused(
    tmp_path: Path, change: Callable[[Any, Any], object], message: str
) -> None:
    content = made_by_xlsxwriter(tmp_path, change)
    with pytest.raises(ConfigurationError, match=message):
        check_template(content, "data")


def LOGO() -> io.BytesIO:
    return io.BytesIO(PIXEL)


def test_a_template_from_another_program_keeps_its_formats_and_comments(tmp_path: Path) -> None:
    def decorate(workbook: Any, sheet: Any) -> None:
        sheet.write("A1", "Report", workbook.add_format({"bold": True, "font_color": "red"}))
        sheet.write_rich_string("B1", "partly ", workbook.add_format({"bold": True}), "bold")
        sheet.write_comment("A1", "a comment")
        sheet.write_url("C1", "https://example.com/")
        sheet.data_validation("A3:A9", {"validate": "list", "source": ["a", "b"]})
        sheet.conditional_format("B3:B99", {"type": "cell", "criteria": ">", "value": 1})
        sheet.merge_range("A2:C2", "merged")
        sheet.freeze_panes(2, 0)
        sheet.protect("secret")

    content = made_by_xlsxwriter(tmp_path, decorate)
    file = io.BytesIO()
    TemplateWorkbook(content, "data", ROME).write(result_of(["a", "b"], [[1, 2]] * 5), file)
    sheet = openpyxl.load_workbook(file, rich_text=True)["Rows"]
    assert (sheet["A1"].font.bold, sheet["A1"].font.color.rgb) == (True, "FFFF0000")
    assert [str(part) for part in sheet["B1"].value] == ["partly ", "bold"]
    assert "a comment" in sheet["A1"].comment.text
    assert sheet["C1"].hyperlink.target == "https://example.com/"
    assert [str(each.sqref) for each in sheet.data_validations.dataValidation] == ["A3:A9"]
    assert [str(each.sqref) for each in sheet.conditional_formatting] == ["B3:B99"]
    assert ([str(each) for each in sheet.merged_cells.ranges], sheet.freeze_panes) == (
        ["A2:C2"],
        "A3",
    )
    assert sheet.protection.sheet and sheet.protection.password
    assert (sheet["A3"].value, sheet["B8"].value) == ("a", 2)


def test_a_logo_stays_or_the_template_is_refused_for_it(tmp_path: Path) -> None:
    content = made_by_xlsxwriter(
        tmp_path, lambda _, sheet: sheet.insert_image("A1", "logo.png", {"image_data": LOGO()})
    )
    if find_spec("PIL") is None:
        with pytest.raises(ConfigurationError, match=r"pictures, which only Pillow can copy.*pip"):
            check_template(content, "data")
        return
    file = io.BytesIO()
    TemplateWorkbook(content, "data", ROME).write(result_of(["a"], [[1]]), file)
    with zipfile.ZipFile(file) as archive:
        assert archive.read("xl/media/image1.png") == PIXEL


def test_pictures_without_pillow_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)  # As Python has it: cannot be imported.
    with pytest.raises(ConfigurationError, match=re.escape("`pip install pillow`")):
        check_template(with_part("xl/media/image1.png", PIXEL), "data")


def test_a_template_without_a_default_style_is_filled() -> None:
    with zipfile.ZipFile(io.BytesIO(template_with())) as archive:
        styles = archive.read("xl/styles.xml").decode()
    named = re.search(r"<cellStyles.*</cellStyles>", styles)
    assert named
    check_template(with_change_of("xl/styles.xml", named[0], ""), "data")


def test_a_template_that_counts_from_1904_is_refused() -> None:
    content = with_change_of("xl/workbook.xml", "<workbookPr", '<workbookPr date1904="1"')
    with pytest.raises(ConfigurationError, match="counts dates from 1904"):
        check_template(content, "data")
