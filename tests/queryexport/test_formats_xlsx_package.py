"""The parts of a workbook are those that Excel wants, in its order, in an archive it can open."""

import gzip
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from xml.etree import ElementTree
from zipfile import ZipFile, ZipInfo

import openpyxl
import pytest

from queryexport.contents import Contents, ForwardOnly, Gzip
from queryexport.formats import package, xlsx
from queryexport.formats.xlsx import Xlsx
from tests.fakes import result_of
from tests.queryexport.workbooks import ROME, Book, book_of, column_of

MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
# CT_Worksheet, CT_Workbook and CT_Stylesheet of ECMA-376, part 1, annex A.2: a sequence each.
ORDER = {
    "worksheet": (
        "sheetPr", "dimension", "sheetViews", "sheetFormatPr", "cols", "sheetData",
        "sheetProtection", "autoFilter", "mergeCells", "conditionalFormatting", "dataValidations",
        "hyperlinks", "printOptions", "pageMargins", "pageSetup", "headerFooter", "ignoredErrors",
    ),
    "workbook": ("fileVersion", "workbookPr", "bookViews", "sheets", "definedNames", "calcPr"),
    "styleSheet": (
        "numFmts", "fonts", "fills", "borders", "cellStyleXfs", "cellXfs", "cellStyles", "dxfs",
    ),
}  # fmt: skip


def rich_book() -> Book:
    rows: list[Sequence[Any]] = [
        [1, 2.5, "a & <b>", datetime(2024, 7, 1, 10, tzinfo=UTC), True, None],
        [2, None, "=1+1", datetime(2024, 7, 1, 11, tzinfo=UTC), False, "x"],
        [3, 1.5, "c", None, "turns into text", None],
    ]
    return book_of(["n", "ratio", "text", "moment", "flag", "maybe"], rows)


def part(book: Book, path: str) -> ElementTree.Element:
    return ElementTree.fromstring(ZipFile(book.file).read(path))


def children(element: ElementTree.Element) -> list[str]:
    return [child.tag.removeprefix(MAIN) for child in element]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("xl/worksheets/sheet1.xml", "worksheet"),
        ("xl/workbook.xml", "workbook"),
        ("xl/styles.xml", "styleSheet"),
    ],
)
def test_the_elements_of_each_part_are_in_the_order_of_the_standard(path: str, kind: str) -> None:
    root = part(rich_book(), path)
    assert root.tag == f"{MAIN}{kind}"
    found = children(root)
    assert found == sorted(set(found), key=ORDER[kind].index)


def test_every_part_is_named_by_the_types_and_by_a_relationship() -> None:
    book = rich_book()
    paths = set(ZipFile(book.file).namelist())
    types = {part.get("PartName") for part in part(book, "[Content_Types].xml")} - {None}
    targets = {each.get("Target") for each in part(book, "xl/_rels/workbook.xml.rels")}
    assert {f"/xl/{target}" for target in targets} | {"/xl/workbook.xml"} == types
    rest = {"[Content_Types].xml", "_rels/.rels", "xl/_rels/workbook.xml.rels"}
    assert paths == {str(each).removeprefix("/") for each in types} | rest


def test_the_types_come_first_where_programs_look_for_them() -> None:
    assert ZipFile(rich_book().file).namelist()[0] == "[Content_Types].xml"


def test_a_sheet_holds_values_and_text_and_nothing_else() -> None:
    data = part(rich_book(), "xl/worksheets/sheet1.xml").find(f"{MAIN}sheetData")
    assert data is not None
    found = {(cell.get("t"), *children(cell)) for row in data for cell in row}
    assert found == {(None,), (None, "v"), ("inlineStr", "is")}


def test_excel_is_told_to_keep_spaces_and_widths_which_openpyxl_does_anyway() -> None:
    sheet = part(rich_book(), "xl/worksheets/sheet1.xml")
    texts, columns = list(sheet.iter(f"{MAIN}t")), list(sheet.iter(f"{MAIN}col"))
    assert len(texts) == 6 + 3 + 3 + 1
    assert {text.get("{http://www.w3.org/XML/1998/namespace}space") for text in texts} == {
        "preserve"
    }
    assert [column.get("customWidth") for column in columns] == ["1"] * 6


def test_each_column_has_a_style_that_openpyxl_finds() -> None:
    book = rich_book()
    assert [book.formats(letter) for letter in "ABCDEF"] == [
        {"General"}, {"General"}, {"@"}, {'yyyy-mm-dd hh:mm:ss "Europe/Rome"'}, {"@"}, {"@"},
    ]  # fmt: skip


def test_the_filter_of_each_sheet_has_its_hidden_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xlsx, "MOST_ROWS", 3)  # Excel's own limit would take a while to reach.
    names = part(column_of(1, 2, 3), "xl/workbook.xml").find(f"{MAIN}definedNames")
    assert names is not None
    assert [(name.text, name.attrib) for name in names] == [
        (
            f"'{sheet}'!$A$1:$A${rows}",
            {"name": "_xlnm._FilterDatabase", "localSheetId": str(number), "hidden": "1"},
        )
        for number, (sheet, rows) in enumerate([("data", 3), ("data_2", 2)])
    ]


@pytest.mark.parametrize(
    ("number", "name"),
    [(1, "A"), (26, "Z"), (27, "AA"), (702, "ZZ"), (703, "AAA"), (16_384, "XFD")],
)
def test_columns_are_named_as_excel_does(number: int, name: str) -> None:
    assert package.letters(number) == name


def test_the_same_rows_give_the_same_bytes() -> None:
    assert rich_book().file.getvalue() == rich_book().file.getvalue()


def test_a_small_workbook_does_without_zip64_which_excel_offers_to_repair() -> None:
    assert {info.extract_version for info in infos(rich_book().file)} == {20}


def test_a_sheet_that_may_be_large_is_written_as_zip64(monkeypatch: pytest.MonkeyPatch) -> None:
    small = len(ZipFile(column_of(1, 2, 3).file).read("xl/worksheets/sheet1.xml"))
    # All that the sheet may grow by, now that a column becomes text, has to be reckoned with.
    monkeypatch.setattr(package, "LARGEST_MEMBER", small)
    assert sheet_version(column_of(1, 2, 3)) == 20
    assert sheet_version(column_of(1, 2, 3, "x")) == 45
    monkeypatch.setattr(package, "LARGEST_MEMBER", 500)
    book = column_of(1, 2, 3)
    assert (sheet_version(book), book.column()) == (45, [1, 2, 3])


def sheet_version(book: Book) -> int:
    [info] = [info for info in infos(book.file) if info.filename.endswith("sheet1.xml")]
    return info.extract_version


def infos(file: io.BytesIO) -> list[ZipInfo]:
    """The members, each with the version of the format that its own header asks for."""
    archive = ZipFile(file)
    for info in archive.infolist():
        file.seek(info.header_offset + 4)
        info.extract_version = int.from_bytes(file.read(2), "little")
    return archive.infolist()


class OneWay(io.RawIOBase):
    """A file like a pipe: it can be written, and that is all."""

    def __init__(self) -> None:
        self.written = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.written += bytes(data)
        return len(data)


@pytest.mark.parametrize("largest_member", [500, 1 << 31])
def test_a_file_that_cannot_seek_gets_a_whole_workbook(
    monkeypatch: pytest.MonkeyPatch, largest_member: int
) -> None:
    monkeypatch.setattr(package, "LARGEST_MEMBER", largest_member)
    file = OneWay()
    assert Xlsx(ROME).write(result_of(["n"], [[1], ["x"]]), file).rows == 2
    assert Book(io.BytesIO(file.written), {}).column() == ["1", "x"]


def test_a_compressed_workbook_is_the_workbook_compressed() -> None:
    file = io.BytesIO()
    Contents(Xlsx(ROME), Gzip()).write(result_of(["n"], [[1], [2]]), file, name="rows.xlsx.gz")
    assert Book(io.BytesIO(gzip.decompress(file.getvalue())), {}).column() == [1, 2]


def test_a_gzip_stream_says_that_it_cannot_seek() -> None:
    """Or else `zipfile` would go back in it and lose the file."""
    with gzip.GzipFile(fileobj=io.BytesIO(), mode="wb") as packed:
        assert not ForwardOnly(packed).seekable()


def test_rows_are_compressed() -> None:
    book = book_of(["n", "text"], [[number, "the same"] for number in range(1000)])
    sheet = ZipFile(book.file).read("xl/worksheets/sheet1.xml")
    assert len(book.file.getvalue()) < len(sheet) / 10


def test_openpyxl_counts_the_rows_of_every_sheet_without_reading_them() -> None:
    workbook = openpyxl.load_workbook(rich_book().file, read_only=True)
    assert workbook["data"].calculate_dimension() == "A1:F4"
