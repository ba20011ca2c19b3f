"""A file is the old one or the complete new one; a message is sent whole or not at all."""

import errno
import gc
import gzip
import io
import os
import random
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
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
from queryexport.errors import DeliveryError, QueryError, RunSuperseded
from queryexport.formats import Written
from queryexport.formats.xlsx import Xlsx
from queryexport.mail import PIECE_BYTES
from queryexport.rows import Column, Result
from queryexport.sinks.email import EmailSink
from queryexport.sinks.file import FileSink
from tests.fakes import RecordedProgress, result_of
from tests.services.smtp import SMTPServer

XLSX = Xlsx(ZoneInfo("Europe/Rome"))
OLD = b"the file of yesterday"


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


def some_rows(count: int = 5) -> Result:
    return result_of(["n"], [[number] for number in range(count)])


def breaking_result(after: int = 3) -> Result:
    """A result whose stream breaks after so many rows."""

    def batches() -> Iterator[Sequence[Sequence[Any]]]:
        yield [[number] for number in range(after)]
        raise QueryError("The connection was lost.")

    return Result((Column("n"),), batches())


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file that exists already, alone in its folder."""
    folder = tmp_path / "exports"
    folder.mkdir()
    path = folder / "daily.txt"
    path.write_bytes(OLD)
    return path


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, empty at first, of every temporary file."""
    folder = tmp_path / "spool"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


# Files -------------------------------------------------------------------------------------------


def test_the_new_file_replaces_the_old_one(target: Path) -> None:
    receipt = FileSink(target, Contents(Lines())).deliver(some_rows(3), RecordedProgress())
    assert target.read_bytes() == b"0\n1\n2\n"
    assert (receipt.rows, receipt.place, receipt.size_bytes) == (3, str(target), 6)
    assert [path.name for path in target.parent.iterdir()] == ["daily.txt"]


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "daily.txt"
    FileSink(path, Contents(Lines())).deliver(some_rows(1), RecordedProgress())
    assert path.read_bytes() == b"0\n"


def test_a_workbook_is_complete_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "daily.xlsx"
    FileSink(path, Contents(XLSX)).deliver(some_rows(3), RecordedProgress())
    workbook = openpyxl.load_workbook(path)
    assert list(workbook["data"].values) == [("n",), (0,), (1,), (2,)]


@pytest.mark.parametrize("umask", [0o022, 0o000])
def test_the_file_is_closed_to_others(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "daily.txt"
    before = os.umask(umask)
    try:
        FileSink(path, Contents(Lines())).deliver(some_rows(1), RecordedProgress())
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_compressed_file_holds_the_same_bytes_under_its_inner_name(tmp_path: Path) -> None:
    path = tmp_path / "daily.txt.gz"
    receipt = FileSink(path, Contents(Lines(), Gzip())).deliver(some_rows(500), RecordedProgress())
    packed = path.read_bytes()
    assert gzip.decompress(packed) == b"".join(b"%d\n" % number for number in range(500))
    assert packed[10:20] == b"daily.txt\0"
    assert receipt.size_bytes == len(packed) < 1890


def test_a_compressed_workbook_can_be_opened(tmp_path: Path) -> None:
    path = tmp_path / "daily.xlsx.gz"
    FileSink(path, Contents(XLSX, Gzip())).deliver(some_rows(3), RecordedProgress())
    workbook = openpyxl.load_workbook(io.BytesIO(gzip.decompress(path.read_bytes())))
    assert list(workbook["data"].values) == [("n",), (0,), (1,), (2,)]


def test_the_same_rows_make_the_same_compressed_bytes(tmp_path: Path) -> None:
    one, two = tmp_path / "1" / "a.gz", tmp_path / "2" / "a.gz"
    for path in (one, two):
        FileSink(path, Contents(Lines(), Gzip())).deliver(some_rows(), RecordedProgress())
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("compress", [False, True])
def test_a_broken_stream_leaves_the_old_file(target: Path, compress: bool) -> None:
    with pytest.raises(QueryError, match="was lost"):
        FileSink(target, Contents(Lines(), Gzip() if compress else None)).deliver(
            breaking_result(), RecordedProgress()
        )
    assert_untouched(target)


@pytest.mark.parametrize("after", [0, 1, 3, 1000])
def test_a_stream_broken_after_any_row_leaves_the_old_workbook(target: Path, after: int) -> None:
    with pytest.raises(QueryError, match="was lost"):
        FileSink(target, Contents(XLSX)).deliver(breaking_result(after), RecordedProgress())
    assert_untouched(target)


def test_an_unwritable_value_leaves_the_old_file(target: Path) -> None:
    rows = result_of(["n"], [["fine"], ["bell\x07"]])
    with pytest.raises(DeliveryError, match="Row 2, column n"):
        FileSink(target, Contents(XLSX)).deliver(rows, RecordedProgress())
    assert_untouched(target)


def test_a_full_disk_leaves_the_old_file_and_names_the_new_one(target: Path) -> None:
    with pytest.raises(DeliveryError, match="No space left on device") as caught:
        FileSink(target, Contents(FullDisk())).deliver(some_rows(), RecordedProgress())
    assert str(target) in caught.value.message
    assert caught.value.retryable
    assert_untouched(target)


@pytest.mark.parametrize("stop", [RunSuperseded("Taken over."), KeyboardInterrupt()])
def test_a_run_that_must_stop_leaves_the_old_file(target: Path, stop: BaseException) -> None:
    with pytest.raises(type(stop)):
        FileSink(target, Contents(Lines())).deliver(some_rows(), RecordedProgress(stop=stop))
    assert_untouched(target)


def test_a_run_without_an_old_file_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "exports" / "daily.txt"
    with pytest.raises(QueryError):
        FileSink(path, Contents(Lines())).deliver(breaking_result(), RecordedProgress())
    assert list(path.parent.iterdir()) == []


def test_nothing_is_visible_before_the_last_row(target: Path) -> None:
    seen = []

    def rows() -> Iterator[list[int]]:
        for number in range(4):
            seen.append((target.read_bytes(), visible_names(target.parent)))
            yield [number]

    FileSink(target, Contents(Lines())).deliver(result_of(["n"], rows()), RecordedProgress())
    assert seen == [(OLD, ["daily.txt"])] * 4


def visible_names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if not path.name.startswith(".")]


@pytest.mark.parametrize("name", ["folder-in-the-way", "file-in-the-way/daily.txt"])
def test_a_path_that_cannot_be_written_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder-in-the-way").mkdir()
    (tmp_path / "file-in-the-way").write_text("")
    with pytest.raises(DeliveryError, match="could not be written") as caught:
        FileSink(tmp_path / name, Contents(Lines())).deliver(some_rows(), RecordedProgress())
    assert str(tmp_path / name) in caught.value.message
    assert names_in(tmp_path) == ["file-in-the-way", "folder-in-the-way"]


def assert_untouched(target: Path) -> None:
    assert target.read_bytes() == OLD
    assert names_in(target.parent) == [target.name]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# E-mail ------------------------------------------------------------------------------------------


def make_email(**changes: Any) -> EmailSink:
    sink = EmailSink(
        to=["anna@example.com", "bob@example.com"],
        cc=["carla@example.com"],
        subject="Täglich",
        body="The rows of today.",
        attachment_name="daily.txt",
        contents=Contents(Lines()),
    )
    return replace(sink, **changes)


@pytest.fixture
def smtp(smtp_server: SMTPServer, settings: Settings) -> SMTPServer:
    """A real mail server, used by the product's own backend."""
    settings.EMAIL_BACKEND = "queryexport.mail.SMTPBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = smtp_server.host, smtp_server.port
    settings.EMAIL_HOST_USER = settings.EMAIL_HOST_PASSWORD = ""
    settings.EMAIL_USE_TLS = settings.EMAIL_USE_SSL = False
    settings.EMAIL_TIMEOUT = 5
    return smtp_server


def attached(message: EmailMessage) -> tuple[str | None, str, bytes]:
    """The name, type and bytes of the only attachment."""
    (part,) = message.iter_attachments()
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    return part.get_filename(), part.get_content_type(), content


def test_one_message_carries_the_rows_to_everybody(smtp: SMTPServer) -> None:
    receipt = make_email().deliver(some_rows(3), RecordedProgress())
    (received,) = smtp.messages
    message = received.parsed()
    assert received.rcpt_tos == ("anna@example.com", "bob@example.com", "carla@example.com")
    assert (message["To"], message["Cc"]) == (
        "anna@example.com, bob@example.com",
        "carla@example.com",
    )
    assert message["Subject"] == "Täglich"
    assert attached(message) == ("daily.txt", "application/x-lines", b"0\n1\n2\n")
    assert (receipt.rows, receipt.size_bytes) == (3, 6)
    assert receipt.place == "anna@example.com, bob@example.com; cc carla@example.com"


def test_an_attached_workbook_can_be_opened(smtp: SMTPServer) -> None:
    make_email(attachment_name="daily.xlsx", contents=Contents(XLSX)).deliver(
        some_rows(2), RecordedProgress()
    )
    name, mime_type, content = attached(smtp.messages[0].parsed())
    assert (name, mime_type) == ("daily.xlsx", Xlsx.mime_type)
    assert list(openpyxl.load_workbook(io.BytesIO(content))["data"].values) == [("n",), (0,), (1,)]


def test_a_compressed_attachment_holds_the_same_bytes(smtp: SMTPServer) -> None:
    sink = make_email(attachment_name="daily.txt.gz", contents=Contents(Lines(), Gzip()))
    sink.deliver(some_rows(3), RecordedProgress())
    name, mime_type, content = attached(smtp.messages[0].parsed())
    assert (name, mime_type) == ("daily.txt.gz", "application/gzip")
    assert gzip.decompress(content) == b"0\n1\n2\n"


class Blob(Lines):
    """A format of as many bytes as the test wants."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def write(self, result: Result, file: IO[bytes]) -> Written:
        file.write(self.content)
        return super().write(result, io.BytesIO())


@pytest.mark.parametrize(
    "size",
    [0, 1, 56, 57, 58, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 5],
)
def test_an_attachment_of_any_size_arrives_byte_for_byte(smtp: SMTPServer, size: int) -> None:
    content = random.Random(size).randbytes(size)  # The same bytes in every run.
    sink = make_email(attachment_name="daily.bin", contents=Contents(Blob(content)))
    receipt = sink.deliver(some_rows(2), RecordedProgress())
    assert attached(smtp.messages[0].parsed())[2] == content
    assert (receipt.rows, receipt.size_bytes) == (2, size)


@pytest.mark.parametrize("body", [".", "..\n.\n.end", "a\n\nb", "ünï\n.x", "x" * 2000])
def test_the_body_arrives_as_it_was_written(smtp: SMTPServer, body: str) -> None:
    make_email(body=body).deliver(some_rows(1), RecordedProgress())
    text = smtp.messages[0].parsed().get_body()
    assert text is not None
    assert text.get_content().replace("\r\n", "\n").rstrip("\n") == body
    assert attached(smtp.messages[0].parsed())[2] == b"0\n"


def test_another_mail_backend_gets_the_same_message(settings: Settings, tmp_path: Path) -> None:
    settings.EMAIL_BACKEND = "django.core.mail.backends.filebased.EmailBackend"
    settings.EMAIL_FILE_PATH = tmp_path / "mail"
    make_email().deliver(some_rows(3), RecordedProgress())
    (file,) = settings.EMAIL_FILE_PATH.iterdir()
    message = message_from_bytes(file.read_bytes(), policy=policy.default)
    assert message["Cc"] == "carla@example.com"
    assert attached(message) == ("daily.txt", "application/x-lines", b"0\n1\n2\n")


@pytest.mark.parametrize(
    ("result", "form", "error"),
    [
        (breaking_result, Lines(), QueryError),
        (lambda: result_of(["n"], [["\x07"]]), XLSX, DeliveryError),
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


def test_nobody_to_send_to_is_a_delivery_error() -> None:
    with pytest.raises(DeliveryError, match="sent nothing"):
        make_email(to=[], cc=[]).deliver(some_rows(), RecordedProgress())


@pytest.mark.parametrize("changes", [{"subject": "a\nBcc: eve@example.com"}, {"to": ["a\nb@c.d"]}])
def test_a_header_cannot_be_smuggled_in(smtp: SMTPServer, changes: dict[str, Any]) -> None:
    started = time.monotonic()
    with pytest.raises(DeliveryError):
        make_email(**changes).deliver(some_rows(), RecordedProgress())
    assert smtp.messages == []
    assert time.monotonic() - started < 2  # It is refused before the server waits for the data.


def test_an_attachment_with_an_accented_name_keeps_it(smtp: SMTPServer) -> None:
    make_email(attachment_name="più_è.txt").deliver(some_rows(1), RecordedProgress())
    assert attached(smtp.messages[0].parsed())[0] == "più_è.txt"


def test_every_recipient_refused_is_a_delivery_error(smtp: SMTPServer) -> None:
    smtp.refused_recipients.update(["anna@example.com"])
    with pytest.raises(DeliveryError, match=r"anna@example\.com"):
        make_email(to=["anna@example.com"], cc=[]).deliver(some_rows(), RecordedProgress())
    assert smtp.messages == []


def test_one_recipient_refused_of_several_refuses_the_message(smtp: SMTPServer) -> None:
    smtp.refused_recipients.add("bob@example.com")
    with pytest.raises(DeliveryError, match=r"bob@example\.com.*is unknown") as caught:
        make_email().deliver(some_rows(), RecordedProgress())
    assert "nothing was sent" in caught.value.message
    assert smtp.messages == []


def test_a_refused_sender_is_a_delivery_error(smtp: SMTPServer, settings: Settings) -> None:
    smtp.refused_senders.add(settings.DEFAULT_FROM_EMAIL)
    with pytest.raises(DeliveryError, match="did not take the message"):
        make_email().deliver(some_rows(), RecordedProgress())


def test_a_mail_server_that_is_away_is_retryable_and_shows_no_password(
    smtp: SMTPServer, settings: Settings
) -> None:
    settings.EMAIL_PORT = 1
    settings.EMAIL_HOST_USER, settings.EMAIL_HOST_PASSWORD = "exports", "hunter-2"
    with pytest.raises(DeliveryError, match=r"anna@example\.com") as caught:
        make_email().deliver(some_rows(), RecordedProgress())
    assert caught.value.retryable
    assert "hunter-2" not in f"{caught.value} {caught.value.__cause__!r}"


# Django leaves the socket of a refused login to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_refused_login_shows_no_password(smtp: SMTPServer, settings: Settings) -> None:
    settings.EMAIL_HOST_USER, settings.EMAIL_HOST_PASSWORD = "exports", "hunter-2"
    with pytest.raises(DeliveryError) as caught:
        make_email().deliver(some_rows(), RecordedProgress())
    assert "hunter-2" not in f"{caught.value} {caught.value.__cause__!r}"
    assert smtp.messages == []
    del caught
    gc.collect()
