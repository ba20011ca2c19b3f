"""Files of undelivered rows: written beside a run, one JSON object a line, and read back."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from queryexport.errors import ConfigurationError
from scheduling.undelivered.rows import UndeliveredRow

FILE_MODE, FOLDER_MODE = 0o600, 0o700
CHUNK_BYTES = 64 * 1024


class RowFile:
    """A file of rows that appears under its name once it is complete and on the disk.

    A disk that takes no more raises nothing here: `rows` are in the file, `lost` ones are not, and
    `error` says why. A row is in it whole or not at all.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        self.lost = 0
        self.error: OSError | None = None
        self._part = path.with_name(f".{path.name}.part")
        self._descriptor: int | None = None
        self._written_bytes = 0
        self._lines: list[bytes] = []
        self._lines_bytes = 0

    def add(self, row: UndeliveredRow) -> None:
        if self.error:
            self.lost += 1
            return
        self._lines.append(row.to_line())
        self._lines_bytes += len(self._lines[-1])
        if self._lines_bytes >= CHUNK_BYTES:
            self._flush()

    def complete(self) -> None:
        """Gives the file its name; afterwards `rows` are there, even after a power cut."""
        self._flush()
        if self.rows and self._descriptor is not None:
            try:
                self._publish()
            except OSError as error:
                self._give_up(error)
        self._close()
        if not self.rows:
            self.discard()

    def discard(self) -> None:
        """Leaves no file behind."""
        self._close()
        for path in (self._part, self.path):
            with suppress(OSError):
                path.unlink()
        self.rows = 0

    def _flush(self) -> None:
        lines, self._lines, self._lines_bytes = self._lines, [], 0
        try:
            if lines:
                self._append(b"".join(lines))
                self.rows += len(lines)
        except OSError as error:
            self.error = self.error or error
            self.lost += len(lines)
            self._cut_off_half_a_row()

    def _append(self, content: bytes) -> None:
        if self._descriptor is None:
            self.path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
            self._descriptor = os.open(self._part, flags, FILE_MODE)
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        self._written_bytes += len(content)

    def _cut_off_half_a_row(self) -> None:
        if self._descriptor is not None:
            try:
                os.ftruncate(self._descriptor, self._written_bytes)
            except OSError as error:
                self._give_up(error)

    def _publish(self) -> None:
        assert self._descriptor is not None
        os.fsync(self._descriptor)
        self._part.replace(self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _give_up(self, error: OSError) -> None:
        """What is in the file cannot be relied on."""
        self.error = self.error or error
        self.lost, self.rows = self.lost + self.rows, 0

    def _close(self) -> None:
        if self._descriptor is not None:
            with suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None


def read(path: Path) -> Iterator[UndeliveredRow]:
    """The rows of a complete file, in the order in which they were added.

    Raises `ConfigurationError` when it is gone, or is not as it was written.
    """
    try:
        with path.open("rb") as file:
            for line in file:
                yield UndeliveredRow.from_line(line)
    except OSError as error:
        raise ConfigurationError(
            f"The file of undelivered rows {path} cannot be read: {error.strerror or error}. Put "
            "it back, and check that UNDELIVERED_ROOT is the same folder on every worker."
        ) from error
    except (ValueError, KeyError) as error:
        raise ConfigurationError(
            f"The file of undelivered rows {path} was changed or is damaged ({error}). Restore it "
            "from a backup."
        ) from error
