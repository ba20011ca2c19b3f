"""One claimed run in this process: its rows go to their sink, and its outcome to its row."""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from django.db import transaction
from django.utils.timezone import now

from kafka_sink.messages import export_id
from queryexport.errors import ConfigurationError, RunSuperseded
from queryexport.rows import Receipt, Result
from queryexport.sinks import Sink
from queryexport.source import open_query
from queryexport.stopping import Stop
from scheduling import spools, watermarks
from scheduling.attempts import try_again
from scheduling.delivering import Deliveries, Plan, Target, earlier_attempts, plan
from scheduling.destinations import kafka_output, messages_sink, sink_for
from scheduling.models import SchedulingHistoryItem, SchedulingItem
from scheduling.outcomes import GOOD, Outcome, together
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
        self._deliveries: Deliveries | None = None
        is_replay = run.trigger == SchedulingHistoryItem.Trigger.REPLAY
        self._replay = Replay(run, progress=self.progress, kept=self._kept) if is_replay else None

    def export(self) -> None:
        """Delivers the rows of the query, or those that the run took from an earlier one."""
        item = self._run.item
        if item is None:
            raise ConfigurationError("The item was deleted before this run started.")
        if self._replay:
            self._send_again(item, self._replay)
        else:
            self._query(item)

    def finish(self) -> None:
        """Ends the run whose destinations all have an outcome."""
        assert self._deliveries
        outcomes = self._deliveries.all_outcomes
        status, error = together(outcomes)
        may_pass = status not in GOOD and any(outcome.may_pass for outcome in outcomes)
        # The rows that an error kept from Kafka are in the spool, if they are sent again.
        broke_off = not may_pass and any(each.is_kafka and each.broke_off for each in outcomes)
        self._end(status, error, broke_off=broke_off, may_pass=may_pass)

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
        to_kafka = bool(self._run.kafka_topic) and not self._replay
        loses_rows = to_kafka and (not self._deliveries or self._deliveries.kafka_broke_off)
        self._end(status, error, receipt=receipt, broke_off=loses_rows, may_pass=may_pass)

    def abandon(self) -> None:
        """The run is another process's, or over: nothing of it is written."""
        self._kept.discard()

    def _query(self, item: SchedulingItem) -> None:
        run = self._run
        given = item.parameters if run.given_parameters is None else run.given_parameters
        parameters = item.bound_parameters(run.scheduled_for, given)
        assert run.claim_token
        assert run.started_at
        kafka = kafka_output(item)
        run.record(
            sql=item.query.sql,
            parameters=parameters,
            given_parameters=given,
            export_id=export_id(run.query, run.started_at, run.claim_token.hex[:12]),
            kafka_topic=kafka.kafka_topic if kafka else "",
        )
        self._range = watermarks.range_of(item, run, parameters, stop=self.stop)
        if self._range:
            run.record(parameters=parameters | self._range.texts, **self._range.texts)
            parameters |= self._range.bound
        as_run = {"sql": run.sql, "parameters": run.parameters}
        if run.spool and run.retry_of:  # The rows are those of its query.
            run.record(sql=run.retry_of.sql, parameters=run.retry_of.parameters)
        settings, sql = item.connection.settings(), item.query.sql

        def query() -> AbstractContextManager[Result]:
            run.record(**as_run)
            return open_query(settings, sql, parameters, stop=self.stop)

        self._deliveries = self._deliveries_to(self._plan(item))
        self._deliveries.deliver(query)

    def _plan(self, item: SchedulingItem) -> Plan:
        by_hand = self._run.trigger == SchedulingHistoryItem.Trigger.RERUN
        return plan(item, earlier_attempts(self._run), by_hand=by_hand)

    def _send_again(self, item: SchedulingItem, replay: Replay) -> None:
        """To the topic of the run before, however many destinations the item has."""
        output = kafka_output(item) or item
        self._deliveries = self._deliveries_to(Plan([Target(output)]))
        topic = self._run.kafka_topic
        receipt = replay.deliver(lambda: messages_sink(output, self._run, topic=topic))
        self._deliveries.add_replay(output, receipt)

    def _deliveries_to(self, found: Plan) -> Deliveries:
        def sink(target: Target) -> Sink:
            return sink_for(target.output, self._run, keep=self._kept, only=target.only)

        return Deliveries(self._run, found, progress=self.progress, stop=self.stop, sink=sink)

    def _end(
        self,
        status: SchedulingHistoryItem.Status,
        error: str,
        *,
        receipt: Receipt | None = None,
        broke_off: bool,
        may_pass: bool = False,
    ) -> None:
        """`receipt` is what a sink said that gave no outcome, because the run was stopped."""
        delivered = self._delivered(receipt)
        values = self._counts(receipt, delivered) | {"broke_off": broke_off}
        try:
            kept, words = self._keep(receipt or self._kafka_receipt, delivered)
            with transaction.atomic():  # Else the next attempt could be forgotten.
                self._run.finish(status, error=" ".join([error, *words]), **values, **kept)
                if self._deliveries:
                    self._deliveries.save()
                watermarks.move(self._run, self._range)
                if may_pass:
                    try_again(self._run, now=now())
            spools.release(self._run)
        except RunSuperseded as superseded:
            log.warning("%s", superseded)

    @property
    def _outcomes(self) -> Sequence[Outcome]:
        return self._deliveries.outcomes if self._deliveries else ()

    @property
    def _kafka_receipt(self) -> Receipt | None:
        outcome = self._kafka_outcome
        return outcome.receipt if outcome else None

    @property
    def _kafka_outcome(self) -> Outcome | None:
        return next((outcome for outcome in self._outcomes if outcome.is_kafka), None)

    def _delivered(self, receipt: Receipt | None) -> int:
        """Rows that every destination has got."""
        if self._deliveries is None:
            return 0
        if receipt and not self._deliveries.several:
            return receipt.rows
        return self._deliveries.rows_delivered

    def _counts(self, receipt: Receipt | None, delivered: int) -> dict[str, Any]:
        """What the history says of the rows."""
        receipts = [outcome.receipt for outcome in self._outcomes if outcome.receipt]
        receipts = receipts or ([receipt] if receipt else [])
        values: dict[str, Any] = {
            "row_count": self.progress.rows_read,
            "rows_delivered": delivered,
            "duration_sec": self.progress.elapsed_sec,
            "phases": {"first_row_sec": self.progress.first_row_sec},
        }
        if receipts:
            values |= {
                "place": "; ".join(each.place for each in receipts if each.place),
                "size_bytes": receipts[0].size_bytes,
                "rows_skipped": max(each.skipped for each in receipts),
                "conversions": dict(receipts[0].conversions),
            }
            values["phases"]["delivery_sec"] = sum(each.duration_sec for each in receipts)
        return values | self._kafka_counts(receipt)

    def _kafka_counts(self, receipt: Receipt | None) -> dict[str, Any]:
        outcome = self._kafka_outcome
        if not self._run.kafka_topic or (outcome is None and self._is_beside_others):
            return {}
        known = outcome.receipt if outcome else receipt
        sent = outcome.rows if outcome else self._delivered(receipt)
        skipped = known.skipped if known else 0
        return {
            "kafka_messages_sent": sent,
            "kafka_messages_failed": self.progress.rows_read - sent - skipped,
            "kafka_duration_sec": known.duration_sec if known else None,
        }

    @property
    def _is_beside_others(self) -> bool:
        return self._deliveries is not None and self._deliveries.several

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
        output = kafka_output(item) if item else None
        if output is None or not (topic := output.kafka_dead_letter_topic):
            return 0, ""
        if self.stop.reason:
            return 0, "No dead letters were written, because the run was stopped."
        copied, why = dead_letters.copy(
            self._run, self._kept, sink=lambda: messages_sink(output, self._run, topic=topic)
        )
        if copied == self._kept.rows:
            return copied, ""
        missing = self._kept.rows - copied
        return copied, f"{missing} of {self._kept.rows} dead letters were not written: {why}"
