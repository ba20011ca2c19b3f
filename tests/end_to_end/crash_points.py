"""The points at which a process is killed, and one item for each of them and each destination."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

FILE, MAIL, KAFKA, TRANSACTION = SINKS = ("file", "e-mail", "Kafka", "transaction")
EACH = (FILE, MAIL, KAFKA)
AT_ONCE = ("success",)
AT_THE_SECOND = ("lost", "success")
WHOLE_WORKER = "whole worker"


@dataclass(frozen=True)
class Point:
    """Where the process of an item's first run dies, and which attempts that is to lead to.

    `kills` are the places in `crashing_worker` that kill for it, one after another. `whole_worker`
    names the destinations for which the worker's whole process group dies, in an item of its own.
    """

    name: str
    sinks: tuple[str, ...] = SINKS
    attempts: tuple[str, ...] = AT_THE_SECOND
    after: str = ""
    whole_worker: tuple[str, ...] = ()

    @property
    def kills(self) -> tuple[str, ...]:
        return (self.after, self.name) if self.after else (self.name,)


CLAIMED = "claim committed"
IN_THE_MIDDLE = "in the middle of the rows"
SIGN_OF_LIFE = "at a sign of life"

POINTS = (
    Point(SIGN_OF_LIFE),
    Point("tick received, no row written", EACH, AT_ONCE),
    Point("tick received, row written", EACH, AT_ONCE),
    Point("message received, not claimed", EACH, AT_ONCE),
    Point("claimed, not committed", EACH, AT_ONCE),
    Point(CLAIMED, whole_worker=EACH),
    Point("before the source is connected", EACH),
    Point("source connected, no query sent", EACH),
    Point("query sent, no row read", EACH),
    Point("first rows read", EACH),
    Point(IN_THE_MIDDLE, whole_worker=EACH),
    Point("last row read"),
    Point("temporary file made", (FILE, MAIL)),
    Point("in the middle of the file", (FILE, MAIL)),
    Point("file complete and synced", (FILE, MAIL)),
    Point("file renamed, folder not synced", (FILE,)),
    Point("mail server connected", (MAIL,)),
    Point("recipient accepted", (MAIL,)),
    Point("in the middle of DATA", (MAIL,)),
    Point("DATA ended, no answer read", (MAIL,)),
    Point("mail accepted", (MAIL,)),
    Point("topic looked up, nothing sent", (KAFKA, TRANSACTION)),
    Point("transaction begun", (TRANSACTION,)),
    Point("in the middle of the messages", (KAFKA, TRANSACTION)),
    Point("last message acknowledged", (KAFKA,)),
    Point("transaction not committed", (TRANSACTION,), whole_worker=(TRANSACTION,)),
    Point("transaction committed", (TRANSACTION,)),
    Point("delivery in the ledger", (KAFKA, TRANSACTION)),
    Point("delivered, row not ended", whole_worker=SINKS),
    Point("row ended, not committed", whole_worker=EACH),
    Point("watermark moved, not committed", (MAIL, KAFKA, TRANSACTION)),
    Point("row's end committed", attempts=AT_ONCE, whole_worker=EACH),
    Point("sweep: lost, not committed", EACH, after=CLAIMED),
    Point("sweep: next attempt, not committed", EACH, after=IN_THE_MIDDLE),
    Point("sweep: next attempt not sent", EACH, after=CLAIMED),
    Point("sweep: sent, not written down", EACH, after=IN_THE_MIDDLE),
    Point("asked for, row written, not sent", EACH, AT_ONCE),
    Point("asked for, sent, not written down", EACH, AT_ONCE),
)


@dataclass(frozen=True)
class Case:
    """One item, which is named after its sink and its point so that every process knows it."""

    point: Point
    sink: str
    whole_worker: bool = False

    @cached_property
    def name(self) -> str:
        parts = (self.sink, self.point.name, WHOLE_WORKER if self.whole_worker else "")
        return " / ".join(filter(None, parts))

    @property
    def slug(self) -> str:
        return "".join(letter if letter.isalnum() else "-" for letter in self.name)

    @property
    def by_tick(self) -> bool:
        return self.point.name.startswith("tick")

    @property
    def has_watermark(self) -> bool:
        return self.sink != FILE

    @property
    def by_sweep(self) -> bool:
        """Whether a sweep dies as well, long after the run."""
        return self.point.name.startswith("sweep")

    @property
    def of_the_asker(self) -> bool:
        """Whether the process dies that asks for the run, and not one that carries it out."""
        return self.point.name.startswith("asked for")


def cases() -> Iterator[Case]:
    """All of them, in the order of the points."""
    for point in POINTS:
        yield from (Case(point, sink) for sink in point.sinks)
        yield from (Case(point, sink, whole_worker=True) for sink in point.whole_worker)


CASES = {case.name: case for case in cases()}
