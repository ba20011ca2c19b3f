"""Small stand-ins that tests hand in: results made of lists, and a progress that remembers."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from queryexport.rows import Column, Result, Row


def result_of(names: Sequence[str], rows: Iterable[Row], *, batch_rows: int = 2) -> Result:
    """A result with these columns and rows, in batches of `batch_rows`."""

    def batches() -> Iterator[Sequence[Row]]:
        batch: list[Row] = []
        for row in rows:
            batch.append(row)
            if len(batch) == batch_rows:
                yield batch
                batch = []
        if batch:
            yield batch

    return Result(tuple(Column(name) for name in names), batches())


@dataclass
class RecordedProgress:
    """Remembers what a sink reported; `stop` makes the next check raise it."""

    reported: int = 0
    checks: int = 0
    stop: Exception | None = None
    calls: list[int] = field(default_factory=list)

    def delivered(self, rows: int) -> None:
        self.reported += rows
        self.calls.append(rows)

    def arrived(self, rows: int) -> None:
        self.reported += rows

    def check(self) -> None:
        self.checks += 1
        if self.stop:
            raise self.stop
