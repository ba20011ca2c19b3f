"""One claimed run in this process: its rows go to their sink, and its outcome to its row."""

import logging
from collections.abc import Callable
from typing import Any

from django.db import transaction
from django.utils.timezone import now

from kafka_sink.messages import export_id
from queryexport.errors import ConfigurationError, DeliveryError, RunSuperseded
from queryexport.rows import Receipt
from queryexport.source import open_query
from queryexport.stopping import Stop
from scheduling import watermarks
from scheduling.attempts import try_again
from scheduling.destinations import messages_sink, sink_for
from scheduling.models import SchedulingHistoryItem, SchedulingItem, SharingMode
from scheduling.progress import RunProgress
from scheduling.undelivered import dead_letters
from scheduling.undelivered.again import Replay
from scheduling.undelivered.store import kept_rows, store

log = logging.getLogger(__name__)

Status = SchedulingHistoryItem.Status


class Execution:
    """What a process does with the run that it has claimed: `export`, then one way to end it.

    `stop` ends the export from another thread, with the reason as its error.
    """

    def __init__(
        self, run: SchedulingHistoryItem, *, watch: Callable[[RunProgress], None] | None = None
    ) -> None:
        self._run = run
        self.stop = Stop()
        self.progress = RunProgress(run, self.stop, watch=watch)
        self._kept = kept_rows(run)
        self._range: watermarks.Range | None = None
        is_replay = run.trigger == SchedulingHistoryItem.Trigger.REPLAY
        self._replay = Replay(run, progress=self.progress, kept=self._kept) if is_replay else None

    def export(self) -> Receipt:
        """Delivers the rows of the query, or those that the run took from an earlier one."""
        item = self._run.item
        if item is None:
            raise ConfigurationError("The item was deleted before this run started.")
        receipt = self._send_again(item, self._replay) if self._replay else self._query(item)
        if receipt.handed != self.progress.rows_read:
            raise DeliveryError(
                f"The query gave {self.progress.rows_read} rows but the destination accounts for "
                f"{receipt.handed} at {receipt.place}. Do not trust this export; run it again."
            )
        return receipt

    def finish(self, status: SchedulingHistoryItem.Status, *, error: str, receipt: Receipt) -> None:
        """Ends the run whose rows have all been read."""
        self._end(status, error, receipt=receipt, broke_off=False)

    def break_off(
        self,
        error: str,
        *,
        status: SchedulingHistoryItem.Status = Status.FAIL,
        receipt: Receipt | None = None,
        may_pass: bool = False,
    ) -> None:
        """Ends the run that stopped on its way; what arrived and what did not is written down.

        An error that `may_pass` by itself is followed by another attempt, if the item has one left.
        """
        # All rows of a run that sends again are kept, read or not; and files are whole or nothing.
        loses_rows = self._run.export_mode == SharingMode.KAFKA and not self._replay
        self._end(status, error, receipt=receipt, broke_off=loses_rows, may_pass=may_pass)

    def abandon(self) -> None:
        """The run is another process's, or over: nothing of it is written."""
        self._kept.discard()

    def _query(self, item: SchedulingItem) -> Receipt:
        run = self._run
        given = item.parameters if run.given_parameters is None else run.given_parameters
        parameters = item.bound_parameters(run.scheduled_for, given)
        assert run.claim_token
        assert run.started_at
        run.record(
            sql=item.query.sql,
            parameters=parameters,
            given_parameters=given,
            export_id=export_id(run.query, run.started_at, run.claim_token.hex[:12]),
        )
        self._range = watermarks.range_of(item, run, parameters, stop=self.stop)
        if self._range:
            run.record(parameters=parameters | self._range.texts, **self._range.texts)
            parameters |= self._range.bound
        sink = sink_for(item, run, keep=self._kept)
        settings, sql = item.connection.settings(), item.query.sql
        with open_query(settings, sql, parameters, stop=self.stop) as result:
            return sink.deliver(result.counted(self.progress.read), self.progress)

    def _send_again(self, item: SchedulingItem, replay: Replay) -> Receipt:
        return replay.deliver(lambda: messages_sink(item, self._run, topic=self._run.kafka_topic))

    def _end(
        self,
        status: SchedulingHistoryItem.Status,
        error: str,
        *,
        receipt: Receipt | None,
        broke_off: bool,
        may_pass: bool = False,
    ) -> None:
        delivered = receipt.rows if receipt else self.progress.rows_delivered
        values = self._counts(receipt, delivered) | {"broke_off": broke_off}
        try:
            kept, words = self._keep(receipt, delivered)
            with transaction.atomic():  # Else the next attempt could be forgotten.
                self._run.finish(status, error=" ".join([error, *words]), **values, **kept)
                watermarks.move(self._run, self._range)
                if may_pass:
                    try_again(self._run, now=now())
        except RunSuperseded as superseded:
            log.warning("%s", superseded)

    def _counts(self, receipt: Receipt | None, delivered: int) -> dict[str, Any]:
        """What the history says of the rows."""
        read = self.progress.rows_read
        values: dict[str, Any] = {
            "row_count": read,
            "rows_delivered": delivered,
            "duration_sec": self.progress.elapsed_sec,
            "phases": {"first_row_sec": self.progress.first_row_sec},
        }
        if receipt:
            values |= {"place": receipt.place, "size_bytes": receipt.size_bytes}
            values |= {"rows_skipped": receipt.skipped, "conversions": dict(receipt.conversions)}
            values["phases"]["delivery_sec"] = receipt.duration_sec
        if self._run.export_mode == SharingMode.KAFKA:
            values["kafka_messages_sent"] = delivered
            skipped = receipt.skipped if receipt else 0
            values["kafka_messages_failed"] = read - delivered - skipped
            values["kafka_duration_sec"] = receipt.duration_sec if receipt else None
        return values

    def _keep(self, receipt: Receipt | None, delivered: int) -> tuple[dict[str, Any], list[str]]:
        """Stores the undelivered rows and copies them to the dead-letter topic.

        What the history says of that: in values, and in sentences for its error.
        """
        self._kept.complete()
        if self._replay and not self._replay.settled(delivered):
            return {}, [self._unsettled()]
        values: dict[str, Any] = {"taken_settled": self._replay is not None}
        words = [self._kept_words(receipt)] if self._kept.rows or self._kept.lost else []
        if self._kept.rows:
            store(self._run, self._kept, settled=self._replay is not None)
            values["dead_letters"], error = self._copy_to_dead_letters()
            words += [error] if error else []
        return values, words

    def _unsettled(self) -> str:
        why = f" ({self._kept.why_lost})" if self._kept.lost else ""
        self._kept.discard()
        return (
            f"Not each of the rows is accounted for{why}. They stay kept where they were, and can "
            "be sent again from the page of this run, as rows of which nothing is known."
        )

    def _kept_words(self, receipt: Receipt | None) -> str:
        rows = self._kept.rows
        words = f"{rows} undelivered {'row is' if rows == 1 else 'rows are'} kept to be sent again."
        undelivered = receipt.failed + receipt.unknown if receipt else rows + self._kept.lost
        if (missing := undelivered - rows) > 0:
            why = self._kept.why_lost or "the run broke off before they became messages"
            words += f" {missing} could not be kept: {why}. Run the item again."
        return words

    def _copy_to_dead_letters(self) -> tuple[int, str]:
        item = self._run.item
        if item is None or not (topic := item.kafka_dead_letter_topic):
            return 0, ""
        if self.stop.reason:
            return 0, "No dead letters were written, because the run was stopped."
        copied, why = dead_letters.copy(
            self._run, self._kept, sink=lambda: messages_sink(item, self._run, topic=topic)
        )
        if copied == self._kept.rows:
            return copied, ""
        missing = self._kept.rows - copied
        return copied, f"{missing} of {self._kept.rows} dead letters were not written: {why}"
