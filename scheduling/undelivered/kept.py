"""Keeps the rows of one run that were not delivered: the first in memory, the others in files."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from kafka_sink.messages import Message
from scheduling.undelivered.files import RowFile, read
from scheduling.undelivered.rows import UndeliveredRow

MOST_BYTES_IN_MEMORY = 16 * 1024 * 1024


class KeptRows:
    """Takes undelivered rows as the Kafka client reports them; it raises nothing.

    The first `in_memory` rows, and no more than 16 MiB of them, are for the database. The others
    go straight to two files named after `stem`: those that failed, and those of which nothing is
    known, because each of the two can be sent again without the other. So what it holds does not
    grow with the rows. Nothing is under its name before `complete`.
    """

    def __init__(self, stem: Path, *, in_memory: int) -> None:
        self.in_memory: list[UndeliveredRow] = []
        self._room = in_memory
        self._bytes_left = MOST_BYTES_IN_MEMORY
        self._failed = RowFile(stem.with_name(f"{stem.name}.failed.jsonl"))
        self._unknown = RowFile(stem.with_name(f"{stem.name}.unknown.jsonl"))

    def __call__(self, message: Message, *, reason: str, unknown: bool, attempts: int) -> None:
        self.add(UndeliveredRow(message, reason, unknown, attempts))

    def __iter__(self) -> Iterator[UndeliveredRow]:
        """Every kept row, once they are complete."""
        return chain(self.in_memory, *(read(file.path) for file, _ in self.files))

    @property
    def files(self) -> list[tuple[RowFile, bool]]:
        """The files that have rows, each with whether its rows are unknown."""
        return [
            (file, file is self._unknown) for file in (self._failed, self._unknown) if file.rows
        ]

    @property
    def rows(self) -> int:
        """How many rows are kept, once they are complete."""
        return len(self.in_memory) + self._failed.rows + self._unknown.rows

    @property
    def lost(self) -> int:
        return self._failed.lost + self._unknown.lost

    @property
    def why_lost(self) -> str:
        error = self._failed.error or self._unknown.error
        return f"{error.strerror or error} in {self._failed.path.parent}" if error else ""

    def add(self, row: UndeliveredRow) -> None:
        size = len(row.message.value) + len(row.message.key or b"")
        if self._room and size <= self._bytes_left:
            self.in_memory.append(row)
            self._room -= 1
            self._bytes_left -= size
            return
        self._room = 0  # So that the files hold the later rows, all of them.
        (self._unknown if row.unknown else self._failed).add(row)

    def complete(self) -> None:
        """Finishes the files; afterwards `rows` and `lost` are final."""
        self._failed.complete()
        self._unknown.complete()

    def discard(self) -> None:
        """Keeps nothing after all."""
        self.in_memory = []
        self._failed.discard()
        self._unknown.discard()
