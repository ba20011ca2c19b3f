"""The steps of a delivery to a file, one for each system call, and something that happens at one.

The calls of `os` are wrapped, and the file that is written; nothing of the product is.
"""

import errno
import fcntl
import io
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import patch

from queryexport.contents import Contents, Gzip
from queryexport.formats import Written
from queryexport.rows import Result
from queryexport.sinks.file import FileSink, OnExisting
from tests.fakes import RecordedProgress, result_of

CALLS = (
    "open", "mkdir", "stat", "scandir", "fstat", "fsync", "link", "rename", "replace", "unlink",
    "utime", "close",
)  # fmt: skip
NAME = "daily.txt"
PACKED_NAME = "daily.txt.gz"
ROWS = 400  # Several buffers of `io.DEFAULT_BUFFER_SIZE`, also when packed.

At = Callable[[int, str], None]


class Lines:
    """The plainest format: a line for each row."""

    mime_type = "application/x-lines"

    def write(self, result: Result, file: Any) -> Written:
        count = 0
        for batch in result.batches:
            for row in batch:
                file.write(",".join(map(str, row)).encode() + b"\n")
                count += 1
        return Written(count)


class Steps:
    """Inside `counted`, calls `at(number, name)` before each step, with numbers from 1."""

    def __init__(self, at: At) -> None:
        self._at = at
        self.names: list[str] = []

    def reach(self, name: str) -> None:
        self.names.append(name)
        self._at(len(self.names), name)

    @contextmanager
    def counted(self) -> Iterator[None]:
        real = {name: getattr(os, name) for name in CALLS}
        wrapped = {name: self._wrapped(name, call) for name, call in real.items()}
        with (
            patch.multiple(os, **wrapped, fdopen=self._fdopen(os.fdopen)),
            patch.object(fcntl, "flock", self._wrapped("flock", fcntl.flock)),
        ):
            yield

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.reach(name)
            return real(*arguments, **options)

        return call

    def _fdopen(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(descriptor: int, mode: str) -> Any:
            if "+" not in mode:
                return real(descriptor, mode)
            return io.BufferedRandom(_StepwiseFile(descriptor, self))

        return call


class _StepwiseFile(io.FileIO):
    """A file of which each write is two steps, so that something can happen half-way."""

    def __init__(self, descriptor: int, steps: Steps) -> None:
        super().__init__(descriptor, "r+")
        self._steps = steps

    def write(self, data: Any) -> int:
        piece = memoryview(data).cast("B")
        half = len(piece) // 2
        self._steps.reach("write")
        written = super().write(piece[:half]) if half else 0
        self._steps.reach("write half-way")
        return written + super().write(piece[half:])

    def close(self) -> None:
        if not self.closed:
            self._steps.reach("close")
        super().close()


@cache
def rows(seed: str) -> Sequence[Sequence[str]]:
    """So many rows that hardly shrink when they are packed, other ones for each seed."""
    return [[sha256(f"{seed}{number}".encode()).hexdigest()] for number in range(ROWS)]


@cache
def text(seed: str) -> bytes:
    """What a file of those rows holds."""
    return b"".join(row[0].encode() + b"\n" for row in rows(seed))


def sink(folder: Path, on_existing: str, *, packed: bool = False, keep: int = 2) -> FileSink:
    contents = Contents(Lines(), Gzip() if packed else None)
    path = folder / (PACKED_NAME if packed else NAME)
    kind = OnExisting(on_existing)
    return FileSink(path, contents, root=folder.parent, on_existing=kind, keep_versions=keep)


def deliver(sink: FileSink, seed: str) -> Path:
    """Delivers the rows of the seed; where they are."""
    receipt = sink.deliver(result_of(["n"], rows(seed), batch_rows=50), RecordedProgress())
    assert receipt.rows == ROWS
    return Path(receipt.path)


@contextmanager
def without(*missing: str) -> Iterator[None]:
    """A file system that has no "links" or no "locks"."""

    def no_link(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    def no_lock(*_: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    link = no_link if "links" in missing else os.link
    flock = no_lock if "locks" in missing else fcntl.flock
    with patch.object(os, "link", link), patch.object(fcntl, "flock", flock):
        yield


def kill_at(place: int) -> At:
    """What kills this process right before the step of that number."""

    def at(number: int, _: str) -> None:
        if number == place:
            os.kill(os.getpid(), signal.SIGKILL)

    return at
