"""What flows from a query to a sink, and what the sink answers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

Row = Sequence[Any]


@dataclass(frozen=True)
class Column:
    """One column of a result, under the name that the database gave it."""

    name: str


@dataclass(frozen=True)
class Result:
    """What every query yields: its columns, and its rows in batches that can be read once.

    Each row has one value per column, in the order of `columns`.
    """

    columns: tuple[Column, ...]
    batches: Iterator[Sequence[Row]]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    def counted(self, read: Callable[[int], None]) -> "Result":
        """The same result, telling `read` the size of each batch as it is handed out."""

        def batches() -> Iterator[Sequence[Row]]:
            for batch in self.batches:
                read(len(batch))
                yield batch

        return replace(self, batches=batches())


class Progress(Protocol):
    """Where a sink reports how far it is, and learns that it must stop."""

    def delivered(self, rows: int) -> None:
        """`rows` more rows are known to have arrived; may raise `RunSuperseded`."""

    def check(self) -> None:
        """Raises `RunSuperseded` if this process may not write any more.

        Called right before the step that cannot be taken back: the rename, the sending.
        """


@dataclass(frozen=True)
class Undelivered:
    """One row that did not arrive, or of which nobody knows: its key and the reason."""

    key: str
    reason: str


@dataclass(frozen=True)
class Receipt:
    """What arrived, by the destination's own word, never what was merely sent.

    `rows` + `failed` + `unknown` + `skipped` is the number of rows that the sink was handed; those
    are `skipped` that the item told it to leave out. `place` says where they are: a path, the
    recipients, or a topic with its offset ranges. `undelivered` holds the first few of the rows
    that failed or are unknown. `conversions` counts the values that could not be kept as they were.
    """

    rows: int
    place: str
    size_bytes: int | None = None
    failed: int = 0
    unknown: int = 0
    skipped: int = 0
    undelivered: tuple[Undelivered, ...] = ()
    conversions: Mapping[str, int] = field(default_factory=dict)
    duration_sec: float = 0.0

    @property
    def handed(self) -> int:
        return self.rows + self.failed + self.unknown + self.skipped
