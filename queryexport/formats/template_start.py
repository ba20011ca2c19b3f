"""Opens an operator's workbook, and finds the cell from which on it is filled."""

import re
import warnings
from dataclasses import dataclass
from io import BytesIO

from openpyxl import Workbook, load_workbook
from openpyxl.utils import get_column_letter, range_boundaries
from openpyxl.utils.datetime import CALENDAR_WINDOWS_1900
from openpyxl.worksheet.worksheet import Worksheet

from queryexport.errors import ConfigurationError
from queryexport.formats.template_package import check_package

NO_LOSS = "Workbook contains no default style"
ONE_CELL = re.compile(r"\$?([A-Z]{1,3})\$?([0-9]{1,7})", re.IGNORECASE)


@dataclass(frozen=True)
class Start:
    """The cell of a sheet where the rows begin."""

    sheet: Worksheet
    row: int
    column: int


def unreadable(error: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"The template cannot be read ({type(error).__name__}: {error}). Open it in Excel and save "
        "it as an .xlsx workbook."
    )


def opened(content: bytes, start_name: str) -> tuple[Workbook, Start]:
    """The template, and where its rows begin. Raises `ConfigurationError` with what is wrong."""
    check_package(content)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            workbook = load_workbook(BytesIO(content), rich_text=True)
        except Exception as error:  # openpyxl raises what its parsers do.
            raise unreadable(error) from error
    said = {str(each.message) for each in heard if "openpyxl" in each.filename}
    losses = {each for each in said if not each.startswith(NO_LOSS)}
    if losses:
        raise ConfigurationError(
            f"Something in the template would be missing from the filled workbook: "
            f"{'; '.join(sorted(losses))}. Remove that from the template, or use a plain workbook."
        )
    if workbook.epoch != CALENDAR_WINDOWS_1900:
        raise ConfigurationError(
            "The template counts dates from 1904. Switch that off in Excel's options under "
            "Advanced, and save it."
        )
    return workbook, _start(workbook, start_name)


def _start(workbook: Workbook, name: str) -> Start:
    found = [each for each in workbook.defined_names if each.casefold() == name.casefold()]
    if not found:
        raise ConfigurationError(
            f"{_unknown(workbook, name)} Give a cell this name in Excel, in "
            "the box to the left of the formula, and save the template."
        )
    value = str(workbook.defined_names[found[0]].attr_text)
    title, _, cell = value.rpartition("!")
    title = title.removeprefix("'").removesuffix("'").replace("''", "'")
    match = ONE_CELL.fullmatch(cell)
    if match is None or title not in workbook.sheetnames:
        raise ConfigurationError(
            f"The name {name!a} of the template stands for {value}, and has to stand for one cell "
            "of one sheet. Change it in Excel's name manager."
        )
    sheet = workbook[title]
    column, row, _, _ = bounds(cell)
    start = Start(sheet, row, column)
    _check_start(start, name)
    return start


def _unknown(workbook: Workbook, name: str) -> str:
    for sheet in workbook.worksheets:
        if any(each.casefold() == name.casefold() for each in sheet.defined_names):
            return f"The name {name!a} belongs to the sheet {sheet.title} alone, not the workbook."
    names = ", ".join(sorted(workbook.defined_names)) or "none"
    return f"The template has no name {name!a}; it has: {names}."


def _check_start(start: Start, name: str) -> None:
    where = f"{get_column_letter(start.column)}{start.row}"
    if any(where in merged for merged in start.sheet.merged_cells.ranges):
        raise ConfigurationError(
            f"The cell {where}, which the template calls {name!a}, is merged with others. "
            "Undo that in Excel, or name another cell."
        )
    for table in start.sheet.tables.values():
        left, top, right, bottom = bounds(table.ref)
        inside = left <= start.column <= right and top <= start.row <= bottom
        if inside and start.row < top + (table.headerRowCount or 0):
            raise ConfigurationError(
                f"The cell {where}, which the template calls {name!a}, is a heading of the table "
                f"{table.displayName}, whose headings cannot change. Give the name to the cell "
                "below it, and leave the column names out."
            )
        if inside and table.totalsRowCount:
            raise ConfigurationError(
                f"The table {table.displayName} around the cell {where} of the template has a "
                "totals row, which the rows would have to replace. Remove the totals row."
            )


def bounds(reference: str) -> tuple[int, int, int, int]:
    left, top, right, bottom = range_boundaries(reference)
    assert left and top and right and bottom, "a cell or a block of cells has four sides"
    return left, top, right, bottom
