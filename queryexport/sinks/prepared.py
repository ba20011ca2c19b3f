"""A complete file that nobody sees yet: written, on the disk, and read back."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import IO

from queryexport.contents import Contents
from queryexport.errors import DeliveryError, ExportError
from queryexport.formats import Written
from queryexport.nameless import nameless_file, temporary_disk_errors_named
from queryexport.rows import Receipt, Result

PIECE_BYTES = 1 << 20
# Errors that no further attempt mends by itself.
NEEDS_SOMEBODY = frozenset(
    {
        errno.EROFS, errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.EACCES,
        errno.EPERM, errno.EFBIG,
    }
)  # fmt: skip


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
    with nameless_file(name) as file:
        with temporary_disk_errors_named(name):
            prepared = prepare(contents, result, file, name=name)
        yield prepared


@contextmanager
def closed_quietly(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """Closes the file, whose content matters no more if it was not written by then.

    What a full disk has refused is still in the buffer, and would be refused again: that must not
    hide what went wrong first.
    """
    try:
        yield file
    finally:
        with suppress(OSError):
            file.close()


@contextmanager
def disk_errors_named(what: str, *, note: str = "Nothing was delivered.") -> Iterator[None]:
    """Turns the errors of `os` into a `DeliveryError` that says what to do."""
    try:
        yield
    except ExportError:
        raise
    except OSError as error:
        raise DeliveryError(
            f"{what} could not be written: {error.strerror or error}. {note} {_next_step(error)}",
            retryable=error.errno not in NEEDS_SOMEBODY,
        ) from error


def _next_step(error: OSError) -> str:
    match error.errno:
        case errno.ENOSPC:
            return f"Free space there, and in the folder for temporary files{_temporary_folder()}."
        case errno.EDQUOT:
            return "Free space, or raise the quota of the worker's user."
        case errno.EFBIG:
            return "Raise the limit of the worker for the size of files (ulimit -f)."
        case errno.EROFS:
            return "Its disk is mounted read-only: mount it so that it can be written."
        case errno.ENAMETOOLONG:
            return "Shorten the name: this file system takes no more."
        case errno.EISDIR | errno.ENOTDIR | errno.ELOOP:
            return "Move away what is in its place or in its path."
        case errno.ENOENT | errno.ESTALE:
            return "Its folder was removed or moved: leave it alone while runs go on."
        case errno.EACCES | errno.EPERM:
            return "Check the folder's permissions: the worker's user has to write there."
    return "Check free space, the disk, and the folder's permissions."


def _temporary_folder() -> str:
    """Where Python finds none that takes a file, as on a full disk, it is not known."""
    try:
        return f", {tempfile.gettempdir()}"
    except OSError:
        return ""
