"""A mail server that goes wrong: nothing was sent, or nobody knows; and nobody waits for long."""

import io
import smtplib
import time

import pytest
from pytest_django import Settings

from queryexport.errors import RunCancelled
from queryexport.mail import Attachment, FileMessage, Unanswered, connection
from queryexport.patient_smtp import FAREWELL_SEC, TURN_SEC, ServerSilent
from queryexport.rows import Progress
from tests.fakes import RecordedProgress
from tests.services.processes import free_port
from tests.services.smtp import FaultyServer, going_wrong

BEFORE_THE_END = ["connect", "EHLO", "MAIL", "RCPT", "DATA", "text"]
CANCEL_AFTER_SEC = 0.3
NOTICED_WITHIN_SEC = 2.0
MORE_THAN_BUFFERS_HOLD = 30_000_000


class CancelledSoon(RecordedProgress):
    """A run that a person cancels after `CANCEL_AFTER_SEC`."""

    def __init__(self) -> None:
        super().__init__()
        self.started = time.monotonic()

    @property
    def age_sec(self) -> float:
        return time.monotonic() - self.started

    def delivered(self, rows: int) -> None:
        super().delivered(rows)
        if self.age_sec > CANCEL_AFTER_SEC:
            raise RunCancelled("Cancelled by a test.")


def send(server: FaultyServer, progress: Progress | None = None, *, size: int = 2000) -> float:
    """Sends a message of that size and says how many seconds it took."""
    message = FileMessage(
        "Rows",
        "Attached.",
        to=["a@example.com"],
        attachment=Attachment(io.BytesIO(b"x" * size), "rows.bin", "application/octet-stream"),
    )
    message.connection = connection(progress or RecordedProgress())
    message.connection.host, message.connection.port = server.host, server.port
    started = time.monotonic()
    try:
        assert message.send() == 1
    except Exception as error:
        error.took_sec = time.monotonic() - started  # type: ignore[attr-defined]
        raise
    return time.monotonic() - started


@pytest.fixture(autouse=True)
def smtp_settings(settings: Settings) -> Settings:
    settings.EMAIL_BACKEND = "queryexport.mail.SMTPBackend"
    settings.EMAIL_TIMEOUT, settings.EMAIL_TOTAL_SEC, settings.EMAIL_ANSWER_SEC = 20, 20, 20
    return settings


@pytest.mark.parametrize("step", BEFORE_THE_END)
def test_a_drop_before_the_end_is_an_error_and_nothing_was_sent(step: str) -> None:
    with (
        going_wrong(step, "drops") as server,
        pytest.raises((smtplib.SMTPServerDisconnected, ConnectionError)),
    ):
        send(server, size=3_000_000)
    assert server.ended == 0


@pytest.mark.parametrize("fault", ["drops", "babbles"])
def test_after_the_end_nobody_knows(fault: str) -> None:
    with going_wrong(".", fault) as server, pytest.raises(Unanswered):
        send(server)
    assert server.ended == 1


@pytest.mark.parametrize("step", BEFORE_THE_END)
def test_a_silent_server_is_left_after_the_time_for_one_answer(
    smtp_settings: Settings, step: str
) -> None:
    smtp_settings.EMAIL_TIMEOUT = 1
    with (
        going_wrong(step, "is silent") as server,
        pytest.raises(ServerSilent, match="did not answer for 1 s") as silent,
    ):
        send(server, size=MORE_THAN_BUFFERS_HOLD)
    assert silent.value.took_sec < 1 + NOTICED_WITHIN_SEC
    assert server.ended == 0


def test_the_last_answer_has_a_time_of_its_own(smtp_settings: Settings) -> None:
    smtp_settings.EMAIL_TIMEOUT, smtp_settings.EMAIL_ANSWER_SEC = 1, 3
    with (
        going_wrong(".", "is silent") as server,
        pytest.raises(Unanswered, match="did not answer for 3 s") as unanswered,
    ):
        send(server)
    assert 3 <= unanswered.value.took_sec < 3 + NOTICED_WITHIN_SEC


@pytest.mark.parametrize("fault", ["drips", "goes on"])
@pytest.mark.parametrize("step", ["connect", "EHLO", "RCPT"])
def test_a_tarpit_gets_the_time_for_one_answer(
    smtp_settings: Settings, step: str, fault: str
) -> None:
    smtp_settings.EMAIL_TIMEOUT = 1
    with going_wrong(step, fault) as server, pytest.raises(ServerSilent) as silent:
        send(server)
    assert silent.value.took_sec < 1 + NOTICED_WITHIN_SEC


def test_the_whole_dialogue_has_a_limit(smtp_settings: Settings) -> None:
    smtp_settings.EMAIL_TOTAL_SEC = 1
    with (
        going_wrong("MAIL", "drips") as server,
        pytest.raises(ServerSilent, match=r"more than 1.* s in all") as silent,
    ):
        send(server)
    assert silent.value.took_sec < 1 + NOTICED_WITHIN_SEC


@pytest.mark.parametrize("fault", ["is silent", "drips", "goes on"])
@pytest.mark.parametrize("step", BEFORE_THE_END)
def test_a_cancel_is_noticed_while_the_server_is_waited_for(step: str, fault: str) -> None:
    with going_wrong(step, fault) as server, pytest.raises(RunCancelled) as cancelled:
        send(server, CancelledSoon(), size=MORE_THAN_BUFFERS_HOLD)
    assert cancelled.value.took_sec < CANCEL_AFTER_SEC + NOTICED_WITHIN_SEC
    assert server.ended == 0


@pytest.mark.parametrize("fault", ["is silent", "drips"])
def test_a_cancel_after_the_end_leaves_the_message_unknown(fault: str) -> None:
    with (
        going_wrong(".", fault) as server,
        pytest.raises(Unanswered, match="Cancelled by a test") as unanswered,
    ):
        send(server, CancelledSoon())
    assert unanswered.value.took_sec < CANCEL_AFTER_SEC + NOTICED_WITHIN_SEC
    assert server.ended == 1


def test_a_farewell_without_an_answer_changes_nothing(smtp_settings: Settings) -> None:
    with going_wrong("QUIT", "is silent") as server:
        took_sec = send(server, CancelledSoon())
    assert took_sec < FAREWELL_SEC + 2 * TURN_SEC + 0.5
    assert server.ended == 1


def test_a_connection_that_is_refused_is_said_at_once() -> None:
    server = FaultyServer("", "", port=free_port())
    with pytest.raises(ConnectionRefusedError) as refused:
        send(server)
    assert refused.value.took_sec < NOTICED_WITHIN_SEC


def test_a_name_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(OSError, match=r"[Nn]ame|resolution"):
        send(FaultyServer("", "", host="nowhere.invalid", port=25))
