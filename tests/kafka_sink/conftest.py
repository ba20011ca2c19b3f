"""What the tests of the Kafka sink share: a broker, its settings, and a reader of its topics."""

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from kafka_sink.broker import EmbeddedBroker
from kafka_sink.config import KafkaSettings, client_config

TOPIC = "shipments.events"
PARTITIONS = 3
READ_LIMIT_SEC = 10


class CountedProgress:
    """Remembers what it was told; raises `stop` once `stop_after` rows are delivered."""

    def __init__(self, *, stop: Exception | None = None, stop_after: int = 0) -> None:
        self.rows = 0
        self.calls = 0
        self._stop = stop
        self._stop_after = stop_after

    def delivered(self, rows: int) -> None:
        self.rows += rows
        self.calls += 1
        if self._stop and self.rows >= self._stop_after:
            raise self._stop

    def arrived(self, rows: int) -> None:
        self.rows += rows

    def check(self) -> None:
        """The run is still this process's."""


@pytest.fixture
def embedded_broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker({TOPIC: PARTITIONS}) as broker:
        yield broker


@pytest.fixture
def settings_for(embedded_broker: EmbeddedBroker) -> Callable[..., KafkaSettings]:
    def make(**changes: object) -> KafkaSettings:
        fields = {"name": "default", "bootstrap_servers": embedded_broker.bootstrap_servers}
        return KafkaSettings(**{**fields, "linger_ms": 5, **changes})

    return make


@pytest.fixture
def read_topic(settings_for: Callable[..., KafkaSettings]) -> Callable[..., list[Message]]:
    """Reads a topic from its beginning to its present end."""

    def read(topic: str = TOPIC) -> list[Message]:
        config = client_config(settings_for())
        options = {"group.id": "reader", "enable.partition.eof": True, "log_level": 0}
        with closing(Consumer({**config, **options})) as consumer:
            partitions = consumer.list_topics(timeout=READ_LIMIT_SEC).topics[topic].partitions
            consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
            return list(_until_the_end(consumer, len(partitions)))

    return read


def _until_the_end(consumer: Consumer, partitions: int) -> Iterator[Message]:
    while partitions:
        message = consumer.poll(READ_LIMIT_SEC)
        assert message is not None, "the topic cannot be read"
        if message.error() is None:
            yield message
        else:
            assert message.error().code() == KafkaError._PARTITION_EOF
            partitions -= 1
