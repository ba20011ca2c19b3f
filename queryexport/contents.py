"""What a file holds: rows in a format, and how the whole of it is packed."""

import gzip
import io
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import IO, Any, Protocol, cast

from stream_zip import ZIP_AUTO, stream_zip

from queryexport.errors import ConfigurationError
from queryexport.formats import Format, Written
from queryexport.nameless import nameless_file, temporary_disk_errors_named
from queryexport.rows import Result

PIECE_BYTES = 1 << 16
MEMBER_MODE = 0o600
LONGEST_PASSWORD = 99
LEVEL = 6  # zlib's own balance: 9 takes twice the time to save 4 % of a CSV file.


class Packing(Protocol):
    """How a file is packed. Its `suffix` is added to the file's name."""

    suffix: str
    mime_type: str

    def packed(self, file: IO[bytes], inner_name: str) -> AbstractContextManager[IO[bytes]]:
        """What to write into, so that it ends packed in `file` when the block ends well."""


class Gzip:
    """One gzip member that keeps the inner name; the same rows give the same bytes."""

    suffix = ".gz"
    mime_type = "application/gzip"

    @contextmanager
    def packed(self, file: IO[bytes], inner_name: str) -> Iterator[IO[bytes]]:
        with gzip.GzipFile(inner_name, "wb", fileobj=file, mtime=0) as packed:
            yield cast(IO[bytes], ForwardOnly(packed))


class EncryptedZip:
    """A zip archive of one file, encrypted with AES-256 by the password (WinZip's AE-2).

    7-Zip opens it; a program must know AES, which the oldest ones do not. The name and the size of
    the file inside are not secret. Raises `ConfigurationError` for a password that programs would
    read differently, because the format says nothing of its encoding.
    """

    suffix = ".zip"
    mime_type = "application/zip"

    def __init__(self, password: str) -> None:
        if not password:
            raise ConfigurationError(
                "An encrypted zip archive was asked for without a password. Enter one."
            )
        if len(password) > LONGEST_PASSWORD:
            raise ConfigurationError(
                f"The password of the zip archive is longer than the {LONGEST_PASSWORD} characters "
                "that 7-Zip accepts. Choose a shorter one."
            )
        if not (password.isascii() and password.isprintable()):
            raise ConfigurationError(
                "The password of the zip archive has characters that programs encode differently, "
                "so that nobody could rely on opening it. Use plain letters, digits and signs."
            )
        self._password = password

    @contextmanager
    def packed(self, file: IO[bytes], inner_name: str) -> Iterator[IO[bytes]]:
        """The rows wait in a temporary file without a name, because `stream_zip` asks for bytes
        and takes none, and because only a complete file has a size that its header can state.
        """
        with nameless_file(inner_name) as plain:
            with temporary_disk_errors_named(inner_name):
                yield plain
                plain.flush()
            size = plain.seek(0, io.SEEK_END)
            plain.seek(0)
            pieces = iter(partial(plain.read, PIECE_BYTES), b"")
            now = datetime.now(UTC).astimezone()
            member = (inner_name, now, MEMBER_MODE, ZIP_AUTO(size, level=LEVEL), pieces)
            for piece in stream_zip([member], password=self._password):
                file.write(piece)


@dataclass(frozen=True)
class Contents:
    """A format and, if wanted, a packing."""

    format: Format
    packing: Packing | None = None

    @property
    def mime_type(self) -> str:
        return self.packing.mime_type if self.packing else self.format.mime_type

    def write(self, result: Result, file: IO[bytes], *, name: str) -> Written:
        """Writes the file that will be called `name`; raises what the format raises."""
        if self.packing is None:
            return self.format.write(result, file)
        with self.packing.packed(file, name.removesuffix(self.packing.suffix)) as inner:
            return self.format.write(result, inner)


class ForwardOnly(io.RawIOBase):
    """A compressed file without its seek, which claims to work, and so misleads `zipfile`."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._file.write(data)
