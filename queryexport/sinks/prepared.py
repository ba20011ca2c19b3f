"""A complete file that nobody sees yet: written, on the disk, and read back."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import IO

from queryexport.contents import Contents
from queryexport.errors import DeliveryError, ExportError
from queryexport.formats import Written
from queryexport.rows import Receipt, Result

PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Prepared:
    """A file that is ready to be published, with what it holds."""

    file: IO[bytes]
    written: Written
    size_bytes: int
    sha256: str

    def receipt(self, place: str, *, duration_sec: float, path: str = "") -> Receipt:
        """The receipt once all of it has arrived at `place`; `path` if it is a file there."""
        return Receipt(
            self.written.rows,
            place,
            self.size_bytes,
            sha256=self.sha256,
            path=path,
            conversions=self.written.conversions,
            duration_sec=duration_sec,
        )


def prepare(contents: Contents, result: Result, file: IO[bytes], *, name: str) -> Prepared:
    """Writes the rows into `file`, an empty one that can be read, as the file called `name`."""
    written = contents.write(result, file, name=name)
    file.flush()
    os.fsync(file.fileno())
    digest, size_bytes = _read_back(file)
    return Prepared(file, written, size_bytes, digest)


def _read_back(file: IO[bytes]) -> tuple[str, int]:
    file.seek(0)
    digest = sha256()
    while piece := file.read(PIECE_BYTES):
        digest.update(piece)
    size_bytes = file.tell()
    file.seek(0)
    return digest.hexdigest(), size_bytes


@contextmanager
def nameless(contents: Contents, result: Result, *, name: str) -> Iterator[Prepared]:
    """The same in a temporary file without a name, of which nothing is left, even if killed."""
    with tempfile.TemporaryFile(prefix="query-export-") as file:
        with disk_errors_named(f"The temporary file for {name} in {tempfile.gettempdir()}"):
            prepared = prepare(contents, result, file, name=name)
        yield prepared


@contextmanager
def disk_errors_named(what: str, *, note: str = "Nothing was delivered.") -> Iterator[None]:
    try:
        yield
    except ExportError:
        raise
    except OSError as error:
        raise DeliveryError(
            f"{what} could not be written: {error.strerror or error}. {note} "
            "Check free space and the folder's permissions.",
            retryable=True,
        ) from error
