"""A table of PostgreSQL with a column of each common type, and its rows by PostgreSQL's own CSV."""

import csv
import io

import psycopg

QUERY = "SELECT * FROM every_type ORDER BY id"
_NULL = "<null>"

Cells = list[list[str | None]]

# Each column by name: its type, and what kind of value a reader takes its cells for.
COLUMNS = {
    "id": ("integer", "number"),
    "small": ("smallint", "number"),
    "large": ("bigint", "number"),
    "over_15_digits": ("bigint", "number"),
    "amount": ("numeric(12, 2)", "number"),
    "exact": ("numeric(30, 12)", "number"),
    "ratio": ("double precision", "double"),
    "code": ("text", "text"),
    "words": ("text", "text"),
    "letters": ("char(3)", "text"),
    "sent": ("timestamptz", "moment"),
    "noted": ("timestamp", "clock"),
    "day": ("date", "text"),
    "born": ("date", "text"),
    "hour": ("time", "time"),
    "paid": ("boolean", "boolean"),
    "token": ("uuid", "text"),
    "content": ("bytea", "bytes"),
    "details": ("jsonb", "json"),
    "plain_json": ("json", "json"),
    "nothing": ("text", "text"),
}
KINDS = tuple(kind for _, kind in COLUMNS.values())

_EXTREMES = r"""
INSERT INTO every_type VALUES
(1, -32768, 999999999999999, 9223372036854775807, 9999999999.99,
 123456789012345678.123456789012, 0.1, '007', '=1+1', 'a',
 '2026-03-29 01:00:00+00', '2026-03-29 02:30:00', '2026-02-28', '1821-05-05', '00:00:00', true,
 '00000000-0000-0000-0000-000000000000', '', '{}', '[1, null, "à"]'),
(2, 32767, -999999999999999, -9223372036854775808, -0.01,
 -0.000000000001, -1.7976931348623157e100, '1e5',
 E'a "quoted", comma; and\nanother line\ttab', ' b ',
 '2026-10-25 00:30:00+00', '1999-12-31 23:59:59.5', '1900-03-01', '2000-01-01', '23:59:59', false,
 'ffffffff-ffff-ffff-ffff-ffffffffffff', '\x00ff0d0a',
 '{"a": {"b": [1.5, "x\ny"]}, "è": true}', '["text", true]'),
(3, 0, 0, 0, 0,
 0, 1e-7, '', '', '',
 '2026-10-25 01:30:00.125+00', '2026-01-01', '9999-12-31', '0044-03-15', '12:00:00.25', null,
 '12345678-1234-5678-1234-567812345678', '\xc3a8', '["è"]', '[]');
INSERT INTO every_type (id) VALUES (4)
"""
_WORDS = (
    "-1", "+39 06 698", "@SUM(A1)", "#N/A", "#REF!", "TRUE", "2024-01-01", "1/2", "10%", "€ 5,00",
    " padded ", "'quoted", "<b>&amp;</b>", "_x0041_", "http://example.com", "à😀漢", "a\\nb",
    "NULL", "0x1F", '"', ",", ";", "\n", '=HYPERLINK("http://example.com","x")', "1.10",
    "00", "١٢٣",
)  # fmt: skip
_MANY = """
INSERT INTO every_type
SELECT n, n % 100, n * 1000003::bigint, 9007199254740993 + n, n * 7919.07,
       n / 7.0, sqrt(n), lpad(n::text, 8, '0'), words.list[1 + n % array_length(words.list, 1)],
       'x',
       timestamptz '1970-01-01 00:00:00+00' + n * interval '37 hours 61 seconds',
       timestamp '1950-01-01' + n * interval '25 hours 1 minute',
       date '1950-01-01' + n, date '1700-01-01' + n * 40, time '00:00' + n * interval '17 seconds',
       n % 2 = 0, md5(n::text)::uuid, decode(md5(n::text), 'hex'),
       jsonb_build_object('n', n, 'half', n::float8 / 2), json_build_array(n::text, n)
FROM generate_series(100, 2500) AS n, (SELECT %s::text[] AS list) AS words
"""


def create(connection: psycopg.Connection) -> None:
    """Creates and fills the table, and commits."""
    columns = ", ".join(f"{name} {type_}" for name, (type_, _) in COLUMNS.items())
    connection.execute("DROP TABLE IF EXISTS every_type")
    connection.execute(f"CREATE TABLE every_type ({columns})")
    connection.execute(_EXTREMES)
    connection.execute(_MANY.replace("%", "%%").replace("%%s", "%s"), [list(_WORDS)])
    connection.commit()


def exported(connection: psycopg.Connection, query: str, zone: str) -> Cells:
    """What the database's own `COPY` writes: the header, then the rows, with None for NULL."""
    connection.execute("SELECT set_config('TimeZone', %s, false)", [zone])
    copying = f"COPY ({query}) TO STDOUT (FORMAT csv, HEADER, NULL '{_NULL}')"
    with connection.cursor().copy(copying) as copy:
        content = b"".join(copy).decode()
    rows = csv.reader(io.StringIO(content, newline=""))
    return [[None if cell == _NULL else cell for cell in row] for row in rows]
