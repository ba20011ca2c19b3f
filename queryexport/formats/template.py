"""An operator's own workbook, filled with rows from a cell that has a name."""

from collections.abc import Sequence
from copy import copy
from datetime import tzinfo
from io import BytesIO
from typing import IO, Any
from zipfile import ZIP_DEFLATED, ZipFile

from openpyxl import Workbook
from openpyxl.cell import MergedCell
from openpyxl.drawing.spreadsheet_drawing import SpreadsheetDrawing
from openpyxl.utils import get_column_letter
from openpyxl.worksheet._writer import WorksheetWriter
from openpyxl.writer.excel import ExcelWriter

from queryexport.errors import DeliveryError
from queryexport.formats import Written
from queryexport.formats.template_start import Start, bounds, opened, unreadable
from queryexport.formats.template_values import CellValues, stored
from queryexport.formats.texts import unwritable
from queryexport.rows import Result, Row

# openpyxl holds every cell in memory; 250,000 take 90 MB and 10 seconds.
MOST_CELLS = 250_000
# Excel's own limits: support.microsoft.com, "Excel specifications and limits".
MOST_ROWS = 1_048_576
MOST_COLUMNS = 16_384


class TemplateWorkbook:
    """A workbook that is filled, from the cell called `start_name` downwards and to the right.

    With `with_header`, the column names are in the start's row and the rows below. Each row takes
    the cell styles and the height of the row in which the rows begin. What is there as an example
    is replaced; no other cell of the template may be in the way. A table around the start grows.
    All else stays as it is, and formulas are calculated when the workbook is opened.

    Values are those of `Xlsx`, but cell by cell: where Excel cannot hold a value exactly, this cell
    becomes text, not its column. A workbook of over 250,000 cells of data fails.
    """

    mime_type = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"

    def __init__(
        self, content: bytes, start_name: str, zone: tzinfo, *, with_header: bool = True
    ) -> None:
        self._content = content
        self._start_name = start_name
        self._zone = zone
        self._with_header = with_header

    def check(self) -> None:
        """Raises `ConfigurationError` with what is wrong with the template."""
        check_template(self._content, self._start_name)

    def write(self, result: Result, file: IO[bytes]) -> Written:
        workbook, start = opened(self._content, self._start_name)
        filling = _Filling(start, result.names, CellValues(self._zone))
        if self._with_header:
            filling.add_header()
        for batch in result.batches:
            filling.add(batch)
        filling.finish()
        workbook.calculation.fullCalcOnLoad = True
        _save(workbook, file)
        return Written(filling.count, dict(filling.values.conversions))


def check_template(content: bytes, start_name: str) -> None:
    """Raises `ConfigurationError` when the template cannot be filled from the cell of this name, or
    would lose something.
    """
    workbook, _ = opened(content, start_name)
    try:
        _save(workbook, BytesIO())
    except Exception as error:  # openpyxl has read something that it cannot write.
        raise unreadable(error) from error


class _Filling:
    """Puts rows into a sheet, one below the other."""

    def __init__(self, start: Start, names: Sequence[str], values: CellValues) -> None:
        self.count = 0
        self.values = values
        self._sheet = start.sheet
        self._start = start
        self._names = names
        self._row = self._first_row = start.row
        self._styles = self._styles_of(start.row)
        merged = start.sheet.merged_cells.ranges
        self._merged = {(each.min_row, each.min_col) for each in merged}
        if start.column + len(names) - 1 > MOST_COLUMNS:
            raise DeliveryError(
                f"The query returns {len(names)} columns, and from column "
                f"{get_column_letter(start.column)} of the template on there is room for "
                f"{MOST_COLUMNS - start.column + 1}. Select fewer columns."
            )

    def add_header(self) -> None:
        self._add([self.values.text(name) for name in self._names], self._styles)
        self._first_row = self._row
        self._styles = self._styles_of(self._row)

    def add(self, rows: Sequence[Row]) -> None:
        if (self.count + len(rows)) * len(self._names) > MOST_CELLS:
            raise DeliveryError(
                f"The query returns more rows than a template can take: with {len(self._names)} "
                f"columns, {MOST_CELLS // len(self._names):,}. Use a plain workbook, or select "
                "fewer rows."
            )
        try:
            converted = [[self.values.cell(value) for value in row] for row in rows]
        except (TypeError, ValueError) as error:
            raise self._unwritable(rows) from error
        for values in converted:
            self._add(values, self._styles)
            self.count += 1

    def finish(self) -> None:
        """Empties the first row when there is none to replace it, and lets the tables grow."""
        if not self.count:
            self._add([None] * len(self._names), self._styles)
        for table in self._sheet.tables.values():
            left, top, right, bottom = bounds(table.ref)
            if left <= self._start.column <= right and top <= self._start.row <= bottom:
                table.ref = _reference(left, top, right, max(bottom, self._row - 1))
                if table.autoFilter:
                    table.autoFilter.ref = table.ref

    def _styles_of(self, row: int) -> list[Any]:
        """The style of each cell of the row, and nothing for one that has none of its own."""
        columns = range(self._start.column, self._start.column + len(self._names))
        existing: dict[tuple[int, int], Any] = self._sheet._cells
        cells = [existing.get((row, column)) for column in columns]
        self._height = self._sheet.row_dimensions[row].height
        return [cell._style if cell is not None else None for cell in cells]

    def _add(self, values: Sequence[Any], styles: Sequence[Any]) -> None:
        if self._row > MOST_ROWS:
            raise DeliveryError(
                f"The rows do not fit below row {self._start.row} of the template: an Excel sheet "
                f"has {MOST_ROWS:,} rows. Use a plain workbook, or select fewer rows."
            )
        for column, (value, style) in enumerate(zip(values, styles, strict=True)):
            self._set(self._start.column + column, value, style)
        if self._height is not None:
            self._sheet.row_dimensions[self._row].height = self._height
        self._row += 1

    def _set(self, column: int, value: Any, style: Any) -> None:
        cell: Any = self._sheet.cell(self._row, column)
        if self._is_in_the_way(cell):
            raise DeliveryError(
                f"The cell {cell.coordinate} of the template's sheet {self._sheet.title} is merged "
                "or not empty, and the rows need it. Put what is there above or beside the rows."
            )
        if style is not None:
            cell._style = copy(style)
        cell.value = value
        if isinstance(value, str):
            cell.data_type = "s"  # openpyxl makes formulas and errors of text that looks like one.
        elif (digits := stored(value)) is not None:
            cell._value, cell.data_type = digits, "n"

    def _is_in_the_way(self, cell: Any) -> bool:
        if isinstance(cell, MergedCell) or (cell.row, cell.column) in self._merged:
            return True
        return cell.value is not None and self._row > self._first_row

    def _unwritable(self, rows: Sequence[Row]) -> DeliveryError:
        def form(name: str, value: Any) -> None:
            self.values.cell(value)

        return unwritable(self._names, rows, self.count + 1, form, "a workbook")


class _Writer(ExcelWriter):
    """openpyxl's own, but without a temporary file for each sheet, which it leaves behind when the
    disk is full.
    """

    _archive: ZipFile

    def write_worksheet(self, ws: Any) -> None:
        ws._drawing = SpreadsheetDrawing()
        ws._drawing.charts = ws._charts
        ws._drawing.images = ws._images
        xml = BytesIO()
        writer: Any = WorksheetWriter(ws, xml)
        writer.write()
        ws._rels = writer._rels
        self._archive.writestr(ws.path[1:], xml.getvalue())
        self.manifest.append(ws)


def _save(workbook: Workbook, file: IO[bytes]) -> None:
    with ZipFile(file, "w", ZIP_DEFLATED) as archive:
        _Writer(workbook, archive).write_data()


def _reference(left: int, top: int, right: int, bottom: int) -> str:
    return f"{get_column_letter(left)}{top}:{get_column_letter(right)}{bottom}"
