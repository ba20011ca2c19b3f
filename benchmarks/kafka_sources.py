"""The databases that `make bench-kafka` reads: one table, and a C tool that prints its messages.

The table is the same in each, and so is each row's JSON. The C tools print `key|value` lines.
"""

import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.kafka_sides import QUERY
from tests.services import mariadb, postgresql

POSTGRESQL = """
CREATE TABLE events AS
SELECT n AS id,
       'RR' || lpad(n::text, 9, '0') || 'IT' AS codice,
       date '2026-01-01' + (n % 28)::int AS data_evento,
       timestamptz '2026-01-18 00:00:00+00' + n * interval '1 second' AS ora_evento,
       (ARRAY['ACCETTATO', 'IN TRANSITO', 'IN CONSEGNA', 'CONSEGNATO'])[1 + n % 4] AS stato,
       'Centro ' || n % 97 AS ufficio,
       CASE WHEN n % 3 = 0 THEN 'Consegna effettuata' END AS note
FROM generate_series(1, {rows}) AS n;
ALTER TABLE events ADD PRIMARY KEY (id);
ANALYZE events
"""
POSTGRESQL_LINES = (
    f"COPY (SELECT codice || '|' || row_to_json(e)::text FROM ({QUERY}) AS e) TO STDOUT"
)

MARIADB = """
CREATE TABLE events (PRIMARY KEY (id)) AS
SELECT seq AS id,
       CONCAT('RR', LPAD(seq, 9, '0'), 'IT') AS codice,
       DATE '2026-01-01' + INTERVAL (seq % 28) DAY AS data_evento,
       TIMESTAMP '2026-01-18 00:00:00' + INTERVAL seq SECOND AS ora_evento,
       ELT(1 + seq % 4, 'ACCETTATO', 'IN TRANSITO', 'IN CONSEGNA', 'CONSEGNATO') AS stato,
       CONCAT('Centro ', seq % 97) AS ufficio,
       IF(seq % 3 = 0, 'Consegna effettuata', NULL) AS note
FROM seq_1_to_{rows}
"""
MARIADB_LINES = """
SELECT CONCAT(codice, '|{"id":', id, ',"codice":', JSON_QUOTE(codice),
              ',"data_evento":"', data_evento,
              '","ora_evento":"', DATE_FORMAT(ora_evento, '%Y-%m-%dT%H:%i:%s'), '+00:00"',
              ',"stato":', JSON_QUOTE(stato), ',"ufficio":', JSON_QUOTE(ufficio),
              ',"note":', IFNULL(JSON_QUOTE(note), 'null'), '}')
FROM events ORDER BY id
"""

SQLITE = """
WITH RECURSIVE seq(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM seq WHERE n < {rows})
INSERT INTO events
SELECT n, printf('RR%09dIT', n), date('2026-01-01', (n % 28) || ' days'),
       strftime('%Y-%m-%dT%H:%M:%S+00:00', '2026-01-18', n || ' seconds'),
       CASE n % 4 WHEN 0 THEN 'ACCETTATO' WHEN 1 THEN 'IN TRANSITO' WHEN 2 THEN 'IN CONSEGNA'
                  ELSE 'CONSEGNATO' END,
       'Centro ' || n % 97, CASE WHEN n % 3 = 0 THEN 'Consegna effettuata' END
FROM seq
"""
SQLITE_LINES = """
SELECT codice || '|' || json_object('id', id, 'codice', codice, 'data_evento', data_evento,
       'ora_evento', ora_evento, 'stato', stato, 'ufficio', ufficio, 'note', note)
FROM events ORDER BY id
"""


@dataclass(frozen=True)
class Source:
    """A filled database: the fields of its `ConnectionSettings`, and the C tool's command."""

    connection: Mapping[str, Any]
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def _postgresql(rows: int) -> Iterator[Source]:
    with postgresql.running() as server:
        with closing(server.connect(autocommit=True)) as connection:
            for statement in POSTGRESQL.format(rows=rows).split(";"):
                connection.execute(statement)
        psql = (
            "psql", "-X", "-q", "-h", server.host, "-p", str(server.port), "-U", server.user,
            "-d", server.database, "-c", POSTGRESQL_LINES,
        )  # fmt: skip
        yield Source(_fields("postgresql", server), psql, {"PGPASSWORD": server.password})


@contextmanager
def _mariadb(rows: int) -> Iterator[Source]:
    with mariadb.running() as server:
        with closing(server.connect(autocommit=True)) as connection:
            connection.cursor().execute(MARIADB.format(rows=rows))
        client = (
            "mariadb", "--no-defaults", "--host", server.host, "--port", str(server.port),
            "--user", server.user, "--database", server.database, "--batch", "--raw", "--quick",
            "--skip-column-names", "--default-character-set=utf8mb4", "-e", MARIADB_LINES,
        )  # fmt: skip
        yield Source(_fields("mysql", server), client, {"MYSQL_PWD": server.password})


@contextmanager
def _sqlite(rows: int) -> Iterator[Source]:
    with tempfile.TemporaryDirectory(prefix="query-export-benchmark-") as folder:
        path = Path(folder, "events.sqlite3")
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(
                "CREATE TABLE events (id integer PRIMARY KEY, codice text, data_evento text, "
                "ora_evento text, stato text, ufficio text, note text)"
            )
            connection.execute(SQLITE.format(rows=rows))
            connection.commit()
        yield Source(
            {"engine": "sqlite", "database": str(path)}, ("sqlite3", str(path), SQLITE_LINES)
        )


SOURCES: Mapping[str, Callable[[int], AbstractContextManager[Source]]] = {
    "postgresql": _postgresql,
    "mariadb": _mariadb,
    "sqlite": _sqlite,
}


def _fields(engine: str, server: Any) -> dict[str, Any]:
    return {
        "engine": engine,
        "host": server.host,
        "port": server.port,
        "database": server.database,
        "username": server.user,
        "password": server.password,
    }
