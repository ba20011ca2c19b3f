"""Starts a throw-away MariaDB server for the tests, or reaches the one they are told to use."""

import os
import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import pymysql

from tests.services.processes import (
    LOOPBACK,
    ServerProcess,
    find_program,
    free_port,
    run_tool,
    service_folder,
    unprivileged_account,
)

URL_VARIABLE = "TEST_MARIADB_URL"
DEFAULT_PORT = 3306
_SETTINGS = (
    f"--bind-address={LOOPBACK}",
    "--character-set-server=utf8mb4",
    "--collation-server=utf8mb4_unicode_ci",
    "--skip-name-resolve",
    "--local-infile=1",
    # A test's data need not survive a power cut.
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=0",
    "--innodb-buffer-pool-size=128M",
    "--innodb-log-file-size=64M",
    "--skip-log-bin",
    "--performance-schema=0",
)


@dataclass(frozen=True)
class MariaDB:
    """Where a MariaDB server is and who may log in."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    version: str = ""
    process: ServerProcess | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        return f"mysql://{login}@{self.host}:{self.port}/{quote(self.database, safe='')}"

    def connect(self, *, autocommit: bool = False) -> "pymysql.Connection[pymysql.cursors.Cursor]":
        return pymysql.connect(
            host=self.host,
            port=self.port,
            user=self.user,
            password=self.password,
            database=self.database,
            charset="utf8mb4",
            connect_timeout=5,
            local_infile=True,
            autocommit=autocommit,
        )


def unavailable_reason() -> str | None:
    """Return why no MariaDB can be had here, or None."""
    if os.environ.get(URL_VARIABLE):
        return None
    missing = [name for name in ("mariadb-install-db", "mariadbd") if _program(name) is None]
    if missing:
        return f"{' and '.join(missing)} not found (Debian package mariadb-server)"
    return None


@contextmanager
def running() -> Iterator[MariaDB]:
    """Give a MariaDB server that answers."""
    if url := os.environ.get(URL_VARIABLE):
        yield _with_version(_from_url(url))
        return
    account = unprivileged_account("mysql", "nobody")
    with service_folder("mariadb", account) as folder:
        password = secrets.token_urlsafe(12)
        server = MariaDB(LOOPBACK, free_port(), "query_export", password, "query_export")
        _initialise(folder, account)
        _write_first_statements(folder, server)
        with _process(folder, account, server) as process:
            yield _with_version(replace(server, process=process))


def _program(name: str) -> Path | None:
    return find_program(name, Path("/usr/sbin"), Path("/usr/bin"))


def _initialise(folder: Path, account: str | None) -> None:
    run_tool(
        [
            str(_program("mariadb-install-db")),
            # Otherwise the machine's own configuration would take part.
            "--no-defaults",
            f"--datadir={folder / 'data'}",
            "--skip-test-db",
            # Without a password, root can log in through the socket only, as the same account.
            "--auth-root-authentication-method=socket",
            "--skip-name-resolve",
        ],
        cwd=folder,
        account=account,
    )


def _write_first_statements(folder: Path, server: MariaDB) -> None:
    account = f"'{server.user}'@'{server.host}'"
    path = folder / "first.sql"
    path.write_text(
        # The server runs these at every start, so they must bear being repeated.
        f"CREATE DATABASE IF NOT EXISTS {server.database} CHARACTER SET utf8mb4;\n"
        f"CREATE USER IF NOT EXISTS {account} IDENTIFIED BY '{server.password}';\n"
        f"GRANT ALL PRIVILEGES ON *.* TO {account} WITH GRANT OPTION;\n"
    )


def _process(folder: Path, account: str | None, server: MariaDB) -> ServerProcess:
    command = [
        str(_program("mariadbd")),
        "--no-defaults",
        f"--datadir={folder / 'data'}",
        f"--tmpdir={folder}",
        f"--socket={folder / 'socket'}",
        f"--pid-file={folder / 'pid'}",
        f"--port={server.port}",
        f"--init-file={folder / 'first.sql'}",
        *_SETTINGS,
    ]
    return ServerProcess(
        "mariadb", command, folder, probe=lambda: server.connect().close(), account=account
    )


def _from_url(url: str) -> MariaDB:
    parts = urlsplit(url)
    return MariaDB(
        parts.hostname or LOOPBACK,
        parts.port or DEFAULT_PORT,
        unquote(parts.username or ""),
        unquote(parts.password or ""),
        unquote(parts.path.lstrip("/")),
    )


def _with_version(server: MariaDB) -> MariaDB:
    with closing(server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT VERSION()")
        row = cursor.fetchone()
    return replace(server, version=str(row[0]).split("-")[0] if row else "")
