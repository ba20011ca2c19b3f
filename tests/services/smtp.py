"""Runs an SMTP server inside the test process that keeps every message it is given."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from importlib.metadata import version

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.services.processes import LOOPBACK, free_port

SIZE_LIMIT = 200 * 1024 * 1024


@dataclass(frozen=True)
class ReceivedMessage:
    """One message as it came: its envelope and its raw bytes."""

    mail_from: str
    rcpt_tos: tuple[str, ...]
    content: bytes = field(repr=False)

    def parsed(self) -> EmailMessage:
        return message_from_bytes(self.content, policy=policy.default)


@dataclass(frozen=True)
class SMTPServer:
    """Where the server is, what it received, and whose addresses it refuses with 550."""

    host: str
    port: int
    messages: list[ReceivedMessage] = field(default_factory=list)
    refused_senders: set[str] = field(default_factory=set)
    refused_recipients: set[str] = field(default_factory=set)
    version: str = field(default_factory=lambda: version("aiosmtpd"))


class _Inbox:
    """aiosmtpd calls these methods, whose names it prescribes, for each command of a client."""

    def __init__(self, server: SMTPServer) -> None:
        self._server = server

    async def handle_MAIL(
        self, smtp: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self._server.refused_senders:
            return f"550 5.7.1 Sender <{address}> is refused"
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 OK"

    async def handle_RCPT(
        self, smtp: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self._server.refused_recipients:
            return f"550 5.1.1 Mailbox <{address}> is unknown"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 2.1.5 OK"

    async def handle_DATA(self, smtp: SMTP, session: Session, envelope: Envelope) -> str:
        content = envelope.original_content or b""
        message = ReceivedMessage(envelope.mail_from or "", tuple(envelope.rcpt_tos), content)
        self._server.messages.append(message)
        return "250 2.0.0 OK"


@contextmanager
def running() -> Iterator[SMTPServer]:
    """Give an SMTP server that accepts connections on loopback."""
    server = SMTPServer(LOOPBACK, free_port())
    controller = Controller(
        _Inbox(server), hostname=server.host, port=server.port, data_size_limit=SIZE_LIMIT
    )
    controller.start()
    try:
        yield server
    finally:
        controller.stop()
