"""Mail whose attachment is read from a file while it is sent, so that memory stays flat."""

import re
import smtplib
from base64 import b64encode, encodebytes
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from email.encoders import encode_base64
from email.mime.base import MIMEBase
from functools import cached_property, partial
from io import BytesIO
from math import inf
from typing import IO, Any
from uuid import uuid4

from django.conf import settings
from django.core.mail import EmailMultiAlternatives, get_connection
from django.core.mail.backends import smtp
from django.core.mail.message import EmailMessage, sanitize_address

from queryexport.patient_smtp import (
    Patience,
    PatientContext,
    PatientSMTP,
    PatientSMTPS,
    ServerSilent,
)
from queryexport.rows import Progress

LINE_BYTES = 57  # Gives the 76 characters that a line of base64 may have: RFC 2045, 6.8.
PIECE_BYTES = LINE_BYTES * 4096
SLOWEST_BYTES_PER_SEC = 50_000
LEADING_DOT = re.compile(rb"(?m)^\.")
# RFC 3463, 3.3 and 3.4: a message longer than an administrator, or than the system, lets pass.
TOO_LONG = re.compile(rb"5\.(2\.3|3\.4)\b")

Answer = tuple[int, bytes]


class TooLarge(Exception):
    """Nothing was sent, because the message is too large: in whose words, and by how much."""


class Unanswered(Exception):
    """The server has the whole message, and nobody knows whether it took it."""


@dataclass(frozen=True)
class Attachment:
    """The one file of a message. It is read more than once, and from any place."""

    file: IO[bytes]
    name: str
    mime_type: str

    def content(self) -> Iterator[bytes]:
        self.file.seek(0)
        while piece := self.file.read(PIECE_BYTES):
            yield piece

    def encoded(self) -> Iterator[bytes]:
        for piece in self.content():
            yield encodebytes(piece).replace(b"\n", b"\r\n")

    @property
    def encoded_bytes(self) -> int:
        """The size in base64, with a CRLF after each line: RFC 2045, 6.8."""
        lines, rest = divmod(self.file.seek(0, 2), LINE_BYTES)
        return lines * (LINE_BYTES // 3 * 4 + 2) + (-(-rest // 3) * 4 + 2 if rest else 0)

    def part(self, content: bytes) -> MIMEBase:
        part = MIMEBase(*self.mime_type.split("/", 1))
        part.set_payload(content)
        encode_base64(part)
        name = self.name if self.name.isascii() else ("utf-8", "", self.name)
        part.add_header("Content-Disposition", "attachment", filename=name)
        return part


@dataclass(frozen=True)
class Wire:
    """A message as it goes over the wire, with CRLF at every line's end."""

    head: bytes
    attachment: Attachment | None
    tail: bytes

    @property
    def size_bytes(self) -> int:
        """As servers count it, without doubled dots and the last line: RFC 1870, 6."""
        encoded = self.attachment.encoded_bytes if self.attachment else 0
        return len(self.head) + encoded + len(self.tail)

    def __iter__(self) -> Iterator[bytes]:
        yield self.head
        if self.attachment:
            yield from self.attachment.encoded()
        yield self.tail


class FileMessage(EmailMultiAlternatives):
    """A message with one attached file, or none.

    It goes to `recipients` if they are given, whomever its headers name. `SMTPBackend` sends it in
    pieces; any other mail backend takes it whole, as Django's own. Once it was sent, `refused` has
    those of the recipients whom the server refused, with its answers.
    """

    def __init__(
        self,
        *args: Any,
        attachment: Attachment | None,
        recipients: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.refused: Mapping[str, Answer] = {}
        self._attachment = attachment
        self._recipients = recipients

    def __deepcopy__(self, memo: dict[int, Any]) -> "FileMessage":
        """As Django's in-memory backend wants it: the file itself may be closed afterwards."""
        twin = copy(self)
        if file := self._attachment:
            content = BytesIO(b"".join(file.content()))
            twin._attachment = Attachment(content, file.name, file.mime_type)
        return twin

    def recipients(self) -> list[str]:
        return super().recipients() if self._recipients is None else list(self._recipients)

    def message(self, **kwargs: Any) -> Any:
        file = self._attachment
        return self._composed(b"".join(file.content()) if file else b"")

    def wire(self) -> Wire:
        # Django composes all but the attachment, whose place a marker keeps.
        marker = uuid4().bytes
        composed = self._composed(marker).as_bytes(linesep="\r\n")
        if not self._attachment:
            return Wire(composed.removesuffix(b"\r\n") + b"\r\n", None, b"")
        head, found, tail = composed.partition(b64encode(marker))
        assert found, "the marker is a single line of base64"
        return Wire(head, self._attachment, tail.removeprefix(b"\r\n"))

    def _composed(self, content: bytes) -> Any:
        if self._attachment is None:
            return super().message()
        self.attachments = []
        self.attach(self._attachment.part(content))
        try:
            return super().message()
        finally:
            self.attachments = []


class SMTPBackend(smtp.EmailBackend):
    """Django's SMTP backend, which can be interrupted, and knows whom the server refused.

    Beside the errors of `smtplib`, sending a `FileMessage` raises `ServerSilent` and `TooLarge`;
    then nothing was sent, to anybody. So it is when `progress` raises, which ends whatever is
    waited for. Only after `Unanswered` the server may have taken the message. When all recipients
    are refused, that is an error of `smtplib`, too.
    """

    progress: Progress | None = None

    @property
    def connection_class(self) -> Any:
        patience = Patience(
            self.progress, step_sec=self.timeout or inf, total_sec=settings.EMAIL_TOTAL_SEC
        )
        return partial(PatientSMTPS if self.use_ssl else PatientSMTP, patience=patience)

    @cached_property
    def ssl_context(self) -> Any:
        return PatientContext(super().ssl_context)

    def open(self) -> bool | None:
        try:
            return super().open()
        except BaseException:
            self.close()
            raise

    def _close_connection(self, connection: PatientSMTP) -> None:
        connection.patience.say_farewell()
        with suppress(OSError, ServerSilent):  # What was sent stays sent.
            connection.quit()
        connection.close()

    def _send(self, email_message: EmailMessage) -> bool:
        if not isinstance(email_message, FileMessage):
            return bool(super()._send(email_message))  # type: ignore[misc]  # Not in the stubs.
        encoding = email_message.encoding or settings.DEFAULT_CHARSET
        server = self.connection
        assert isinstance(server, PatientSMTP)
        wire = email_message.wire()  # Composed first: a bad header must not end half-way.
        server.patience.grant(wire.size_bytes / SLOWEST_BYTES_PER_SEC)
        email_message.refused = _envelope(
            server,
            wire.size_bytes,
            sanitize_address(email_message.from_email, encoding),
            {each: sanitize_address(each, encoding) for each in email_message.recipients()},
        )
        _data(server, wire, self.progress)
        return True


def connection(progress: Progress) -> Any:
    """Django's mail backend, which reports to `progress` if it can."""
    backend = get_connection()
    if isinstance(backend, SMTPBackend):
        backend.progress = progress
    return backend


def check_size(message: FileMessage) -> None:
    """Raises `TooLarge` for a message over EMAIL_MOST_BYTES, where that is not 0."""
    size, most = message.wire().size_bytes, settings.EMAIL_MOST_BYTES
    if 0 < most < size:
        raise TooLarge(f"it has {size:,} bytes, and EMAIL_MOST_BYTES allows {most:,}")


def _envelope(
    server: smtplib.SMTP, size: int, sender: str, recipients: Mapping[str, str]
) -> Mapping[str, Answer]:
    """Those of the recipients whom the server refuses; somebody is left."""
    server.ehlo_or_helo_if_needed()
    code, reply = server.mail(sender, _mail_options(server, size))
    if code != 250:
        _reset(server)
        _check_whether_too_large(code, reply, size)
        raise smtplib.SMTPSenderRefused(code, reply, sender)
    answers = {who: server.rcpt(address) for who, address in recipients.items()}
    refused = {who: answer for who, answer in answers.items() if answer[0] not in (250, 251)}
    if len(refused) == len(answers):
        _reset(server)
        raise smtplib.SMTPRecipientsRefused(refused)
    return refused


def _mail_options(server: smtplib.SMTP, size: int) -> list[str]:
    """RFC 1870 and 6152; raises `TooLarge` where the server has said how much it takes."""
    options = []
    if server.has_extn("8bitmime"):
        options.append("BODY=8BITMIME")
    if server.has_extn("size"):
        most = server.esmtp_features["size"]
        if most.isdecimal() and 0 < int(most) < size:
            raise TooLarge(f"it has {size:,} bytes, and the mail server takes {int(most):,}")
        options.append(f"SIZE={size}")
    return options


def _reset(server: smtplib.SMTP) -> None:
    with suppress(smtplib.SMTPServerDisconnected):
        server.rset()


def _check_whether_too_large(code: int, reply: bytes, size: int) -> None:
    if code == 552 or TOO_LONG.match(reply):
        words = reply.decode(errors="replace")
        raise TooLarge(f"it has {size:,} bytes, and the mail server says: {code} {words}")


def _data(server: PatientSMTP, wire: Wire, progress: Progress | None) -> None:
    code, reply = server.docmd("DATA")
    if code != 354:
        _check_whether_too_large(code, reply, wire.size_bytes)
        raise smtplib.SMTPDataError(code, reply)
    try:
        for piece in wire:
            server.send(LEADING_DOT.sub(b"..", piece))  # RFC 5321, 4.5.2. A piece starts a line.
            if progress:
                progress.delivered(0)
        if progress:
            progress.check()
        server.send(b".\r\n")
    except BaseException:
        server.close()  # A farewell would be read as more of the message.
        raise
    code, reply = _last_answer(server)
    if code >= 300:
        _check_whether_too_large(code, reply, wire.size_bytes)
        raise smtplib.SMTPDataError(code, reply)


def _last_answer(server: PatientSMTP) -> Answer:
    server.patience.await_the_end(settings.EMAIL_ANSWER_SEC)
    try:
        code, reply = server.getreply()
    except Exception as error:
        raise Unanswered(str(error)) from error
    if code // 100 not in (2, 4, 5):
        server.close()
        raise Unanswered(f"its answer cannot be read: {reply.decode(errors='replace')}")
    return code, reply
