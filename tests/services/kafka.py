"""Starts a throw-away Apache Kafka broker for the tests, or reaches the one they must use."""

import base64
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

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
class KafkaBroker:
    """Where a Kafka broker is; a broker of our own can be stopped and started by `process`."""

    bootstrap_servers: str
    version: str = ""
    process: ServerProcess | None = field(default=None, repr=False)

    def create_topic(
        self, name: str, partitions: int = 1, settings: Mapping[str, str] | None = None
    ) -> None:
        """Create the topic and return when every partition of it has a leader."""
        topic = NewTopic(
            name, num_partitions=partitions, replication_factor=1, config=dict(settings or {})
        )
        admin = self._admin()
        admin.create_topics([topic])[name].result(_TOPIC_SECONDS)
        self._wait_for_leaders(admin, name, partitions)

    def check(self) -> None:
        """Raise unless the broker itself answers and takes part in its cluster."""
        if not self._admin().list_topics(timeout=_ANSWER_SECONDS).brokers:
            raise ServiceError(
                f"The Kafka broker at {self.bootstrap_servers} answers, but has not joined its "
                "cluster yet. Wait, or look into its log."
            )

    def _admin(self) -> AdminClient:
        # At log level 0 librdkafka does not print each refused connection of a starting broker.
        return AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})

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
    if os.environ.get(BOOTSTRAP_VARIABLE):
        return None
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
    with service_folder("kafka") as folder:
        port, controller_port = free_ports(2)
        broker = KafkaBroker(f"{LOOPBACK}:{port}", _version())
        configuration = folder / "server.properties"
        configuration.write_text(_properties(folder, port, controller_port))
        _format_storage(folder, configuration)
        with _process(folder, configuration, broker) as process:
            yield replace(broker, process=process)


def _java() -> Path | None:
    return find_program("java")


def _broker_jar() -> Path | None:
    return next(JARS.glob("kafka_*.jar"), None)


def _version() -> str:
    jar = _broker_jar()
    return jar.stem.rpartition("-")[2] if jar else ""


def _properties(folder: Path, port: int, controller_port: int) -> str:
    broker, controller = f"{LOOPBACK}:{port}", f"{LOOPBACK}:{controller_port}"
    settings = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.bootstrap.servers": controller,
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://{broker},CONTROLLER://{controller}",
        "advertised.listeners": f"PLAINTEXT://{broker},CONTROLLER://{controller}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
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
    return "".join(f"{name}={value}\n" for name, value in settings.items())


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


def _format_storage(folder: Path, configuration: Path) -> None:
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    run_tool(
        _java_command(
            "kafka.tools.StorageTool",
            "format",
            "--standalone",
            f"--cluster-id={cluster}",
            f"--config={configuration}",
            heap="128m",
        ),
        cwd=folder,
    )


def _process(folder: Path, configuration: Path, broker: KafkaBroker) -> ServerProcess:
    command = _java_command("kafka.Kafka", configuration, heap="512m")
    return ServerProcess("kafka", command, folder, probe=broker.check, start_seconds=120)
