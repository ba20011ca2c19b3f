"""Sends the rows that a run took from an earlier one, and keeps again what does not arrive."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain, islice
from typing import Any

from django.db.models import Sum

from kafka_sink import deliveries
from kafka_sink.messages import Message
from kafka_sink.reports import Ledger
from kafka_sink.sink import KafkaSink
from queryexport.errors import ConfigurationError, DeliveryError, RunSuperseded
from queryexport.rows import Receipt, Result
from scheduling.models import SchedulingHistoryItem
from scheduling.progress import RunProgress
from scheduling.undelivered.files import read
from scheduling.undelivered.kept import KeptRows
from scheduling.undelivered.origins import Origins
from scheduling.undelivered.rows import UndeliveredRow
from scheduling.undelivered.store import root

ROWS_AT_ONCE = 100


class Replay:
    """The sending of one run that sends rows again.

    However it ends, each row that the run took was delivered, or is in `kept` with its attempts
    added up; one that may be in the topic from an earlier run stays unknown. `settled` says
    whether that holds: if not, nothing may be kept, and the rows stay taken as they are.
    """

    def __init__(
        self, run: SchedulingHistoryItem, *, progress: RunProgress, kept: KeptRows
    ) -> None:
        self._run = run
        self._progress = progress
        self._kept = kept
        self._taken = TakenRows(run)

    def deliver(self, sink: Callable[[], KafkaSink]) -> Receipt:
        """Sends the rows; raises what the sink raises, also when it cannot be made."""
        self._taken.check_files()
        try:
            result = Result((), self._taken.batches()).counted(self._progress.read)
            mine = replace(sink(), keep=self._keep, record=self._record)
            receipt = mine.deliver(result, self._progress)
            self._taken.check_count(receipt)
            return receipt
        except RunSuperseded:
            raise  # Whatever is left belongs to another process.
        except BaseException:
            self._keep_the_rest()
            raise

    def settled(self, delivered: int) -> bool:
        """Whether the rows that it took are accounted for; `kept` must be complete."""
        return delivered + self._kept.rows == self._taken.rows

    def _keep(self, message: Message, *, reason: str, unknown: bool, attempts: int) -> None:
        before = self._taken.origins.of(message)
        self._kept(
            message,
            reason=reason,
            unknown=unknown or before.unknown,
            attempts=attempts + before.attempts,
        )

    def _record(self, ledger: Ledger, **facts: Any) -> None:
        """Called when each row that was handed over has its verdict."""
        self._taken.handed = ledger.handed
        self._progress.rows_delivered = ledger.acked
        deliveries.record(ledger, source="run", export_id=self._run.export_id, **facts)

    def _keep_the_rest(self) -> None:
        """Rows that it did not come to are as they were before."""
        with suppress(ConfigurationError):  # A damaged file: then it is not settled.
            for row in self._taken.rest():
                self._kept.add(row)
        self._progress.rows_read = self._taken.rows


class TakenRows:
    """The rows that a run took, first those in the database, then the files; read once.

    `handed` of them have been accounted for by the delivery.
    """

    def __init__(self, run: SchedulingHistoryItem) -> None:
        self.origins = Origins()
        self.handed = 0
        self._run = run
        self._files = list(run.taken_files.order_by("pk"))
        in_files = run.taken_files.aggregate(rows=Sum("rows"))["rows"] or 0
        self.rows = run.taken.count() + in_files
        self._batches = self._read()
        self._batch: Sequence[UndeliveredRow] = ()
        self._before_batch = 0

    def check_files(self) -> None:
        """Raises `ConfigurationError` for a file that is gone, while nothing is sent yet."""
        for file in self._files:
            if not (root() / file.name).is_file():
                raise ConfigurationError(
                    f"The file {root() / file.name} with {file.rows} undelivered rows is not "
                    "there, so nothing was sent. Put it back, and check that UNDELIVERED_ROOT is "
                    "the same folder on every worker; then send the rows of this run again."
                )

    def check_count(self, receipt: Receipt) -> None:
        """Raises `DeliveryError` when there were fewer rows to read than were taken."""
        if receipt.handed != self.rows:
            error = DeliveryError(
                f"Run {self._run.pk} took {self.rows} rows, but {receipt.handed} were found. A "
                "file in UNDELIVERED_ROOT was changed; restore it from a backup."
            )
            error.receipt = receipt
            raise error

    def batches(self) -> Iterator[Sequence[Message]]:
        for batch in self._batches:
            self._before_batch += len(self._batch)
            self._batch = batch
            for row in batch:
                self.origins.remember(row)
            yield [row.message for row in batch]

    def rest(self) -> Iterator[UndeliveredRow]:
        """The rows that were not handed over, once the delivery is over."""
        yield from self._batch[self.handed - self._before_batch :]
        yield from chain.from_iterable(self._batches)

    def _read(self) -> Iterator[Sequence[UndeliveredRow]]:
        last = 0
        while stored := list(self._run.taken.filter(pk__gt=last).order_by("pk")[:ROWS_AT_ONCE]):
            last = stored[-1].pk
            yield [message.row for message in stored]
        for file in self._files:
            rows = (replace(row, unknown=file.unknown) for row in read(root() / file.name))
            while batch := list(islice(rows, ROWS_AT_ONCE)):
                yield batch
