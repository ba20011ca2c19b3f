"""Where rows can go: the `Sink` interface, with the sinks for a folder and for e-mail."""

import gzip
import io
import os
import smtplib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import IO, Any, Protocol, cast
from uuid import uuid4

from queryexport.errors import DeliveryError, ExportError
from queryexport.formats import Format
from queryexport.mail import FileMessage, connection
from queryexport.rows import Progress, Receipt, Result

FILE_MODE = 0o640


class Sink(Protocol):
    """Takes a whole result. One method, so there is no half-open state to be left in."""

    def deliver(self, result: Result, progress: Progress) -> Receipt:
        """Delivers every row and says what arrived; raises `ExportError` when nothing did."""


@dataclass(frozen=True)
class FileSink:
    """One file in a folder: the old file or the complete new one, never a half.

    The rows are written to a hidden temporary file beside the target, synced to disk, and renamed
    over it. Whatever fails before the rename leaves the target as it was.
    """

    path: Path
    format: Format
    compress: bool = False

    def deliver(self, result: Result, progress: Progress) -> Receipt:
        started = monotonic()
        with _disk_errors_named(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _temporary_beside(self.path) as part:
                with _opened(part, self.path.name, self.compress) as file:
                    count = self.format.write(result, file)
                size = part.stat().st_size
                progress.check()
                part.replace(self.path)
                _sync_folder(self.path.parent)
        progress.arrived(count)
        return Receipt(count, str(self.path), size, duration_sec=monotonic() - started)


@dataclass(frozen=True)
class EmailSink:
    """One message with the rows as an attached file, handed to Django's mail backend.

    `rows` in the receipt means accepted by the mail server; what it does next is not known here.
    """

    to: Sequence[str]
    cc: Sequence[str]
    subject: str
    body: str
    attachment_name: str
    format: Format
    compress: bool = False

    def deliver(self, result: Result, progress: Progress) -> Receipt:
        started = monotonic()
        with tempfile.TemporaryDirectory(prefix="query-export-") as folder:
            part = Path(folder, "attachment")
            with _disk_errors_named(part):
                with _opened(part, self.attachment_name, self.compress) as file:
                    count = self.format.write(result, file)
                size = part.stat().st_size
            progress.check()
            self._send(part, progress)
        progress.arrived(count)
        return Receipt(count, self.recipients, size, duration_sec=monotonic() - started)

    @property
    def recipients(self) -> str:
        cc = f"; cc {', '.join(self.cc)}" if self.cc else ""
        return f"{', '.join(self.to)}{cc}"

    def _send(self, attachment: Path, progress: Progress) -> None:
        message = FileMessage(
            self.subject,
            self.body,
            to=self.to,
            cc=self.cc,
            path=attachment,
            attachment_name=self.attachment_name,
            mime_type="application/gzip" if self.compress else self.format.mime_type,
            connection=connection(progress),
        )
        try:
            accepted = message.send()
        except ExportError:
            raise
        except Exception as error:  # smtplib, socket and ssl each bring their own.
            raise DeliveryError(
                f"The mail server did not take the message to {self.recipients}, and nothing was "
                f"sent: {_refusal(error)}. Check the addresses, the attachment's size and "
                "EMAIL_URL.",
                retryable=isinstance(error, OSError),
            ) from error
        if not accepted:
            raise DeliveryError(
                f"The mail backend sent nothing to {self.recipients}. Check the recipients."
            )


def _refusal(error: Exception) -> str:
    """The server's own words where it spoke, else the error's."""
    match error:
        case smtplib.SMTPRecipientsRefused():
            refused = error.recipients.items()
            return "; ".join(f"{who}: {_answer(*answer)}" for who, answer in refused)
        case smtplib.SMTPResponseException():
            return _answer(error.smtp_code, error.smtp_error)
    return f"{type(error).__name__}: {error}"


def _answer(code: int, reply: bytes | str) -> str:
    words = reply.decode(errors="replace") if isinstance(reply, bytes) else reply
    return f"{code} {words}"


class ForwardOnly(io.RawIOBase):
    """A compressed file without its seek, which claims to work, and so misleads `zipfile`."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._file.write(data)


@contextmanager
def _temporary_beside(target: Path) -> Iterator[Path]:
    part = target.with_name(f".{uuid4().hex}.part")
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _opened(path: Path, inner_name: str, compress: bool) -> Iterator[IO[bytes]]:
    """A new file for the format to write to, complete on disk when the block ends well."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, FILE_MODE)
    with os.fdopen(descriptor, "w+b") as raw:
        if compress:
            name = inner_name.removesuffix(".gz")
            with gzip.GzipFile(name, "wb", fileobj=raw, mtime=0) as packed:
                yield cast(IO[bytes], ForwardOnly(packed))
        else:
            yield raw
        raw.flush()
        os.fsync(raw.fileno())


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _disk_errors_named(path: Path) -> Iterator[None]:
    try:
        yield
    except ExportError:
        raise
    except OSError as error:
        raise DeliveryError(
            f"The file {path} could not be written: {error.strerror or error}. The previous file, "
            "if any, is unchanged. Check free space and the folder's permissions.",
            retryable=True,
        ) from error
