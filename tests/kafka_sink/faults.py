"""Deliveries of numbered rows that a test breaks on their way, and what became of the rows."""

import gc
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC
from time import sleep
from typing import Any
from uuid import uuid4

from kafka_sink.broker import EmbeddedBroker
from kafka_sink.config import QUEUE_MESSAGES, KafkaSettings
from kafka_sink.sink import KafkaSink
from queryexport.errors import DeliveryError
from queryexport.rows import Receipt, Result
from tests.kafka_sink import oracle
from tests.kafka_sink.conftest import CountedProgress
from tests.kafka_sink.oracle import BATCH_ROWS, COLUMNS, Held, NumberedRows
from tests.services import tcp_proxy
from tests.services.kafka import KafkaBroker
from tests.services.tcp_proxy import TcpProxy

ROWS = 200_000
PARTITIONS = 3
BEFORE_THE_FAULT = 20_000
REQUEST_TIMEOUT_MS = 3000
OUTAGE_LIMIT_SEC = 5.0
STOPS_WITHIN_SEC = 20
HEALS_WITHIN_SEC = 120

Record = Callable[[str, object], None]


@dataclass
class Delivery:
    """A delivery that runs in a thread, so that the test can break something meanwhile."""

    client: dict[str, Any]
    topic: str
    rows: NumberedRows
    future: "Future[Receipt]"
    progress: CountedProgress = field(default_factory=CountedProgress)

    def wait_until(self, reached: Callable[[], bool]) -> None:
        """Return when that is so, while the delivery still runs."""
        while not reached() and not self.future.done():
            sleep(0.002)
        assert not self.future.done(), "the delivery was over before the fault"

    def wait_for(self, rows: int) -> None:
        """Return when that many rows are acknowledged, and more are under way."""
        self.wait_until(lambda: self.progress.rows >= rows)

    def wait_until_stored(self, rows: int) -> None:
        """Return when that many rows are in the log, also where none counts before the commit.

        What was read beyond a full queue has left it, and that is by an acknowledgement only.
        """
        self.wait_until(lambda: self.rows.pulled >= rows + QUEUE_MESSAGES + BATCH_ROWS)

    def receipt(self) -> Receipt:
        return self.future.result(HEALS_WITHIN_SEC)

    def broken_off(self, words: str = "cannot be reached") -> Receipt:
        """The receipt of a delivery that has to end in an error with these words."""
        error = self.future.exception(HEALS_WITHIN_SEC)
        assert isinstance(error, DeliveryError), error
        assert words in error.message and error.retryable, error
        assert error.receipt is not None
        _end_the_client(error)
        return error.receipt

    def held(self) -> Held:
        """What a `read_committed` reader finds in the topic."""
        oracle.wait_until_settled(self.client, self.topic)
        return oracle.held(self.client, self.topic, self.rows)


def _end_the_client(error: BaseException) -> None:
    """The error's frames hold the client, which would ask for its commit as long as it lives."""
    for each in (error, error.__cause__, error.__context__):
        traceback.clear_frames(each.__traceback__ if each else None)
    gc.collect()


@contextmanager
def delivering(
    broker: KafkaBroker | EmbeddedBroker,
    rows: NumberedRows | None = None,
    *,
    servers: str = "",
    batch_size: int = 1000,
    **options: Any,
) -> Iterator[Delivery]:
    """Sends the rows, `ROWS` of them by default, to a new topic; `options` are the sink's.

    `servers` is another way to the broker than its own, for example through a proxy.
    """
    topic, rows = f"faults.{uuid4().hex}", rows or numbered_rows()
    broker.create_topic(topic, PARTITIONS)
    settings = KafkaSettings(
        "broken",
        servers or broker.bootstrap_servers,
        linger_ms=5,
        request_timeout_ms=REQUEST_TIMEOUT_MS,
    )
    fields = {"envelope": None, "zone": UTC, "outage_limit_sec": 60, **options}
    sink = KafkaSink(settings, topic, "seq", batch_size, **fields)
    progress, client = CountedProgress(), {"bootstrap.servers": broker.bootstrap_servers}
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(sink.deliver, Result(COLUMNS, rows.batches()), progress)
        yield Delivery(client, topic, rows, future, progress)


def numbered_rows(count: int = ROWS, **options: Any) -> NumberedRows:
    return NumberedRows(uuid4().hex, count, **options)


@contextmanager
def proxied(broker: KafkaBroker) -> Iterator[tuple[TcpProxy, str]]:
    """A proxy in front of the broker, and the servers of those who go through it."""
    way_in = broker.proxied
    assert way_in is not None
    with tcp_proxy.running(way_in.advertised_port, way_in.port) as proxy:
        yield proxy, way_in.bootstrap_servers


def pause(broker: KafkaBroker, seconds: float) -> None:
    """Stop the broker's process as it stands, and let it go on after that time."""
    assert broker.process is not None and broker.process.pid is not None
    os.kill(broker.process.pid, signal.SIGSTOP)
    sleep(seconds)
    os.kill(broker.process.pid, signal.SIGCONT)


def kill(broker: KafkaBroker) -> None:
    assert broker.process is not None
    broker.process.kill()


def start(broker: KafkaBroker) -> None:
    assert broker.process is not None
    broker.process.start()


def tell(record: Record, fault: str, receipt: Receipt, held: Held) -> None:
    """Shows what was counted, with `pytest -s`, and in a JUnit report."""
    counts = (
        f"{receipt.handed} handed = {receipt.rows} acked + {receipt.failed} failed + "
        f"{receipt.unknown} unknown; topic: {held.distinct} rows, "
        f"{held.missing(receipt)} missing, {held.duplicates} duplicates, "
        f"{held.unexpected} unexpected; {receipt.duration_sec:.1f} s"
    )
    record(fault, counts)
    print(f"\n{fault}: {counts}")
