"""The connection test: resolve, connect, TLS, authenticate, metadata, up to the first failure."""

import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

from confluent_kafka import KafkaError

from kafka_sink.config import SERVER, KafkaSettings, client_config, pem
from kafka_sink.probe.client import NO_LOGIN, Looker
from queryexport.errors import ExportError

LIMIT_SEC = 9.0
RESOLVE_SEC = 4.0
CONNECT_SEC = 3.0
NAMES = ("resolve", "connect", "TLS", "authenticate", "metadata")

Address = tuple[str, int]


@dataclass(frozen=True)
class Step:
    """One step of the test: what it found, in words for the operator, and how long it took."""

    name: str
    ok: bool
    duration_ms: float
    message: str


@dataclass(frozen=True)
class ProbeResult:
    """The steps up to the first that failed; `latency_ms` is one question and answer."""

    steps: tuple[Step, ...]
    brokers: int = 0
    topics: int = 0
    latency_ms: float | None = None

    @property
    def ok(self) -> bool:
        return all(step.ok for step in self.steps) and len(self.steps) == len(NAMES)

    @property
    def error(self) -> str:
        return next((f"{step.name}: {step.message}" for step in self.steps if not step.ok), "")


class StepFailed(Exception):
    """A step's failure in plain language, for inside this module."""

    def __init__(self, message: str, *, step: str = "") -> None:
        super().__init__(message)
        self.step = step


def probe(settings: KafkaSettings, *, limit_sec: float = LIMIT_SEC) -> ProbeResult:
    """Tests the settings as they are, saved or not, in `limit_sec` altogether.

    It writes nothing to the cluster. Raises nothing for a connection that does not work: the
    first failed step says why, without secrets.
    """
    return _Probe(settings, monotonic() + limit_sec).run()


@dataclass
class _Probe:
    settings: KafkaSettings
    deadline: float
    steps: list[Step] = field(default_factory=list)
    addresses: list[tuple[str, Address]] = field(default_factory=list)
    answering: tuple[str, Address] | None = None
    looker: Looker | None = None
    found: dict[str, Any] = field(default_factory=dict)

    def run(self) -> ProbeResult:
        work = (self._resolve, self._connect, self._tls, self._authenticate, self._metadata)
        for name, step in zip(NAMES, work, strict=True):
            if not self._took(name, step):
                break
        return ProbeResult(tuple(self.steps), **self.found)

    def _took(self, name: str, step: Callable[[], str]) -> bool:
        started, ok = monotonic(), True
        try:
            message = step()
        except StepFailed as error:
            name, ok, message = error.step or name, False, str(error)
        except ExportError as error:
            ok, message = False, error.message
        message = self.settings.without_secrets(message)
        if not ok:
            # A failure that shows up late still belongs to the step that it names.
            self.steps = [each for each in self.steps if each.name != name]
        self.steps.append(Step(name, ok, round((monotonic() - started) * 1000, 1), message))
        return ok

    def _resolve(self) -> str:
        client_config(self.settings)  # Refuses settings that cannot work.
        servers = list(_servers(self.settings.bootstrap_servers))
        with_trouble = []
        for server, outcome in zip(
            servers, _look_up(servers, self._left(RESOLVE_SEC)), strict=True
        ):
            if isinstance(outcome, str):
                with_trouble.append(f"{server[0]} {outcome}")
            else:
                self.addresses += [(server[0], address) for address in outcome]
        if not self.addresses:
            raise StepFailed(
                f"No server name can be resolved: {'; '.join(with_trouble)}. Correct the names, or "
                "ask why this machine's DNS does not know them."
            )
        shown = ", ".join(dict.fromkeys(address[0] for _, address in self.addresses))
        return f"{shown}. {_although(with_trouble)}".strip()

    def _connect(self) -> str:
        with_trouble = []
        for host, address in self.addresses:
            try:
                with socket.create_connection(address, self._left(CONNECT_SEC)):
                    self.answering = host, address
            except OSError as error:
                with_trouble.append(f"{address[0]}:{address[1]} {_plain(error)}")
            else:
                return f"{address[0]}:{address[1]} answers. {_although(with_trouble)}".strip()
        raise StepFailed(
            f"No server takes a connection: {'; '.join(with_trouble)}. Check the ports, that the "
            "brokers run, and that a firewall lets this machine through."
        )

    def _tls(self) -> str:
        if not self.settings.uses_tls:
            return f"Not used with {self.settings.security_protocol}."
        assert self.answering
        host, address = self.answering
        try:
            context = tls_context(self.settings)
            with (
                socket.create_connection(address, self._left(CONNECT_SEC)) as plain,
                context.wrap_socket(plain, server_hostname=host) as encrypted,
            ):
                return f"{encrypted.version()}; the certificate is valid for {host}."
        except (OSError, ValueError) as error:
            raise StepFailed(_tls_trouble(error, host)) from error

    def _authenticate(self) -> str:
        """The first answer needs the log-in, so its arrival proves it."""
        self.looker = Looker(self.settings)
        try:
            self.looker.metadata(self.deadline)
        except ExportError as error:
            raise self._login_trouble(self.looker) from error
        if not self.settings.uses_sasl:
            return f"Not used with {self.settings.security_protocol}."
        who = f" as {self.settings.username}" if self.settings.username else ""
        return f"Logged in{who} by {self.settings.sasl_mechanism}."

    def _metadata(self) -> str:
        assert self.looker
        started = monotonic()
        metadata = self.looker.metadata(self.deadline)
        self.found = {
            "brokers": len(metadata.brokers),
            "topics": sum(not name.startswith("__") for name in metadata.topics),
            "latency_ms": round((monotonic() - started) * 1000, 1),
        }
        brokers, topics = (_counted(self.found[name], name) for name in ("brokers", "topics"))
        return f"{brokers}, {topics} to see."

    def _login_trouble(self, looker: Looker) -> StepFailed:
        words = looker.words(looker.trouble)
        code = looker.trouble.code() if looker.trouble else None
        if code in NO_LOGIN:
            return StepFailed(
                f"The brokers refuse the log-in: {words}. Check user name, password and mechanism."
            )
        if code == KafkaError._SSL:
            return StepFailed(
                f"The brokers end the encrypted connection: {words}. Check the client certificate "
                "and its key.",
                step="TLS",
            )
        return self._no_broker(words)

    def _no_broker(self, words: str) -> StepFailed:
        return StepFailed(
            f"A server answers, but not as a Kafka broker with {self.settings.security_protocol}: "
            f"{words}. Compare the security protocol and port with the broker's listener, and "
            "check that the addresses its brokers advertise can be reached from here.",
            step="authenticate" if self.settings.uses_sasl else "metadata",
        )

    def _left(self, most_sec: float) -> float:
        return max(0.05, min(most_sec, self.deadline - monotonic()))


def tls_context(settings: KafkaSettings) -> ssl.SSLContext:
    """Certificates and host names are always verified, against the connection's CA if it has one.

    Raises `ssl.SSLError` or `ValueError` for PEM text that is none.
    """
    context = ssl.create_default_context(cadata=pem(settings.ca_pem) or None)
    if settings.certificate_pem:
        # The standard library reads a client certificate from files only. The folder is open to
        # this process's user alone, and gone at once.
        with TemporaryDirectory() as folder:
            path = Path(folder, "client.pem")
            path.write_text(pem(settings.certificate_pem) + pem(settings.key_pem))
            context.load_cert_chain(path, password="")
    return context


def _servers(text: str) -> Iterator[Address]:
    for server in text.split(","):
        if match := SERVER.fullmatch(server.strip()):
            yield match["ipv6"] or match["host"], int(match["port"])


def _look_up(servers: list[Address], limit_sec: float) -> Iterator[list[Address] | str]:
    """The addresses of each server, or why there are none; one slow name costs its own time."""
    pool = ThreadPoolExecutor(max_workers=len(servers) or 1)
    deadline = monotonic() + limit_sec
    pending = [pool.submit(_addresses, *server) for server in servers]
    for future in pending:
        try:
            yield future.result(max(0.01, deadline - monotonic()))
        except TimeoutError:
            yield "was not resolved in time"
        except (OSError, UnicodeError) as error:
            yield f"is unknown ({_plain(error)})"
    pool.shutdown(wait=False, cancel_futures=True)


def _addresses(host: str, port: int) -> list[Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys((str(where[4][0]), port) for where in found))


def _tls_trouble(error: Exception, host: str) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return (
                f"The certificate of {host} is not accepted: {error.verify_message}. Enter the CA "
                "that signed it, and use the name that it was made for."
            )
        case ssl.SSLError(reason="WRONG_VERSION_NUMBER" | "RECORD_LAYER_FAILURE"):
            return f"{host} does not speak TLS on this port. Choose a protocol without SSL."
        case ssl.SSLError():
            words = (error.reason or str(error)).replace("_", " ").lower()
            return f"No encrypted connection with {host}: {words}. Check certificates and key."
        case _:
            return f"No encrypted connection with {host}: {_plain(error)}. Check that it uses TLS."


def _counted(count: int | float, plural: str) -> str:
    return f"{count} {plural.removesuffix('s') if count == 1 else plural}"


def _plain(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "does not answer in time"
    return str(getattr(error, "strerror", None) or error).lower()


def _although(troubles: list[str]) -> str:
    return f"Not reached: {'; '.join(troubles)}." if troubles else ""
