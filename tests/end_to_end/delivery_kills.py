"""The steps of a run to several destinations at which it is killed, and one item for each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

# The destinations, in the order in which a run delivers to them.
OWN, CSV, MAIL = DESTINATIONS = ("File", "csv", "mail")
FILES = {OWN: "own.xlsx", CSV: "rows.csv"}
NONE, PART, UNNAMED, NAMED = "none", "part", "not on the row", "on the row"
AGAIN = ("lost", "success")


@dataclass(frozen=True)
class Kill:
    """A process dies at `place`, of the delivery to `sink` if the place is one of a delivery.

    By then the first `arrived` of the destinations had their rows, the first `written` of them an
    outcome that says so, and the spool was in the state `spool`.
    """

    place: str
    sink: str = ""
    arrived: int = 0
    written: int = 0
    spool: str = NAMED

    @property
    def name(self) -> str:
        return ": ".join(filter(None, (self.sink, self.place)))


@dataclass(frozen=True)
class Case:
    """One item: attempt n dies at the kill n, and the one after the last kill lives.

    `attempts` are the statuses that this leads to. `busy`: the mail server takes nothing for it
    until everybody was killed once.
    """

    number: int
    kills: Sequence[Kill]
    attempts: Sequence[str] = AGAIN
    busy: bool = False

    @property
    def name(self) -> str:
        return " / ".join([*(kill.name for kill in self.kills), *["server busy"] * self.busy])

    @property
    def slug(self) -> str:
        return f"case-{self.number}"

    @property
    def address(self) -> str:
        return f"{self.slug}@example.com"

    def kill(self, attempt: int) -> Kill | None:
        return self.kills[attempt - 1] if attempt <= len(self.kills) else None


QUERY = (
    Kill("before the query", spool=NONE),
    Kill("in the middle of the spool", spool=PART),
    Kill("spool complete, not named", spool=PART),
    Kill("spool named, not on the row", spool=UNNAMED),
    Kill("spool on the row"),
)
MAIL_STEPS = (
    Kill("mail server connected", MAIL, 2, 2),
    Kill("recipient accepted", MAIL, 2, 2),
    Kill("in the middle of DATA", MAIL, 2, 2),
    Kill("DATA ended, no answer read", MAIL, 3, 2),
    Kill("mail accepted", MAIL, 3, 2),
)
THE_END = (
    Kill("row ended, not committed", arrived=3, written=3),
    Kill("end committed, spool not deleted", arrived=3, written=3),
    Kill("spool let go", arrived=3, written=3, spool=NONE),
)
AT_ONCE = ("spool let go", "end committed, spool not deleted")
BUSY = (
    Kill("next attempt, not committed", arrived=2, written=2),
    Kill("end committed, spool not deleted", arrived=2, written=2),
    Kill("spool let go", arrived=2, written=2),
)
TWICE = (
    (
        Kill("outcome committed", OWN, 1, 1),
        Kill("delivered, row not ended", CSV, 2, 1),
    ),
    (
        Kill("delivered, row not ended", OWN, 1, 0),
        Kill("delivered, row not ended", OWN, 1, 0),
    ),
    (Kill("outcome committed", CSV, 2, 2), Kill("mail accepted", MAIL, 3, 2)),
    (
        Kill("outcome committed", CSV, 2, 2),
        Kill("rows of the spool counted", arrived=2, written=2),
    ),
    (
        Kill("spool named, not on the row", spool=UNNAMED),
        Kill("outcome not committed", OWN, 1, 0, spool=NAMED),
    ),
    (
        Kill("outcome not committed", MAIL, 3, 2),
        Kill("row ended, not committed", arrived=3, written=3),
    ),
)


def _kills() -> Iterator[Kill]:
    yield from QUERY
    for before, sink in enumerate(DESTINATIONS):
        yield Kill("before the delivery", sink, before, before)
        if sink in FILES:
            yield Kill("in the middle of the file", sink, before, before)
            yield Kill("file complete and synced", sink, before, before)
            yield Kill("file renamed, folder not synced", sink, before + 1, before)
        else:
            yield from MAIL_STEPS
        yield Kill("delivered, row not ended", sink, before + 1, before)
        yield Kill("outcome not committed", sink, before + 1, before)
        yield Kill("outcome committed", sink, before + 1, before + 1)
    yield from THE_END


def _cases() -> Iterator[Case]:
    number = count(1)
    for kill in _kills():
        attempts = ("success",) if kill.place in AT_ONCE else AGAIN
        yield Case(next(number), [kill], attempts)
    for kill in BUSY:
        attempts = ("partial", "success") if kill.place in AT_ONCE else AGAIN
        yield Case(next(number), [kill], attempts, busy=True)
    for kills in TWICE:
        yield Case(next(number), kills, ("lost", "lost", "success"))


CASES = {case.slug: case for case in _cases()}
