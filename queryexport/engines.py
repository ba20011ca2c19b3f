"""What differs between database engines: how to connect, go read-only, and stop a statement."""

import os
import socket
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import URL, Connection, Engine, create_engine
from sqlalchemy.pool import NullPool

from queryexport.cursors import CANCEL_SEC, Cursor, JsonCursor, NamedCursor, ResultCursor
from queryexport.errors import ConfigurationError
from queryexport.parameters import Statement
from queryexport.postgresql_json import json_query, writes_as_python
from queryexport.rows import JsonShape

APPLICATION_NAME = "query-export"
LONGEST_DELIVERY_SEC = 6 * 60 * 60


@dataclass(frozen=True)
class ConnectionSettings:
    """A database connection as a worker needs it, secrets resolved. Never log or store one."""

    name: str
    engine: str
    host: str = ""
    port: int | None = None
    database: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)
    connect_timeout_sec: int = 10
    statement_timeout_sec: int = 300

    def __str__(self) -> str:
        place = f"{self.host}:{self.port}" if self.port else self.host
        database = self.database if self.host else Path(self.database).name
        return f"“{self.name}” ({self.engine} {'/'.join(filter(None, (place, database)))})"


class Dialect(Protocol):
    """What `source` needs to know of one engine."""

    options: frozenset[str] = frozenset()
    reads_as_mysql: bool = False  # See `parameters`: what ends a literal, what begins a comment.
    # How the server's words begin or sound when it will refuse the log-in the next time as well.
    login_refused: str = r"(?!)"

    def create(self, settings: ConnectionSettings) -> Engine:
        """An engine without a pool: one run, one session, closed at its end."""

    def begin(self, connection: Connection, settings: ConnectionSettings) -> None:
        """Makes the session read-only where the engine can, and sets its own time limit."""
        return

    def cancel(self, driver_connection: Any, settings: ConnectionSettings) -> None:
        """Stops the running statement in the database; called from another thread.

        It may come before the statement begins, and then does nothing.
        """

    def cut(self, driver_connection: Any) -> None:
        """Breaks the connection from another thread, where cancelling did not help."""
        return

    def abandon(
        self, connection: Connection, driver_connection: Any, settings: ConnectionSettings
    ) -> None:
        """Gives up a half-read result, where closing it would read it to its end."""
        return

    def execute(self, connection: Connection, statement: Statement, *, batch_rows: int) -> Cursor:
        """Runs the statement with a cursor that is read in batches."""
        return ResultCursor(connection, statement, batch_rows=batch_rows)

    def execute_as_json(
        self, connection: Connection, statement: Statement, cursor: Cursor, shape: JsonShape
    ) -> Cursor | None:
        """A second cursor for the statement of an open one, which gives its rows as `JsonRows`;
        None where the engine cannot, or not to the byte.
        """
        return None


def _cut(descriptor: int) -> None:
    """Ends what another thread waits for on that socket."""
    with socket.socket(fileno=os.dup(descriptor)) as own:
        own.shutdown(socket.SHUT_RDWR)


def _engine(
    settings: ConnectionSettings,
    drivername: str,
    connect_args: dict[str, Any],
    query: Mapping[str, str] | None = None,
    database: str | None = None,
) -> Engine:
    url = URL.create(
        drivername,
        username=settings.username or None,
        password=settings.password or None,
        host=settings.host or None,
        port=settings.port,
        database=settings.database if database is None else database,
        query=query or {},
    )
    return create_engine(url, connect_args=connect_args, poolclass=NullPool)


class PostgreSQL(Dialect):
    """Named cursor inside a read-only transaction; cancelled by PostgreSQL's cancel request."""

    options = frozenset({"sslmode", "sslrootcert", "target_session_attrs"})
    # A refused connection carries no SQLSTATE in libpq, so its words have to do.
    login_refused = (
        r"password authentication failed|no password supplied|no pg_hba\.conf entry"
        r'|(role|database) ".*" does not exist'
    )

    def create(self, settings: ConnectionSettings) -> Engine:
        # A batch that a slow sink leaves unread counts as statement time here, so this is only the
        # net under our own clock; client_connection_check_interval ends the statement of a killed
        # worker.
        seconds = settings.statement_timeout_sec + LONGEST_DELIVERY_SEC
        arguments = {
            "connect_timeout": settings.connect_timeout_sec,
            "application_name": APPLICATION_NAME,
            "options": f"-c statement_timeout={seconds}s",
            # A network that is gone is noticed after a minute.
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "tcp_user_timeout": 60_000,
            **settings.options,
        }
        return _engine(settings, "postgresql+psycopg", arguments)

    def begin(self, connection: Connection, settings: ConnectionSettings) -> None:
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.read_only = True
        if driver.info.server_version >= 140000:
            connection.exec_driver_sql("SET client_connection_check_interval = '5s'")

    def cancel(self, driver_connection: Any, settings: ConnectionSettings) -> None:
        driver_connection.cancel_safe(timeout=CANCEL_SEC)

    def cut(self, driver_connection: Any) -> None:
        _cut(driver_connection.fileno())

    def execute(self, connection: Connection, statement: Statement, *, batch_rows: int) -> Cursor:
        return NamedCursor(connection, statement)

    def execute_as_json(
        self, connection: Connection, statement: Statement, cursor: Cursor, shape: JsonShape
    ) -> Cursor | None:
        types = tuple(zip(cursor.names, cursor.types, strict=True))
        sql = json_query(statement.text, types, shape)
        if sql is None or not writes_as_python(connection.connection.driver_connection):
            return None
        return JsonCursor(connection, replace(statement, text=sql))


class MySQL(Dialect):
    """MySQL and MariaDB: unbuffered cursor; `KILL QUERY` from a second session stops it."""

    reads_as_mysql = True
    login_refused = r"^(1044|1045|1049|1251|1698)\b"
    options = frozenset({"charset", "ssl_ca", "ssl_verify_cert", "ssl_verify_identity"})

    def create(self, settings: ConnectionSettings, **limits: int) -> Engine:
        arguments = {
            "charset": "utf8mb4",
            "connect_timeout": settings.connect_timeout_sec,
            "read_timeout": settings.statement_timeout_sec + 30,
            "program_name": APPLICATION_NAME,
            **settings.options,
            **limits,
        }
        return _engine(settings, "mysql+pymysql", arguments)

    def begin(self, connection: Connection, settings: ConnectionSettings) -> None:
        # MariaDB's clocks run on while a slow sink leaves rows unread, so they are only the net
        # under our own; the second one would end the connection after a minute.
        seconds = settings.statement_timeout_sec + LONGEST_DELIVERY_SEC
        mariadb = getattr(connection.dialect, "is_mariadb", False)
        limit = f"max_statement_time={seconds}" if mariadb else f"max_execution_time={seconds}000"
        connection.exec_driver_sql(f"SET SESSION {limit}, net_write_timeout={seconds}")
        # The session too: a statement that commits by itself would leave the transaction.
        connection.exec_driver_sql("SET SESSION TRANSACTION READ ONLY")
        connection.exec_driver_sql("START TRANSACTION READ ONLY")

    def cancel(self, driver_connection: Any, settings: ConnectionSettings) -> None:
        limits = {"connect_timeout": CANCEL_SEC, "read_timeout": CANCEL_SEC}
        with self.create(settings, **limits).connect() as second:
            second.exec_driver_sql(f"KILL QUERY {int(driver_connection.thread_id())}")

    def cut(self, driver_connection: Any) -> None:
        _cut(driver_connection._sock.fileno())  # PyMySQL offers no public way.

    def abandon(
        self, connection: Connection, driver_connection: Any, settings: ConnectionSettings
    ) -> None:
        if driver_connection._result:  # PyMySQL offers no public way.
            driver_connection._result.unbuffered_active = False
        if not connection.invalidated:  # Else the server is gone, and the statement with it.
            connection.invalidate()
            self.cancel(driver_connection, settings)


class SQLite(Dialect):
    """A file opened read-only; there is no server, so the statement is interrupted in place."""

    def create(self, settings: ConnectionSettings) -> Engine:
        path = Path(settings.database)

        def connect() -> sqlite3.Connection:
            database = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=ro",
                uri=True,
                timeout=settings.connect_timeout_sec,
                check_same_thread=False,
            )
            database.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)  # ATTACH creates files.
            return database

        return create_engine("sqlite+pysqlite://", creator=connect, poolclass=NullPool)

    def begin(self, connection: Connection, settings: ConnectionSettings) -> None:
        connection.exec_driver_sql("PRAGMA query_only = ON")

    def cancel(self, driver_connection: Any, settings: ConnectionSettings) -> None:
        driver_connection.interrupt()


class DuckDB(Dialect):
    """A file opened read-only, without other files or the network; it has no own time limit."""

    options = frozenset({"threads", "memory_limit"})

    def create(self, settings: ConnectionSettings) -> Engine:
        config = {"enable_external_access": "false", **settings.options}
        return _engine(settings, "duckdb", {"read_only": True, "config": config})

    def cancel(self, driver_connection: Any, settings: ConnectionSettings) -> None:
        driver_connection.interrupt()


class Oracle(Dialect):
    """The thin driver, by service name; a read-only transaction and `call_timeout`."""

    options = frozenset({"wallet_location", "ssl_server_dn_match"})
    login_refused = r"ORA-(01017|01045|28000|28001|12514)"

    def create(self, settings: ConnectionSettings) -> Engine:
        arguments = {"tcp_connect_timeout": settings.connect_timeout_sec, **settings.options}
        query = {"service_name": settings.database}
        return _engine(settings, "oracle+oracledb", arguments, query, database="")

    def begin(self, connection: Connection, settings: ConnectionSettings) -> None:
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.call_timeout = settings.statement_timeout_sec * 1000
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")

    def cancel(self, driver_connection: Any, settings: ConnectionSettings) -> None:
        driver_connection.cancel()


class SQLServer(Dialect):
    """SQL Server has no read-only transaction: the login must have `db_datareader` only."""

    options = frozenset({"tds_version", "encryption"})
    login_refused = r"\b(18456|18470|18487|18488|4060)\b"

    def create(self, settings: ConnectionSettings) -> Engine:
        arguments = {
            "login_timeout": settings.connect_timeout_sec,
            "timeout": settings.statement_timeout_sec,
            "appname": APPLICATION_NAME,
            **settings.options,
        }
        return _engine(settings, "mssql+pymssql", arguments)

    def cancel(self, driver_connection: Any, settings: ConnectionSettings) -> None:
        driver_connection._conn.cancel()  # pymssql offers no public way.


DIALECTS: Mapping[str, Dialect] = {
    "postgresql": PostgreSQL(),
    "mysql": MySQL(),
    "oracle": Oracle(),
    "mssql": SQLServer(),
    "sqlite": SQLite(),
    "duckdb": DuckDB(),
}


def check_options(engine: str, options: Mapping[str, Any]) -> None:
    """Raises `ConfigurationError` for an option that is not on the engine's list.

    A list of what is allowed, because drivers take options that read files or run commands.
    """
    allowed = DIALECTS[engine].options
    if unknown := sorted(set(options) - allowed):
        raise ConfigurationError(
            f"{', '.join(unknown)} is no option that {engine} connections may set. "
            f"Allowed: {', '.join(sorted(allowed)) or 'none'}."
        )
