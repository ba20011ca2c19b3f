"""A file in a folder: the old one or the complete new one, never a half."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import IO
from uuid import uuid4

from queryexport.contents import Contents
from queryexport.rows import Progress, Receipt, Result
from queryexport.sinks.prepared import disk_errors_named, prepare

FILE_MODE = 0o640


@dataclass(frozen=True)
class FileSink:
    """One file in a folder: the old file or the complete new one, never a half.

    The rows are written to a hidden temporary file beside the target, synced to disk, and renamed
    over it. Whatever fails before the rename leaves the target as it was.
    """

    path: Path
    contents: Contents

    def deliver(self, result: Result, progress: Progress) -> Receipt:
        started = monotonic()
        note = "The previous file, if any, is unchanged."
        with disk_errors_named(f"The file {self.path}", note=note):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _part_beside(self.path) as part:
                with _opened(part) as file:
                    prepared = prepare(self.contents, result, file, name=self.path.name)
                progress.check()
                part.replace(self.path)
                _sync_folder(self.path.parent)
        progress.arrived(prepared.written.rows)
        place = str(self.path)
        return prepared.receipt(place, path=place, duration_sec=monotonic() - started)


@contextmanager
def _part_beside(target: Path) -> Iterator[Path]:
    part = target.with_name(f".{uuid4().hex}.part")
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """A new file, to be written and read."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, FILE_MODE)
    with os.fdopen(descriptor, "w+b") as file:
        yield file


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
