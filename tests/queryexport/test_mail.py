"""A message in pieces is the one that Django would have sent whole, and none is half-sent."""

import io
import os
import re
import smtplib
import time
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from django.core.mail import EmailMessage as DjangoMessage
from django.core.mail import get_connection
from pytest_django import Settings

from queryexport.errors import RunCancelled
from queryexport.mail import (
    LINE_BYTES,
    PIECE_BYTES,
    Attachment,
    FileMessage,
    TooLarge,
    check_size,
    connection,
)
from queryexport.patient_smtp import FAREWELL_SEC
from tests.fakes import RecordedProgress
from tests.services.smtp import SMTPServer, running

BODY = ".a line that begins with a dot\n..two\nperché\n."
SIZES = [0, 1, LINE_BYTES, LINE_BYTES + 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES - 1]


@pytest.fixture
def smtp_settings(settings: Settings, smtp_server: SMTPServer) -> SMTPServer:
    settings.EMAIL_BACKEND = "queryexport.mail.SMTPBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = smtp_server.host, smtp_server.port
    return smtp_server


def message_with(path: Path | None, **options: Any) -> FileMessage:
    attachment = None
    if path:
        file = io.BytesIO(path.read_bytes())
        attachment = Attachment(file, "perché.xlsx", "application/octet-stream")
    return FileMessage(
        "Perché",
        BODY,
        to=["a@example.com"],
        cc=["b@example.com"],
        headers={"Message-ID": "<1@example.com>"},  # Django's own have no fixed length.
        attachment=attachment,
        **options,
    )


def file_of(folder: Path, size: int) -> Path:
    path = folder / "content"
    path.write_bytes(os.urandom(size))
    return path


def only_attachment(message: EmailMessage) -> EmailMessage:
    [attachment] = message.iter_attachments()
    assert isinstance(attachment, EmailMessage)
    return attachment


@pytest.mark.parametrize("size", SIZES)
def test_the_pieces_make_the_message_that_django_makes(tmp_path: Path, size: int) -> None:
    path = file_of(tmp_path, size)
    message = message_with(path)
    in_pieces = message_from_bytes(b"".join(message.wire()), policy=policy.default)
    whole = message_from_bytes(message.message().as_bytes(), policy=policy.default)
    for parsed in (in_pieces, whole):
        assert parsed["Subject"] == "Perché"
        assert parsed["Cc"] == "b@example.com"
        attachment = only_attachment(parsed)
        assert attachment.get_filename() == "perché.xlsx"
        assert attachment.get_payload(decode=True) == path.read_bytes()


@pytest.mark.parametrize("size", SIZES)
def test_the_size_is_known_before_the_file_is_read(tmp_path: Path, size: int) -> None:
    wire = message_with(file_of(tmp_path, size)).wire()
    assert wire.size_bytes == len(b"".join(wire))


def test_the_size_of_a_message_without_a_file(tmp_path: Path) -> None:
    wire = message_with(None).wire()
    sent = b"".join(wire)
    assert wire.size_bytes == len(sent)
    assert sent.endswith(b".\r\n")


def test_the_server_is_told_the_size_that_it_then_gets(
    tmp_path: Path, smtp_settings: SMTPServer
) -> None:
    message_with(file_of(tmp_path, 100_000)).send()
    [received] = smtp_settings.messages
    assert received.size_said == len(received.content)


@pytest.mark.parametrize("mime_type", ["text/csv", "text/csv; charset=utf-8", "message/rfc822"])
def test_text_is_attached_byte_for_byte_under_its_own_type(tmp_path: Path, mime_type: str) -> None:
    content = "\ufeffà;b\r\nc\rd\n.\n".encode()
    message = message_with(None)
    message._attachment = Attachment(io.BytesIO(content), "a.csv", mime_type)
    for data in (b"".join(message.wire()), message.message().as_bytes()):
        parsed = message_from_bytes(data)
        attachment = parsed.get_payload()[-1]
        assert attachment["Content-Type"] == mime_type
        assert message_from_bytes(attachment.as_bytes()).get_filename() == "a.csv"
        encoded = data.split(b"base64")[-1]
        assert b"77u/w6A7Yg0KYw1kCi4K" in encoded


def test_every_line_ends_with_crlf_and_is_short_enough(tmp_path: Path) -> None:
    sent = b"".join(message_with(file_of(tmp_path, 2 * PIECE_BYTES)).wire())
    assert sent.endswith(b"\r\n")
    assert sent.count(b"\n") == sent.count(b"\r\n") == sent.count(b"\r")
    assert max(map(len, sent.split(b"\r\n"))) <= 998  # RFC 5322, 2.1.1.


def test_a_server_gets_what_was_meant(tmp_path: Path, smtp_settings: SMTPServer) -> None:
    path = file_of(tmp_path, 3 * PIECE_BYTES)
    assert message_with(path).send() == 1
    [received] = smtp_settings.messages
    assert received.rcpt_tos == ("a@example.com", "b@example.com")
    body = received.parsed().get_body()
    assert body is not None
    assert body.get_content().replace("\r\n", "\n").rstrip("\n") == BODY
    assert only_attachment(received.parsed()).get_payload(decode=True) == path.read_bytes()


def test_a_line_of_the_body_cannot_end_the_message(smtp_settings: SMTPServer) -> None:
    message = message_with(None)
    message.body = "a\r.\rb\n.\nc\r\n.\r\nMAIL FROM:<eve@example.com>"
    message.send()
    [received] = smtp_settings.messages
    assert re.split(rb"\r\n", received.content.partition(b"\r\n\r\n")[2].rstrip()) == [
        *[b"a", b".", b"b", b".", b"c", b".", b"MAIL FROM:<eve@example.com>"]
    ]


def test_one_refused_recipient_is_told_and_the_others_get_it(
    tmp_path: Path, smtp_settings: SMTPServer
) -> None:
    smtp_settings.refused_recipients.add("b@example.com")
    message = message_with(file_of(tmp_path, 10))
    assert message.send() == 1
    assert message.refused == {"b@example.com": (550, b"5.1.1 Mailbox <b@example.com> is unknown")}
    [received] = smtp_settings.messages
    assert received.rcpt_tos == ("a@example.com",)


def test_when_all_are_refused_nothing_is_sent(tmp_path: Path, smtp_settings: SMTPServer) -> None:
    smtp_settings.refused_recipients.update(["a@example.com", "b@example.com"])
    with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
        message_with(file_of(tmp_path, 10)).send()
    assert list(refused.value.recipients) == ["a@example.com", "b@example.com"]
    assert smtp_settings.messages == []


def test_a_message_goes_to_the_given_recipients_whatever_its_headers_say(
    tmp_path: Path, smtp_settings: SMTPServer
) -> None:
    message_with(file_of(tmp_path, 10), recipients=["b@example.com"]).send()
    [received] = smtp_settings.messages
    assert received.rcpt_tos == ("b@example.com",)
    assert received.parsed()["To"] == "a@example.com"


def test_the_session_goes_on_after_a_refusal(tmp_path: Path, smtp_settings: SMTPServer) -> None:
    path = file_of(tmp_path, 10)
    with get_connection() as connection:
        smtp_settings.refused_senders.add("x@example.com")
        refused = message_with(path)
        refused.from_email = "x@example.com"
        with pytest.raises(smtplib.SMTPSenderRefused):
            connection.send_messages([refused])
        assert connection.send_messages([message_with(path)]) == 1
    assert len(smtp_settings.messages) == 1


def test_a_message_of_django_itself_goes_the_same_way(smtp_settings: SMTPServer) -> None:
    backend = connection(RecordedProgress())
    message = DjangoMessage("Hello", "World", to=["a@example.com"], connection=backend)
    assert message.send() == 1
    assert smtp_settings.messages[0].rcpt_tos == ("a@example.com",)


def test_the_largest_size_is_that_of_the_setting(tmp_path: Path, settings: Settings) -> None:
    message = message_with(file_of(tmp_path, 1000))
    size = message.wire().size_bytes
    for most in (0, size, size + 1):
        settings.EMAIL_MOST_BYTES = most
        check_size(message)
    settings.EMAIL_MOST_BYTES = size - 1
    with pytest.raises(TooLarge, match=f"{size:,} bytes, and EMAIL_MOST_BYTES allows {size - 1:,}"):
        check_size(message)


def test_what_is_larger_than_the_server_takes_is_not_begun(
    tmp_path: Path, settings: Settings
) -> None:
    path = file_of(tmp_path, 100_000)
    size = without_dots(path).wire().size_bytes
    settings.EMAIL_BACKEND = "queryexport.mail.SMTPBackend"
    for limit, arrives in ((size, True), (size - 1, False)):
        with running(size_limit=limit) as server:
            settings.EMAIL_HOST, settings.EMAIL_PORT = server.host, server.port
            message = without_dots(path)
            if arrives:
                message.send()
            else:
                with pytest.raises(TooLarge, match=f"{size:,} bytes.*takes {limit:,}"):
                    message.send()
            assert len(server.messages) == arrives


def without_dots(path: Path) -> FileMessage:
    """A message with no dots to double, which this server would count."""
    message = message_with(path)
    message.body = "Attached."
    return message


@pytest.mark.parametrize("command", ["MAIL", "DATA"])
@pytest.mark.parametrize("answer", ["552 5.3.4 Too much", "552 Too much", "554 5.2.3 Too long"])
def test_a_server_may_say_late_that_a_message_is_too_large(
    tmp_path: Path, smtp_settings: SMTPServer, command: str, answer: str
) -> None:
    smtp_settings.answers[command] = answer
    with pytest.raises(TooLarge, match=re.escape(answer)):
        message_with(file_of(tmp_path, 1000)).send()


class StopsAfter(RecordedProgress):
    """A run that is told to end after so many pieces."""

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def delivered(self, rows: int) -> None:
        super().delivered(rows)
        if len(self.calls) == self.pieces:
            raise RunCancelled("Cancelled by a test.")


@pytest.mark.parametrize(
    "progress",
    [StopsAfter(1), StopsAfter(3), RecordedProgress(stop=RunCancelled("Cancelled by a test."))],
    ids=["first piece", "third piece", "before the last line"],
)
def test_what_is_given_up_on_its_way_is_not_taken_by_the_server(
    tmp_path: Path, smtp_settings: SMTPServer, progress: RecordedProgress
) -> None:
    message = message_with(file_of(tmp_path, 3 * PIECE_BYTES))
    message.connection = connection(progress)
    started = time.monotonic()
    with pytest.raises(RunCancelled):
        message.send()
    assert smtp_settings.messages == []
    assert time.monotonic() - started < FAREWELL_SEC  # None is said, which would be more of it.
