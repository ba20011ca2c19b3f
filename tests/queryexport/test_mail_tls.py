"""TLS is only with the server that it should be with, and a password goes nowhere else."""

import io
import smtplib
import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from pytest_django import Settings

from queryexport.errors import RunCancelled
from queryexport.mail import Attachment, FileMessage, connection
from tests.fakes import RecordedProgress
from tests.queryexport.test_mail_faults import CANCEL_AFTER_SEC, NOTICED_WITHIN_SEC, CancelledSoon
from tests.services.processes import LOOPBACK
from tests.services.smtp import (
    LOGIN,
    SMTPServer,
    asking_for_login,
    going_wrong,
    running,
    tls_context,
)
from tests.services.tls import Authority

CONTENT = bytes(range(256)) * 40_000  # More than the buffers of a connection hold.
Running = Callable[..., AbstractContextManager[SMTPServer]]


@pytest.fixture(params=["STARTTLS", "TLS from the first byte"])
def secured(
    request: pytest.FixtureRequest,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Running:
    """Starts a server whose certificate is for `name`, and has it used."""
    authority = Authority()
    trusted = tmp_path / "authority.pem"
    trusted.write_text(authority.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    settings.EMAIL_BACKEND = "queryexport.mail.SMTPBackend"
    settings.EMAIL_HOST_USER, settings.EMAIL_HOST_PASSWORD = "exports", "the right one"
    settings.EMAIL_TIMEOUT = 5

    @contextmanager
    def start(name: str = LOOPBACK, by: Authority = authority) -> Iterator[SMTPServer]:
        identity = by.identity(name)
        if request.param == "STARTTLS":
            settings.EMAIL_USE_TLS = True
            options = asking_for_login(identity, tmp_path)
        else:
            settings.EMAIL_USE_SSL = True
            settings.EMAIL_HOST_USER = ""
            options = {"ssl_context": tls_context(identity, tmp_path)}
        with running(**options) as server:
            settings.EMAIL_HOST, settings.EMAIL_PORT = server.host, server.port
            yield server

    return start


def message() -> FileMessage:
    return FileMessage(
        "Rows",
        "Attached.",
        to=["a@example.com"],
        attachment=Attachment(io.BytesIO(CONTENT), "rows.bin", "application/octet-stream"),
        connection=connection(RecordedProgress()),
    )


def test_a_message_arrives_whole(secured: Running) -> None:
    with secured() as server:
        assert message().send() == 1
    [received] = server.messages
    [attachment] = received.parsed().iter_attachments()
    assert attachment.get_payload(decode=True) == CONTENT


def test_a_certificate_of_an_unknown_authority_is_refused(secured: Running) -> None:
    with (
        secured(by=Authority()) as server,
        pytest.raises(ssl.SSLCertVerificationError, match="certificate verify failed"),
    ):
        message().send()
    assert server.messages == []


def test_a_certificate_for_another_name_is_refused(secured: Running) -> None:
    with (
        secured("mail.example.com") as server,
        pytest.raises(ssl.SSLCertVerificationError, match="not valid for"),
    ):
        message().send()
    assert server.messages == []


@pytest.mark.parametrize("secured", ["STARTTLS"], indirect=True)
def test_a_wrong_password_is_refused_and_not_shown(secured: Running, settings: Settings) -> None:
    with secured() as server:
        settings.EMAIL_HOST_PASSWORD = "hunter-2"
        with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
            message().send()
    assert refused.value.smtp_code == 535
    assert "hunter-2" not in repr(refused.value)
    assert server.messages == []


def test_no_password_goes_to_a_server_that_offers_no_tls(
    settings: Settings, smtp_server: SMTPServer
) -> None:
    settings.EMAIL_BACKEND = "queryexport.mail.SMTPBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = smtp_server.host, smtp_server.port
    settings.EMAIL_USE_TLS = True
    settings.EMAIL_HOST_USER, settings.EMAIL_HOST_PASSWORD = LOGIN[0].decode(), LOGIN[1].decode()
    with pytest.raises(smtplib.SMTPNotSupportedError, match="STARTTLS"):
        message().send()
    assert smtp_server.messages == []


def test_a_cancel_is_noticed_in_the_handshake(settings: Settings) -> None:
    settings.EMAIL_USE_SSL = True
    settings.EMAIL_TIMEOUT = 20
    with going_wrong("connect", "is silent") as server:
        settings.EMAIL_BACKEND = "queryexport.mail.SMTPBackend"
        settings.EMAIL_HOST, settings.EMAIL_PORT = server.host, server.port
        waiting = message()
        progress = CancelledSoon()
        waiting.connection = connection(progress)
        with pytest.raises(RunCancelled):
            waiting.send()
    assert progress.age_sec < CANCEL_AFTER_SEC + NOTICED_WITHIN_SEC
