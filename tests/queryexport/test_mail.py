"""A message in pieces is the one that Django would have sent whole, and none is half-sent."""

import io
import os
import smtplib
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

import pytest
from django.core.mail import get_connection
from pytest_django import Settings

from queryexport.errors import RunCancelled
from queryexport.mail import LINE_BYTES, PIECE_BYTES, FileMessage, connection
from tests.fakes import RecordedProgress
from tests.services.smtp import SMTPServer

BODY = ".a line that begins with a dot\n..two\nperché\n."


@pytest.fixture
def smtp_settings(settings: Settings, smtp_server: SMTPServer) -> SMTPServer:
    settings.EMAIL_BACKEND = "queryexport.mail.SMTPBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = smtp_server.host, smtp_server.port
    return smtp_server


def message_with(path: Path) -> FileMessage:
    return FileMessage(
        "Perché",
        BODY,
        to=["a@example.com"],
        cc=["b@example.com"],
        file=io.BytesIO(path.read_bytes()),
        attachment_name="perché.xlsx",
        mime_type="application/octet-stream",
    )


def file_of(folder: Path, size: int) -> Path:
    path = folder / "content"
    path.write_bytes(os.urandom(size))
    return path


def only_attachment(message: EmailMessage) -> EmailMessage:
    [attachment] = message.iter_attachments()
    assert isinstance(attachment, EmailMessage)
    return attachment


@pytest.mark.parametrize(
    "size", [0, 1, LINE_BYTES, LINE_BYTES + 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES - 1]
)
def test_the_pieces_make_the_message_that_django_makes(tmp_path: Path, size: int) -> None:
    path = file_of(tmp_path, size)
    message = message_with(path)
    in_pieces = message_from_bytes(b"".join(message.pieces()), policy=policy.default)
    whole = message_from_bytes(message.message().as_bytes(), policy=policy.default)
    for parsed in (in_pieces, whole):
        assert parsed["Subject"] == "Perché"
        assert parsed["Cc"] == "b@example.com"
        attachment = only_attachment(parsed)
        assert attachment.get_filename() == "perché.xlsx"
        assert attachment.get_payload(decode=True) == path.read_bytes()


def test_every_line_ends_with_crlf_and_is_short_enough(tmp_path: Path) -> None:
    sent = b"".join(message_with(file_of(tmp_path, 2 * PIECE_BYTES)).pieces())
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


def test_one_refused_recipient_refuses_the_message_for_all(
    tmp_path: Path, smtp_settings: SMTPServer
) -> None:
    smtp_settings.refused_recipients.add("b@example.com")
    with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
        message_with(file_of(tmp_path, 10)).send()
    assert list(refused.value.recipients) == ["b@example.com"]
    assert smtp_settings.messages == []


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
    with pytest.raises(RunCancelled):
        message.send()
    assert smtp_settings.messages == []
