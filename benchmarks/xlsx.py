"""`make bench-xlsx`: rows of PostgreSQL to an Excel file, by three libraries and by us.

Each side reads the same rows by this product's query and writes them in a process of its own, whose
time and memory the kernel accounts for; reading alone is a side as well:

(a) openpyxl in write-only mode;
(b) XlsxWriter with constant_memory;
(c) pandas `to_excel`, which holds all rows in memory, by XlsxWriter;
(d) this product's `Xlsx`.

They are not equal in what they promise: only (d) keeps numbers over 15 digits, text that looks like
a formula, and times with a zone without being told.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from openpyxl import load_workbook
from rich.console import Console

from benchmarks.measure import measured, print_table
from tests import flights
from tests.services import postgresql
from tests.services.postgresql import PostgreSQL

WRITERS = {
    "openpyxl": "a: openpyxl",
    "xlsxwriter": "b: XlsxWriter",
    "pandas": "c: pandas",
    "product": "d: Query Export",
}
READER = {"read": "reading alone"}
COMPARED_ROWS = 1000
END_OF_ROW = b"</row>"

# Tables of their own: read to their end, they always give their rows in the same order.
FLIGHTS = "CREATE TABLE bench_flights AS SELECT * FROM flights LIMIT {rows}"
MIXED = """
CREATE TABLE bench_mixed AS
SELECT n AS id,
       CASE WHEN n % 11 > 0 THEN n * 7919.07::numeric(12, 2) % 9999999999 END AS importo,
       lpad((n * 31)::text, 13, '0') AS codice,
       CASE WHEN n % 3 > 0
            THEN 'Consegna a Cefalù & C., <rif.> ' || substr(md5(n::text), 1, 10) END AS note,
       CASE WHEN n % 7 > 0 THEN n % 2 = 0 END AS pagato,
       timestamptz '2026-01-18 00:00:00+00' + n * interval '7 seconds' AS spedito,
       date '2026-01-01' + (n % 365)::int AS data
FROM generate_series(1, {rows}) AS n
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-xlsx", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of each table, at most")
    parser.add_argument("--table", choices=("flights", "mixed"), action="append")
    parser.add_argument("--only", choices=("product",), help="measure side (d) alone")
    arguments = parser.parse_args()
    writers = ["product"] if arguments.only else list(WRITERS)
    with postgresql.running() as server:
        for table in arguments.table or ("flights", "mixed"):
            _compare(table, _filled(server, table, arguments.rows), server, writers)
    return 0


def _filled(server: PostgreSQL, table: str, rows: int) -> int:
    """Creates the table and returns how many rows it has."""
    with closing(server.connect()) as connection:
        if table == "flights":
            flights.load_into_postgresql(connection)
        statement = {"flights": FLIGHTS, "mixed": MIXED}[table]
        connection.execute(f"DROP TABLE IF EXISTS bench_{table}")
        connection.execute(statement.format(rows=rows))
        connection.execute(f"ANALYZE bench_{table}")
        connection.commit()
        [(count,)] = connection.execute(f"SELECT count(*) FROM bench_{table}").fetchall()
    return count


def _compare(table: str, rows: int, server: PostgreSQL, writers: Sequence[str]) -> None:
    fields = ("host", "port", "database", "password")
    source = {name: getattr(server, name) for name in fields} | {
        "engine": "postgresql",
        "username": server.user,
    }
    environment = {**os.environ, "BENCH_SOURCE": json.dumps(source)}
    started = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, load {os.getloadavg()[0]:.1f} before it"
    with tempfile.TemporaryDirectory(prefix="query-export-benchmark-") as folder:
        files = {side: Path(folder, f"{side}.xlsx") for side in [*writers, *READER]}
        sides = []
        for side, path in files.items():
            command = (sys.executable, "-m", "benchmarks.xlsx_sides", side)
            pipeline = [(*command, f"SELECT * FROM bench_{table}", str(path))]
            sides.append(measured({**WRITERS, **READER}[side], rows, pipeline, environment))
        _check_same_cells([files[side] for side in writers], rows)
        print_table(f"{table} of PostgreSQL {server.version}, {started}", sides)
        sizes = (f"{side} {files[side].stat().st_size / 1e6:.1f} MB" for side in writers)
        Console().print(f"File sizes: {', '.join(sizes)}\n")


def _check_same_cells(files: Sequence[Path], rows: int) -> None:
    """Each file must hold every row, and at its start the same cells, else nothing is compared."""
    counts = {path.name: _count_of_rows(path) for path in files}
    if set(counts.values()) != {rows + 1}:
        raise SystemExit(f"Not every file holds {rows} rows and a header: {counts}")
    beginnings = {path.name: list(_first_rows(path)) for path in files}
    expected = next(iter(beginnings.values()))
    for name, found in beginnings.items():
        for number, pair in enumerate(zip(expected, found, strict=True), start=1):
            if pair[0] != pair[1]:
                raise SystemExit(f"Row {number} of {name} is not that of {files[0].name}: {pair}")


def _count_of_rows(path: Path) -> int:
    """How many rows the sheet has, counted in its XML: reading a million takes minutes."""
    count, rest = 0, b""
    with ZipFile(path) as archive, archive.open("xl/worksheets/sheet1.xml") as sheet:
        for piece in iter(partial(sheet.read, 1 << 20), b""):
            rest += piece
            count += rest.count(END_OF_ROW)
            rest = rest[1 - len(END_OF_ROW) :]  # Where the next one may have begun.
    return count


def _first_rows(path: Path) -> Iterator[tuple[Any, ...]]:
    with closing(load_workbook(path, read_only=True)) as workbook:
        yield from islice(workbook.worksheets[0].iter_rows(values_only=True), COMPARED_ROWS)


if __name__ == "__main__":
    sys.exit(main())
