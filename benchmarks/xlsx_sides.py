"""The sides of `make bench-xlsx`, each run as a process; all read the same rows the same way.

Each does no more than it must to be right: a time with a zone becomes one in Rome without it.
"""

import json
import os
import sys
from collections.abc import Iterator
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import IO, Any
from zoneinfo import ZoneInfo

from queryexport.engines import ConnectionSettings
from queryexport.rows import Result
from queryexport.source import open_query

ROME = ZoneInfo("Europe/Rome")
MOMENTS = "yyyy-mm-dd hh:mm:ss"

# A side imports its library itself: the others' would count as its memory.


def _read(result: Result, file: IO[bytes]) -> None:
    """What reading alone costs, of which each side has its share."""
    for _ in result.batches:
        pass


def _openpyxl(result: Result, file: IO[bytes]) -> None:
    from openpyxl import Workbook

    workbook = Workbook(write_only=True)
    sheet = workbook.create_sheet("data")
    sheet.append(list(result.names))
    for row in _rows(result):
        sheet.append(row)
    workbook.save(file)


def _xlsxwriter(result: Result, file: IO[bytes]) -> None:
    from xlsxwriter import Workbook

    options = {
        "constant_memory": True,
        "default_date_format": MOMENTS,
        "strings_to_formulas": False,
        "strings_to_urls": False,
    }
    with Workbook(file, options) as workbook:
        sheet = workbook.add_worksheet("data")
        sheet.write_row(0, 0, result.names)
        for number, row in enumerate(_rows(result), start=1):
            sheet.write_row(number, 0, row)


def _pandas(result: Result, file: IO[bytes]) -> None:
    from pandas import DataFrame

    frame = DataFrame(chain.from_iterable(result.batches), columns=list(result.names))
    for name in frame.select_dtypes("datetimetz"):
        frame[name] = frame[name].dt.tz_convert(ROME).dt.tz_localize(None)
    frame.to_excel(file, engine="xlsxwriter", sheet_name="data", index=False)


def _product(result: Result, file: IO[bytes]) -> None:
    from queryexport.formats.xlsx import Xlsx

    Xlsx(ROME).write(result, file)


def _rows(result: Result) -> Iterator[list[Any]]:
    for row in chain.from_iterable(result.batches):
        yield [_without_zone(value) if isinstance(value, datetime) else value for value in row]


def _without_zone(value: datetime) -> datetime:
    return value.astimezone(ROME).replace(tzinfo=None) if value.tzinfo else value


SIDES = {
    "openpyxl": _openpyxl,
    "xlsxwriter": _xlsxwriter,
    "pandas": _pandas,
    "product": _product,
    "read": _read,
}


def main() -> int:
    side, query, path = sys.argv[1:]
    source = ConnectionSettings(
        name="bench", statement_timeout_sec=3600, **json.loads(os.environ["BENCH_SOURCE"])
    )
    with open_query(source, query) as result, Path(path).open("wb") as file:
        SIDES[side](result, file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
