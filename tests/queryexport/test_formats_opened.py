"""What a reader sees in a file of each format is what PostgreSQL itself exports of the query.

PostgreSQL writes the query as CSV by its own `COPY`. The product writes it as a file, which another
program opens: LibreOffice where it can, DuckDB for Parquet and JSON Lines, which LibreOffice does
not know. Cell by cell, the two are the same, but for the notations that `Forms` brings together.
"""

import io
import json
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import datetime, time
from decimal import ROUND_HALF_UP, Context, Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pytest
from openpyxl import Workbook
from openpyxl.workbook.defined_name import DefinedName
from openpyxl.worksheet.worksheet import Worksheet

from queryexport.engines import ConnectionSettings
from queryexport.formats import Format
from queryexport.formats.csv import Csv, CsvDialect
from queryexport.formats.jsonl import JsonLines
from queryexport.formats.parquet import Parquet
from queryexport.formats.template import TemplateWorkbook
from queryexport.formats.xlsx import Xlsx
from queryexport.source import open_query
from tests import flights
from tests.queryexport import every_type
from tests.queryexport.conftest import MakeSettings
from tests.queryexport.every_type import Cells
from tests.services.libreoffice import LibreOffice
from tests.services.postgresql import PostgreSQL

pytestmark = [pytest.mark.services, pytest.mark.slow]

ZONE = "Europe/Rome"
ROME = ZoneInfo(ZONE)
SHEET_ROWS = 1_048_576

Form = Callable[[str], Any]
Forms = Mapping[str, Form]


# What a cell says, in the notation of PostgreSQL or of the file ----------------------------------


def _text(cell: str) -> str:
    """LibreOffice exports every line end as a line feed."""
    return cell.replace("\r\n", "\n")


def _boolean(cell: str) -> bool:
    return {"t": True, "f": False, "true": True, "false": False, "TRUE": True, "FALSE": False}[cell]


def _bytes(cell: str) -> bytes:
    """PostgreSQL writes hexadecimal digits, the product base64."""
    return bytes.fromhex(cell[2:]) if cell.startswith("\\x") else b64decode(cell, validate=True)


def _moment(cell: str) -> datetime:
    moment = datetime.fromisoformat(cell)
    assert moment.tzinfo, cell
    return moment


def _wall_clock(cell: str) -> datetime:
    """A workbook shows what the clocks in the zone say, and names the zone."""
    if cell.endswith(f" {ZONE}"):
        return datetime.fromisoformat(cell.removesuffix(f" {ZONE}"))
    return _moment(cell).astimezone(ROME).replace(tzinfo=None)


def _clock(cell: str) -> datetime:
    """JSON Lines take a time without a zone to be in the item's zone, and write the offset."""
    return datetime.fromisoformat(cell).replace(tzinfo=None)


def _fifteen_digits(cell: str) -> Decimal:
    """A workbook holds every digit of a double; LibreOffice shows 15, as Excel does."""
    return Context(prec=15, rounding=ROUND_HALF_UP).create_decimal(cell)


def _defused(cell: str) -> str:
    """Text that starts like a formula has an apostrophe before it."""
    return f"'{_text(cell)}" if cell.startswith(("=", "+", "-", "@", "\t")) else _text(cell)


EXACT: Forms = {
    "number": Decimal,
    "double": float,
    "text": _text,
    "moment": _moment,
    "clock": datetime.fromisoformat,
    "time": time.fromisoformat,
    "boolean": _boolean,
    "bytes": _bytes,
    "json": json.loads,
}
WORKBOOK: Forms = {**EXACT, "moment": _wall_clock, "double": _fifteen_digits}
LINES: Forms = {**EXACT, "clock": _clock}
# Base64 may begin with a plus as well.
SAFE: Forms = {**EXACT, "text": _defused, "bytes": lambda cell: _bytes(cell.removeprefix("'"))}


# The table of every type -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(postgresql: PostgreSQL, make_postgresql: MakeSettings) -> ConnectionSettings:
    with closing(postgresql.connect()) as connection:
        every_type.create(connection)
    return make_postgresql()


@pytest.fixture(scope="module")
def expected(postgresql: PostgreSQL, source: ConnectionSettings) -> Cells:
    """What PostgreSQL exports of the table: the header, then the rows, with None for NULL."""
    return exported(postgresql, every_type.QUERY)


def exported(server: PostgreSQL, query: str) -> Cells:
    with closing(server.connect()) as connection:
        return every_type.exported(connection, query, ZONE)


def written(source: ConnectionSettings, query: str, format_: Format, path: Path) -> Path:
    with open_query(source, query) as result, path.open("wb") as file:
        format_.write(result, file)
    return path


def assert_same(
    found: Cells, expected: Cells, forms: Forms, kinds: Sequence[str] = every_type.KINDS
) -> None:
    assert found[0] == expected[0]
    assert len(found) == len(expected)
    different = [
        (number, name, theirs, ours)
        for number, (row, expected_row) in enumerate(zip(found, expected, strict=True))
        for name, kind, theirs, ours in zip(expected[0], kinds, expected_row, row, strict=True)
        if number and _said(theirs, forms[kind]) != _said(ours, forms[kind])
    ]
    assert different == []


def _said(cell: str | None, form: Form) -> Any:
    return None if cell is None else form(cell)


def blank_is_null(cells: Cells) -> Cells:
    """A cell of a sheet has nothing by which empty text or no bytes would differ from NULL."""
    return [[None if cell in ("", "\\x") else cell for cell in row] for row in cells]


def test_libreoffice_shows_a_workbook_as_the_database_exports_it(
    source: ConnectionSettings, expected: Cells, libreoffice: LibreOffice, tmp_path: Path
) -> None:
    path = written(source, every_type.QUERY, Xlsx(ROME), tmp_path / "all.xlsx")
    sheets = libreoffice.sheets(path)
    assert list(sheets) == ["data"]
    assert_same(blank_is_null(sheets["data"]), blank_is_null(expected), WORKBOOK)
    moments = [row[expected[0].index("sent")] for row in sheets["data"][1:]]
    assert all(moment.endswith(f" {ZONE}") for moment in moments if moment)


def test_libreoffice_shows_a_filled_template_as_the_database_exports_it(
    source: ConnectionSettings, expected: Cells, libreoffice: LibreOffice, tmp_path: Path
) -> None:
    form = TemplateWorkbook(template(), "rows", ROME)
    sheets = libreoffice.sheets(written(source, every_type.QUERY, form, tmp_path / "filled.xlsx"))
    above, nothing, *found = sheets["Report"]
    assert (above[0], set(nothing)) == ("Shipments", {""})
    found = [row[1:] for row in found]
    assert_same(blank_is_null(found), blank_is_null(expected), WORKBOOK)
    ids = [int(row[0] or 0) for row in expected[1:]]
    assert sheets["Totals"] == [[str(sum(ids))]]


def template() -> bytes:
    """A workbook with a title, a cell called `rows`, formats below it, and a sum on a sheet."""
    workbook = Workbook()
    sheet = workbook.active
    assert isinstance(sheet, Worksheet)
    sheet.title = "Report"
    sheet["A1"] = "Shipments"
    workbook.defined_names["rows"] = DefinedName("rows", attr_text="Report!$B$3")
    formats = {
        "moment": f'yyyy-mm-dd hh:mm:ss.000 "{ZONE}"',
        "clock": "yyyy-mm-dd hh:mm:ss.000",
        "time": "hh:mm:ss.000",
    }
    for column, kind in enumerate(every_type.KINDS, start=2):
        sheet.cell(4, column).number_format = formats.get(kind, "General")
    for name in ("day", "born"):
        column = 2 + list(every_type.COLUMNS).index(name)
        sheet.cell(4, column).number_format = "yyyy-mm-dd"
    workbook.create_sheet("Totals").append(["=SUM(Report!B4:B10000)"])
    content = io.BytesIO()
    workbook.save(content)
    return content.getvalue()


@pytest.mark.parametrize(
    ("dialect", "forms"),
    [(CsvDialect(), SAFE), (CsvDialect(formula_safe=False, line_feed=True), EXACT)],
    ids=["safe", "plain"],
)
def test_libreoffice_shows_a_csv_file_as_the_database_exports_it(
    source: ConnectionSettings,
    expected: Cells,
    libreoffice: LibreOffice,
    tmp_path: Path,
    dialect: CsvDialect,
    forms: Forms,
) -> None:
    path = written(source, every_type.QUERY, Csv(ROME, dialect), tmp_path / "all.csv")
    found = libreoffice.text_file(path, len(every_type.COLUMNS))
    assert_same(blank_is_null(found), blank_is_null(expected), forms)


def test_duckdb_reads_json_lines_as_the_database_exports_them(
    source: ConnectionSettings, expected: Cells, tmp_path: Path
) -> None:
    path = written(source, every_type.QUERY, JsonLines(ROME), tmp_path / "all.jsonl")
    types = ", ".join(f"'{name}': 'VARCHAR'" for name in every_type.COLUMNS)
    found = read_by_duckdb(f"read_json('{path}', format='nd', columns={{{types}}})")
    assert_same(found, expected, LINES)


def test_duckdb_reads_parquet_as_the_database_exports_it(
    source: ConnectionSettings, expected: Cells, tmp_path: Path
) -> None:
    path = written(source, every_type.QUERY, Parquet(ROME), tmp_path / "all.parquet")
    assert_same(read_by_duckdb(f"read_parquet('{path}')"), expected, EXACT)


def read_by_duckdb(table: str) -> Cells:
    """The table's header and rows as text, blobs in base64."""
    with closing(duckdb.connect()) as connection:
        connection.execute(f"SET TimeZone = '{ZONE}'")
        columns = connection.execute(f"DESCRIBE SELECT * FROM {table}").fetchall()
        cells = (
            f'base64("{name}")' if type_ == "BLOB" else f'CAST("{name}" AS VARCHAR)'
            for name, type_, *_ in columns
        )
        rows = connection.execute(f"SELECT {', '.join(cells)} FROM {table}").fetchall()
    return [[name for name, *_ in columns], *map(list, rows)]


# Large results -----------------------------------------------------------------------------------


def test_libreoffice_shows_every_flight_as_the_database_exports_it(
    flights_postgresql: PostgreSQL,
    make_postgresql: MakeSettings,
    libreoffice: LibreOffice,
    tmp_path: Path,
) -> None:
    query = "SELECT * FROM flights ORDER BY time_hour, carrier, flight"
    path = written(make_postgresql(), query, Xlsx(ROME), tmp_path / "flights.xlsx")
    kinds = {"integer": "number", "text": "text", "timestamp": "moment"}
    assert_same(
        blank_is_null(libreoffice.sheets(path)["data"]),
        exported(flights_postgresql, query),
        WORKBOOK,
        [kinds[column.kind] for column in flights.COLUMNS],
    )


def test_libreoffice_shows_the_rows_over_one_sheet_on_the_next(
    postgresql: PostgreSQL,
    make_postgresql: MakeSettings,
    libreoffice: LibreOffice,
    tmp_path: Path,
) -> None:
    query = f"SELECT n % 10 AS n FROM generate_series(1, {SHEET_ROWS + 5}) AS n"
    path = written(make_postgresql(), query, Xlsx(ROME), tmp_path / "long.xlsx")
    sheets = libreoffice.sheets(path)
    header, *rows = exported(postgresql, query)
    assert list(sheets) == ["data", "data_2"]
    assert sheets["data"] == [header, *rows[: SHEET_ROWS - 1]]
    assert sheets["data_2"] == [header, *rows[SHEET_ROWS - 1 :]]
