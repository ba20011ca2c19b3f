"""Starts a throw-away RabbitMQ server for the tests, or reaches the one they are told to use."""

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import amqp

from tests.services.processes import (
    LOOPBACK,
    ServerProcess,
    find_program,
    free_ports,
    service_folder,
    unprivileged_account,
)

URL_VARIABLE = "TEST_RABBITMQ_URL"
DEFAULT_PORT = 5672


@dataclass(frozen=True)
class RabbitMQ:
    """Where a RabbitMQ server is and who may log in."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    virtual_host: str = "/"
    version: str = ""
    process: ServerProcess | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        return f"amqp://{login}@{self.host}:{self.port}/{quote(self.virtual_host, safe='')}"

    def connect(self) -> amqp.Connection:
        """A connection that is logged in; its `with` block closes it."""
        connection = amqp.Connection(
            f"{self.host}:{self.port}",
            userid=self.user,
            password=self.password,
            virtual_host=self.virtual_host,
            connect_timeout=5,
            read_timeout=5,
        )
        connection.connect()
        return connection


@dataclass(frozen=True)
class _Ports:
    """Where a node's parts listen: its clients, other nodes, and the register of nodes (epmd)."""

    amqp: int
    nodes: int
    register: int


def unavailable_reason() -> str | None:
    """Return why no RabbitMQ can be had here, or None."""
    if os.environ.get(URL_VARIABLE):
        return None
    missing = [name for name in ("rabbitmq-server", "epmd") if _program(name) is None]
    if missing:
        return f"{' and '.join(missing)} not found (Debian package rabbitmq-server)"
    return None


@contextmanager
def running() -> Iterator[RabbitMQ]:
    """Give a RabbitMQ server that answers."""
    if url := os.environ.get(URL_VARIABLE):
        yield _with_version(_from_url(url))
        return
    account = unprivileged_account("rabbitmq", "nobody")
    ports = _Ports(*free_ports(3))
    with service_folder("rabbitmq", account) as folder, _register(folder, account, ports):
        server = RabbitMQ(LOOPBACK, ports.amqp, "query_export", secrets.token_urlsafe(12))
        with _node(folder, account, server, ports) as process:
            yield _with_version(replace(server, process=process))


def _program(name: str) -> Path | None:
    # Debian's `rabbitmq-server` in PATH takes the system's account and folders; this one asks us.
    own = Path("/usr/lib/rabbitmq/lib").glob(f"rabbitmq_server-*/sbin/{name}")
    return next(own, None) or find_program(name)


def _register(folder: Path, account: str | None, ports: _Ports) -> ServerProcess:
    """Erlang's register of nodes, which a node would start by itself and leave behind."""
    command = [str(_program("epmd")), "-address", LOOPBACK, "-port", str(ports.register)]
    return ServerProcess(
        "rabbitmq-epmd",
        command,
        folder,
        probe=lambda: socket.create_connection((LOOPBACK, ports.register), 5).close(),
        account=account,
    )


def _node(folder: Path, account: str | None, server: RabbitMQ, ports: _Ports) -> ServerProcess:
    configuration = folder / "rabbitmq.conf"
    configuration.write_text(
        f"listeners.tcp.local = {server.host}:{server.port}\n"
        f"default_user = {server.user}\n"
        f"default_pass = {server.password}\n"
        # As docs/operating.md asks for it.
        "consumer_timeout = 90000000\n"
        "log.console = true\n"
        "log.file = false\n"
    )
    plugins = folder / "enabled_plugins"
    plugins.write_text("[].\n")
    environment = {
        "HOME": str(folder),  # Of the cookie by which nodes know each other.
        "ERL_EPMD_ADDRESS": LOOPBACK,
        "ERL_EPMD_PORT": str(ports.register),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),  # Not the system's.
        "RABBITMQ_CONFIG_FILE": str(configuration),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_NODENAME": f"{folder.name}@localhost",
        "RABBITMQ_DIST_PORT": str(ports.nodes),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        # The script becomes the server then; else it would be a parent that does not pass on KILL.
        "RUNNING_UNDER_SYSTEMD": "true",
    }
    return ServerProcess(
        "rabbitmq",
        [str(_program("rabbitmq-server"))],
        folder,
        probe=lambda: server.connect().close(),
        account=account,
        environment=environment,
    )


def _from_url(url: str) -> RabbitMQ:
    parts = urlsplit(url)
    return RabbitMQ(
        parts.hostname or LOOPBACK,
        parts.port or DEFAULT_PORT,
        unquote(parts.username or ""),
        unquote(parts.password or ""),
        unquote(parts.path.removeprefix("/")) or "/",
    )


def _with_version(server: RabbitMQ) -> RabbitMQ:
    with server.connect() as connection:
        return replace(server, version=str(connection.server_properties["version"]))
