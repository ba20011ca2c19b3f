"""All or nothing, on Apache Kafka: a `read_committed` consumer sees the whole run or none of it."""

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition

from kafka_sink.builder import MessageOptions
from kafka_sink.config import KafkaSettings
from kafka_sink.messages import Batch
from kafka_sink.sink import KafkaSink
from queryexport.errors import DeliveryError, QueryError, RunSuperseded
from tests.fakes import RecordedProgress, result_of
from tests.kafka_sink import oracle
from tests.services.kafka import KafkaBroker

pytestmark = pytest.mark.services

PARTITIONS = 2
ROWS = 5000


@pytest.fixture
def topic(kafka: KafkaBroker, request: pytest.FixtureRequest) -> str:
    name = request.node.name[:200].replace("[", "-").replace("]", "")
    kafka.create_topic(name, PARTITIONS, {"max.message.bytes": "100000"})
    return name


@pytest.fixture
def make_sink(kafka: KafkaBroker, topic: str) -> Callable[..., KafkaSink]:
    def make(**changes: object) -> KafkaSink:
        settings = KafkaSettings(
            name="default", bootstrap_servers=kafka.bootstrap_servers, compression="none"
        )
        fields = {
            "topic": topic,
            "key_field": "id",
            "batch_size": 100,
            "envelope": None,
            "zone": UTC,
            "transactional_id": f"test-{topic}",
        }
        return KafkaSink(settings, **(fields | changes))

    return make


@pytest.fixture
def committed(kafka: KafkaBroker, topic: str) -> Callable[[], list[bytes]]:
    """The keys that a `read_committed` consumer sees, to the end of the topic."""

    def read() -> list[bytes]:
        config = {
            "bootstrap.servers": kafka.bootstrap_servers,
            "group.id": "reader",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "log_level": 0,
        }
        # The brokers mark a commit in each partition a moment after they have answered to it.
        oracle.wait_until_settled(kafka.client_config, topic)
        with closing(Consumer(config)) as consumer:
            consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
            return list(_keys(consumer))

    return read


def _keys(consumer: Consumer) -> Iterator[bytes]:
    left = PARTITIONS
    while left:
        message = consumer.poll(20)
        assert message is not None
        if message.error() is None:
            yield message.key()
        else:
            assert message.error().code() == KafkaError._PARTITION_EOF
            left -= 1


def numbered(count: int) -> Iterator[list[object]]:
    return ([number, f"row {number}"] for number in range(count))


def breaking(count: int, error: Exception) -> Iterator[list[object]]:
    yield from numbered(count)
    raise error


def result(rows: Iterator[list[object]]):
    return result_of(["id", "text"], rows, batch_rows=1000)


def test_a_finished_run_is_seen_whole(make_sink, committed) -> None:
    progress = RecordedProgress()
    receipt = make_sink().deliver(result(numbered(ROWS)), progress)
    assert (receipt.rows, receipt.failed, receipt.unknown) == (ROWS, 0, 0)
    assert sorted(map(int, committed())) == list(range(ROWS))
    assert progress.reported == ROWS


def test_nothing_counts_as_delivered_before_the_commit(make_sink, committed) -> None:
    progress = RecordedProgress()

    def rows() -> Iterator[list[object]]:
        yield from numbered(ROWS)
        assert progress.reported == 0

    make_sink().deliver(result(rows()), progress)
    assert progress.reported == ROWS


@pytest.mark.parametrize("error", [QueryError("lost"), RunSuperseded("taken over")])
def test_a_run_that_breaks_is_not_seen_at_all(make_sink, committed, error) -> None:
    with pytest.raises(type(error)) as caught:
        make_sink().deliver(result(breaking(ROWS, error)), RecordedProgress())
    receipt = caught.value.receipt
    assert (receipt.rows, receipt.handed >= ROWS - 1000) == (0, True)
    assert committed() == []


def test_a_fault_of_the_program_is_not_seen_either(make_sink, committed) -> None:
    with pytest.raises(ZeroDivisionError):
        make_sink().deliver(result(breaking(ROWS, ZeroDivisionError())), RecordedProgress())
    assert committed() == []


def test_one_refused_row_takes_the_others_back(make_sink, committed) -> None:
    rows = [[number, "x"] for number in range(50)]
    rows[20][1] = "y" * 200_000  # Over the topic's limit.
    with pytest.raises(
        DeliveryError, match="no row of this run is visible: MSG_SIZE_TOO"
    ) as caught:
        make_sink(batch_size=1).deliver(result(iter(rows)), RecordedProgress())
    receipt = caught.value.receipt
    assert receipt is not None
    assert (receipt.rows, receipt.failed + receipt.unknown) == (0, 50)
    assert committed() == []


def test_the_next_run_of_the_item_ends_what_a_killed_one_left_open(make_sink, committed) -> None:
    left_open = make_sink()
    unfinished = left_open._producer(
        RecordedProgress()
    )  # As after SIGKILL: neither end is reached.
    unfinished.begin()
    unfinished.send(Batch([b"99"], [b"{}"]))
    unfinished.settle()
    assert unfinished.ledger.acked == 1
    receipt = make_sink().deliver(result(numbered(10)), RecordedProgress())
    assert receipt.rows == 10
    assert sorted(map(int, committed())) == list(range(10))
    with pytest.raises(DeliveryError):
        unfinished.commit()


def test_headers_and_time_reach_the_topic(make_sink, topic, kafka: KafkaBroker) -> None:
    moment = datetime(2026, 1, 18, 8, tzinfo=UTC)
    options = MessageOptions(headers=(("source", b"tracking"),), timestamp_field="at")
    make_sink(options=options, transactional_id="").deliver(
        result_of(["id", "at"], [["A", moment]]), RecordedProgress()
    )
    config = {"bootstrap.servers": kafka.bootstrap_servers, "group.id": "reader", "log_level": 0}
    with closing(Consumer(config)) as consumer:
        consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
        message = consumer.poll(20)
    assert message is not None
    assert message.headers() == [("source", b"tracking")]
    assert message.timestamp()[1] == moment.timestamp() * 1000
