"""Writes rows to a workbook and reads it back with openpyxl, which knows nothing of our writer."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

import openpyxl
from openpyxl.utils.escape import unescape
from openpyxl.worksheet.worksheet import Worksheet

from queryexport.formats.xlsx import Xlsx
from tests.fakes import result_of

ROME = ZoneInfo("Europe/Rome")


@dataclass(frozen=True)
class Book:
    """A workbook, and what its writer said that it had to convert."""

    file: io.BytesIO
    conversions: Mapping[str, int]

    @property
    def sheet(self) -> Worksheet:
        sheet = openpyxl.load_workbook(self.file).active
        assert isinstance(sheet, Worksheet)
        return sheet

    def column(self, letter: str = "A") -> list[Any]:
        """The values below the header, with the escapes of text undone, as Excel does."""
        return [_unescaped(cell.value) for cell in self.sheet[letter][1:]]

    def formats(self, letter: str = "A") -> set[str]:
        """The number formats of the column's cells that are not empty."""
        cells = self.sheet[letter][1:]
        return {cell.number_format for cell in cells if cell.value is not None}

    def rows_read_only(self) -> list[list[Any]]:
        """All rows, as openpyxl streams them, with the escapes of text undone."""
        workbook = openpyxl.load_workbook(self.file, read_only=True)
        rows = workbook["data"].iter_rows(values_only=True)
        return [[_unescaped(value) for value in row] for row in rows]


def book_of(names: Sequence[str], rows: Sequence[Sequence[Any]], *, batch_rows: int = 2) -> Book:
    file = io.BytesIO()
    written = Xlsx(ROME).write(result_of(names, rows, batch_rows=batch_rows), file)
    assert written.rows == len(rows)
    return Book(file, written.conversions)


def column_of(*values: Any, batch_rows: int = 1) -> Book:
    """A workbook with these values in its only column."""
    return book_of(["v"], [[value] for value in values], batch_rows=batch_rows)


def _unescaped(value: Any) -> Any:
    return unescape(value) if isinstance(value, str) else value
