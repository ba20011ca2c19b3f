"""Brings the rows of a run to each of its destinations that has not got them yet.

With one destination they stream straight through. With several, the query's rows are spooled to
disk once, and each destination reads them from there; its outcome is written down as soon as it is
known. A further attempt delivers, from the same rows, only where the one before did not get
through.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

from django.db import transaction
from django.db.models import Q
from django.utils.timezone import now

from queryexport.errors import (
    ConfigurationError,
    DeliveryError,
    DeliveryUnknown,
    ExportError,
    QueryError,
    RunStopped,
    RunSuperseded,
)
from queryexport.rows import Receipt, Result
from queryexport.sinks import Sink
from queryexport.stopping import Stop
from scheduling import spools
from scheduling.models import Output, RunDestination, SchedulingHistoryItem, SchedulingItem
from scheduling.outcomes import GOOD, Outcome, of_error, of_receipt, of_stored
from scheduling.progress import PartProgress, RunProgress

log = logging.getLogger(__name__)

Query = Callable[[], AbstractContextManager[Result]]


@dataclass(frozen=True)
class Target:
    """One destination that a run is to deliver to; of an e-mail, `only` to those, unless None.

    `known` is what earlier attempts learned of recipients, in the form of a receipt.
    """

    output: Output
    only: frozenset[str] | None = None
    known: Mapping[str, str] = field(default_factory=dict)

    def completed(self, receipt: Receipt) -> Receipt:
        """With what is known of those recipients to whom nothing was sent this time."""
        return replace(receipt, recipients={**self.known, **receipt.recipients})


@dataclass(frozen=True)
class Plan:
    """To whom a run delivers; `settled` is what earlier attempts made of the other destinations,
    and stays so. By those attempts, somebody has `got` something.
    """

    targets: Sequence[Target]
    settled: Sequence[Outcome] = ()
    got: bool = False


class Deliveries:
    """The destinations of one run, and what has become of them so far.

    `sink` makes the sink of a target.
    """

    def __init__(
        self,
        run: SchedulingHistoryItem,
        plan: Plan,
        *,
        progress: RunProgress,
        stop: Stop,
        sink: Callable[[Target], Sink],
    ) -> None:
        self.outcomes: list[Outcome] = []
        self._run = run
        self._progress = progress
        self._stop = stop
        self._sink = sink
        self._plan = plan
        self._saved = 0
        self._delivered_to: list[Output] = []

    @property
    def several(self) -> bool:
        """Whether what is delivered to one of them says nothing of the run as a whole."""
        return len(self._plan.targets) + len(self._plan.settled) > 1

    @property
    def all_outcomes(self) -> Sequence[Outcome]:
        """Those of all destinations, which the run is judged by."""
        return [*self._plan.settled, *self.outcomes]

    @property
    def rows_delivered(self) -> int:
        """Rows that every destination has got."""
        if self._plan.targets and not self.several:
            return self.outcomes[0].rows if self.outcomes else self._progress.rows_delivered
        unreached = len(self.outcomes) < len(self._plan.targets)
        return 0 if unreached else min(each.rows for each in self.all_outcomes)

    @property
    def kafka_broke_off(self) -> bool:
        """Whether rows for Kafka were not read by its sink."""
        kafka = next((each for each in self._plan.targets if each.output.topic()), None)
        outcome = next((each for each in self.outcomes if each.is_kafka), None)
        return kafka is not None and (outcome is None or outcome.broke_off)

    def deliver(self, query: Query) -> None:
        """Delivers the rows of the query, or of the spool that the attempt before left.

        What goes wrong at one of several destinations is in its outcome. Raises whatever ends the
        run as a whole.
        """
        if not self._plan.targets:
            # The process of the attempt before died after the last of them and before its own end,
            # or what was left was removed since.
            self._progress.rows_read = max(each.rows for each in self._plan.settled)
            return
        if self.several:
            self._deliver_from_spool(query)
        else:
            with query() as result:
                self._stream(self._plan.targets[0], result.counted(self._progress.read))

    def _stream(self, target: Target, result: Result) -> None:
        """Delivers to the only destination; raises what the sink raises."""
        try:
            receipt = target.completed(self._sink(target).deliver(result, self._progress))
            self._check(receipt)
        except (QueryError, RunStopped, RunSuperseded):
            raise
        except ExportError as error:
            if isinstance(error, DeliveryUnknown) or not self._stop.reason:
                rows = self._progress.rows_delivered
                self._add(target, of_error(target.output, error, rows=rows))
            raise
        self._add(target, of_receipt(target.output, receipt))

    def add_replay(self, output: Output, receipt: Receipt) -> None:
        """What became of rows that were kept as messages."""
        self._check(receipt)
        self._add(Target(output), of_receipt(output, receipt))

    def save(self) -> None:
        """Writes down the outcomes that have not been; the caller has checked the run's claim."""
        new = range(self._saved, len(self.outcomes))
        RunDestination.objects.bulk_create(
            _row(self._run, self._delivered_to[number], self.outcomes[number]) for number in new
        )
        self._saved = len(self.outcomes)

    def _deliver_from_spool(self, query: Query) -> None:
        if not self._spool_is_there():
            name = spools.new_name(self._run)
            with query() as result:
                spools.spool(name).write(result.counted(self._progress.read))
            self._run.record(spool=name)
        for target in self._plan.targets:
            self._deliver_part(target)
            with transaction.atomic():  # Else it could be lost in between, and delivered again.
                self._run.record()  # Raises once the run is another process's.
                self.save()

    def _spool_is_there(self) -> bool:
        """Whether the attempt before left its rows; counts them, so that none can be missing."""
        if not self._run.spool:
            return False
        try:
            for batch in spools.spool(self._run.spool).result().batches:
                self._progress.read(len(batch))
        except ConfigurationError as error:
            log.warning("Run %s runs its query once more: %s", self._run.pk, error)
            self._progress.rows_read = 0
            return False
        return True

    def _deliver_part(self, target: Target) -> None:
        part = PartProgress(self._progress)
        try:
            result = spools.spool(self._run.spool).result()
            receipt = target.completed(self._sink(target).deliver(result, part))
            self._check(receipt)
            outcome = of_receipt(target.output, receipt)
        except RunStopped as stopped:
            if target.output.topic():  # Of which a part has arrived.
                self._add(target, of_error(target.output, stopped, rows=part.rows_delivered))
            raise
        except RunSuperseded:
            raise
        except ExportError as error:
            # What was told to stop may fail in any way on its way to the end.
            if self._stop.reason and not isinstance(error, DeliveryUnknown):
                raise self._stop.reason from error
            outcome = of_error(target.output, error, rows=part.rows_delivered)
        self._add(target, outcome)

    def _check(self, receipt: Receipt) -> None:
        if receipt.handed != self._progress.rows_read:
            raise DeliveryError(
                f"The query gave {self._progress.rows_read} rows but the destination accounts for "
                f"{receipt.handed} at {receipt.place}. Do not trust this export; run it again."
            )

    def _add(self, target: Target, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._delivered_to.append(target.output)


def earlier_attempts(run: SchedulingHistoryItem) -> list[SchedulingHistoryItem]:
    """The attempts that this one carries on, the newest first."""
    found = []
    while run.carries_on and run.retry_of:
        run = run.retry_of
        found.append(run)
    return found


def plan(
    item: SchedulingItem,
    before: Sequence[SchedulingHistoryItem] = (),
    *,
    by_hand: bool = False,
) -> Plan:
    """To whom a run delivers that carries on the attempts `before`; without any, to all.

    Destinations whose error cannot pass are left as they are, unless a person asked `by_hand`.
    """
    latest: dict[int | None, RunDestination] = {}
    known: dict[int | None, dict[str, str]] = {}
    rows = RunDestination.objects.filter(run__in=before).order_by("pk")
    # The others are of destinations that were removed since.
    for row in rows.filter(Q(is_own=True) | Q(destination__isnull=False)):
        key = None if row.is_own else row.destination_id
        latest[key] = row
        known.setdefault(key, {}).update(row.recipients)
    targets: list[Target] = []
    settled: list[Outcome] = []
    got = False
    for output in item.outputs:
        key = _key(output)
        last = latest.get(key)
        if last is None:
            targets.append(Target(output))
        elif last.status in GOOD:
            got = True
            settled.append(of_stored(last))
        elif last.may_pass or by_hand:
            only = _only(known[key], by_hand=by_hand)
            got |= only is not None
            targets.append(Target(output, only, known[key] if only else {}))
        else:
            settled.append(of_stored(last))
    return Plan(targets, settled, got)


def _only(known: Mapping[str, str], *, by_hand: bool) -> frozenset[str] | None:
    """Those whom the server refused, for now or at all, if others have got the message."""
    if all(known.values()):
        return None
    return frozenset(
        who for who, said in known.items() if said and (by_hand or said.startswith("4"))
    )


def _key(output: Output) -> int | None:
    return None if isinstance(output, SchedulingItem) else output.pk


def _row(run: SchedulingHistoryItem, output: Output, outcome: Outcome) -> RunDestination:
    receipt = outcome.receipt or Receipt(outcome.rows, "")
    own = isinstance(output, SchedulingItem)
    return RunDestination(
        run=run,
        destination_id=_key(output),
        is_own=own,
        name=outcome.name,
        sharing_mode=output.sharing_mode,
        status=outcome.status,
        may_pass=outcome.may_pass,
        error=outcome.error,
        rows_delivered=outcome.rows,
        place=receipt.place,
        recipients=dict(receipt.recipients),
        path=receipt.path,
        size_bytes=receipt.size_bytes,
        sha256=receipt.sha256,
        conversions=dict(receipt.conversions),
        finished_at=now(),
    )
