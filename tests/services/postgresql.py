"""Starts a throw-away PostgreSQL server for the tests, or reaches the one they are told to use."""

import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import psycopg

from tests.services.processes import (
    LOOPBACK,
    ServerProcess,
    find_program,
    free_port,
    run_tool,
    service_folder,
    unprivileged_account,
)

URL_VARIABLE = "TEST_POSTGRESQL_URL"
DEFAULT_PORT = 5432
_SPEED = {
    # A test's data need not survive a power cut.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
}


@dataclass(frozen=True)
class PostgreSQL:
    """Where a PostgreSQL server is and who may log in."""

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
        return f"postgresql://{login}@{self.host}:{self.port}/{quote(self.database, safe='')}"

    def connect(self, *, autocommit: bool = False) -> psycopg.Connection:
        return psycopg.connect(
            host=self.host,
            port=self.port,
            user=self.user,
            password=self.password,
            dbname=self.database,
            connect_timeout=5,
            autocommit=autocommit,
        )


def unavailable_reason() -> str | None:
    """Return why no PostgreSQL can be had here, or None."""
    if os.environ.get(URL_VARIABLE):
        return None
    missing = [name for name in ("initdb", "postgres") if _program(name) is None]
    if missing:
        return f"{' and '.join(missing)} not found (Debian package postgresql)"
    return None


@contextmanager
def running() -> Iterator[PostgreSQL]:
    """Give a PostgreSQL server that answers."""
    if url := os.environ.get(URL_VARIABLE):
        yield _with_version(_from_url(url))
        return
    account = unprivileged_account("postgres", "nobody")
    with service_folder("postgresql", account) as folder:
        password = secrets.token_urlsafe(12)
        server = PostgreSQL(LOOPBACK, free_port(), "query_export", password, "postgres")
        _initialise(folder, account, server)
        with _process(folder, account, server) as process:
            yield _with_version(replace(server, process=process))


def _program(name: str) -> Path | None:
    # Debian keeps the server's programs out of PATH, one folder for each release.
    folders = Path("/usr/lib/postgresql").glob("*/bin")
    newest_first = sorted(folders, key=lambda folder: float(folder.parent.name), reverse=True)
    return find_program(name, *newest_first)


def _initialise(folder: Path, account: str | None, server: PostgreSQL) -> None:
    password_file = folder / "password"
    password_file.write_text(server.password)
    password_file.chmod(0o644)  # The folder itself is closed to everybody else.
    run_tool(
        [
            str(_program("initdb")),
            f"--pgdata={folder / 'data'}",
            f"--username={server.user}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        ],
        cwd=folder,
        account=account,
    )


def _process(folder: Path, account: str | None, server: PostgreSQL) -> ServerProcess:
    settings = {"listen_addresses": LOOPBACK, "unix_socket_directories": "", **_SPEED}
    command = [str(_program("postgres")), "-D", str(folder / "data"), "-p", str(server.port)]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    return ServerProcess(
        "postgresql",
        command,
        folder,
        probe=lambda: server.connect().close(),
        account=account,
        # SIGTERM would wait for every client to leave; this is PostgreSQL's "fast shutdown".
        stop_signal=signal.SIGINT,
    )


def _from_url(url: str) -> PostgreSQL:
    parts = urlsplit(url)
    return PostgreSQL(
        parts.hostname or LOOPBACK,
        parts.port or DEFAULT_PORT,
        unquote(parts.username or ""),
        unquote(parts.password or ""),
        unquote(parts.path.lstrip("/")) or "postgres",
    )


def _with_version(server: PostgreSQL) -> PostgreSQL:
    with server.connect() as connection:
        row = connection.execute("SHOW server_version").fetchone()
    # Debian appends its own package version in brackets.
    return replace(server, version=str(row[0]).split()[0] if row else "")
