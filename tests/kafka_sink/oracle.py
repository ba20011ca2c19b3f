"""Counts what a topic holds against the numbered rows that were sent to it."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any

import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from queryexport.rows import Column, Receipt, Row

COLUMNS = (Column("seq"), Column("token"), Column("padding"))
BATCH_ROWS = 1000
READ_LIMIT_SEC = 15
SETTLED_SEC = 0.5
READ_MESSAGES = 10_000
ISOLATIONS = ("read_committed", "read_uncommitted")
COMING_BACK = {KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE}


class NumberedRows:
    """Rows `seq` 1 to `count`, each with a token that no other run and no other row has.

    `pulled` is how many of them were asked for so far.
    """

    def __init__(
        self, run: str, count: int, *, padding: int = 0, batch_rows: int = BATCH_ROWS
    ) -> None:
        self.count = count
        self.pulled = 0
        self._run = run
        self._padding = "x" * padding
        self._batch_rows = batch_rows

    def batches(self) -> Iterator[list[Row]]:
        for first in range(1, self.count + 1, self._batch_rows):
            numbers = range(first, min(first + self._batch_rows, self.count + 1))
            self.pulled += len(numbers)
            yield [(number, self.token(number), self._padding) for number in numbers]

    def token(self, number: int) -> str:
        return f"{self._run}-{number}"

    def value(self, number: int) -> bytes:
        """The row as a message, for a test that sends without the sink."""
        return orjson.dumps({"seq": number, "token": self.token(number)})

    def owns(self, value: Mapping[str, Any]) -> bool:
        number = value["seq"]
        return 1 <= number <= self.pulled and value["token"] == self.token(number)


@dataclass(frozen=True)
class Held:
    """What the topic holds of the rows: how often each number, and what nobody sent."""

    copies: Counter[int]
    unexpected: int

    @property
    def distinct(self) -> int:
        return len(self.copies)

    @property
    def duplicates(self) -> int:
        return self.copies.total() - self.distinct

    def missing(self, receipt: Receipt) -> int:
        """How many rows the receipt claims as delivered and the topic cannot have."""
        return max(0, receipt.rows - self.distinct)

    def undeclared(self, receipt: Receipt) -> int:
        """How many rows the topic has though the receipt neither claims nor doubts them."""
        return max(0, self.distinct - receipt.rows - receipt.unknown)


def held(client: Mapping[str, Any], topic: str, rows: NumberedRows) -> Held:
    """Read the topic from its beginning to its end, and count."""
    copies: Counter[int] = Counter()
    unexpected = 0
    for message in messages(client, topic):
        row = orjson.loads(message.value() or b"")
        if rows.owns(row):
            copies[row["seq"]] += 1
        else:
            unexpected += 1
    return Held(copies, unexpected)


def messages(
    client: Mapping[str, Any], topic: str, *, isolation: str = "read_committed"
) -> Iterator[Message]:
    """Every message that a reader of that isolation level sees, to the end of the topic."""
    with closing(_reader(client, isolation)) as consumer:
        partitions = _partitions(consumer, topic)
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        ended: set[int | None] = set()
        while len(ended) < len(partitions):
            for message in consumer.consume(READ_MESSAGES, timeout=1):
                if (error := message.error()) is None:
                    yield message
                else:
                    assert error.code() == KafkaError._PARTITION_EOF, error
                    ended.add(message.partition())


def stored(client: Mapping[str, Any], topic: str) -> int:
    """How many offsets the topic's partitions have given out, committed or not."""
    return sum(_ends(client, topic, "read_uncommitted"))


def wait_until_settled(client: Mapping[str, Any], topic: str) -> None:
    """Return when no end moves any more: a broker that comes back first has to find its own."""
    deadline, before = monotonic() + READ_LIMIT_SEC, None
    while before != (now := [_ends(client, topic, isolation) for isolation in ISOLATIONS]):
        assert monotonic() < deadline, f"the topic still changes: {now}"
        before = now
        sleep(SETTLED_SEC)


def _ends(client: Mapping[str, Any], topic: str, isolation: str) -> list[int]:
    """The end of each partition; for `read_committed` it is before the first open transaction."""
    with closing(_reader(client, isolation)) as consumer:
        places = [TopicPartition(topic, number) for number in _partitions(consumer, topic)]
        return [_end(consumer, place) for place in places]


def _end(consumer: Consumer, place: TopicPartition) -> int:
    """Asked again for as long as a broker that has just come back does not lead the partition."""
    deadline = monotonic() + READ_LIMIT_SEC
    while True:
        try:
            return consumer.get_watermark_offsets(place, READ_LIMIT_SEC)[1]
        except KafkaException as error:
            if error.args[0].code() not in COMING_BACK or monotonic() > deadline:
                raise
            sleep(SETTLED_SEC)


def _reader(client: Mapping[str, Any], isolation: str) -> Consumer:
    options = {"group.id": "oracle", "enable.partition.eof": True, "log_level": 0}
    return Consumer({**client, **options, "isolation.level": isolation})


def _partitions(consumer: Consumer, topic: str) -> list[int]:
    return list(consumer.list_topics(timeout=READ_LIMIT_SEC).topics[topic].partitions)
