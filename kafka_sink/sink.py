"""Delivers a result to a Kafka topic, one message a row."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from time import monotonic
from typing import Any, TypeAlias

from kafka_sink.builder import MessageBuilder, MessageOptions, ReadyMessages
from kafka_sink.config import KafkaSettings
from kafka_sink.messages import Envelope, Message
from kafka_sink.producer import OUTAGE_LIMIT_SEC, CountingProducer
from kafka_sink.reports import Keep, Ledger
from queryexport.errors import DeliveryError, ExportError, RunStopped, RunSuperseded
from queryexport.rows import Progress, Receipt, Result

STOPPED_WITHIN_SEC = 2.0

Builder: TypeAlias = MessageBuilder | ReadyMessages


@dataclass(frozen=True)
class KafkaSink:
    """One topic on one Kafka connection.

    `rows` in the receipt are the rows that the brokers acknowledged with all in-sync replicas;
    `failed` ones were refused, `unknown` ones may or may not be in the topic and are never sent
    twice. `batch_size` is the most messages in one request, 1 to 10000. A time without a zone is
    taken to be in `zone`. The run ends when all brokers are down for `outage_limit_sec`.

    `resend_unknown` sends rows of which nothing is known again, at the risk of a second copy. A
    `transactional_id`, the same for every run of an item, makes the run one transaction: a
    `read_committed` consumer sees all of its rows or none. `record` is told of the delivery,
    however it ends. `keep` is given each row that was read and not delivered, as the message that
    it is. With `ready` the rows of the result are such messages, and are sent as they are.

    When the delivery breaks off, the `ExportError` has the receipt of what arrived until then.
    """

    settings: KafkaSettings
    topic: str
    key_field: str
    batch_size: int
    envelope: Envelope | None
    zone: tzinfo
    options: MessageOptions = field(default_factory=MessageOptions)
    resend_unknown: bool = False
    transactional_id: str = ""
    record: Callable[..., object] | None = None
    keep: Keep | None = None
    ready: bool = False
    outage_limit_sec: float = OUTAGE_LIMIT_SEC

    def deliver(self, result: Result, progress: Progress) -> Receipt:
        started = monotonic()
        builder = self._builder(result)
        read: list[int] = []
        result = result.counted(read.append)
        producer = self._producer(progress)
        with self._on_record(producer.ledger, builder), producer:
            producer.require_topic()
            progress.check()
            unsent: list[Message] = []
            try:
                producer.begin()
                self._send_all(producer, builder, result, unsent)
                producer.settle()
                producer.commit()
            except ExportError as error:
                _wind_up(producer, error)
                producer.ledger.never_sent_messages(unsent)
                producer.ledger.never_sent(sum(read) - producer.ledger.handed - builder.skipped)
                error.receipt = self._receipt(producer.ledger, builder, started)
                raise
        return self._receipt(producer.ledger, builder, started)

    def _builder(self, result: Result) -> Builder:
        if self.ready:
            return ReadyMessages()
        return MessageBuilder(
            result.columns,
            self.key_field,
            envelope=self.envelope,
            zone=self.zone,
            options=self.options,
        )

    def _send_all(
        self,
        producer: CountingProducer,
        builder: Builder,
        result: Result,
        unsent: list[Message],
    ) -> None:
        """Sends the rows; when that breaks off, the rest of the batch in hand goes to `unsent`."""
        done, ledger = 0, producer.ledger
        batches: Iterable[Any] | None = result.as_json(builder.shape) if builder.shape else None
        for rows in result.batches if batches is None else batches:
            handed, batch = ledger.handed, None
            try:
                batch = builder.build(rows, done + 1)
                producer.send(batch)
            except ExportError:
                if batch is None:
                    unsent += builder.build_possible(rows, done + 1)
                else:
                    unsent += batch.messages(self.options.headers, ledger.handed - handed)
                raise
            done += len(rows)

    def _producer(self, progress: Progress) -> CountingProducer:
        return CountingProducer(
            self.settings,
            self.topic,
            batch_messages=self.batch_size,
            progress=progress,
            outage_limit_sec=self.outage_limit_sec,
            # A transaction with a row in doubt can only be aborted, so nothing is sent again.
            resend_unknown=self.resend_unknown and not self.transactional_id,
            transactional_id=self.transactional_id,
            headers=() if self.ready else self.options.headers,
            keep=self.keep,
        )

    @contextmanager
    def _on_record(self, ledger: Ledger, builder: Builder) -> Iterator[None]:
        """Writes the delivery down once the producer has accounted for every row."""
        started_at, started, reason = datetime.now(UTC), monotonic(), ""
        try:
            yield
        except BaseException as error:
            reason = error.message if isinstance(error, ExportError) else type(error).__name__
            raise
        finally:
            if self.record:
                self.record(
                    ledger,
                    connection=self.settings.name,
                    topic=self.topic,
                    started_at=started_at,
                    duration_sec=monotonic() - started,
                    error=reason,
                    skipped=builder.skipped,
                )

    def _receipt(self, ledger: Ledger, builder: Builder, started: float) -> Receipt:
        return Receipt(
            ledger.acked,
            f"{self.topic}: {_offsets(ledger)}",
            ledger.size_bytes,
            failed=ledger.failed,
            unknown=ledger.unknown,
            skipped=builder.skipped,
            conversions={"NaN or infinity to null": builder.nulled} if builder.nulled else {},
            undelivered=tuple(ledger.undelivered),
            duration_sec=monotonic() - started,
        )


def _wind_up(producer: CountingProducer, error: ExportError) -> None:
    """Lets rows that are on their way arrive, unless the run has another owner by now.

    One that was told to stop has little time for it.
    """
    if isinstance(error, RunStopped):
        producer.drain(STOPPED_WITHIN_SEC)
    elif not isinstance(error, RunSuperseded):
        with suppress(DeliveryError):  # `error` came first and says why.
            producer.settle()
    producer.abandon()


def _offsets(ledger: Ledger) -> str:
    ranges = (
        f"partition {partition} offsets {first}–{last}"
        for partition, (first, last) in sorted(ledger.offsets.items())
    )
    return ", ".join(ranges) or "no messages"
