"""Whatever breaks in mid-run, the topic has every row that the receipt claims, and has it once."""

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from time import monotonic, sleep
from uuid import uuid4

import pytest
from confluent_kafka import KafkaError, Producer

from kafka_sink.broker import EmbeddedBroker
from kafka_sink.config import QUEUE_KBYTES, QUEUE_MESSAGES, KafkaSettings, client_config
from kafka_sink.sink import KafkaSink
from queryexport.errors import DeliveryError
from queryexport.rows import Receipt, Result
from tests.kafka_sink.conftest import TOPIC, CountedProgress
from tests.kafka_sink.oracle import COLUMNS, Held, NumberedRows, held
from tests.services import tcp_proxy
from tests.services.kafka import KafkaBroker

pytestmark = [pytest.mark.services, pytest.mark.slow]

ROWS = 200_000
BEFORE_THE_FAULT = 20_000
REQUEST_TIMEOUT_MS = 3000
OUTAGE_LIMIT_SEC = 5.0
STOPS_WITHIN_SEC = 20
HEALS_WITHIN_SEC = 120
MOST_GROWTH_MB = 150
LARGE_BYTES = 5000
LARGE_BATCH = 100

Report = Callable[[str, Receipt, Held], None]


@dataclass
class Delivery:
    """A delivery that runs in a thread, so that the test can break something meanwhile."""

    future: "Future[Receipt]"
    progress: CountedProgress
    started: float = field(default_factory=monotonic)

    def wait_for(self, rows: int) -> None:
        """Return when that many rows are acknowledged, and more are under way."""
        while self.progress.rows < rows and not self.future.done():
            sleep(0.002)
        assert not self.future.done(), "the delivery was over before the fault"

    def receipt(self) -> Receipt:
        return self.future.result(HEALS_WITHIN_SEC)

    def broken_off(self) -> Receipt:
        """The receipt of a delivery that has to end in an error."""
        error = self.future.exception(HEALS_WITHIN_SEC)
        assert isinstance(error, DeliveryError), error
        assert "cannot be reached" in error.message and error.retryable
        assert error.receipt is not None
        return error.receipt


@pytest.fixture
def topic(breakable_kafka: KafkaBroker) -> str:
    name = f"faults.{uuid4().hex}"
    breakable_kafka.create_topic(name, 3)
    return name


@pytest.fixture
def told(record_property: Callable[[str, object], None]) -> Report:
    """Shows what was counted, with `pytest -s`, and in a JUnit report."""

    def tell(fault: str, receipt: Receipt, stored: Held) -> None:
        counts = (
            f"{receipt.handed} handed = {receipt.rows} acked + {receipt.failed} failed + "
            f"{receipt.unknown} unknown; topic: {stored.distinct} rows, "
            f"{stored.missing(receipt)} missing, {stored.duplicates} duplicates, "
            f"{stored.unexpected} unexpected; {receipt.duration_sec:.1f} s"
        )
        record_property(fault, counts)
        print(f"\n{fault}: {counts}")

    return tell


@contextmanager
def delivering(
    servers: str,
    topic: str,
    rows: NumberedRows,
    *,
    batch_size: int = 1000,
    outage_limit_sec: float = 60,
) -> Iterator[Delivery]:
    sink = KafkaSink(
        KafkaSettings("broken", servers, linger_ms=5, request_timeout_ms=REQUEST_TIMEOUT_MS),
        topic,
        "seq",
        batch_size,
        envelope=None,
        zone=UTC,
        outage_limit_sec=outage_limit_sec,
    )
    progress = CountedProgress()
    with ThreadPoolExecutor(1) as pool:
        result = Result(COLUMNS, rows.batches())
        yield Delivery(pool.submit(sink.deliver, result, progress), progress)


def pause(broker: KafkaBroker, seconds: float) -> None:
    """Stop the broker's process as it stands, and let it go on after that time."""
    assert broker.process is not None and broker.process.pid is not None
    os.kill(broker.process.pid, signal.SIGSTOP)
    sleep(seconds)
    os.kill(broker.process.pid, signal.SIGCONT)


def restart_after_a_kill(broker: KafkaBroker) -> None:
    assert broker.process is not None
    broker.process.kill()
    sleep(1)
    broker.process.start()


def assert_every_row_arrived_once(receipt: Receipt, stored: Held, rows: NumberedRows) -> None:
    assert (receipt.rows, receipt.failed, receipt.unknown) == (rows.count, 0, 0)
    assert (stored.distinct, stored.duplicates, stored.unexpected) == (rows.count, 0, 0)


def assert_nothing_is_claimed_too_much(receipt: Receipt, stored: Held, rows: NumberedRows) -> None:
    assert receipt.handed == rows.pulled, "rows were read and are in no count"
    assert stored.missing(receipt) == 0
    assert stored.undeclared(receipt) == 0
    assert (stored.duplicates, stored.unexpected) == (0, 0)


def test_a_broker_that_is_killed_and_comes_back_loses_and_doubles_no_row(
    breakable_kafka: KafkaBroker, topic: str, told: Report
) -> None:
    rows = NumberedRows(uuid4().hex, ROWS)
    with delivering(breakable_kafka.bootstrap_servers, topic, rows) as delivery:
        delivery.wait_for(BEFORE_THE_FAULT)
        restart_after_a_kill(breakable_kafka)
        receipt = delivery.receipt()
    stored = held(breakable_kafka.client_config, topic, rows)
    told("broker killed and restarted", receipt, stored)
    assert_every_row_arrived_once(receipt, stored, rows)


def test_a_broker_that_stands_still_for_a_while_loses_and_doubles_no_row(
    breakable_kafka: KafkaBroker, topic: str, told: Report
) -> None:
    rows = NumberedRows(uuid4().hex, ROWS)
    with delivering(breakable_kafka.bootstrap_servers, topic, rows) as delivery:
        delivery.wait_for(BEFORE_THE_FAULT)
        # Longer than a request may take: the client sends again what the broker has received.
        pause(breakable_kafka, seconds=6)
        receipt = delivery.receipt()
    stored = held(breakable_kafka.client_config, topic, rows)
    told("broker stopped and continued", receipt, stored)
    assert_every_row_arrived_once(receipt, stored, rows)


def test_lost_acknowledgements_neither_lose_nor_double_a_row(
    breakable_kafka: KafkaBroker, topic: str, told: Report
) -> None:
    way_in = breakable_kafka.proxied
    assert way_in is not None
    rows = NumberedRows(uuid4().hex, ROWS)
    with (
        tcp_proxy.running(way_in.advertised_port, way_in.port) as proxy,
        delivering(way_in.bootstrap_servers, topic, rows) as delivery,
    ):
        delivery.wait_for(BEFORE_THE_FAULT)
        proxy.swallow_answers()
        sleep(2)
        proxy.resume()
        receipt = delivery.receipt()
    stored = held(breakable_kafka.client_config, topic, rows)
    told("acknowledgements cut for a while", receipt, stored)
    assert proxy.swallowed_bytes > 0
    assert_every_row_arrived_once(receipt, stored, rows)


def test_the_same_fault_doubles_rows_for_a_client_without_idempotence(
    breakable_kafka: KafkaBroker, topic: str
) -> None:
    way_in = breakable_kafka.proxied
    assert way_in is not None
    rows = NumberedRows(uuid4().hex, 1000)
    with tcp_proxy.running(way_in.advertised_port, way_in.port) as proxy:
        producer = Producer(
            {"bootstrap.servers": way_in.bootstrap_servers, "enable.idempotence": False}
        )
        producer.produce(topic, rows.value(rows.count + 1))
        producer.flush(STOPS_WITHIN_SEC)
        proxy.swallow_answers()
        for batch in rows.batches():
            for number, *_ in batch:
                producer.produce(topic, rows.value(number))
        producer.flush(1)
        proxy.resume()
        assert producer.flush(STOPS_WITHIN_SEC) == 0
    stored = held(breakable_kafka.client_config, topic, rows)
    assert (stored.distinct, stored.unexpected) == (rows.count, 1)
    assert stored.duplicates > 0


def test_connections_that_break_again_and_again_neither_lose_nor_double_a_row(
    breakable_kafka: KafkaBroker, topic: str, told: Report
) -> None:
    way_in = breakable_kafka.proxied
    assert way_in is not None
    rows = NumberedRows(uuid4().hex, ROWS)
    with (
        tcp_proxy.running(way_in.advertised_port, way_in.port) as proxy,
        delivering(way_in.bootstrap_servers, topic, rows) as delivery,
    ):
        for number in range(1, 6):
            delivery.wait_for(number * BEFORE_THE_FAULT)
            proxy.reset()
        receipt = delivery.receipt()
    stored = held(breakable_kafka.client_config, topic, rows)
    told("connections reset five times", receipt, stored)
    assert_every_row_arrived_once(receipt, stored, rows)


def test_rows_whose_acknowledgements_never_come_are_unknown_and_not_claimed(
    breakable_kafka: KafkaBroker, topic: str, told: Report
) -> None:
    way_in = breakable_kafka.proxied
    assert way_in is not None
    rows = NumberedRows(uuid4().hex, ROWS)
    with (
        tcp_proxy.running(way_in.advertised_port, way_in.port) as proxy,
        delivering(
            way_in.bootstrap_servers, topic, rows, outage_limit_sec=OUTAGE_LIMIT_SEC
        ) as delivery,
    ):
        delivery.wait_for(BEFORE_THE_FAULT)
        proxy.swallow_answers()
        cut = monotonic()
        receipt = delivery.broken_off()
    took = monotonic() - cut
    stored = held(breakable_kafka.client_config, topic, rows)
    told("acknowledgements cut to the end", receipt, stored)
    assert receipt.unknown > 0
    assert took < REQUEST_TIMEOUT_MS / 1000 + OUTAGE_LIMIT_SEC + STOPS_WITHIN_SEC
    assert_nothing_is_claimed_too_much(receipt, stored, rows)


def test_a_tenth_of_the_requests_short_of_replicas_neither_loses_nor_doubles_a_row(
    embedded_broker: EmbeddedBroker, told: Report
) -> None:
    rows = NumberedRows(uuid4().hex, ROWS)
    embedded_broker.refuse_next(*([0] * 9 + [KafkaError.NOT_ENOUGH_REPLICAS]) * 200)
    with delivering(embedded_broker.bootstrap_servers, TOPIC, rows, batch_size=100) as delivery:
        receipt = delivery.receipt()
    client = client_config(KafkaSettings("embedded", embedded_broker.bootstrap_servers))
    stored = held(client, TOPIC, rows)
    told("10 % NOT_ENOUGH_REPLICAS", receipt, stored)
    assert_every_row_arrived_once(receipt, stored, rows)


def test_a_broker_that_stays_dead_ends_the_run_in_time_with_every_row_counted(
    breakable_kafka: KafkaBroker, topic: str, told: Report
) -> None:
    assert breakable_kafka.process is not None
    rows = NumberedRows(uuid4().hex, ROWS, padding=LARGE_BYTES, batch_rows=LARGE_BATCH)
    memory = _memory_mb()
    with delivering(
        breakable_kafka.bootstrap_servers, topic, rows, outage_limit_sec=OUTAGE_LIMIT_SEC
    ) as delivery:
        delivery.wait_for(BEFORE_THE_FAULT)
        breakable_kafka.process.kill()
        killed = monotonic()
        receipt = delivery.broken_off()
    took, growth = monotonic() - killed, _memory_mb() - memory
    breakable_kafka.process.start()
    stored = held(breakable_kafka.client_config, topic, rows)
    told(f"broker dead to the end, {growth:.0f} MB more memory", receipt, stored)
    assert took < OUTAGE_LIMIT_SEC + STOPS_WITHIN_SEC
    assert growth < MOST_GROWTH_MB
    under_way = receipt.handed - receipt.rows
    assert under_way <= QUEUE_MESSAGES + LARGE_BATCH
    assert under_way * LARGE_BYTES <= QUEUE_KBYTES * 1024 + LARGE_BATCH * LARGE_BYTES
    assert_nothing_is_claimed_too_much(receipt, stored, rows)


def _memory_mb() -> float:
    """What this process holds in memory now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    [resident] = [line.split()[1] for line in lines if line.startswith("VmRSS:")]
    return int(resident) / 1024
