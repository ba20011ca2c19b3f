"""Excel workbooks by openpyxl in write-only mode: flat memory, no formula ever made from data."""

import base64
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import IO, Any
from uuid import UUID
from zipfile import ZIP_DEFLATED, ZipFile

from openpyxl import Workbook
from openpyxl.cell import WriteOnlyCell
from openpyxl.styles import Font
from openpyxl.writer.excel import ExcelWriter

from queryexport.errors import DeliveryError
from queryexport.formats import Written
from queryexport.rows import Result
from queryexport.values import NETWORKS, JsonEncoder, is_finite

# Excel's own limits: support.microsoft.com, "Excel specifications and limits".
MOST_ROWS = 1_048_576
MOST_COLUMNS = 16_384
LONGEST_TEXT = 32_767
EXACT_DIGITS = 15
LARGEST_NUMBER = 9.99e307
MOST_EXACT = 10**EXACT_DIGITS
FIRST_SAFE_DATE = date(1900, 3, 1)  # Excel believes in a 29 February 1900.

# What XML 1.0 cannot hold, and what Excel reads as its own escape of such a character.
UNWRITABLE = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
ESCAPE = re.compile(r"_(?=x[0-9A-Fa-f]{4}_)")
CARRIAGE_RETURN = "_x000D_"  # Which XML would turn into a line feed.
# openpyxl makes formulas and error cells of text that starts like one.
MISREAD = ("=", "#")


class Xlsx:
    """One sheet with a bold, frozen header; further sheets where Excel's row limit is reached.

    Numbers, dates and booleans keep their type; text stays text. Numbers that Excel would round
    (over 15 digits) and dates it cannot count are written as text. A time with a zone is shown in
    `zone`. A value that a cell cannot hold at all fails the file, naming row and column.
    """

    mime_type = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"

    def __init__(self, zone: tzinfo) -> None:
        self._zone = zone
        self._json = JsonEncoder(zone)

    def write(self, result: Result, file: IO[bytes]) -> Written:
        if len(result.columns) > MOST_COLUMNS:
            raise DeliveryError(
                f"The query returns {len(result.columns)} columns; an Excel sheet holds "
                f"{MOST_COLUMNS}. Select fewer columns."
            )
        workbook = Workbook(write_only=True)
        try:
            count = self._fill(workbook, result)
            _save(workbook, file)
        except BaseException:
            _drop_spooled_sheets(workbook)
            raise
        return Written(count)

    def _fill(self, workbook: Workbook, result: Result) -> int:
        count = 0
        sheet = _add_sheet(workbook, result.names)
        for row in chain.from_iterable(result.batches):
            if count and count % (MOST_ROWS - 1) == 0:
                sheet = _add_sheet(workbook, result.names)
            count += 1
            try:
                cells = [self._value(value) for value in row]
            except ValueError as error:
                raise _unwritable(result.names, row, count, self._value) from error
            sheet.append([_cell(sheet, cell) for cell in cells])
        return count

    def _value(self, value: Any) -> Any:
        """What the cell holds; raises `ValueError` when there is no such thing."""
        match value:
            case None | bool():
                return value
            case str():
                return _text(value)
            case int():
                return value if -MOST_EXACT < value < MOST_EXACT else str(value)
            case float() | Decimal():
                return _number(value)
            case datetime():
                return self._moment(value)
            case date():
                return value if value >= FIRST_SAFE_DATE else value.isoformat()
            case time() if value.tzinfo:
                return value.isoformat()
            case time() | timedelta():
                return value
            case bytes() | bytearray() | memoryview():
                return _text(base64.b64encode(value).decode())
            case UUID():
                return str(value)
            case list() | tuple() | dict():
                return _text(self._json_text(value))
        if isinstance(value, NETWORKS):
            return str(value)
        raise ValueError(f"a value of type {type(value).__name__} has no form in a cell")

    def _json_text(self, value: Any) -> str:
        try:
            return self._json.encode(value).decode()
        except TypeError as error:
            raise ValueError(str(error)) from error

    def _moment(self, value: datetime) -> datetime | str:
        try:
            local = value.astimezone(self._zone).replace(tzinfo=None) if value.tzinfo else value
        except OverflowError:  # At the ends of the calendar the zone's date does not exist.
            return value.isoformat(sep=" ")
        return local if local.date() >= FIRST_SAFE_DATE else local.isoformat(sep=" ")


def _text(value: str) -> str:
    if bad := UNWRITABLE.search(value):
        raise ValueError(f"the text holds {bad[0]!a}, which a workbook cannot store")
    if (length := len(value.encode("utf-16-le")) // 2) > LONGEST_TEXT:
        raise ValueError(f"the text has {length} characters, a cell holds {LONGEST_TEXT}")
    if "_x" in value:
        value = ESCAPE.sub("_x005F_", value)
    return value.replace("\r", CARRIAGE_RETURN)


def _number(value: float | Decimal) -> float | Decimal | str:
    if not (is_finite(value) and -LARGEST_NUMBER <= value <= LARGEST_NUMBER):
        return str(value)
    if isinstance(value, Decimal) and len(value.normalize().as_tuple().digits) > EXACT_DIGITS:
        return format(value, "f")
    return value


def _cell(sheet: Any, value: Any) -> Any:
    """openpyxl guesses types from text; a cell that is told it is text is left alone."""
    if isinstance(value, str) and value.startswith(MISREAD):
        cell = WriteOnlyCell(sheet, value)
        cell.data_type = "s"
        return cell
    return value


def _unwritable(names: Sequence[str], row: Sequence[Any], number: int, form: Any) -> DeliveryError:
    """The error for the first value of the row that has no form."""
    for name, value in zip(names, row, strict=True):
        try:
            form(value)
        except ValueError as error:
            return DeliveryError(
                f"Row {number}, column {name}, cannot be written to a workbook: {error}. "
                "Convert or clean the column in the query."
            )
    raise AssertionError("the row has no unwritable value")


def _add_sheet(workbook: Workbook, names: Sequence[str]) -> Any:
    number = len(workbook.sheetnames) + 1
    sheet = workbook.create_sheet("data" if number == 1 else f"data_{number}")
    sheet.freeze_panes = "A2"
    sheet.append(list(_header(sheet, names)))
    return sheet


def _header(sheet: Any, names: Sequence[str]) -> Iterator[Any]:
    for name in names:
        try:
            cell = WriteOnlyCell(sheet, _text(name))
        except ValueError as error:
            raise DeliveryError(
                f"The column name {ascii(name)[:60]} cannot be written to a workbook: {error}. "
                "Give the column another name with AS."
            ) from error
        cell.data_type = "s"
        cell.font = Font(bold=True)
        yield cell


def _save(workbook: Workbook, file: IO[bytes]) -> None:
    """`Workbook.save`, but with the archive closed when the disk is full."""
    archive = ZipFile(file, "w", ZIP_DEFLATED)
    try:
        ExcelWriter(workbook, archive).save()
    finally:
        with suppress(OSError, ValueError):  # Of the end of an archive that has failed already.
            archive.close()


def _drop_spooled_sheets(workbook: Workbook) -> None:
    """Removes the temporary files that openpyxl leaves behind when a workbook is given up."""
    sheets: list[Any] = workbook.worksheets
    for sheet in sheets:
        if not sheet.closed:
            with suppress(OSError):  # The disk may be full.
                sheet.close()
        if Path(sheet._writer.out).exists():
            sheet._writer.cleanup()
