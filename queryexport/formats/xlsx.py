"""Excel workbooks: flat memory, columns of one type, and no formula ever made from data."""

import re
import tempfile
from collections.abc import Iterator, Sequence
from datetime import tzinfo
from pathlib import Path
from typing import IO, Any
from zipfile import ZipFile

from queryexport.errors import DeliveryError
from queryexport.formats import Written, package
from queryexport.formats.cell_texts import CellTexts
from queryexport.formats.cells import ColumnCells, text_cell, width_of
from queryexport.formats.package import FIRST_COLUMN_STYLE, HEADER_STYLE, Sheet
from queryexport.formats.texts import unwritable
from queryexport.rows import Result, Row

# Excel's own limits: support.microsoft.com, "Excel specifications and limits".
MOST_ROWS = 1_048_576
MOST_COLUMNS = 16_384

CELLS_AT_ONCE = 20_000
CHARACTERS_AT_ONCE = 1 << 22
ROWS_MEASURED = 200
PIECE_BYTES = 1 << 20
ENDS_OF_CELLS = (b"</c>", b"</row>")
# No cell grows by more when it becomes text.
MOST_GROWTH_BYTES = 150
# In digits, the button that opens a column's filter.
FILTER_BUTTON = 3


class Xlsx:
    """One sheet with a bold, frozen header and a filter; more where Excel's row limit is reached.

    Each column has one type, which the first of its values decides. A column becomes text when
    Excel could not hold one of its values exactly: a number over 15 digits, a date before March
    1900, a value of another type. Text is never read as a formula, an error or a link. A time with
    a zone is shown in `zone`, which its number format names. What cannot be kept as it was is
    counted in `Written.conversions`. A value that has no form in a cell fails the file, naming row
    and column.
    """

    mime_type = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"

    def __init__(self, zone: tzinfo) -> None:
        self._zone = zone

    def write(self, result: Result, file: IO[bytes]) -> Written:
        if len(result.columns) > MOST_COLUMNS:
            raise DeliveryError(
                f"The query returns {len(result.columns)} columns; an Excel sheet holds "
                f"{MOST_COLUMNS}. Select fewer columns."
            )
        if not result.columns:
            raise DeliveryError(
                "The query returns no columns, and an Excel sheet without any cannot be opened. "
                "Select at least one column."
            )
        folder = _folder_of(file)
        with tempfile.TemporaryFile(prefix=".query-export-", dir=folder) as spool:
            rows = SpooledRows(result.names, self._zone, spool)
            for batch in result.batches:
                rows.append(batch)
            rows.save(file)
        return Written(rows.count, rows.conversions)


class SpooledRows:
    """The rows of a workbook on their way, as XML in a temporary file: only when all of them are
    there, the type of each column is known, and a cell that was written as another becomes final.
    """

    def __init__(self, names: Sequence[str], zone: tzinfo, spool: IO[bytes]) -> None:
        self.count = 0
        self._names = names
        self._texts = CellTexts(zone)
        self._spool = spool
        self._starts_of_sheets = [0]
        self._most_rows = self._rows_at_once = max(CELLS_AT_ONCE // len(names), 1)
        self._columns = [
            ColumnCells(FIRST_COLUMN_STYLE + number, zone, self._texts)
            for number in range(len(names))
        ]
        self._header = "".join(text_cell(HEADER_STYLE, self._texts.escaped(name)) for name in names)

    @property
    def conversions(self) -> dict[str, int]:
        """How many values could not be kept as they were, by what became of them."""
        return dict(sum((column.conversions for column in self._columns), self._texts.conversions))

    def append(self, batch: Sequence[Row]) -> None:
        done = 0
        while done < len(batch):
            room = MOST_ROWS - 1 - self.count % (MOST_ROWS - 1)
            if self.count and room == MOST_ROWS - 1:
                self._starts_of_sheets.append(self._spool.tell())
            rows = batch[done : done + min(self._rows_at_once, room)]
            self._append(rows)
            done += len(rows)

    def save(self, file: IO[bytes]) -> None:
        self._spool.flush()
        ends = [*self._starts_of_sheets[1:], self._spool.tell()]
        sheets = [self._sheet(number) for number in range(1, len(ends) + 1)]
        with package.archive_in(file) as archive:
            package.write_frame(archive, sheets, [each.number_format for each in self._columns])
            for sheet, start, end in zip(sheets, self._starts_of_sheets, ends, strict=True):
                self._write_sheet(archive, sheet, start, end)

    def _append(self, rows: Sequence[Row]) -> None:
        values = list(zip(*rows, strict=True))
        try:
            cells = [
                column.cells(of_column)
                for column, of_column in zip(self._columns, values, strict=True)
            ]
        except (TypeError, ValueError) as error:
            raise unwritable(self._names, rows, self.count + 1, self._form, "a workbook") from error
        if not self.count:
            for column, of_column in zip(self._columns, values, strict=True):
                column.measure(of_column[:ROWS_MEASURED])
        xml = "</row><row>".join(map("".join, zip(*cells, strict=True)))
        self._spool.write(f"<row>{xml}</row>".encode())
        self._rows_at_once = min(self._most_rows, len(rows) * CHARACTERS_AT_ONCE // len(xml) + 1)
        self.count += len(rows)

    def _form(self, name: str, value: Any) -> None:
        """Raises what is wrong with a value that no cell can hold."""
        if value is not None:
            self._texts.of(value)

    def _sheet(self, number: int) -> Sheet:
        rows = min(self.count - (number - 1) * (MOST_ROWS - 1), MOST_ROWS - 1)
        return Sheet(number, rows + 1, len(self._names))

    def _write_sheet(self, archive: ZipFile, sheet: Sheet, start: int, end: int) -> None:
        widths = [
            max(width_of(name) + FILTER_BUTTON, column.width)
            for name, column in zip(self._names, self._columns, strict=True)
        ]
        head = package.sheet_start(sheet, widths, self._header).encode()
        unfinished = [column for column in self._columns if not column.is_finished]
        most_bytes = len(head) + end - start + len(unfinished) * sheet.rows * MOST_GROWTH_BYTES
        is_large = most_bytes > package.LARGEST_MEMBER
        with archive.open(sheet.path, "w", force_zip64=is_large) as member:
            member.write(head)
            for piece in _finished(self._pieces(start, end), unfinished):
                member.write(piece)
            member.write(package.sheet_end(sheet).encode())

    def _pieces(self, start: int, end: int) -> Iterator[bytes]:
        self._spool.seek(start)
        while start < end:
            piece = self._spool.read(min(PIECE_BYTES, end - start))
            assert piece, "a file without a name is as long as it was written"
            start += len(piece)
            yield piece


def _finished(pieces: Iterator[bytes], columns: Sequence[ColumnCells]) -> Iterator[bytes]:
    """The same with every cell of these columns in its final form."""
    if not columns:
        yield from pieces
        return
    by_style = {str(column.style).encode(): column for column in columns}
    styles = b"|".join(by_style)
    written = re.compile(rb'<c s="(%b)"(?: t="b")?><v>([^<]*)</v></c>' % styles)

    def final(cell: re.Match[bytes]) -> bytes:
        return by_style[cell[1]].finished(cell[2].decode()).encode()

    for whole in _whole_cells(pieces):
        yield written.sub(final, whole)


def _whole_cells(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes, cut between two cells."""
    rest = b""
    for piece in pieces:
        rest += piece
        end = max(rest.rfind(mark) + len(mark) if mark in rest else 0 for mark in ENDS_OF_CELLS)
        yield rest[:end]
        rest = rest[end:]
    yield rest


def _folder_of(file: IO[bytes]) -> Path | None:
    """The folder that the file is in, where the system tells and the file has a name; there, the
    disk is one that has room for exports.
    """
    try:
        path = Path(f"/proc/self/fd/{file.fileno()}").readlink()
    except (AttributeError, OSError):
        return None
    return path.parent if path.is_file() else None
