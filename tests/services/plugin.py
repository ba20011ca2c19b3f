"""Gives the tests the real services as pytest fixtures, and says at the end which were used."""

import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import pytest

from tests import flights
from tests.services import kafka as kafka_service
from tests.services import libreoffice as libreoffice_service
from tests.services import mariadb as mariadb_service
from tests.services import postgresql as postgresql_service
from tests.services import rabbitmq as rabbitmq_service
from tests.services import redis_server as redis_service
from tests.services import s3 as s3_service
from tests.services import samba as samba_service
from tests.services import secured_kafka as secured_kafka_service
from tests.services import sftp as sftp_service
from tests.services import smtp as smtp_service
from tests.services.kafka import KafkaBroker
from tests.services.libreoffice import LibreOffice
from tests.services.mariadb import MariaDB
from tests.services.postgresql import PostgreSQL
from tests.services.rabbitmq import RabbitMQ
from tests.services.redis_server import RedisServer
from tests.services.s3 import S3Server
from tests.services.samba import SambaServer
from tests.services.secured_kafka import SecuredKafka
from tests.services.sftp import SftpServer
from tests.services.smtp import SMTPServer

REQUIRED_VARIABLE = "REQUIRE_SERVICES"
_ADVICE = "install them with `make services`"


class _Service(Protocol):
    @property
    def version(self) -> str: ...


ServiceT = TypeVar("ServiceT", bound=_Service)


@dataclass
class _Record:
    """What the run learned about the services, for its last lines."""

    used: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


_RECORD = pytest.StashKey[_Record]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_RECORD] = _Record()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    record = config.stash[_RECORD]
    if record.used:
        versions = ", ".join(f"{name} {version}" for name, version in record.used.items())
        terminalreporter.write_line(f"Real services used: {versions}.")
    if record.missing:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in record.missing.items())
        terminalreporter.write_line(
            f"Services not found, their tests did not run ({_ADVICE}): {reasons}.", yellow=True
        )


@pytest.fixture(scope="session")
def postgresql(pytestconfig: pytest.Config) -> Iterator[PostgreSQL]:
    """A PostgreSQL server with an account that may do everything."""
    _require(pytestconfig, "PostgreSQL", postgresql_service.unavailable_reason)
    yield from _started(pytestconfig, "PostgreSQL", postgresql_service.running())


@pytest.fixture(scope="session")
def mariadb(pytestconfig: pytest.Config) -> Iterator[MariaDB]:
    """A MariaDB server with an account that may do everything."""
    _require(pytestconfig, "MariaDB", mariadb_service.unavailable_reason)
    yield from _started(pytestconfig, "MariaDB", mariadb_service.running())


@pytest.fixture(scope="session")
def redis_server(pytestconfig: pytest.Config) -> Iterator[RedisServer]:
    """A Redis server that asks for a password."""
    _require(pytestconfig, "Redis", redis_service.unavailable_reason)
    yield from _started(pytestconfig, "Redis", redis_service.running())


@pytest.fixture(scope="session")
def rabbitmq(pytestconfig: pytest.Config) -> Iterator[RabbitMQ]:
    """A RabbitMQ server that asks for a password, with one virtual host."""
    _require(pytestconfig, "RabbitMQ", rabbitmq_service.unavailable_reason)
    yield from _started(pytestconfig, "RabbitMQ", rabbitmq_service.running())


@pytest.fixture(scope="session")
def kafka(pytestconfig: pytest.Config) -> Iterator[KafkaBroker]:
    """A Kafka broker without topics; it creates none by itself."""
    _require(pytestconfig, "Kafka", kafka_service.unavailable_reason)
    yield from _started(pytestconfig, "Kafka", kafka_service.running())


@pytest.fixture(scope="session")
def secured_kafka(pytestconfig: pytest.Config) -> Iterator[SecuredKafka]:
    """A Kafka broker of our own that asks for TLS and a log-in, and obeys access rules."""
    _require(pytestconfig, "secured Kafka", kafka_service.missing_programs)
    yield from _started(pytestconfig, "secured Kafka", secured_kafka_service.running())


@pytest.fixture
def breakable_kafka(kafka: KafkaBroker) -> Iterator[KafkaBroker]:
    """The Kafka broker, for a test that stops, kills or cuts it off; whole again afterwards."""
    if kafka.process is None:
        pytest.skip("only a broker of our own may be broken")
    yield kafka
    if kafka.process.running and kafka.process.pid:
        os.kill(kafka.process.pid, signal.SIGCONT)
    kafka.process.start()


@pytest.fixture
def smtp_server(pytestconfig: pytest.Config) -> Iterator[SMTPServer]:
    """An SMTP server whose inbox is empty at the start of each test."""
    yield from _started(pytestconfig, "SMTP (aiosmtpd)", smtp_service.running())


@pytest.fixture(scope="session")
def libreoffice(pytestconfig: pytest.Config) -> Iterator[LibreOffice]:
    """LibreOffice, to open files in as their readers do."""
    _require(pytestconfig, "LibreOffice", libreoffice_service.unavailable_reason)
    yield from _started(pytestconfig, "LibreOffice", libreoffice_service.running())


@pytest.fixture(scope="session")
def sftp_server(pytestconfig: pytest.Config) -> Iterator[SftpServer]:
    """An SFTP server that takes a key, with an empty folder."""
    _require(pytestconfig, "SFTP", sftp_service.unavailable_reason)
    yield from _started(pytestconfig, "SFTP", sftp_service.running())


@pytest.fixture(scope="session")
def samba(pytestconfig: pytest.Config) -> Iterator[SambaServer]:
    """An SMB server with a share and an account."""
    _require(pytestconfig, "Samba", samba_service.unavailable_reason)
    yield from _started(pytestconfig, "Samba", samba_service.running())


@pytest.fixture(scope="session")
def s3_server(pytestconfig: pytest.Config) -> Iterator[S3Server]:
    """An S3 server without buckets."""
    yield from _started(pytestconfig, "S3 (moto)", s3_service.running())


@pytest.fixture(scope="session")
def flights_postgresql(postgresql: PostgreSQL) -> PostgreSQL:
    """The PostgreSQL server, with the table `flights` in its database."""
    with postgresql.connect() as connection:
        flights.load_into_postgresql(connection)
    return postgresql


@pytest.fixture(scope="session")
def flights_mariadb(mariadb: MariaDB) -> MariaDB:
    """The MariaDB server, with the table `flights` in its database."""
    with closing(mariadb.connect()) as connection:
        flights.load_into_mariadb(connection)
    return mariadb


@pytest.fixture(scope="session")
def flights_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database file with the table `flights` in it."""
    path = tmp_path_factory.mktemp("flights") / "flights.sqlite3"
    with closing(sqlite3.connect(path)) as connection:
        flights.load_into_sqlite(connection)
    return path


def _require(config: pytest.Config, name: str, unavailable: Callable[[], str | None]) -> None:
    reason = unavailable()
    if reason is None:
        return
    config.stash[_RECORD].missing[name] = reason
    message = f"{name} is needed: {reason}; {_ADVICE}"
    if os.environ.get(REQUIRED_VARIABLE) == "1":
        pytest.fail(f"{message} ({REQUIRED_VARIABLE}=1 forbids to go on without it)", pytrace=False)
    pytest.skip(message)


def _started(
    config: pytest.Config, name: str, running: AbstractContextManager[ServiceT]
) -> Iterator[ServiceT]:
    with running as service:
        config.stash[_RECORD].used[name] = service.version
        yield service
