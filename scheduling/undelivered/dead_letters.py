"""Copies the rows that a run kept to the item's dead-letter topic, with the reason in headers."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from time import monotonic

from kafka_sink.messages import Message
from queryexport.errors import ExportError, RunSuperseded
from queryexport.rows import Result
from queryexport.sinks import Sink
from scheduling.models import SchedulingHistoryItem
from scheduling.progress import WRITE_EVERY_SEC
from scheduling.rules import HEADER_PREFIX
from scheduling.undelivered.rows import UndeliveredRow

ROWS_AT_ONCE = 100


class Heartbeat:
    """The `Progress` of a delivery whose rows are not the run's own: signs of life, no counts."""

    def __init__(self, run: SchedulingHistoryItem) -> None:
        self._run = run
        self._written = monotonic()

    def delivered(self, rows: int) -> None:
        if monotonic() - self._written >= WRITE_EVERY_SEC:
            self.check()

    def arrived(self, rows: int) -> None:
        """The row of the run does not count them."""

    def check(self) -> None:
        self._run.record()
        self._written = monotonic()


def copy(
    run: SchedulingHistoryItem, rows: Iterable[UndeliveredRow], *, sink: Callable[[], Sink]
) -> tuple[int, str]:
    """How many rows the dead-letter topic took, and why not the others; nothing if all.

    Raises `RunSuperseded` when the run is no longer this process's, and nothing else that the sink
    raises, also when it cannot be made.
    """
    messages = (dead_letter(row, run.kafka_topic) for row in rows)
    try:
        receipt = sink().deliver(Result((), _batches(messages)), Heartbeat(run))
    except RunSuperseded:
        raise
    except ExportError as error:
        return error.receipt.rows if error.receipt else 0, error.message
    return receipt.rows, receipt.undelivered[0].reason if receipt.undelivered else ""


def dead_letter(row: UndeliveredRow, topic: str) -> Message:
    """The message with what became of it in further headers."""
    facts = {
        "error": row.reason,
        "topic": topic,
        "outcome": "unknown" if row.unknown else "failed",
        "attempts": str(row.attempts),
    }
    added = tuple((f"{HEADER_PREFIX}{name}", text.encode()) for name, text in facts.items())
    return row.message._replace(headers=(*row.message.headers, *added))


def _batches(messages: Iterator[Message]) -> Iterator[Sequence[Message]]:
    while batch := list(islice(messages, ROWS_AT_ONCE)):
        yield batch
