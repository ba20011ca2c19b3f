"""Judges the crash matrix by what is at the destinations, not by what the product says of it."""

import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile

from openpyxl import load_workbook

from tests.end_to_end.crash_points import CASES, FILE, MAIL, TRANSACTION, Case
from tests.kafka_sink import oracle
from tests.services.smtp import ReceivedMessage

Run = Mapping[str, Any]
Rows = Mapping[int, str]


@dataclass(frozen=True)
class Evidence:
    """What was found when all was over.

    `watermarks` are the changes that runs made. `started` has a line for each run that a worker
    began, `marks` one entry for each kill, and `crashes` is the folder of both. `copies` has what
    read_committed readers see of each run: how often each row is in the topic.
    """

    expected: Rows
    history: Sequence[Run]
    ledger: Sequence[Run]
    watermarks: Sequence[Run]
    started: Sequence[str]
    exports: Path
    mails: Sequence[ReceivedMessage]
    copies: Mapping[int, Counter[int]]
    marks: Sequence[Mapping[str, Any]]
    crashes: Path

    @property
    def stuck(self) -> list[Run]:
        return [run for run in self.history if run["status"] in ("queued", "running")]

    @property
    def run_twice(self) -> list[str]:
        """Slots of which an attempt was started more than once, by the workers' own lines."""
        slots = Counter(line.partition("\t")[2] for line in self.started)
        return [slot for slot, times in slots.items() if times > 1]

    @property
    def twice_in_one_run(self) -> int:
        """How many messages of a run are further copies of one that the topic has from it."""
        return sum(found.total() - len(found) for found in self.copies.values())

    @property
    def untrue_in_the_ledger(self) -> list[Run]:
        """Deliveries that claim more rows than readers can see of their run."""
        return [row for row in self.ledger if row["acked"] > len(self.copies[row["run"]])]

    def of(self, case: Case) -> "Outcome":
        runs = [run for run in self.history if run["item_name"] == case.name]
        return Outcome(case, sorted(runs, key=lambda run: run["attempt"]), self)


@dataclass(frozen=True)
class Outcome:
    """What became of one item."""

    case: Case
    runs: Sequence[Run]
    evidence: Evidence

    @property
    def attempts(self) -> tuple[str, ...]:
        return tuple(run["status"] for run in self.runs)

    @property
    def fired(self) -> bool:
        marked = [mark["place"] for mark in self._marks]
        return sorted(marked) == sorted(self.case.point.kills)

    @cached_property
    def arrivals(self) -> Sequence[bool]:
        """Whether each delivery that somebody can see is whole: files, messages, or runs."""
        match self.case.sink:
            case "file":
                paths = [path for path in self._folder.glob("*") if path.suffix != ".part"]
                return [is_whole(path, self.evidence.expected) for path in paths]
            case "e-mail":
                mails = (mail for mail in self.evidence.mails if self._is_its(mail))
                return [is_whole(_attachment(mail), self.evidence.expected) for mail in mails]
        copies = [self.evidence.copies[run["pk"]] for run in self.runs]
        return [self._is_all(found) for found in copies if found]

    @property
    def lacking(self) -> int:
        """How many of its rows claim success without the data at the destination."""
        claimed = [run for run in self.runs if run["status"] == "success"]
        if self.case.sink in (FILE, MAIL):
            return max(0, len(claimed) - sum(self.arrivals))
        return sum(not self._is_all(self.evidence.copies[run["pk"]]) for run in claimed)

    @property
    def halves(self) -> int:
        """How many deliveries are there in part; with Kafka's at-least-once they may be."""
        return len(self.arrivals) - sum(self.arrivals)

    @property
    def half_files_seen(self) -> int:
        """How many exports were not whole for a reader at the moment of the kill."""
        seen = self.evidence.crashes.glob(f"{self.case.slug}.*.xlsx")
        return sum(not is_whole(path, self.evidence.expected) for path in seen)

    @property
    def delivered_again(self) -> int:
        """How many messages of the topic, mails, or files there are beyond one whole delivery."""
        if self.case.sink == FILE:
            before = [name for mark in self._marks for name in mark["files"]]
            return sum(not name.endswith(".part") for name in before) * (len(self.runs) > 1)
        if self.case.sink == MAIL:
            return len(self.arrivals) - 1
        found = sum(self.evidence.copies[run["pk"]].total() for run in self.runs)
        return found - len(self.evidence.expected)

    @property
    def watermark_is_true(self) -> bool:
        """Whether the run that succeeded moved it, once and over all rows."""
        changes = [each for each in self.evidence.watermarks if each["name"] == self.case.name]
        moved = [(each["run_id"], each["value"]) for each in changes]
        succeeded = [run["pk"] for run in self.runs if run["status"] == "success"]
        return moved == [(pk, str(max(self.evidence.expected))) for pk in succeeded]

    @property
    def litter(self) -> int:
        """How many temporary files beside the target are left at the end."""
        return len(list(self._folder.glob(".*.part")))

    @property
    def litter_of_the_killed(self) -> int:
        """How many were there when a process was killed; the next attempt has to remove them."""
        return sum(name.endswith(".part") for mark in self._marks for name in mark["files"])

    @property
    def faults(self) -> list[str]:
        """What is not as it should be, in words."""
        may_be_half = self.case.sink not in (FILE, MAIL, TRANSACTION)
        wrong = {
            "was not killed at its point": not self.fired,
            f"has the attempts {self.attempts}": self.attempts != self.case.point.attempts,
            f"success without data, {self.lacking} times": self.lacking > 0,
            "nothing whole has arrived": not any(self.arrivals),
            "half a delivery can be seen": self.halves > 0 and not may_be_half,
            "half a file could be seen": self.half_files_seen > 0,
            "the watermark is wrong": self.case.has_watermark and not self.watermark_is_true,
            "a .part is left": self.litter > 0,
        }
        return [words for words, is_so in wrong.items() if is_so]

    @property
    def _folder(self) -> Path:
        return self.evidence.exports / self.case.slug

    @property
    def _marks(self) -> list[Mapping[str, Any]]:
        return [mark for mark in self.evidence.marks if mark["case"] == self.case.name]

    def _is_its(self, mail: ReceivedMessage) -> bool:
        return mail.rcpt_tos == (address(self.case),)

    def _is_all(self, found: Counter[int]) -> bool:
        """At least once, or in a transaction exactly once."""
        if self.case.sink == TRANSACTION:
            return found == Counter(self.evidence.expected.keys())
        return found.keys() == self.evidence.expected.keys()


def address(case: Case) -> str:
    """Where the mails of the item go, by which they are told apart."""
    return f"item-{list(CASES).index(case.name)}@example.com"


def is_whole(workbook: Path | IO[bytes], expected: Rows) -> bool:
    """Whether it opens, and has each row once with its text."""
    try:
        opened = load_workbook(workbook, read_only=True)
    except (BadZipFile, KeyError, OSError):
        return False
    with closing(opened):
        cells = opened["data"].iter_rows(min_row=2, values_only=True)
        return sorted(cells) == sorted(expected.items())


def committed_copies(
    client: Mapping[str, Any], topics: Iterable[str], expected: Rows
) -> Mapping[int, Counter[int]]:
    """How often each run's rows are in the topics; fails on one whose text is not its own."""
    found: defaultdict[int, Counter[int]] = defaultdict(Counter)
    for topic in topics:
        for message in oracle.messages(client, topic):
            value = json.loads(message.value() or b"")
            assert expected[value["id"]] == value["padding"]
            assert message.key() == str(value["id"]).encode()
            run = dict(message.headers() or ())["query_export.run"]
            found[int(run)][value["id"]] += 1
    return found


def table(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """A line for each case."""
    widest = max(len(outcome.case.name) for outcome in outcomes)
    yield f"{'sink / point':{widest}}  attempts       data   delivered again  .part gone  verdict"
    for outcome in outcomes:
        data = "whole" if any(outcome.arrivals) and not outcome.lacking else "MISSING"
        verdict = "; ".join(outcome.faults) or "as promised"
        yield (
            f"{outcome.case.name:{widest}}  {', '.join(outcome.attempts):13}  {data:5}  "
            f"{_again(outcome):15}  {outcome.litter_of_the_killed or '':10}  {verdict}"
        )


def _again(outcome: Outcome) -> str:
    words = {FILE: "file replaced", MAIL: "mail", TRANSACTION: "rows"}
    again = outcome.delivered_again
    return f"{again} {words.get(outcome.case.sink, 'rows')}" if again > 0 else ""


def _attachment(mail: ReceivedMessage) -> IO[bytes]:
    [attachment] = mail.parsed().iter_attachments()
    content = attachment.get_payload(decode=True)
    assert isinstance(content, bytes)
    return io.BytesIO(content)
