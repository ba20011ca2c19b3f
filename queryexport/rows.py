"""What flows from a query to a sink, and what the sink answers."""

from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

Row = Sequence[Any]
T = TypeVar("T", bound=Sized)


@dataclass(frozen=True)
class Column:
    """One column of a result, under the name that the database gave it."""

    name: str


@dataclass(frozen=True)
class JsonShape:
    """What a sink needs of rows that the database writes as JSON: the column of the message key,
    and whether decimals are JSON numbers or text.
    """

    key: str
    decimals_as_numbers: bool = False


@dataclass(frozen=True)
class JsonRows:
    """Rows that the database wrote: the key of each as text, each as a JSON object in the form of
    `values`, and how many numbers of each JSON can only write as null (empty: none of any).
    """

    keys: Sequence[bytes | None]
    values: Sequence[bytes]
    nulled: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class Result:
    """What every query yields: its columns, and its rows in batches that can be read once.

    Each row has one value per column, in the order of `columns`. Where the source can write JSON
    itself, `render` reads the rows in that form instead.
    """

    columns: tuple[Column, ...]
    batches: Iterator[Sequence[Row]]
    render: Callable[[JsonShape], "Iterator[JsonRows] | None"] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    def as_json(self, shape: JsonShape) -> Iterator[JsonRows] | None:
        """The rows as the source writes them; None when it cannot, and `batches` is to be read."""
        return self.render(shape) if self.render else None

    def counted(self, read: Callable[[int], None]) -> "Result":
        """The same result, telling `read` the size of each batch as it is handed out."""

        def counting(batches: Iterator[T]) -> Iterator[T]:
            for batch in batches:
                read(len(batch))
                yield batch

        def render(shape: JsonShape) -> Iterator[JsonRows] | None:
            rendered = self.as_json(shape)
            return counting(rendered) if rendered is not None else None

        return replace(self, batches=counting(self.batches), render=render)


class Progress(Protocol):
    """Where a sink reports how far it is, and learns that it must stop."""

    def delivered(self, rows: int) -> None:
        """`rows` more rows are known to have arrived while others are on their way; 0 is a sign of
        life. Raises the reason when the run has to end.
        """

    def arrived(self, rows: int) -> None:
        """The last step, which cannot be taken back, has delivered so many rows; never raises."""

    def check(self) -> None:
        """Raises the reason when the run has to end, or this process may not write any more.

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
    recipients, or a topic with its offset ranges. Of a file, `size_bytes` and `sha256` are those of
    its bytes, and `path` is where it lies if that is a folder. `undelivered` holds the first few of
    the rows that failed or are unknown. `conversions` counts the values that could not be kept as
    they were. `recipients` are those of a message, each with nothing, or with the words by which
    the server refused it. `nothing_sent` says why a message was left out altogether, as the item
    wants.
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
    sha256: str = ""
    path: str = ""
    recipients: Mapping[str, str] = field(default_factory=dict)
    nothing_sent: str = ""

    @property
    def refused(self) -> dict[str, str]:
        """The recipients that did not get the message, with the server's words."""
        return {who: answer for who, answer in self.recipients.items() if answer}

    @property
    def handed(self) -> int:
        return self.rows + self.failed + self.unknown + self.skipped
