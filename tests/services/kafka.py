"""Starts a throw-away Apache Kafka broker for the tests, or reaches the one they must use."""

import base64
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.services.processes import (
    LOOPBACK,
    REPOSITORY,
    ServerProcess,
    ServiceError,
    find_program,
    free_ports,
    run_tool,
    service_folder,
)

BOOTSTRAP_VARIABLE = "TEST_KAFKA_BOOTSTRAP_SERVERS"
JARS = REPOSITORY / "var" / "services" / "kafka" / "libs"
_LOGGING = Path(__file__).with_name("log4j2.properties")
_ANSWER_SECONDS = 5
_TOPIC_SECONDS = 30


@dataclass(frozen=True)
class ProxiedListener:
    """A second way in: the broker listens at one port and tells its clients to use another.

    Nobody listens at the advertised port unless a test puts a proxy there.
    """

    port: int
    advertised_port: int

    @property
    def bootstrap_servers(self) -> str:
        return f"{LOOPBACK}:{self.advertised_port}"


@dataclass(frozen=True)
class KafkaBroker:
    """Where a Kafka broker is; a broker of our own can be stopped and started by `process`.

    `client` is what else a client with all rights needs in its configuration.
    """

    bootstrap_servers: str
    version: str = ""
    process: ServerProcess | None = field(default=None, repr=False)
    proxied: ProxiedListener | None = field(default=None, repr=False)
    client: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def client_config(self) -> dict[str, Any]:
        """The configuration of a client that may do everything."""
        return {"bootstrap.servers": self.bootstrap_servers, **self.client}

    def create_topic(
        self, name: str, partitions: int = 1, settings: Mapping[str, str] | None = None
    ) -> None:
        """Create the topic and return when every partition of it has a leader."""
        topic = NewTopic(
            name, num_partitions=partitions, replication_factor=1, config=dict(settings or {})
        )
        admin = self.admin()
        admin.create_topics([topic])[name].result(_TOPIC_SECONDS)
        self._wait_for_leaders(admin, name, partitions)

    def check(self) -> None:
        """Raise unless the broker itself answers and takes part in its cluster."""
        if not self.admin().list_topics(timeout=_ANSWER_SECONDS).brokers:
            raise ServiceError(
                f"The Kafka broker at {self.bootstrap_servers} answers, but has not joined its "
                "cluster yet. Wait, or look into its log."
            )

    def admin(self) -> AdminClient:
        # At log level 0 librdkafka does not print each refused connection of a starting broker.
        return AdminClient({**self.client_config, "log_level": 0})

    def _wait_for_leaders(self, admin: AdminClient, name: str, partitions: int) -> None:
        deadline = time.monotonic() + _TOPIC_SECONDS
        while time.monotonic() < deadline:
            found = admin.list_topics(name, timeout=_ANSWER_SECONDS).topics[name].partitions
            if len(found) == partitions and all(each.leader >= 0 for each in found.values()):
                return
            time.sleep(0.05)
        raise ServiceError(
            f"Topic {name} was created, but its {partitions} partitions had no leader within "
            f"{_TOPIC_SECONDS} s. Look into the broker's log."
        )


def unavailable_reason() -> str | None:
    """Return why no Kafka can be had here, or None."""
    return None if os.environ.get(BOOTSTRAP_VARIABLE) else missing_programs()


def missing_programs() -> str | None:
    """Return why no broker of our own can be started here, or None."""
    if _java() is None:
        return "java not found (Debian package openjdk-17-jre-headless)"
    if _broker_jar() is None:
        return f"Kafka's jars not found in {JARS.relative_to(REPOSITORY)}"
    return None


@contextmanager
def running() -> Iterator[KafkaBroker]:
    """Give a Kafka broker that answers."""
    if servers := os.environ.get(BOOTSTRAP_VARIABLE):
        broker = KafkaBroker(servers, "of unknown version")
        broker.check()
        yield broker
        return
    port, proxied_port, proxy_port, controller_port = free_ports(4)
    broker = KafkaBroker(
        f"{LOOPBACK}:{port}", version(), proxied=ProxiedListener(proxied_port, proxy_port)
    )
    with launched(broker, "kafka", _open_listeners(broker, controller_port)) as started:
        yield started


@contextmanager
def launched(
    broker: KafkaBroker, name: str, settings: Mapping[str, object], *format_options: str
) -> Iterator[KafkaBroker]:
    """Format a storage, start the broker with those settings and ours, and give it."""
    with service_folder(name) as folder:
        configuration = folder / "server.properties"
        configuration.write_text(_properties({**_common_settings(folder), **settings}))
        configuration.chmod(0o600)
        _format_storage(folder, configuration, *format_options)
        command = _java_command("kafka.Kafka", configuration, heap="512m")
        with ServerProcess(name, command, folder, broker.check, start_seconds=120) as process:
            yield replace(broker, process=process)


def _java() -> Path | None:
    return find_program("java")


def _broker_jar() -> Path | None:
    return next(JARS.glob("kafka_*.jar"), None)


def version() -> str:
    """Return the version of the installed broker, or nothing."""
    jar = _broker_jar()
    return jar.stem.rpartition("-")[2] if jar else ""


def _open_listeners(broker: KafkaBroker, controller_port: int) -> dict[str, object]:
    """A listener for everybody, and one for those who come through a proxy."""
    assert broker.proxied is not None
    controller = f"{LOOPBACK}:{controller_port}"
    bound = f"PLAINTEXT://{broker.bootstrap_servers},CONTROLLER://{controller}"
    return {
        "controller.quorum.bootstrap.servers": controller,
        "listeners": f"{bound},PROXIED://{LOOPBACK}:{broker.proxied.port}",
        "advertised.listeners": f"{bound},PROXIED://{broker.proxied.bootstrap_servers}",
        "listener.security.protocol.map": (
            "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT"
        ),
    }


def _common_settings(folder: Path) -> dict[str, object]:
    settings: dict[str, object] = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.listener.names": "CONTROLLER",
        "log.dirs": folder / "data",
        "auto.create.topics.enable": "false",
        "group.initial.rebalance.delay.ms": 0,
        # A killed broker may come back only when its last session has run out: 9 s by default.
        "broker.session.timeout.ms": 4000,
        "broker.heartbeat.interval.ms": 1000,
    }
    # One node can hold one copy only, and the default 50 partitions take seconds to create.
    for prefix in ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic"):
        settings[f"{prefix}.num.partitions"] = 1
        settings[f"{prefix}.replication.factor"] = 1
    for prefix in ("transaction.state.log", "share.coordinator.state.topic"):
        settings[f"{prefix}.min.isr"] = 1
    return settings


def _properties(settings: Mapping[str, object]) -> str:
    """The settings as a Java properties file, in which a value stays on one line."""
    lines = ((name, str(value).replace("\n", "\\n")) for name, value in settings.items())
    return "".join(f"{name}={value}\n" for name, value in lines)


def _java_command(main_class: str, *arguments: str | Path, heap: str) -> list[str]:
    return [
        str(_java()),
        f"-Xmx{heap}",
        "-XX:+UseSerialGC",
        # The test's broker lives for a minute: compiling its code thoroughly does not pay.
        "-XX:TieredStopAtLevel=1",
        f"-Dlog4j2.configurationFile={_LOGGING}",
        "-cp",
        f"{JARS}/*",
        main_class,
        *map(str, arguments),
    ]


def _format_storage(folder: Path, configuration: Path, *options: str) -> None:
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    run_tool(
        _java_command(
            "kafka.tools.StorageTool",
            "format",
            "--standalone",
            f"--cluster-id={cluster}",
            f"--config={configuration}",
            *options,
            heap="128m",
        ),
        cwd=folder,
    )
