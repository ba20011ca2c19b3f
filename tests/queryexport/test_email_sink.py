"""A message is sent whole or not at all, and the receipt says who got it."""

import errno
import gzip
import io
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import IO, Any
from zoneinfo import ZoneInfo

import openpyxl
import pytest
from django.core import mail
from pytest_django import Settings

from queryexport.contents import Contents, Gzip
from queryexport.errors import (
    ConfigurationError,
    DeliveryError,
    DeliveryUnknown,
    QueryError,
    RunCancelled,
    RunSuperseded,
)
from queryexport.filenames import Tokens
from queryexport.formats import Written
from queryexport.formats.xlsx import Xlsx
from queryexport.mail import PIECE_BYTES
from queryexport.rows import Column, Receipt, Result
from queryexport.sinks.email import EmailSink, Letter, NoRows, Published
from queryexport.sinks.prepared import Prepared
from tests.fakes import RecordedProgress, result_of
from tests.services.smtp import SMTPServer, going_wrong, running

ROME = ZoneInfo("Europe/Rome")
XLSX = Xlsx(ROME)
SLOT = datetime(2026, 1, 18, 8, 0, tzinfo=ROME)
TOKENS = Tokens("Traces & more", SLOT.date(), SLOT, run_id=120, run_url="https://x.example/?a=1&b")
ANNA, BOB, CARLA, DORA = (f"{name}@example.com" for name in ("anna", "bob", "carla", "dora"))
MESSAGE_ID = "<run-120@exports.example.com>"


class Lines:
    """The plainest format: a line for each row, whose bytes a test can foretell."""

    mime_type = "application/x-lines"

    def write(self, result: Result, file: IO[bytes]) -> Written:
        count = 0
        for batch in result.batches:
            for row in batch:
                file.write(",".join(map(str, row)).encode() + b"\n")
                count += 1
        return Written(count)


class FullDisk(Lines):
    """A format that meets a full disk after it has written something."""

    def write(self, result: Result, file: IO[bytes]) -> Written:
        file.write(b"half of")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Blob(Lines):
    """A format of as many bytes as the test wants."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def write(self, result: Result, file: IO[bytes]) -> Written:
        file.write(self.content)
        return super().write(result, io.BytesIO())


def some_rows(count: int = 5) -> Result:
    return result_of(["n"], [[number] for number in range(count)])


def breaking_result() -> Result:
    """A result whose stream breaks after three rows."""

    def batches() -> Iterator[Sequence[Sequence[Any]]]:
        yield [[number] for number in range(3)]
        raise QueryError("The connection was lost.")

    return Result((Column("n"),), batches())


def make_letter(**changes: Any) -> Letter:
    letter = Letter(
        to=[ANNA, BOB],
        cc=[CARLA],
        subject="Täglich",
        text="The rows of today.",
        tokens=TOKENS,
        message_id=MESSAGE_ID,
    )
    return replace(letter, **changes)


def make_email(letter: Letter | None = None, **changes: Any) -> EmailSink:
    return replace(EmailSink(letter or make_letter(), "daily.txt", Contents(Lines())), **changes)


def delivered(letter: Letter | None = None, *, rows: int = 5, **changes: Any) -> Receipt:
    return make_email(letter, **changes).deliver(some_rows(rows), RecordedProgress())


@pytest.fixture
def smtp(smtp_server: SMTPServer, settings: Settings) -> SMTPServer:
    """A real mail server, used by the product's own backend."""
    use(smtp_server, settings)
    return smtp_server


def use(server: Any, settings: Settings) -> None:
    settings.EMAIL_BACKEND = "queryexport.mail.SMTPBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = server.host, server.port
    settings.EMAIL_HOST_USER = settings.EMAIL_HOST_PASSWORD = ""
    settings.EMAIL_USE_TLS = settings.EMAIL_USE_SSL = False
    settings.EMAIL_TIMEOUT = 5


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, empty at first, of every temporary file."""
    folder = tmp_path / "spool"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def only_message(smtp: SMTPServer) -> EmailMessage:
    [received] = smtp.messages
    return received.parsed()


def attached(message: EmailMessage) -> tuple[str | None, str, bytes]:
    """The name, type and bytes of the only attachment."""
    (part,) = message.iter_attachments()
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    return part.get_filename(), part.get_content_type(), content


def body(message: EmailMessage, kind: str = "plain") -> str:
    part = message.get_body((kind,))
    assert part is not None
    return str(part.get_content()).replace("\r\n", "\n").rstrip("\n")


# The message ------------------------------------------------------------------------------------


def test_one_message_carries_the_rows_to_everybody(smtp: SMTPServer) -> None:
    receipt = delivered(rows=3)
    (received,) = smtp.messages
    message = received.parsed()
    assert received.rcpt_tos == (ANNA, BOB, CARLA)
    assert (message["To"], message["Cc"]) == (f"{ANNA}, {BOB}", CARLA)
    assert message["Subject"] == "Täglich"
    assert attached(message) == ("daily.txt", "application/x-lines", b"0\n1\n2\n")
    assert (receipt.rows, receipt.size_bytes) == (3, 6)
    assert receipt.place == f"{ANNA}, {BOB}; cc {CARLA}"
    assert receipt.recipients == {ANNA: "", BOB: "", CARLA: ""}
    assert (receipt.refused, receipt.nothing_sent) == ({}, "")


def test_who_is_in_bcc_gets_the_message_and_stands_nowhere_in_it(smtp: SMTPServer) -> None:
    receipt = delivered(make_letter(bcc=[DORA]))
    [received] = smtp.messages
    assert received.rcpt_tos == (ANNA, BOB, CARLA, DORA)
    assert b"dora" not in received.content
    assert b"bcc" not in received.content.lower()
    assert receipt.place == f"{ANNA}, {BOB}; cc {CARLA}; bcc {DORA}"


def test_a_message_may_go_to_bcc_alone(smtp: SMTPServer) -> None:
    delivered(make_letter(to=[], cc=[], bcc=[DORA]))
    [received] = smtp.messages
    assert received.rcpt_tos == (DORA,)
    assert received.parsed()["To"] is None


def test_who_is_named_twice_gets_the_message_once(smtp: SMTPServer) -> None:
    receipt = delivered(make_letter(to=[ANNA, ANNA], cc=["anna@EXAMPLE.com", BOB], bcc=[BOB]))
    [received] = smtp.messages
    assert received.rcpt_tos == (ANNA, BOB)
    assert received.parsed()["To"] == ANNA
    assert receipt.place == f"{ANNA}; cc {BOB}"
    assert receipt.recipients == {ANNA: "", BOB: ""}


def test_the_headers_say_that_a_program_sent_it_and_for_which_run(smtp: SMTPServer) -> None:
    delivered()
    message = only_message(smtp)
    assert message["Message-ID"] == MESSAGE_ID
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["X-Query-Export-Run"] == "120"
    sent_at = message["Date"].datetime
    assert abs(sent_at.timestamp() - time.time()) < 60


def test_every_attempt_has_the_same_message_id(smtp: SMTPServer) -> None:
    for _ in range(2):
        delivered()
    assert [received.parsed()["Message-ID"] for received in smtp.messages] == [MESSAGE_ID] * 2


def test_words_are_filled_in_when_the_rows_are_there(smtp: SMTPServer) -> None:
    delivered(
        make_letter(
            subject="{query_name}: {row_count} rows of {date-1}",
            text="{file_name} has {row_count} rows: {run_url}",
        ),
        rows=4,
    )
    message = only_message(smtp)
    assert message["Subject"] == "Traces & more: 4 rows of 2026-01-17"
    assert body(message) == "daily.txt has 4 rows: https://x.example/?a=1&b"


def test_html_goes_beside_the_text_with_its_values_escaped(smtp: SMTPServer) -> None:
    html = '<p><b>{query_name}</b>: <a href="{run_url}">{row_count}</a> {date-1}</p>'
    delivered(make_letter(html=html, text="{query_name}"))
    message = only_message(smtp)
    assert message.get_content_type() == "multipart/mixed"
    assert [part.get_content_type() for part in message.iter_parts()] == [
        "multipart/alternative",
        "application/x-lines",
    ]
    assert body(message) == "Traces & more"
    assert body(message, "html") == (
        '<p><b>Traces &amp; more</b>: <a href="https://x.example/?a=1&amp;b">5</a> 2026-01-17</p>'
    )
    assert attached(message)[2] == b"0\n1\n2\n3\n4\n"


def test_a_value_cannot_bring_html_of_its_own(smtp: SMTPServer) -> None:
    tokens = replace(TOKENS, query_name="<script>alert('1')</script>")
    delivered(make_letter(html="<p>{query_name}</p>", tokens=tokens))
    html = body(only_message(smtp), "html")
    assert html == "<p>&lt;script&gt;alert(&#x27;1&#x27;)&lt;/script&gt;</p>"


def test_an_unknown_token_is_said_and_nothing_is_sent(smtp: SMTPServer) -> None:
    with pytest.raises(ConfigurationError, match=r"\{nonsense\}"):
        delivered(make_letter(text="{nonsense}"))
    assert smtp.messages == []


def test_an_attached_workbook_can_be_opened(smtp: SMTPServer) -> None:
    delivered(rows=2, attachment_name="daily.xlsx", contents=Contents(XLSX))
    name, mime_type, content = attached(only_message(smtp))
    assert (name, mime_type) == ("daily.xlsx", Xlsx.mime_type)
    assert list(openpyxl.load_workbook(io.BytesIO(content))["data"].values) == [("n",), (0,), (1,)]


def test_a_compressed_attachment_holds_the_same_bytes(smtp: SMTPServer) -> None:
    delivered(rows=3, attachment_name="daily.txt.gz", contents=Contents(Lines(), Gzip()))
    name, mime_type, content = attached(only_message(smtp))
    assert (name, mime_type) == ("daily.txt.gz", "application/gzip")
    assert gzip.decompress(content) == b"0\n1\n2\n"


@pytest.mark.parametrize(
    "size",
    [0, 1, 56, 57, 58, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 5],
)
def test_an_attachment_of_any_size_arrives_byte_for_byte(smtp: SMTPServer, size: int) -> None:
    content = random.Random(size).randbytes(size)  # The same bytes in every run.
    receipt = delivered(rows=2, attachment_name="daily.bin", contents=Contents(Blob(content)))
    assert attached(only_message(smtp))[2] == content
    assert (receipt.rows, receipt.size_bytes) == (2, size)


@pytest.mark.parametrize("text", [".", "..\n.\n.end", "a\n\nb", "ünï\n.x", "x" * 2000, "日本語 😀"])
def test_the_body_arrives_as_it_was_written(smtp: SMTPServer, text: str) -> None:
    delivered(make_letter(text=text, html=f"<p>{text}</p>"), rows=1)
    message = only_message(smtp)
    assert body(message) == text
    assert body(message, "html") == f"<p>{text}</p>"
    assert attached(message)[2] == b"0\n"


@pytest.mark.parametrize("subject", ["日本語 😀", "x " * 250 + "y", "è" * 200, "a  b"])
def test_any_subject_arrives_as_it_was_written(smtp: SMTPServer, subject: str) -> None:
    delivered(make_letter(subject=subject))
    assert only_message(smtp)["Subject"].lstrip() == subject  # A long word begins a new line.


@pytest.mark.parametrize(
    "name", ["più_è.txt", "日本語 😀.txt", "a b;c=\"d'.txt", "x" * 190 + ".txt"]
)
def test_an_attachment_keeps_its_name(smtp: SMTPServer, name: str) -> None:
    delivered(attachment_name=name)
    assert attached(only_message(smtp))[0] == name


@pytest.mark.parametrize(
    "changes",
    [
        {"subject": "a\nBcc: eve@example.com"},
        {"subject": "a\rBcc: eve@example.com"},
        {"to": ["a\nb@c.d"]},
        {"bcc": ["a@b.c\r\nRCPT TO:<eve@example.com>"]},
        {"message_id": "<a@b.c>\nBcc: eve@example.com"},
    ],
)
def test_a_header_cannot_be_smuggled_in(smtp: SMTPServer, changes: dict[str, Any]) -> None:
    started = time.monotonic()
    with pytest.raises((DeliveryError, ConfigurationError)) as refused:
        delivered(make_letter(**changes))
    assert smtp.messages == []
    assert not refused.value.retryable
    assert time.monotonic() - started < 2  # It is refused before the server waits for the data.


def test_a_name_of_a_file_cannot_smuggle_a_header_in(smtp: SMTPServer) -> None:
    with pytest.raises(DeliveryError):
        delivered(attachment_name="a\nX-Evil: 1\n\n.txt")
    assert smtp.messages == []


@pytest.mark.parametrize("backend", ["filebased", "locmem", "console", "dummy"])
def test_another_mail_backend_gets_the_same_message(
    settings: Settings, tmp_path: Path, backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.EMAIL_BACKEND = f"django.core.mail.backends.{backend}.EmailBackend"
    settings.EMAIL_FILE_PATH = tmp_path / "mail"
    receipt = delivered(make_letter(bcc=[DORA]), rows=3)
    assert receipt.recipients == dict.fromkeys([ANNA, BOB, CARLA, DORA], "")
    match backend:
        case "filebased":
            (file,) = settings.EMAIL_FILE_PATH.iterdir()
            data = file.read_bytes()
        case "locmem":
            (sent,) = mail.outbox
            assert sent.recipients() == [ANNA, BOB, CARLA, DORA]
            data = sent.message().as_bytes()
        case "console":
            data = capsys.readouterr().out.encode()
        case _:
            return
    message = message_from_bytes(data, policy=policy.default)
    assert message["Cc"] == CARLA
    assert attached(message) == ("daily.txt", "application/x-lines", b"0\n1\n2\n")


# Nothing sent -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "form", "error"),
    [
        (breaking_result, Lines(), QueryError),
        (lambda: result_of(["n"], [[object()]]), XLSX, DeliveryError),
        (some_rows, FullDisk(), DeliveryError),
    ],
    ids=["broken stream", "unwritable value", "full disk"],
)
def test_a_failure_sends_nothing_and_leaves_nothing(
    spool: Path, result: Callable[[], Result], form: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        make_email(contents=Contents(form)).deliver(result(), RecordedProgress())
    assert mail.outbox == []  # Of the backend that Django's test runner puts in.
    assert list(spool.iterdir()) == []


def test_a_superseded_run_sends_nothing() -> None:
    with pytest.raises(RunSuperseded):
        make_email().deliver(some_rows(), RecordedProgress(stop=RunSuperseded("Taken over.")))
    assert mail.outbox == []


@pytest.mark.parametrize(
    "sink",
    [make_email(make_letter(to=[], cc=[])), make_email(only=frozenset([DORA]))],
    ids=["no recipients", "none of those that are left"],
)
def test_nobody_to_send_to_is_a_delivery_error(sink: EmailSink) -> None:
    with pytest.raises(DeliveryError, match="sent nothing"):
        sink.deliver(some_rows(), RecordedProgress())


def test_only_allowed_domains_get_mail(smtp: SMTPServer, settings: Settings) -> None:
    settings.EMAIL_ALLOWED_DOMAINS = ["example.com"]
    delivered()
    with pytest.raises(ConfigurationError, match=r"eve@evil\.example.*EMAIL_ALLOWED_DOMAINS"):
        delivered(make_letter(bcc=["eve@evil.example"]))
    assert len(smtp.messages) == 1


def test_a_domain_is_checked_before_the_rows_are_read(settings: Settings) -> None:
    settings.EMAIL_ALLOWED_DOMAINS = ["example.org"]
    with pytest.raises(ConfigurationError):
        make_email().deliver(breaking_result(), RecordedProgress())


# Who got it -------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["550 5.1.1 Unknown", "450 4.2.1 Try later"])
def test_one_refused_of_several_is_named_and_the_others_get_it(
    smtp: SMTPServer, answer: str
) -> None:
    smtp.answers[f"RCPT {BOB}"] = answer
    progress = RecordedProgress()
    receipt = make_email().deliver(some_rows(), progress)
    [received] = smtp.messages
    assert received.rcpt_tos == (ANNA, CARLA)
    assert received.parsed()["To"] == f"{ANNA}, {BOB}"
    assert (receipt.rows, receipt.handed, progress.reported) == (5, 5, 5)
    assert receipt.recipients == {ANNA: "", BOB: answer, CARLA: ""}
    assert receipt.refused == {BOB: answer}


def test_an_answer_of_many_lines_is_kept_as_one(smtp: SMTPServer) -> None:
    lines = "".join(f"550-5.1.1 reason {number}\r\n" for number in range(200))
    smtp.answers[f"RCPT {BOB}"] = f"{lines}550 5.1.1 the end"
    words = delivered().refused[BOB]
    assert words.startswith("550 5.1.1 reason 0 5.1.1 reason 1 ")
    assert len(words) <= 500


def test_a_further_attempt_goes_to_the_others_with_the_same_headers(smtp: SMTPServer) -> None:
    smtp.answers[f"RCPT {BOB}"] = "450 4.2.1 Try later"
    first = delivered(make_letter(bcc=[DORA]))
    smtp.answers.clear()
    second = delivered(make_letter(bcc=[DORA]), only=frozenset(first.refused))
    assert [received.rcpt_tos for received in smtp.messages] == [(ANNA, CARLA, DORA), (BOB,)]
    one, two = (received.parsed() for received in smtp.messages)
    for header in ("Message-ID", "To", "Cc", "Subject", "From"):
        assert one[header] == two[header]
    assert (second.place, second.recipients) == (BOB, {BOB: ""})


@pytest.mark.parametrize(
    ("answers", "retryable"),
    [
        (["550 5.1.1 Unknown", "550 5.1.1 Unknown"], False),
        (["450 4.2.1 Try later", "550 5.1.1 Unknown"], False),
        (["450 4.2.1 Try later", "451 4.3.0 Try later"], True),
    ],
)
def test_when_all_are_refused_nothing_is_sent(
    smtp: SMTPServer, answers: list[str], retryable: bool
) -> None:
    for who, answer in zip([ANNA, BOB], answers, strict=True):
        smtp.answers[f"RCPT {who}"] = answer
    with pytest.raises(DeliveryError, match="nothing was sent") as refused:
        delivered(make_letter(cc=[]))
    for who, answer in zip([ANNA, BOB], answers, strict=True):
        assert f"{who}: {answer}" in refused.value.message
    assert refused.value.retryable == retryable
    assert refused.value.receipt is None
    assert smtp.messages == []


@pytest.mark.parametrize("command", ["MAIL", "DATA"])
@pytest.mark.parametrize(
    ("answer", "retryable"),
    [("451 4.3.0 Try later", True), ("421 4.3.2 Closing", True), ("554 5.7.1 Spam", False)],
)
def test_a_refused_message_may_be_tried_again_after_4xx_alone(
    smtp: SMTPServer, command: str, answer: str, retryable: bool
) -> None:
    smtp.answers[command] = answer
    with pytest.raises(DeliveryError, match=re.escape(answer)) as refused:
        delivered()
    assert refused.value.retryable == retryable
    assert not isinstance(refused.value, DeliveryUnknown)
    assert smtp.messages == []


def test_a_mail_server_that_is_away_is_retryable_and_shows_no_password(
    smtp: SMTPServer, settings: Settings
) -> None:
    settings.EMAIL_PORT = 1
    settings.EMAIL_HOST_USER, settings.EMAIL_HOST_PASSWORD = "exports", "hunter-2"
    with pytest.raises(DeliveryError, match=r"anna@example\.com") as caught:
        delivered()
    assert caught.value.retryable
    assert "hunter-2" not in f"{caught.value} {caught.value.__cause__!r}"


def test_a_refused_login_is_not_tried_again_and_shows_no_password(
    smtp: SMTPServer, settings: Settings
) -> None:
    settings.EMAIL_HOST_USER, settings.EMAIL_HOST_PASSWORD = "exports", "hunter-2"
    with pytest.raises(DeliveryError) as caught:
        delivered()
    assert not caught.value.retryable
    assert "hunter-2" not in f"{caught.value} {caught.value.__cause__!r}"
    assert smtp.messages == []


@pytest.mark.parametrize("step", ["EHLO", "RCPT", "text"])
def test_a_server_that_falls_silent_is_tried_again(settings: Settings, step: str) -> None:
    with going_wrong(step, "is silent") as server:
        use(server, settings)
        settings.EMAIL_TIMEOUT = 1
        with pytest.raises(DeliveryError, match="nothing was sent: it did not answer") as silent:
            delivered(contents=Contents(Blob(bytes(10_000_000))))
    assert silent.value.retryable
    assert not isinstance(silent.value, DeliveryUnknown)


@pytest.mark.parametrize("step", ["connect", "MAIL", "RCPT", "DATA", "."])
def test_a_server_that_is_too_busy_is_tried_again(settings: Settings, step: str) -> None:
    with going_wrong(step, "is busy") as server:
        use(server, settings)
        with pytest.raises(DeliveryError, match="nothing was sent") as busy:
            delivered(make_letter(to=[ANNA], cc=[]))
    assert "421 4.3.2 Too busy" in busy.value.message
    assert busy.value.retryable
    assert not isinstance(busy.value, DeliveryUnknown)


@pytest.mark.parametrize("fault", ["is silent", "drops"])
def test_without_a_last_answer_nobody_knows_and_nobody_tries_again(
    settings: Settings, fault: str
) -> None:
    progress = RecordedProgress()
    with going_wrong(".", fault) as server:
        use(server, settings)
        settings.EMAIL_ANSWER_SEC = 1
        with pytest.raises(DeliveryUnknown, match="It is not known whether") as unknown:
            make_email().deliver(some_rows(), progress)
    assert f"Look for the Message-ID {MESSAGE_ID}" in unknown.value.message
    assert "run the item again if it did not arrive" in unknown.value.message
    assert not unknown.value.retryable
    receipt = unknown.value.receipt
    assert receipt is not None
    assert (receipt.rows, receipt.unknown, receipt.handed) == (0, 5, 5)
    assert receipt.place == f"{ANNA}, {BOB}; cc {CARLA}"
    assert progress.reported == 0


class CancelledInTheEnd(RecordedProgress):
    """A run that a person cancels once the server has the whole message."""

    def __init__(self, has_all: Callable[[], object]) -> None:
        super().__init__()
        self.has_all = has_all

    def delivered(self, rows: int) -> None:
        if self.has_all():
            raise RunCancelled("Cancelled by a test.")


def test_a_run_cancelled_after_the_end_is_unknown(settings: Settings) -> None:
    with going_wrong(".", "is silent") as server:
        use(server, settings)
        progress = CancelledInTheEnd(lambda: server.ended)
        with pytest.raises(DeliveryUnknown, match="and then Cancelled by a test") as unknown:
            make_email().deliver(some_rows(), progress)
    assert unknown.value.receipt is not None
    assert unknown.value.receipt.unknown == 5


# Too large --------------------------------------------------------------------------------------


PLACED = Published("/exports/x", "/exports/x")


def published(folder: Path, name: str = "daily.txt") -> Callable[[Prepared], Published]:
    """Stores the file of a message that is too large, and says where."""

    def publish(file: Prepared) -> Published:
        file.file.seek(0)
        (folder / name).write_bytes(file.file.read())
        return Published(str(folder / name), f"/exports/<b>/{name}")

    return publish


def test_a_message_over_the_setting_is_not_sent(smtp: SMTPServer, settings: Settings) -> None:
    settings.EMAIL_MOST_BYTES = 5000
    with pytest.raises(DeliveryError, match=r"EMAIL_MOST_BYTES allows 5,000.*Nothing was") as error:
        delivered(contents=Contents(Blob(bytes(5000))))
    assert not error.value.retryable
    assert smtp.messages == []


def test_a_message_larger_than_the_server_takes_is_not_begun(settings: Settings) -> None:
    with running(size_limit=5000) as server:
        use(server, settings)
        with pytest.raises(DeliveryError, match="the mail server takes 5,000") as error:
            delivered(contents=Contents(Blob(bytes(5000))))
    assert not error.value.retryable
    assert server.messages == []


@pytest.mark.parametrize("html", ["", "<p>Hi</p>", "<html><body><p>Hi</p></body></html>"])
def test_instead_of_a_file_that_is_too_large_the_message_says_where_it_is(
    smtp: SMTPServer, settings: Settings, tmp_path: Path, html: str
) -> None:
    settings.EMAIL_MOST_BYTES = 5000
    content = random.Random(1).randbytes(5000)
    receipt = delivered(
        make_letter(html=html), contents=Contents(Blob(content)), link=published(tmp_path)
    )
    message = only_message(smtp)
    assert list(message.iter_attachments()) == []
    words = "The file daily.txt is too large to be attached. It is here:"
    assert body(message) == f"The rows of today.\n\n{words}\n/exports/<b>/daily.txt"
    if html:
        paragraph = f"<p>{words}<br>/exports/&lt;b&gt;/daily.txt</p>"
        assert body(message, "html") == html.replace("Hi</p>", f"Hi</p>{paragraph}")
    assert (tmp_path / "daily.txt").read_bytes() == content
    assert (receipt.rows, receipt.size_bytes) == (5, 5000)
    assert receipt.place == f"{ANNA}, {BOB}; cc {CARLA}; the file is at /exports/<b>/daily.txt"


def test_a_link_that_is_an_address_can_be_followed(smtp: SMTPServer, settings: Settings) -> None:
    settings.EMAIL_MOST_BYTES = 5000
    delivered(
        make_letter(html="<p>Hi</p>"),
        contents=Contents(Blob(bytes(5000))),
        link=lambda file: Published("/exports/x", "https://x.example/?a&b"),
    )
    html = body(only_message(smtp), "html")
    assert '<a href="https://x.example/?a&amp;b">https://x.example/?a&amp;b</a>' in html


def test_a_server_that_says_its_limit_gets_the_link(settings: Settings) -> None:
    with running(size_limit=5000) as server:
        use(server, settings)
        receipt = delivered(contents=Contents(Blob(bytes(20_000))), link=lambda file: PLACED)
    [received] = server.messages
    assert list(received.parsed().iter_attachments()) == []
    assert receipt.recipients == {ANNA: "", BOB: "", CARLA: ""}


def test_a_server_that_says_it_after_the_message_gets_the_link(smtp: SMTPServer) -> None:
    smtp.most_bytes = 5000
    receipt = delivered(contents=Contents(Blob(bytes(20_000))), link=lambda file: PLACED)
    [received] = smtp.messages
    assert list(received.parsed().iter_attachments()) == []
    assert receipt.place.endswith("; the file is at /exports/x")
    with pytest.raises(DeliveryError, match=r"552 5\.3\.4 Too large") as error:
        delivered(contents=Contents(Blob(bytes(20_000))))
    assert not error.value.retryable


def test_a_message_that_is_too_large_without_its_file_is_not_sent(
    smtp: SMTPServer, settings: Settings
) -> None:
    settings.EMAIL_MOST_BYTES = 5000
    with pytest.raises(DeliveryError, match="is too large"):
        delivered(make_letter(text="x" * 6000), link=lambda file: PLACED)
    assert smtp.messages == []


def test_a_stopped_run_publishes_no_file(settings: Settings) -> None:
    settings.EMAIL_MOST_BYTES = 100

    class StoppedLater(RecordedProgress):
        def check(self) -> None:
            super().check()
            if self.checks > 1:
                raise RunCancelled("Cancelled by a test.")

    places: list[Prepared] = []
    with pytest.raises(RunCancelled):
        make_email(link=lambda file: places.append(file) or PLACED).deliver(
            some_rows(), StoppedLater()
        )
    assert places == []


# No rows ----------------------------------------------------------------------------------------


def test_without_rows_the_file_has_only_its_header(smtp: SMTPServer) -> None:
    receipt = delivered(rows=0, attachment_name="daily.xlsx", contents=Contents(XLSX))
    content = attached(only_message(smtp))[2]
    assert list(openpyxl.load_workbook(io.BytesIO(content))["data"].values) == [("n",)]
    assert (receipt.rows, receipt.nothing_sent) == (0, "")


def test_without_rows_nothing_is_sent_if_the_item_wants_that(smtp: SMTPServer) -> None:
    receipt = delivered(rows=0, no_rows=NoRows.SKIP)
    assert smtp.messages == []
    assert (receipt.rows, receipt.handed, receipt.recipients) == (0, 0, {})
    assert receipt.place == "nobody: the query gave no rows"
    assert receipt.nothing_sent == "No mail was sent: the query gave no rows."


def test_without_rows_the_message_says_so_if_the_item_wants_that(smtp: SMTPServer) -> None:
    receipt = delivered(make_letter(html="<p>Hi</p>"), rows=0, no_rows=NoRows.NOTE)
    message = only_message(smtp)
    assert list(message.iter_attachments()) == []
    assert body(message).endswith("\n\nThere is no file: the query gave no rows.")
    assert body(message, "html") == "<p>Hi</p><p>There is no file: the query gave no rows.</p>"
    assert (receipt.rows, receipt.size_bytes, receipt.nothing_sent) == (0, None, "")
    assert receipt.recipients == {ANNA: "", BOB: "", CARLA: ""}


@pytest.mark.parametrize("no_rows", list(NoRows))
def test_one_row_is_sent_whatever_becomes_of_none(smtp: SMTPServer, no_rows: NoRows) -> None:
    delivered(rows=1, no_rows=no_rows)
    assert attached(only_message(smtp))[2] == b"0\n"


# Memory -----------------------------------------------------------------------------------------

SENDS_A_LARGE_FILE = """
import sys
from pathlib import Path

import django

django.setup()
from django.conf import settings

from queryexport.contents import Contents
from tests.queryexport import test_email_sink as tests

class Large(tests.Lines):
    def write(self, result, file):
        for number in range(30):
            file.write(bytes([number]) * 1_000_000)
        return super().write(result, tests.io.BytesIO())

def memory(which):
    lines = Path("/proc/self/status").read_text().splitlines()
    [kilobytes] = [line.split()[1] for line in lines if line.startswith(which)]
    return int(kilobytes)

settings.EMAIL_MOST_BYTES = 0
tests.delivered(attachment_name="small.bin")
before = memory("VmRSS")
receipt = tests.delivered(attachment_name="large.bin", contents=Contents(Large()))
print(receipt.size_bytes, memory("VmHWM") - before)
"""


@pytest.mark.slow
def test_a_large_attachment_takes_no_memory(smtp: SMTPServer) -> None:
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "queryexport.settings",
        "EMAIL_URL": f"smtp://{smtp.host}:{smtp.port}",
    }
    child = subprocess.run(
        [sys.executable, "-c", SENDS_A_LARGE_FILE],
        env=environment, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    size, grown_kilobytes = map(int, child.stdout.split())
    assert size == 30_000_000
    assert grown_kilobytes < 8_000
    content = attached(smtp.messages[1].parsed())[2]
    assert content == b"".join(bytes([number]) * 1_000_000 for number in range(30))
