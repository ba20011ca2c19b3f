"""Temporary files without a name, of which nothing is left, even if the process is killed."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

from queryexport.errors import DeliveryError


@contextmanager
def nameless_file(what: str) -> Iterator[IO[bytes]]:
    """An empty file for `what`, to be written and read; raises `DeliveryError` where none can be.

    What is in its buffer at the end matters no more, so that a full disk, which refuses it, does
    not hide what went wrong first.
    """
    with temporary_disk_errors_named(what):
        file = _new()
    try:
        yield file
    finally:
        with suppress(OSError):
            file.close()


@contextmanager
def temporary_disk_errors_named(what: str) -> Iterator[None]:
    """Turns errors of writing such a file, which is not where the result goes, into one that says
    so.
    """
    try:
        yield
    except OSError as error:
        raise DeliveryError(
            f"The temporary file for {what} in {_folder()} could not be written: "
            f"{error.strerror or error}. Nothing was delivered. Check free space and the folder's "
            "permissions, or set TMPDIR to another folder.",
            retryable=True,
        ) from error


def _new() -> IO[bytes]:
    return tempfile.TemporaryFile(prefix="query-export-")


def _folder() -> str:
    """For people: where there is none that can be written, Python gives none."""
    try:
        return tempfile.gettempdir()
    except OSError:
        return os.environ.get("TMPDIR", "/tmp")  # noqa: S108  Nothing is written there.
