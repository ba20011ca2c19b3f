"""The rows of one query on disk, written once and read by any number of sinks.

Rows are pickled, because a sink is to see exactly the values that the driver gave. Each piece is
signed, and nothing is unpickled before its signature was checked, so that whoever may write to the
folder can at most make a run fail.
"""

import hmac
import os
import pickle
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from struct import Struct
from typing import IO, Any

from queryexport.errors import ConfigurationError, DeliveryError
from queryexport.rows import Column, Result, Row

FILE_MODE, FOLDER_MODE = 0o600, 0o700
FRAME = Struct(">I32s")  # How many bytes follow, and their signature.


class Spool:
    """A file of rows under `path`, signed with `key`."""

    def __init__(self, path: Path, key: bytes) -> None:
        self.path = path
        self._key = key

    def write(self, result: Result) -> int:
        """Writes every row and returns how many; the file has its name once it is complete.

        Raises `DeliveryError` when the disk does not take it; then nothing is left.
        """
        part = self.path.with_name(f".{self.path.name}.part")
        try:
            self.path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            with _new(part) as file:
                rows = self._fill(file, result)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.path)
            _sync(self.path.parent)
        except OSError as error:
            with suppress(OSError):
                self.delete()
            raise DeliveryError(
                f"The rows could not be spooled to {self.path}: {error.strerror or error}. Nothing "
                "was delivered. Check free space and SPOOL_ROOT.",
                retryable=True,
            ) from error
        finally:
            with suppress(OSError):
                part.unlink()
        return rows

    def result(self) -> Result:
        """The rows from the start; raises `ConfigurationError` when the file is gone or damaged."""
        frames = self._frames()
        names = next(frames)
        return Result(tuple(Column(name) for name in names), self._batches(frames))

    def delete(self) -> None:
        self.path.unlink(missing_ok=True)

    def _fill(self, file: IO[bytes], result: Result) -> int:
        rows = number = 0
        file.write(self._frame(number, result.names))
        for batch in result.batches:
            number, rows = number + 1, rows + len(batch)
            file.write(self._frame(number, _plain(batch)))
        file.write(self._frame(number + 1, rows))
        return rows

    def _frame(self, number: int, content: Any) -> bytes:
        payload = pickle.dumps(content, pickle.HIGHEST_PROTOCOL)
        return FRAME.pack(len(payload), self._signature(number, payload)) + payload

    def _signature(self, number: int, payload: bytes) -> bytes:
        """Of the bytes at their place in this file, so that none can be moved or left out."""
        name = self.path.name.encode()
        return hmac.digest(self._key, b"%s:%d:" % (name, number) + payload, "sha256")

    def _batches(self, frames: Iterator[Any]) -> Iterator[Sequence[Row]]:
        rows = 0
        for content in frames:
            if isinstance(content, int):
                if content != rows:
                    raise self._damaged("it has another number of rows than were written")
                return
            rows += len(content)
            yield content
        raise self._damaged("its end is missing")

    def _frames(self) -> Iterator[Any]:
        number = 0
        try:
            with self.path.open("rb") as file:
                while head := file.read(FRAME.size):
                    yield self._content(number, head, file)
                    number += 1
        except OSError as error:
            raise ConfigurationError(
                f"The spooled rows {self.path} cannot be read: {error.strerror or error}. Check "
                "that SPOOL_ROOT is the same folder on every worker; then run the item again."
            ) from error
        raise self._damaged("its end is missing")

    def _content(self, number: int, head: bytes, file: IO[bytes]) -> Any:
        if len(head) < FRAME.size:
            raise self._damaged("its end is missing")
        size, signature = FRAME.unpack(head)
        payload = file.read(size)
        if not hmac.compare_digest(signature, self._signature(number, payload)):
            raise self._damaged("a signature is wrong, or SECRET_KEY is another one")
        return pickle.loads(payload)  # noqa: S301  # Signed by us.

    def _damaged(self, why: str) -> ConfigurationError:
        return ConfigurationError(
            f"The spooled rows {self.path} were changed or are damaged: {why}. Run the item again."
        )


def _new(path: Path) -> IO[bytes]:
    descriptor = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, FILE_MODE)
    return os.fdopen(descriptor, "wb")


def _sync(folder: Path) -> None:
    """Makes the new name survive a power cut: whoever is told of it relies on the rows."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _plain(batch: Sequence[Row]) -> list[tuple[Any, ...]]:
    """The rows as tuples, without the views into memory that some drivers give for bytes."""
    return [
        tuple(bytes(value) if type(value) is memoryview else value for value in row)
        if memoryview in map(type, row)
        else tuple(row)
        for row in batch
    ]
