"""Whatever breaks under a transaction, `read_committed` readers see the whole run or none of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from time import monotonic, sleep
from uuid import uuid4

import pytest

from kafka_sink import producer
from queryexport.rows import Row
from tests.kafka_sink import oracle
from tests.kafka_sink.faults import (
    BEFORE_THE_FAULT,
    HEALS_WITHIN_SEC,
    OUTAGE_LIMIT_SEC,
    ROWS,
    STOPS_WITHIN_SEC,
    Delivery,
    Record,
    delivering,
    kill,
    pause,
    proxied,
    start,
    tell,
)
from tests.kafka_sink.oracle import NumberedRows
from tests.services.kafka import KafkaBroker

pytestmark = [pytest.mark.services, pytest.mark.slow]

ITEM = "faults-item"
COMMIT_LIMIT_SEC = 4.0


class UpToTheCommit(NumberedRows):
    """Numbered rows whose reader is kept waiting after the last one, so that no commit is asked."""

    def __init__(self) -> None:
        super().__init__(uuid4().hex, ROWS)
        self.all_read = Event()
        self.go_on = Event()

    def batches(self) -> Iterator[list[Row]]:
        yield from super().batches()
        self.all_read.set()
        self.go_on.wait(HEALS_WITHIN_SEC)


def assert_all_of_it_is_seen(record: Record, fault: str, delivery: Delivery) -> None:
    receipt, held = delivery.receipt(), delivery.held()
    tell(record, f"{fault}, in a transaction", receipt, held)
    assert (receipt.rows, receipt.failed, receipt.unknown) == (ROWS, 0, 0)
    assert (held.distinct, held.duplicates, held.unexpected) == (ROWS, 0, 0)
    assert delivery.progress.rows == ROWS


def test_a_broker_that_is_killed_and_comes_back_commits_every_row_once(
    breakable_kafka: KafkaBroker, record_property: Record
) -> None:
    with delivering(breakable_kafka, transactional_id=ITEM) as delivery:
        delivery.wait_until_stored(BEFORE_THE_FAULT)
        kill(breakable_kafka)
        sleep(1)
        start(breakable_kafka)
    assert_all_of_it_is_seen(record_property, "broker killed and restarted", delivery)


def test_a_broker_that_stands_still_for_a_while_commits_every_row_once(
    breakable_kafka: KafkaBroker, record_property: Record
) -> None:
    with delivering(breakable_kafka, transactional_id=ITEM) as delivery:
        delivery.wait_until_stored(BEFORE_THE_FAULT)
        pause(breakable_kafka, seconds=6)
    assert_all_of_it_is_seen(record_property, "broker stopped and continued", delivery)


def test_lost_acknowledgements_leave_a_transaction_whole(
    breakable_kafka: KafkaBroker, record_property: Record
) -> None:
    with (
        proxied(breakable_kafka) as (proxy, servers),
        delivering(breakable_kafka, servers=servers, transactional_id=ITEM) as delivery,
    ):
        delivery.wait_until_stored(BEFORE_THE_FAULT)
        proxy.swallow_answers()
        sleep(2)
        proxy.resume()
        delivery.receipt()
    assert proxy.swallowed_bytes > 0
    assert_all_of_it_is_seen(record_property, "acknowledgements cut for a while", delivery)


def test_a_broker_that_stays_dead_ends_the_run_in_time_and_no_row_is_seen(
    breakable_kafka: KafkaBroker, record_property: Record
) -> None:
    with delivering(
        breakable_kafka, transactional_id=ITEM, outage_limit_sec=OUTAGE_LIMIT_SEC
    ) as delivery:
        delivery.wait_until_stored(BEFORE_THE_FAULT)
        kill(breakable_kafka)
        killed = monotonic()
        receipt = delivery.broken_off()
    assert monotonic() - killed < OUTAGE_LIMIT_SEC + STOPS_WITHIN_SEC
    start(breakable_kafka)
    held = delivery.held()
    tell(record_property, "broker dead to the end, in a transaction", receipt, held)
    assert receipt.handed == delivery.rows.pulled, "rows were read and are in no count"
    assert (receipt.rows, delivery.progress.rows) == (0, 0)
    assert (held.distinct, held.unexpected) == (0, 0)
    assert oracle.stored(delivery.client, delivery.topic) >= BEFORE_THE_FAULT


@pytest.fixture
def short_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer, "COMMIT_LIMIT_SEC", COMMIT_LIMIT_SEC)


@contextmanager
def about_to_commit(broker: KafkaBroker, servers: str = "") -> Iterator[Delivery]:
    """All rows are in the log and acknowledged; the commit is asked for after the `with` block."""
    rows = UpToTheCommit()
    with delivering(broker, rows, servers=servers, transactional_id=ITEM) as delivery:
        delivery.wait_until(rows.all_read.is_set)
        delivery.wait_until(lambda: oracle.stored(delivery.client, delivery.topic) >= ROWS)
        sleep(0.5)  # For the last acknowledgements on their way back.
        yield delivery
        rows.go_on.set()
        delivery.future.exception(HEALS_WITHIN_SEC)


def assert_nobody_knows(record: Record, fault: str, delivery: Delivery, *, seen: int) -> None:
    receipt, held = delivery.broken_off("did not commit"), delivery.held()
    tell(record, fault, receipt, held)
    assert (receipt.rows, receipt.failed, receipt.unknown) == (0, 0, ROWS)
    assert (held.distinct, held.duplicates, held.unexpected) == (seen, 0, 0)
    assert delivery.progress.rows == 0


@pytest.mark.usefixtures("short_commit")
def test_a_commit_whose_answer_is_lost_is_unknown_though_all_rows_are_seen(
    breakable_kafka: KafkaBroker, record_property: Record
) -> None:
    with (
        proxied(breakable_kafka) as (proxy, servers),
        about_to_commit(breakable_kafka, servers) as delivery,
    ):
        proxy.swallow_answers()
    assert_nobody_knows(record_property, "answer to the commit lost", delivery, seen=ROWS)


@pytest.mark.usefixtures("short_commit")
def test_a_commit_that_no_broker_heard_is_unknown_though_no_row_is_seen(
    breakable_kafka: KafkaBroker, record_property: Record
) -> None:
    with about_to_commit(breakable_kafka) as delivery:
        kill(breakable_kafka)
    delivery.broken_off("did not commit")
    start(breakable_kafka)
    assert_nobody_knows(record_property, "broker dead before the commit", delivery, seen=0)
