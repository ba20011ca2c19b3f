"""Runs that ended with undelivered rows, and what topics hold afterwards."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from kafka_sink import messages
from scheduling import replays, runs
from scheduling.models import SchedulingHistoryItem, SchedulingItem
from scheduling.undelivered.rows import UndeliveredRow
from scheduling.undelivered.store import kept_rows, store

READ_LIMIT_SEC = 10
FIRST_SLOT = datetime(2026, 1, 18, 8, 0, tzinfo=UTC)
_numbers = count()


def run_slot(item: SchedulingItem, **options: Any) -> SchedulingHistoryItem:
    """Runs the item for a slot of its own."""
    slot = FIRST_SLOT + timedelta(minutes=next(_numbers))
    queued = runs.queue(item, slot, trigger=runs.Trigger.SCHEDULE)
    assert queued
    runs.execute(queued.pk, **options)
    return SchedulingHistoryItem.objects.get(pk=queued.pk)


def row(number: int, *, unknown: bool = False, attempts: int = 1) -> UndeliveredRow:
    """A row with the key `number`, the headers and time of its own, that was refused."""
    message = messages.Message(
        b"%d" % number, b'{"id": %d}' % number, (("source", b"tracking"),), 1_768_723_200_000
    )
    return UndeliveredRow(message, "INVALID_RECORD: refused", unknown, attempts)


def run_that_kept(item: SchedulingItem, *rows: UndeliveredRow) -> SchedulingHistoryItem:
    """A run that failed and kept these rows."""
    slot = FIRST_SLOT + timedelta(minutes=next(_numbers))
    run = runs.queue(item, slot, trigger=runs.Trigger.SCHEDULE)
    assert run and run.claim("this worker")
    run.record(export_id=f"query-{run.pk}")
    kept = kept_rows(run)
    for each in rows:
        kept.add(each)
    store(run, kept)
    values = {"row_count": len(rows), "kafka_messages_failed": len(rows)}
    run.finish(runs.Status.FAIL, error="only 0 delivered", **values)
    return SchedulingHistoryItem.objects.get(pk=run.pk)


def send_again(run: SchedulingHistoryItem, **options: Any) -> SchedulingHistoryItem:
    """Sends the run's rows again, in this process; the new run as it ended."""
    again = replays.replay(run, user=None, **options)
    runs.execute(again.pk)
    return SchedulingHistoryItem.objects.get(pk=again.pk)


def in_topic(servers: str, topic: str) -> list[Message]:
    """Every message from the beginning of the topic to its present end."""
    options = {"group.id": "reader", "enable.partition.eof": True, "log_level": 0}
    with closing(Consumer({"bootstrap.servers": servers, **options})) as consumer:
        partitions = consumer.list_topics(timeout=READ_LIMIT_SEC).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        return list(_until_the_end(consumer, len(partitions)))


def keys_in(servers: str, topic: str) -> Counter[str]:
    """How often each key is in the topic."""
    return Counter((message.key() or b"").decode() for message in in_topic(servers, topic))


def _until_the_end(consumer: Consumer, partitions: int) -> Iterator[Message]:
    while partitions:
        message = consumer.poll(READ_LIMIT_SEC)
        assert message is not None, "the topic cannot be read"
        if message.error() is None:
            yield message
        else:
            assert message.error().code() == KafkaError._PARTITION_EOF
            partitions -= 1
