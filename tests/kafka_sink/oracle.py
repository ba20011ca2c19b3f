"""Counts what a topic holds against the numbered rows that were sent to it."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import orjson
from confluent_kafka import Consumer, KafkaError, TopicPartition

from queryexport.rows import Column, Receipt, Row

COLUMNS = (Column("seq"), Column("token"), Column("padding"))
READ_LIMIT_SEC = 15
READ_MESSAGES = 10_000


class NumberedRows:
    """Rows `seq` 1 to `count`, each with a token that no other run and no other row has.

    `pulled` is how many of them were asked for so far.
    """

    def __init__(self, run: str, count: int, *, padding: int = 0, batch_rows: int = 1000) -> None:
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
    for value in _values(client, topic):
        row = orjson.loads(value)
        if rows.owns(row):
            copies[row["seq"]] += 1
        else:
            unexpected += 1
    return Held(copies, unexpected)


def _values(client: Mapping[str, Any], topic: str) -> Iterator[bytes]:
    options = {"group.id": "oracle", "enable.partition.eof": True, "log_level": 0}
    with closing(Consumer({**client, **options})) as consumer:
        partitions = consumer.list_topics(timeout=READ_LIMIT_SEC).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        open_partitions = len(partitions)
        while open_partitions:
            messages = consumer.consume(READ_MESSAGES, timeout=1)
            for message in messages:
                if (error := message.error()) is None:
                    yield message.value() or b""
                else:
                    assert error.code() == KafkaError._PARTITION_EOF, error
                    open_partitions -= 1
