"""Whatever breaks in mid-run, the topic has every row that the receipt claims, and has it once."""

from pathlib import Path
from time import monotonic, sleep

import pytest
from confluent_kafka import KafkaError, Producer

from kafka_sink.broker import EmbeddedBroker
from kafka_sink.config import QUEUE_KBYTES, QUEUE_MESSAGES
from queryexport.rows import Receipt
from tests.kafka_sink import oracle
from tests.kafka_sink.faults import (
    BEFORE_THE_FAULT,
    OUTAGE_LIMIT_SEC,
    REQUEST_TIMEOUT_MS,
    STOPS_WITHIN_SEC,
    Delivery,
    Record,
    delivering,
    kill,
    numbered_rows,
    pause,
    proxied,
    start,
    tell,
)
from tests.services.kafka import KafkaBroker

pytestmark = [pytest.mark.services, pytest.mark.slow]

MOST_GROWTH_MB = 150
LARGE_BYTES = 5000
LARGE_BATCH = 100


def assert_every_row_arrived_once(record: Record, fault: str, delivery: Delivery) -> None:
    receipt, held, count = delivery.receipt(), delivery.held(), delivery.rows.count
    tell(record, fault, receipt, held)
    assert (receipt.rows, receipt.failed, receipt.unknown) == (count, 0, 0)
    assert (held.distinct, held.duplicates, held.unexpected) == (count, 0, 0)


def assert_nothing_is_claimed_too_much(
    record: Record, fault: str, delivery: Delivery, receipt: Receipt
) -> None:
    held = delivery.held()
    tell(record, fault, receipt, held)
    assert receipt.handed == delivery.rows.pulled, "rows were read and are in no count"
    assert held.missing(receipt) == 0
    assert held.undeclared(receipt) == 0
    assert (held.duplicates, held.unexpected) == (0, 0)


def test_a_broker_that_is_killed_and_comes_back_loses_and_doubles_no_row(
    breakable_kafka: KafkaBroker, record_property: Record
) -> None:
    with delivering(breakable_kafka) as delivery:
        delivery.wait_for(BEFORE_THE_FAULT)
        kill(breakable_kafka)
        sleep(1)
        start(breakable_kafka)
    assert_every_row_arrived_once(record_property, "broker killed and restarted", delivery)


def test_a_broker_that_stands_still_for_a_while_loses_and_doubles_no_row(
    breakable_kafka: KafkaBroker, record_property: Record
) -> None:
    with delivering(breakable_kafka) as delivery:
        delivery.wait_for(BEFORE_THE_FAULT)
        # Longer than a request may take: the client sends again what the broker has received.
        pause(breakable_kafka, seconds=6)
    assert_every_row_arrived_once(record_property, "broker stopped and continued", delivery)


def test_lost_acknowledgements_neither_lose_nor_double_a_row(
    breakable_kafka: KafkaBroker, record_property: Record
) -> None:
    with (
        proxied(breakable_kafka) as (proxy, servers),
        delivering(breakable_kafka, servers=servers) as delivery,
    ):
        delivery.wait_for(BEFORE_THE_FAULT)
        proxy.swallow_answers()
        sleep(2)
        proxy.resume()
        delivery.receipt()
    assert proxy.swallowed_bytes > 0
    assert_every_row_arrived_once(record_property, "acknowledgements cut for a while", delivery)


def test_the_same_fault_doubles_rows_for_a_client_without_idempotence(
    breakable_kafka: KafkaBroker,
) -> None:
    topic, rows = "faults.plain", numbered_rows(1000)
    breakable_kafka.create_topic(topic, 3)
    with proxied(breakable_kafka) as (proxy, servers):
        producer = Producer({"bootstrap.servers": servers, "enable.idempotence": False})
        producer.produce(topic, rows.value(rows.count + 1))
        producer.flush(STOPS_WITHIN_SEC)
        proxy.swallow_answers()
        for batch in rows.batches():
            for number, *_ in batch:
                producer.produce(topic, rows.value(number))
        producer.flush(1)
        proxy.resume()
        assert producer.flush(STOPS_WITHIN_SEC) == 0
    held = oracle.held(breakable_kafka.client_config, topic, rows)
    assert (held.distinct, held.unexpected) == (rows.count, 1)
    assert held.duplicates > 0


def test_connections_that_break_again_and_again_neither_lose_nor_double_a_row(
    breakable_kafka: KafkaBroker, record_property: Record
) -> None:
    with (
        proxied(breakable_kafka) as (proxy, servers),
        delivering(breakable_kafka, servers=servers) as delivery,
    ):
        for number in range(1, 6):
            delivery.wait_for(number * BEFORE_THE_FAULT)
            proxy.reset()
        delivery.receipt()
    assert_every_row_arrived_once(record_property, "connections reset five times", delivery)


def test_rows_whose_acknowledgements_never_come_are_unknown_and_not_claimed(
    breakable_kafka: KafkaBroker, record_property: Record
) -> None:
    with (
        proxied(breakable_kafka) as (proxy, servers),
        delivering(breakable_kafka, servers=servers, outage_limit_sec=OUTAGE_LIMIT_SEC) as delivery,
    ):
        delivery.wait_for(BEFORE_THE_FAULT)
        proxy.swallow_answers()
        cut = monotonic()
        receipt = delivery.broken_off()
    assert monotonic() - cut < REQUEST_TIMEOUT_MS / 1000 + OUTAGE_LIMIT_SEC + STOPS_WITHIN_SEC
    assert receipt.unknown > 0
    fault = "acknowledgements cut to the end"
    assert_nothing_is_claimed_too_much(record_property, fault, delivery, receipt)


def test_a_tenth_of_the_requests_short_of_replicas_neither_loses_nor_doubles_a_row(
    embedded_broker: EmbeddedBroker, record_property: Record
) -> None:
    embedded_broker.refuse_next(*([0] * 9 + [KafkaError.NOT_ENOUGH_REPLICAS]) * 200)
    with delivering(embedded_broker, batch_size=100) as delivery:
        delivery.receipt()
    assert_every_row_arrived_once(record_property, "10 % NOT_ENOUGH_REPLICAS", delivery)


def test_a_broker_that_stays_dead_ends_the_run_in_time_with_every_row_counted(
    breakable_kafka: KafkaBroker, record_property: Record
) -> None:
    rows = numbered_rows(padding=LARGE_BYTES, batch_rows=LARGE_BATCH)
    memory = _memory_mb()
    with delivering(breakable_kafka, rows, outage_limit_sec=OUTAGE_LIMIT_SEC) as delivery:
        delivery.wait_for(BEFORE_THE_FAULT)
        kill(breakable_kafka)
        killed = monotonic()
        receipt = delivery.broken_off()
    took, growth = monotonic() - killed, _memory_mb() - memory
    start(breakable_kafka)
    fault = f"broker dead to the end, {growth:.0f} MB more memory"
    assert_nothing_is_claimed_too_much(record_property, fault, delivery, receipt)
    assert took < OUTAGE_LIMIT_SEC + STOPS_WITHIN_SEC
    assert growth < MOST_GROWTH_MB
    under_way = receipt.handed - receipt.rows
    assert under_way <= QUEUE_MESSAGES + LARGE_BATCH
    assert under_way * LARGE_BYTES <= QUEUE_KBYTES * 1024 + LARGE_BATCH * LARGE_BYTES


def _memory_mb() -> float:
    """What this process holds in memory now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    [resident] = [line.split()[1] for line in lines if line.startswith("VmRSS:")]
    return int(resident) / 1024
