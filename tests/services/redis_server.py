"""Starts a throw-away Redis server for the tests, or reaches the one they are told to use."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import redis

from tests.services.processes import (
    LOOPBACK,
    ServerProcess,
    find_program,
    free_port,
    service_folder,
)

URL_VARIABLE = "TEST_REDIS_URL"
DEFAULT_PORT = 6379


@dataclass(frozen=True)
class RedisServer:
    """Where a Redis server is and how to log in; `database` is Redis's number of it."""

    host: str
    port: int
    password: str = field(repr=False)
    database: int = 0
    user: str = ""
    version: str = ""
    process: ServerProcess | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return self.database_url(self.database)

    def database_url(self, database: int) -> str:
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}@"
        return f"redis://{login if self.password else ''}{self.host}:{self.port}/{database}"

    def connect(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, socket_connect_timeout=5)


def unavailable_reason() -> str | None:
    """Return why no Redis can be had here, or None."""
    if os.environ.get(URL_VARIABLE) or _program() is not None:
        return None
    return "redis-server not found (Debian package redis-server)"


@contextmanager
def running() -> Iterator[RedisServer]:
    """Give a Redis server that answers."""
    if url := os.environ.get(URL_VARIABLE):
        yield _with_version(_from_url(url))
        return
    with service_folder("redis") as folder:
        server = RedisServer(LOOPBACK, free_port(), secrets.token_urlsafe(12))
        with _process(folder, server) as process:
            yield _with_version(replace(server, process=process))


def _program() -> Path | None:
    return find_program("redis-server", Path("/usr/bin"))


def _process(folder: Path, server: RedisServer) -> ServerProcess:
    configuration = folder / "redis.conf"
    configuration.write_text(
        f"bind {server.host}\n"
        f"port {server.port}\n"
        f"requirepass {server.password}\n"
        f"dir {folder}\n"
        # Kept in memory only.
        'save ""\n'
        "appendonly no\n"
    )
    command = [str(_program()), str(configuration)]
    return ServerProcess("redis", command, folder, probe=lambda: _ping(server), stop_seconds=10)


def _ping(server: RedisServer) -> None:
    with server.connect() as client:
        client.ping()


def _from_url(url: str) -> RedisServer:
    parts = urlsplit(url)
    return RedisServer(
        parts.hostname or LOOPBACK,
        parts.port or DEFAULT_PORT,
        unquote(parts.password or ""),
        int(parts.path.strip("/") or 0),
        unquote(parts.username or ""),
    )


def _with_version(server: RedisServer) -> RedisServer:
    with server.connect() as client:
        return replace(server, version=str(client.info("server")["redis_version"]))
