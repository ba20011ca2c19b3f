"""Publishes messages for people and the API: by the counting producer, into the ledger."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import Any
from uuid import uuid4

from django.contrib.auth.models import User
from django.utils import timezone

from kafka_sink.config import KafkaSettings
from kafka_sink.deliveries import record
from kafka_sink.messages import Batch, Message, export_id
from kafka_sink.producer import CountingProducer
from kafka_sink.reports import Ledger
from queryexport.errors import DeliveryError, ExportError
from queryexport.rows import Undelivered

LIMIT_SEC = 30.0
OUTAGE_LIMIT_SEC = 8.0
SOURCE = "api"

# What one call may send; a message's size is that of its key and its value.
MESSAGE_BYTES = 1_000_000
BATCH_BYTES = 10_000_000
MOST_MESSAGES = 10_000


@dataclass(frozen=True)
class Published:
    """What became of the messages; `delivery` is the number of the row in the ledger.

    `place` is partition and offset of a single message that arrived, where the broker told them.
    """

    delivery: int
    total: int
    acked: int
    failed: int
    unknown: int
    undelivered: tuple[Undelivered, ...]
    error: str
    duration_sec: float
    place: tuple[int, int] | None


class _TimeLimit:
    """The progress of a call: it ends the delivery when the caller has waited long enough."""

    def __init__(self, limit_sec: float) -> None:
        self._deadline = monotonic() + limit_sec

    def delivered(self, rows: int) -> None:
        self.check()

    def arrived(self, rows: int) -> None:
        """In time, whatever the clock says now."""

    def check(self) -> None:
        if monotonic() > self._deadline:
            raise DeliveryError(
                f"The brokers did not acknowledge everything within {LIMIT_SEC:.0f} s. "
                "Send fewer messages in one call, or look at the brokers.",
                retryable=True,
            )


def size(message: Message) -> int:
    """The bytes that count towards the limits."""
    return len(message.key or b"") + len(message.value)


def publish(
    settings: KafkaSettings,
    topic: str,
    *,
    messages: Sequence[Message],
    user: Any,
    batch_size: int = 100,
) -> Published:
    """Sends the messages, waits for every acknowledgement, and writes the delivery down.

    Every message gets the headers `export_id` and `row`, by which it can be verified. Raises
    `UnknownTopic`, or another `ExportError` when nothing could be sent; after that, an error is
    part of the answer. Takes 45 s at most.
    """
    started_at, started = timezone.now(), monotonic()
    name = export_id(SOURCE, started_at, uuid4().hex[:12])
    producer = CountingProducer(
        settings,
        topic,
        batch_messages=batch_size,
        progress=_TimeLimit(LIMIT_SEC),
        outage_limit_sec=OUTAGE_LIMIT_SEC,
    )
    with producer:
        producer.require_topic()
        error = _send(producer, _marked(messages, name))
    producer.ledger.never_sent(len(messages) - producer.ledger.handed)
    return _written_down(
        producer.ledger,
        settings,
        topic,
        total=len(messages),
        error=error,
        export_id=name,
        started_at=started_at,
        duration_sec=monotonic() - started,
        user=user,
    )


def _send(producer: CountingProducer, messages: Sequence[Message]) -> str:
    try:
        producer.send(Batch.of(messages))
        producer.settle()
    except ExportError as error:
        producer.abandon()
        return error.message
    return ""


def _marked(messages: Sequence[Message], name: str) -> list[Message]:
    mark = ("export_id", name.encode())
    return [
        message._replace(headers=(*message.headers, mark, ("row", b"%d" % number)))
        for number, message in enumerate(messages, start=1)
    ]


def _written_down(
    ledger: Ledger,
    settings: KafkaSettings,
    topic: str,
    *,
    total: int,
    error: str,
    export_id: str,
    started_at: datetime,
    duration_sec: float,
    user: User,
) -> Published:
    delivery = record(
        ledger,
        connection=settings.name,
        topic=topic,
        source=SOURCE,
        export_id=export_id,
        started_at=started_at,
        duration_sec=duration_sec,
        error=error,
        user=user,
    )
    single = next(iter(ledger.offsets.items()), None) if total == 1 else None
    return Published(
        delivery=delivery.pk,
        total=total,
        acked=ledger.acked,
        failed=ledger.failed,
        unknown=ledger.unknown,
        undelivered=tuple(ledger.undelivered),
        error=delivery.last_error,
        duration_sec=duration_sec,
        place=(single[0], single[1][0]) if single else None,
    )
