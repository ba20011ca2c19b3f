"""Judges runs to several destinations by what lies there, not by what the product says of it."""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from openpyxl import load_workbook

from queryexport.errors import ConfigurationError
from scheduling import spools
from tests.end_to_end.delivery_kills import (
    DESTINATIONS,
    FILES,
    MAIL,
    NAMED,
    NONE,
    PART,
    UNNAMED,
    Case,
)
from tests.services.smtp import ReceivedMessage

ROWS = 3000
Rows = tuple[tuple[str, ...], ...]
SPOOL_OF = re.compile(r"\.?run-(\d+)-[0-9a-f]{12}\.rows(\.part)?")


@dataclass(frozen=True)
class File:
    """A file as its readers find it. Another inode or another time is another delivery."""

    inode: int
    mtime_ns: int
    rows: Rows = field(repr=False)


@dataclass(frozen=True)
class Sight:
    """What there was of one item once all processes of a round were dead.

    `spool` are the rows of its complete spool, and `spool_state` where that stood. `written` are
    the destinations whose rows say success.
    """

    ended: Mapping[int, int]
    runs: Sequence[Mapping[str, Any]]
    outcomes: Sequence[Mapping[str, Any]]
    files: Mapping[str, File]
    mails: Sequence[Rows]
    parts: Sequence[str]
    strange: Sequence[str]
    spool: Rows | None
    spool_state: str

    @property
    def written(self) -> set[str]:
        return {row["name"] for row in self.outcomes if row["status"] == "success"}

    @property
    def delivered(self) -> Mapping[str, Any]:
        """By destination, what changes with each further delivery to it."""
        files = {name: (file.inode, file.mtime_ns) for name, file in self.files.items()}
        return files | ({MAIL: len(self.mails)} if self.mails else {})

    @property
    def all_rows(self) -> list[Rows]:
        return [*(file.rows for file in self.files.values()), *self.mails]


@dataclass(frozen=True)
class Eye:
    """Looks at the export folder, the spools and the inbox; reads nothing twice."""

    exports: Path
    spools: Path
    inbox: Sequence[ReceivedMessage]
    _known: dict[Any, Rows] = field(default_factory=dict)

    def sees(self, case: Case, said: Mapping[str, Any]) -> Sight:
        """`said` is what the killed processes' parent printed."""
        runs = [run for run in said["history"] if run["item_name"] == case.slug]
        pks = {run["pk"] for run in runs}
        names = {path.name for path in (self.exports / case.slug).glob("*")}
        parts = sorted(name for name in names if name.startswith("."))
        files = {which: self._file(case, name) for which, name in FILES.items() if name in names}
        spool, state = self._spool(runs)
        return Sight(
            {int(pk): code for pk, code in said["ended"].items() if int(pk) in pks},
            runs,
            [row for row in said["outcomes"] if row["run"] in pks],
            files,
            self._mails(case),
            parts,
            sorted(names - {*parts} - {*FILES.values()}),
            spool,
            state,
        )

    def _file(self, case: Case, name: str) -> File:
        path = self.exports / case.slug / name
        status = path.stat()
        which = (path, status.st_ino, status.st_mtime_ns)
        if which not in self._known:
            is_csv = path.suffix == ".csv"
            self._known[which] = _of_csv(path.read_bytes()) if is_csv else _of_workbook(path)
        return File(status.st_ino, status.st_mtime_ns, self._known[which])

    def _mails(self, case: Case) -> list[Rows]:
        mine = [n for n, mail in enumerate(self.inbox) if mail.rcpt_tos == (case.address,)]
        for number in mine:
            if number not in self._known:
                self._known[number] = _of_csv(_attached(self.inbox[number]))
        return [self._known[number] for number in mine]

    def _spool(self, runs: Sequence[Mapping[str, Any]]) -> tuple[Rows | None, str]:
        """The rows of the item's complete spool, and whether its last run names it."""
        pks = {str(run["pk"]) for run in runs}
        found = [
            match for path in self.spools.glob("*") if (match := SPOOL_OF.fullmatch(path.name))
        ]
        mine = {match[0] for match in found if match[1] in pks}
        last = runs[-1]["spool"]
        if last in mine:
            return _of_spool(last), NAMED
        complete = [name for name in mine if not name.startswith(".")]
        return None, UNNAMED if complete else PART if mine else NONE


@dataclass(frozen=True)
class Verdict:
    """What became of one item: what was seen of it after each round."""

    case: Case
    sights: Sequence[Sight]

    @property
    def last(self) -> Sight:
        return self.sights[-1]

    @property
    def attempts(self) -> tuple[str, ...]:
        return tuple(run["status"] for run in self.last.runs)

    @property
    def deliveries(self) -> Mapping[str, int]:
        """How often each destination was delivered to, as far as its readers can tell."""
        found = {}
        for which in FILES:
            seen = [sight.delivered[which] for sight in self.sights if which in sight.delivered]
            found[which] = len(dict.fromkeys(seen))
        return found | {MAIL: len(self.last.mails)}

    @property
    def may_repeat(self) -> Mapping[str, int]:
        """How often each was delivered to and the process killed before that was written down."""
        found = dict.fromkeys(DESTINATIONS, 0)
        before: Mapping[str, Any] = {}
        for sight in self.sights[: len(self.case.kills)]:
            for which, what in sight.delivered.items():
                found[which] += what != before.get(which) and which not in sight.written
            before = sight.delivered
        return found

    @cached_property
    def faults(self) -> list[str]:
        """What is not as it should be, in words."""
        return [*self._at_the_kills(), *self._meanwhile(), *self._in_the_end()]

    def _at_the_kills(self) -> Iterator[str]:
        """Whether each process died where it had to; else the rest would say nothing."""
        for attempt, (kill, sight) in enumerate(zip(self.case.kills, self.sights, strict=False), 1):
            if [*sight.ended.values()] != [-9]:
                yield f"attempt {attempt} ended with {sight.ended}"
            if {*sight.delivered} != {*DESTINATIONS[: kill.arrived]}:
                yield f"at kill {attempt}, {sorted(sight.delivered)} had their rows"
            if sight.written != {*DESTINATIONS[: kill.written]}:
                yield f"at kill {attempt}, {sorted(sight.written)} were written down"
            if sight.spool_state != kill.spool:
                yield f"at kill {attempt}, the spool was {sight.spool_state}"

    def _meanwhile(self) -> Iterator[str]:
        for number, sight in enumerate(self.sights, 1):
            if not all(_is_whole(rows) for rows in sight.all_rows):
                yield f"a destination had not all rows after round {number}"
            if sight.strange:
                yield f"files {sight.strange} after round {number}"
            if sight.spool is not None and not _is_whole(sight.spool):
                yield f"the spool had not all rows after round {number}"
            for which in sight.written & {*self.last.delivered}:
                if sight.delivered.get(which) != self.last.delivered[which]:
                    yield f"{which} was written down after round {number} and delivered again"
        for which, times in self.deliveries.items():
            if times > 1 + self.may_repeat[which]:
                yield f"{which} was delivered {times} times"

    def _in_the_end(self) -> Iterator[str]:
        last = self.last
        if self.attempts != tuple(self.case.attempts):
            yield f"attempts {self.attempts}: {last.runs[-1]['error']}"
        if {*last.delivered} != {*DESTINATIONS}:
            yield f"only {sorted(last.delivered)} have their rows"
        if last.written != {*DESTINATIONS}:
            yield f"only {sorted(last.written)} are written down"
        successes = [row["name"] for row in last.outcomes if row["status"] == "success"]
        if len(successes) != len({*successes}):
            yield f"written down twice: {successes}"
        each = [(row["run"], row["name"]) for row in last.outcomes]
        if len(each) != len({*each}):
            yield "two outcomes of one destination in one run"
        if len({*last.all_rows}) != 1:
            yield "the rows are not of one run of the query"
        kept = [sight.spool for sight in self.sights[:-1] if sight.spool is not None]
        if any(rows != spool for rows in last.all_rows for spool in kept):
            yield "the query ran again although its rows were spooled"
        if last.runs[-1]["row_count"] != ROWS or last.runs[-1]["rows_delivered"] != ROWS:
            yield f"counted {last.runs[-1]['row_count']}, {last.runs[-1]['rows_delivered']} rows"
        if last.parts:
            yield f"left {last.parts}"


def table(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """A line for each item."""
    widest = max(len(verdict.case.name) for verdict in verdicts)
    yield f"{'killed at':{widest}}  attempts             had  written  delivered again  verdict"
    for verdict in verdicts:
        kill = verdict.case.kills[-1]
        again = ", ".join(
            f"{which} {times - 1}" for which, times in verdict.deliveries.items() if times > 1
        )
        yield (
            f"{verdict.case.name:{widest}}  {', '.join(verdict.attempts):19}  {kill.arrived:3}  "
            f"{kill.written:7}  {again:15}  {'; '.join(verdict.faults) or 'as promised'}"
        )


def _is_whole(rows: Rows) -> bool:
    """Whether they have each number once, and a padding."""
    numbers = [row[0] for row in rows]
    return numbers == [str(number) for number in range(1, ROWS + 1)] and all(
        len(row) == 3 and all(row) for row in rows
    )


def _of_workbook(path: Path) -> Rows:
    try:
        opened = load_workbook(path, read_only=True)
    except (BadZipFile, KeyError, OSError):
        return ()
    with closing(opened):
        return _texts(opened["data"].iter_rows(min_row=2, values_only=True))


def _of_csv(content: bytes) -> Rows:
    return _texts(list(csv.reader(io.StringIO(content.decode())))[1:])


def _of_spool(name: str) -> Rows:
    try:
        batches = [*spools.spool(name).result().batches]
    except ConfigurationError:
        return ()
    return _texts(row for batch in batches for row in batch)


def _texts(rows: Any) -> Rows:
    return tuple(tuple(str(value) for value in row) for row in rows)


def _attached(mail: ReceivedMessage) -> bytes:
    [attachment] = mail.parsed().iter_attachments()
    content = attachment.get_payload(decode=True)
    assert isinstance(content, bytes)
    return content
