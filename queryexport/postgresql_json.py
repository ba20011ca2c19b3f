"""SQL by which PostgreSQL writes rows as JSON itself, byte for byte as `values` would.

Its row_to_json is several times as fast as Python objects and orjson, and agrees with them on the
types listed here and on no others: a float, a time without a zone, an array, or a JSON value comes
out differently, so a query with such a column is left to the general road. The test that holds the
two roads against each other is tests/kafka_sink/test_roads_of_postgresql.py.
"""

from collections.abc import Sequence
from typing import Any

from queryexport.rows import JsonShape

# Type numbers (OIDs) of PostgreSQL, from its catalogue pg_type.
TEXTS = frozenset({19, 25, 1042, 1043})  # name, text, char(n), varchar
INTEGERS = frozenset({20, 21, 23})
UUID = 2950
NUMERIC = 1700
BOOLEAN, DATE, TIME, TIMESTAMP_WITH_ZONE = 16, 1082, 1083, 1184
SAME_IN_JSON = TEXTS | INTEGERS | {UUID, BOOLEAN, DATE, TIME, TIMESTAMP_WITH_ZONE}
KEYS = TEXTS | INTEGERS | {UUID}

NOT_FINITE = "('NaN', 'Infinity', '-Infinity')"


def json_query(sql: str, types: Sequence[tuple[str, int]], shape: JsonShape) -> str | None:
    """`sql` rewritten to give each row's key, its JSON object, and how many of its decimals, if
    there are any, JSON writes as null; None where the bytes could differ.

    `types` are the names and type numbers of its columns. `sql` is as SQLAlchemy's `text()` takes
    it, and so is the answer: a colon that is no parameter has a backslash.
    """
    key_type = dict(types).get(shape.key)
    if key_type not in KEYS or any(kind not in SAME_IN_JSON | {NUMERIC} for _, kind in types):
        return None
    key = _column(shape.key)
    if key_type not in TEXTS:  # A cast would take the blanks off char(n).
        key = f"{key}::text"
    numbers = [_column(name) for name, kind in types if kind == NUMERIC]
    if not numbers:
        return f"SELECT {key}, row_to_json(q)::text FROM (\n{sql}\n) AS q"  # noqa: S608
    fields = ", ".join(_field(name, kind, shape) for name, kind in types)
    nulled = " + ".join(f"coalesce(({each}::text IN {NOT_FINITE})::int, 0)" for each in numbers)
    return (
        f"SELECT {key}, row_to_json(r)::text, {nulled} "  # noqa: S608
        f"FROM (\n{sql}\n) AS q, LATERAL (SELECT {fields}) AS r"
    )


def writes_as_python(driver_connection: Any) -> bool:
    """Whether the session's texts and times reach Python as they stand in the JSON."""
    info = driver_connection.info
    return bool(
        info.parameter_status("server_encoding") == "UTF8"
        and info.encoding == "utf-8"
        # psycopg takes UTC for a zone that Python does not know.
        and str(info.timezone) == info.parameter_status("TimeZone")
    )


def _field(name: str, kind: int, shape: JsonShape) -> str:
    column = _column(name)
    if kind != NUMERIC:
        return column
    number = column if shape.decimals_as_numbers else f"{column}::text"
    return (
        f"CASE WHEN {column}::text IN {NOT_FINITE} THEN NULL ELSE {number} END AS {_quoted(name)}"
    )


def _column(name: str) -> str:
    return f"q.{_quoted(name)}"


def _quoted(name: str) -> str:
    escaped = name.replace('"', '""').replace(":", r"\:")
    return f'"{escaped}"'
