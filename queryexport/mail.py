"""Mail whose attachment is read from a file while it is sent, so that memory stays flat."""

import re
import smtplib
from base64 import b64encode, encodebytes
from collections.abc import Iterator
from copy import copy
from io import BytesIO
from itertools import chain
from typing import IO, Any
from uuid import uuid4

from django.conf import settings
from django.core.mail import EmailMessage, get_connection
from django.core.mail.backends import smtp
from django.core.mail.message import sanitize_address

from queryexport.rows import Progress

LINE_BYTES = 57  # Gives the 76 characters that a line of base64 may have: RFC 2045, 6.8.
PIECE_BYTES = LINE_BYTES * 4096
LEADING_DOT = re.compile(rb"(?m)^\.")


class FileMessage(EmailMessage):
    """A message with one attached file.

    `SMTPBackend` sends it in pieces; any other mail backend takes it whole, as Django's own.
    """

    def __init__(
        self, *args: Any, file: IO[bytes], attachment_name: str, mime_type: str, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._file = file
        self._attachment_name = attachment_name
        self._mime_type = mime_type

    def __deepcopy__(self, memo: dict[int, Any]) -> "FileMessage":
        """As Django's in-memory backend wants it: the file itself may be closed afterwards."""
        twin = copy(self)
        twin._file = BytesIO(b"".join(self._content()))
        return twin

    def message(self, **kwargs: Any) -> Any:
        return self._composed(b"".join(self._content()))

    def pieces(self) -> Iterator[bytes]:
        """The message as it goes over the wire, with CRLF at every line's end."""
        # Django composes all but the attachment, whose place a marker keeps.
        marker = uuid4().bytes
        composed = self._composed(marker).as_bytes(linesep="\r\n")
        head, found, tail = composed.partition(b64encode(marker))
        assert found, "the marker is a single line of base64"
        return chain([head], self._encoded(), [tail.removeprefix(b"\r\n")])

    def _encoded(self) -> Iterator[bytes]:
        for piece in self._content():
            yield encodebytes(piece).replace(b"\n", b"\r\n")

    def _content(self) -> Iterator[bytes]:
        self._file.seek(0)
        while piece := self._file.read(PIECE_BYTES):
            yield piece

    def _composed(self, content: bytes) -> Any:
        self.attachments = []
        self.attach(self._attachment_name, content, self._mime_type)
        try:
            return super().message()
        finally:
            self.attachments = []


class SMTPBackend(smtp.EmailBackend):
    """Django's SMTP backend, for which one refused recipient refuses the message.

    smtplib goes on without those whom the server refuses, and Django does not say who they are.
    Raises the errors of `smtplib`; then nothing was sent, to anybody. With a `progress`, a
    `FileMessage` can be given up until right before the step that makes the server take it.
    """

    progress: Progress | None = None

    def _send(self, email_message: EmailMessage) -> bool:
        if not isinstance(email_message, FileMessage):
            return bool(super()._send(email_message))  # type: ignore[misc]  # Not in the stubs.
        encoding = email_message.encoding or settings.DEFAULT_CHARSET
        server = self.connection
        assert server is not None
        pieces = email_message.pieces()  # Composed first: a bad header must not end half-way.
        _envelope(
            server,
            sanitize_address(email_message.from_email, encoding),
            [sanitize_address(address, encoding) for address in email_message.recipients()],
        )
        _data(server, pieces, self.progress)
        return True


def connection(progress: Progress) -> Any:
    """Django's mail backend, which reports to `progress` if it can."""
    backend = get_connection()
    if isinstance(backend, SMTPBackend):
        backend.progress = progress
    return backend


def _envelope(server: smtplib.SMTP, sender: str, recipients: list[str]) -> None:
    server.ehlo_or_helo_if_needed()
    code, reply = server.mail(sender)
    if code != 250:
        server.rset()
        raise smtplib.SMTPSenderRefused(code, reply, sender)
    answers = {recipient: server.rcpt(recipient) for recipient in recipients}
    refused = {who: answer for who, answer in answers.items() if answer[0] not in (250, 251)}
    if refused:
        server.rset()
        raise smtplib.SMTPRecipientsRefused(refused)


def _data(server: smtplib.SMTP, pieces: Iterator[bytes], progress: Progress | None) -> None:
    code, reply = server.docmd("DATA")
    if code != 354:
        raise smtplib.SMTPDataError(code, reply)
    try:
        for piece in pieces:
            server.send(LEADING_DOT.sub(b"..", piece))  # RFC 5321, 4.5.2. A piece starts a line.
            if progress:
                progress.delivered(0)
        if progress:
            progress.check()
    except BaseException:
        server.close()  # A farewell would be read as more of the message.
        raise
    server.send(b".\r\n")
    code, reply = server.getreply()
    if code != 250:
        raise smtplib.SMTPDataError(code, reply)
