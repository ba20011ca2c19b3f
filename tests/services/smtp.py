"""Runs SMTP servers inside the test process: one that keeps every message, one that goes wrong."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from importlib.metadata import version
from threading import Event, Thread
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.services.processes import LOOPBACK, free_port
from tests.services.tls import ServerIdentity

SIZE_LIMIT = 200 * 1024 * 1024
DRIP_SEC = 0.1
LOGIN = LoginPassword(b"exports", b"the right one")


@dataclass(frozen=True)
class ReceivedMessage:
    """One message as it came: its envelope and its raw bytes."""

    mail_from: str
    rcpt_tos: tuple[str, ...]
    content: bytes = field(repr=False)
    size_said: int | None = None

    def parsed(self) -> EmailMessage:
        return message_from_bytes(self.content, policy=policy.default)


@dataclass
class SMTPServer:
    """Where the server is, what it received, and whose addresses it refuses with 550.

    `answers` are others than the usual ones: to `MAIL`, `RCPT` with an address, and to `DATA`, by
    which the answer to the whole message is meant. A message of more than `most_bytes` is refused
    when it is there.
    """

    host: str
    port: int
    messages: list[ReceivedMessage] = field(default_factory=list)
    refused_senders: set[str] = field(default_factory=set)
    refused_recipients: set[str] = field(default_factory=set)
    answers: dict[str, str] = field(default_factory=dict)
    most_bytes: int = SIZE_LIMIT
    version: str = field(default_factory=lambda: version("aiosmtpd"))


class _Inbox:
    """aiosmtpd calls these methods, whose names it prescribes, for each command of a client."""

    def __init__(self, server: SMTPServer) -> None:
        self._server = server

    async def handle_MAIL(
        self, smtp: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if answer := self._server.answers.get("MAIL"):
            return answer
        if address in self._server.refused_senders:
            return f"550 5.7.1 Sender <{address}> is refused"
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 OK"

    async def handle_RCPT(
        self, smtp: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if answer := self._server.answers.get(f"RCPT {address}"):
            return answer
        if address in self._server.refused_recipients:
            return f"550 5.1.1 Mailbox <{address}> is unknown"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 2.1.5 OK"

    async def handle_DATA(self, smtp: SMTP, session: Session, envelope: Envelope) -> str:
        if answer := self._server.answers.get("DATA"):
            return answer
        if len(envelope.original_content or b"") > self._server.most_bytes:
            return "552 5.3.4 Too large"
        self._server.messages.append(
            ReceivedMessage(
                envelope.mail_from or "",
                tuple(envelope.rcpt_tos),
                envelope.original_content or b"",
                _size_said(envelope.mail_options),
            )
        )
        return "250 2.0.0 OK"


def _size_said(options: list[str]) -> int | None:
    sizes = [int(option[5:]) for option in options if option.upper().startswith("SIZE=")]
    return sizes[0] if sizes else None


@contextmanager
def running(*, size_limit: int = SIZE_LIMIT, **options: Any) -> Iterator[SMTPServer]:
    """Give an SMTP server that accepts connections on loopback; `options` are aiosmtpd's."""
    server = SMTPServer(LOOPBACK, free_port())
    controller = Controller(
        _Inbox(server),
        hostname=server.host,
        port=server.port,
        data_size_limit=size_limit,
        **options,
    )
    controller.start()
    try:
        yield server
    finally:
        controller.stop()


def asking_for_login(identity: ServerIdentity, folder: Any) -> dict[str, Any]:
    """Options of a server that offers STARTTLS and wants `LOGIN` inside of it."""

    def authenticated(
        server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        return AuthResult(success=data == LOGIN, handled=False)

    return {
        "tls_context": tls_context(identity, folder),
        "require_starttls": True,
        "auth_required": True,
        "authenticator": authenticated,
    }


def tls_context(identity: ServerIdentity, folder: Any) -> ssl.SSLContext:
    """What a server needs to be the one that the identity says."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    chain, key = folder / "chain.pem", folder / "key.pem"
    chain.write_text(identity.chain_pem)
    key.write_text(identity.key_pem)
    context.load_cert_chain(chain, key)
    return context


@dataclass
class FaultyServer:
    """An SMTP server that goes wrong at one step of each dialogue.

    The steps are `connect`, the commands, `text` for the middle of the message, and `.` for its
    end. There it `is silent`, `drops` the connection, `is busy` and says so, `babbles` what is no
    answer, `drips` one letter at a time, or `goes on` line by line; the last two never come to an
    end. `ended` counts the messages of which it had all.
    """

    step: str
    fault: str
    host: str = LOOPBACK
    port: int = field(default_factory=free_port)
    ended: int = 0
    recipients: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stopped = Event()

    def accept(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with closing(connection), suppress(OSError):
                self._serve(connection)

    def stop(self) -> None:
        self._stopped.set()

    def _serve(self, connection: socket.socket) -> None:
        lines = connection.makefile("rb")
        with closing(lines):
            if not self._answers(connection, "connect", b"220 Welcome\r\n"):
                return
            while line := lines.readline():
                command = line[:4].decode().strip().upper()
                if command == "RCPT":
                    self.recipients.append(line.decode().strip())
                answer = {"DATA": b"354 Go on\r\n", "QUIT": b"221 Bye\r\n"}.get(command)
                if not self._answers(connection, command, answer or b"250 Fine\r\n"):
                    return
                if command == "DATA" and not self._reads_text(connection, lines):
                    return

    def _reads_text(self, connection: socket.socket, lines: Any) -> bool:
        for number, line in enumerate(lines):
            if line == b".\r\n":
                self.ended += 1
                return self._answers(connection, ".", b"250 Taken\r\n")
            if number == 10 and self.step == "text":
                return self._answers(connection, "text", b"")
        return False

    def _answers(self, connection: socket.socket, step: str, answer: bytes) -> bool:
        """False once the connection is to be closed."""
        if step != self.step:
            connection.sendall(answer)
            return True
        match self.fault:
            case "is silent":
                self._stopped.wait()
            case "is busy":
                connection.sendall(b"421 4.3.2 Too busy\r\n")
            case "babbles":
                connection.sendall(b"What?\r\n")
            case "drips" | "goes on":
                while not self._stopped.wait(DRIP_SEC):
                    connection.sendall(b"2" if self.fault == "drips" else b"250-More\r\n")
        return False


@contextmanager
def going_wrong(step: str, fault: str) -> Iterator[FaultyServer]:
    """Give a server that accepts connections on loopback, one after the other."""
    server = FaultyServer(step, fault)
    listening = socket.create_server((server.host, server.port))
    thread = Thread(target=server.accept, args=(listening,), name="faulty-smtp")
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()
