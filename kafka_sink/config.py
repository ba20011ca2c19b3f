"""Turns a Kafka connection into librdkafka's configuration, from a fixed list of settings."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Any, NamedTuple

from queryexport.errors import ConfigurationError

CLIENT_ID = "query-export"
PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "GSSAPI")
COMPRESSIONS = ("none", "gzip", "snappy", "lz4", "zstd")
RANGES: Mapping[str, tuple[int, int]] = {
    "linger_ms": (0, 10_000),
    "batch_bytes": (1_000, 10_000_000),
    "max_request_bytes": (1_000, 33_554_432),
    "request_timeout_ms": (1_000, 300_000),
    "retry_backoff_ms": (1, 10_000),
    "max_in_flight": (1, 5),
}
BATCH_MESSAGES = (1, 10_000)
# Kafka's own rule: org.apache.kafka.common.internals.Topic, LEGAL_CHARS.
TOPIC_PATTERN = r"^[A-Za-z0-9._-]{1,249}$"
# A feature of the client library that a mechanism needs, by librdkafka's `builtin.features`.
FEATURES: Mapping[str, str] = {
    "PLAIN": "sasl_plain",
    "SCRAM-SHA-256": "sasl_scram",
    "SCRAM-SHA-512": "sasl_scram",
    "OAUTHBEARER": "sasl_oauthbearer",
    "GSSAPI": "sasl_gssapi",
}
# Rows waiting in the client. Its own limits are 1 GiB and 100,000, which a dead broker would fill.
QUEUE_KBYTES = 65_536
QUEUE_MESSAGES = 20_000
MESSAGE_TIMEOUT_MS = 120_000
LONGEST_SOCKET_TIMEOUT_MS = 300_000
CRITICAL = 2  # syslog's number.
TRANSACTION_TIMEOUT_MS = 900_000  # Kafka's default of transaction.max.timeout.ms.
# The client's retries wait retry_backoff_ms, then twice, then four times that: 100, 200, 400 ms.
LONGEST_BACKOFF = 4
MASK = "••••••"
SECRET_KEYS = frozenset({"sasl.password", "ssl.key.pem"})

SERVER = re.compile(r"(?:\[(?P<ipv6>[^\]]*)\]|(?P<host>[A-Za-z0-9_.-]+)):(?P<port>[0-9]{1,5})")
PEM = re.compile(
    r"-----BEGIN (?P<kind>[A-Z0-9 ]+)-----(?P<body>.*?)-----END (?P=kind)-----\s*", re.S
)
REFERENCE = "${"


@dataclass(frozen=True)
class KafkaSettings:
    """A Kafka connection as a worker needs it, secrets resolved. Never log or store one."""

    name: str
    bootstrap_servers: str
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    ca_pem: str = ""
    certificate_pem: str = ""
    key_pem: str = field(default="", repr=False)
    compression: str = "lz4"
    linger_ms: int = 20
    batch_bytes: int = 1_000_000
    max_request_bytes: int = 1_000_000
    request_timeout_ms: int = 30_000
    acks: str = "all"
    idempotence: bool = True
    retry_backoff_ms: int = 100
    max_in_flight: int = 5

    def __str__(self) -> str:
        return f"“{self.name}” ({self.bootstrap_servers})"

    @property
    def uses_sasl(self) -> bool:
        return self.security_protocol.startswith("SASL")

    @property
    def uses_tls(self) -> bool:
        return self.security_protocol.endswith("SSL")

    @property
    def message_timeout_ms(self) -> int:
        """How long a message may wait for its acknowledgement, all retries included."""
        return max(MESSAGE_TIMEOUT_MS, self.request_timeout_ms + self.linger_ms)

    def without_secrets(self, text: str) -> str:
        """`text` as it may be shown: on one line, the password and the key replaced by dots."""
        for secret in filter(None, (self.password, self.key_pem)):
            text = text.replace(secret, MASK)
        return " ".join(text.split())


class Problem(NamedTuple):
    """What is wrong with a connection: the field to correct, and what to do."""

    field: str
    message: str


def problems(settings: KafkaSettings, features: Collection[str] | None = None) -> Iterator[Problem]:
    """Everything that keeps the settings from working, as far as it shows without a network.

    `features` is what the installed client library can do; None leaves that question to it.
    """
    yield from _server_problems(settings.bootstrap_servers)
    yield from _choice_problems(settings)
    yield from _sasl_problems(settings, features)
    yield from _tls_problems(settings)


def client_config(settings: KafkaSettings) -> dict[str, Any]:
    """librdkafka's configuration for anything that connects.

    Every key is written here; none comes from an operator, because some of librdkafka's keys load
    libraries, run commands or fetch URLs. Raises `ConfigurationError` for settings that `problems`
    objects to, so that a row changed behind the form's back is refused as well.
    """
    for problem in problems(settings):
        raise ConfigurationError(
            f"The Kafka connection {settings} is not usable: {problem.message}"
        )
    config: dict[str, Any] = {
        "bootstrap.servers": settings.bootstrap_servers,
        "client.id": CLIENT_ID,
        "security.protocol": settings.security_protocol,
        "socket.keepalive.enable": True,
        # request.timeout.ms is the broker's; this is how long the client waits for any answer.
        "socket.timeout.ms": min(settings.request_timeout_ms + 1000, LONGEST_SOCKET_TIMEOUT_MS),
        # Every failed connection is an error of the run; its hundreds of log lines tell no more.
        "log_level": CRITICAL,
    }
    if settings.uses_sasl:
        config |= _sasl(settings)
    if settings.uses_tls:
        config |= _tls(settings)
    return config


def producer_config(
    settings: KafkaSettings, *, batch_messages: int, transactional_id: str = ""
) -> dict[str, Any]:
    """librdkafka's configuration for a producer that sends batches of `batch_messages` (1–10000).

    A `transactional_id` makes it a transactional producer. A transaction may stay open for
    `TRANSACTION_TIMEOUT_MS`, the most that brokers allow unless told otherwise.

    Idempotence with acks=all is fixed, so that the client's own retries, which repeat a message
    under its sequence number, cannot store it twice.
    """
    low, high = BATCH_MESSAGES
    if not low <= batch_messages <= high:
        raise ConfigurationError(
            f"A Kafka batch of {batch_messages} messages is not possible. "
            f"Set the item's batch size between {low} and {high}."
        )
    transaction = {
        "transactional.id": transactional_id,
        "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
    }
    return {
        **client_config(settings),
        **(transaction if transactional_id else {}),
        "acks": "all",
        "enable.idempotence": True,
        "compression.type": settings.compression,
        "linger.ms": settings.linger_ms,
        "batch.size": settings.batch_bytes,
        "batch.num.messages": batch_messages,
        "message.max.bytes": settings.max_request_bytes,
        "request.timeout.ms": settings.request_timeout_ms,
        "message.timeout.ms": settings.message_timeout_ms,
        "retry.backoff.ms": settings.retry_backoff_ms,
        "retry.backoff.max.ms": settings.retry_backoff_ms * LONGEST_BACKOFF,
        "max.in.flight.requests.per.connection": settings.max_in_flight,
        "queue.buffering.max.kbytes": QUEUE_KBYTES,
        "queue.buffering.max.messages": QUEUE_MESSAGES,
        # The choice of Java producers, so that a key lands where other producers put it.
        "partitioner": "murmur2_random",
    }


def redacted(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration for people to read: secrets as dots, certificates by their size."""
    return {key: _shown(key, value) for key, value in sorted(config.items())}


def pem(text: str) -> str:
    """PEM text with its line ends restored, which one-line input boxes and variables drop."""

    def block(match: re.Match[str]) -> str:
        if ":" in match["body"]:  # Headers of an encrypted key: lines have a meaning there.
            return match[0]
        body = "".join(match["body"].split())
        lines = "\n".join(body[start : start + 64] for start in range(0, len(body), 64))
        return f"-----BEGIN {match['kind']}-----\n{lines}\n-----END {match['kind']}-----\n"

    return PEM.sub(block, text)


def _shown(key: str, value: Any) -> Any:
    if key in SECRET_KEYS:
        return MASK
    return f"PEM, {len(value)} characters" if key.endswith(".pem") else value


def _sasl(settings: KafkaSettings) -> dict[str, Any]:
    mechanism = {"sasl.mechanisms": settings.sasl_mechanism}
    if settings.sasl_mechanism in ("OAUTHBEARER", "GSSAPI"):
        return mechanism  # The producer hands the bearer token over; GSSAPI uses the host's ticket.
    return {
        **mechanism,
        "sasl.username": settings.username,
        "sasl.password": settings.password,
    }


def _tls(settings: KafkaSettings) -> dict[str, Any]:
    # By content, never by path: a path would let an operator probe the worker's files.
    contents = {
        "ssl.ca.pem": settings.ca_pem,
        "ssl.certificate.pem": settings.certificate_pem,
        "ssl.key.pem": settings.key_pem,
    }
    return {
        "enable.ssl.certificate.verification": True,
        "ssl.endpoint.identification.algorithm": "https",
        **{key: pem(text) for key, text in contents.items() if text},
    }


def _server_problems(servers: str) -> Iterator[Problem]:
    for server in servers.split(","):
        if not _is_server(server.strip()):
            yield Problem(
                "bootstrap_servers",
                f"“{server.strip()}” is no host:port. Separate servers with commas, for example "
                "kafka1.example.com:9092,kafka2.example.com:9092.",
            )


def _is_server(text: str) -> bool:
    if not (match := SERVER.fullmatch(text)) or not 1 <= int(match["port"]) <= 65535:
        return False
    if match["ipv6"] is None:
        return True
    try:
        IPv6Address(match["ipv6"])
    except ValueError:
        return False
    return True


def _choice_problems(settings: KafkaSettings) -> Iterator[Problem]:
    choices = {"security_protocol": PROTOCOLS, "compression": COMPRESSIONS}
    for name, allowed in choices.items():
        if (value := getattr(settings, name)) not in allowed:
            yield Problem(name, f"“{value}” is not one of {', '.join(allowed)}.")
    for name, (low, high) in RANGES.items():
        if not low <= (value := getattr(settings, name)) <= high:
            yield Problem(name, f"{value} is not between {low} and {high}.")
    if settings.acks != "all":
        yield Problem(
            "acks",
            "Acks is always “all”: with less, a message that counts as delivered can be lost "
            "when a broker fails.",
        )
    if settings.idempotence is not True:
        yield Problem(
            "idempotence",
            "Idempotence is always on: without it, the client's retries can store a message twice.",
        )


def _sasl_problems(settings: KafkaSettings, features: Collection[str] | None) -> Iterator[Problem]:
    mechanism = settings.sasl_mechanism
    if not settings.uses_sasl:
        return
    if mechanism not in MECHANISMS:
        yield Problem(
            "sasl_mechanism",
            f"{settings.security_protocol} needs a SASL mechanism: {', '.join(MECHANISMS)}.",
        )
        return
    if features is not None and FEATURES[mechanism] not in features:
        yield Problem(
            "sasl_mechanism",
            f"The installed Kafka client was built without {mechanism} ({FEATURES[mechanism]}). "
            "Choose another mechanism, or install a client that was built with it.",
        )
    if mechanism == "PLAIN" or mechanism.startswith("SCRAM"):
        if not settings.username:
            yield Problem("username", f"{mechanism} needs a user name.")
        if not settings.password:
            yield Problem("password", f"{mechanism} needs a password.")
    if mechanism == "OAUTHBEARER" and not settings.password:
        yield Problem("password", "OAUTHBEARER needs a bearer token; put it in the password.")


def _tls_problems(settings: KafkaSettings) -> Iterator[Problem]:
    if bool(settings.certificate_pem) != bool(settings.key_pem):
        missing = "client_key" if settings.certificate_pem else "client_certificate"
        yield Problem(
            missing, "The client's certificate and its key come together: enter both or neither."
        )
    contents = {
        "ca_certificate": settings.ca_pem,
        "client_certificate": settings.certificate_pem,
        "client_key": settings.key_pem,
    }
    for name, text in contents.items():
        if text and REFERENCE not in text and not PEM.search(text):
            yield Problem(name, "This is no PEM text; it starts with “-----BEGIN …-----”.")
