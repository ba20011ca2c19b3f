"""The ledger keeps what the reports proved, and the database adds it up."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from confluent_kafka import KafkaError, Message
from django.db import IntegrityError, transaction

from kafka_sink.deliveries import Scope, by_hour, by_topic, record, totals
from kafka_sink.messages import Batch
from kafka_sink.models import Delivery
from kafka_sink.reports import Ledger
from queryexport.rows import Undelivered

pytestmark = pytest.mark.django_db

START = datetime(2026, 1, 18, 8, 0, 15, tzinfo=UTC)
LONG_AGO = START - timedelta(days=365)


@dataclass(frozen=True)
class Latencies:
    average: float

    def average_ms(self):
        return self.average

    def percentile_ms(self, percent):
        return self.average * percent / 10


def make_ledger(acked, *, failed=0, unknown=0):
    ledger = Ledger()
    ledger.handed = acked + failed + unknown
    ledger.acked, ledger.failed, ledger.unknown = acked, failed, unknown
    return ledger


def report_of(partition, offset):
    return Message(topic="t", partition=partition, offset=offset, key=b"E", value=b"{}")


def make_delivery(acked=10, **changes):
    fields = {
        "connection": "default",
        "topic": "shipments.events",
        "source": "run",
        "export_id": "events-1",
        "started_at": START,
        "duration_sec": 1.5,
        "handed": acked + changes.get("failed", 0) + changes.get("unknown", 0),
    }
    return Delivery.objects.create(**{**fields, "acked": acked, **changes})


def record_ledger(ledger, **changes):
    fields = {
        "connection": "default",
        "topic": "shipments.events",
        "source": "run",
        "export_id": "events-1",
        "started_at": START,
        "duration_sec": 1.5,
    }
    return record(ledger, **{**fields, **changes})


def test_a_recorded_delivery_holds_what_the_reports_proved():
    ledger = Ledger()
    ledger.handed = 10
    ledger.hand_over(Batch([b"E"] * 10, [b"{}"] * 10))
    for partition, offset in [(1, 5), (1, 6), (1, 7), (1, 8), (1, 9), (0, 0), (0, 1)]:
        ledger.report(None, report_of(partition, offset))
    ledger.report(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE), report_of(0, -1))
    ledger.report(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE), report_of(0, -1))
    ledger.report(KafkaError(KafkaError._MSG_TIMED_OUT), report_of(0, -1))
    delivery = Delivery.objects.get(pk=record_ledger(ledger).pk)
    assert (delivery.handed, delivery.acked, delivery.failed, delivery.unknown) == (10, 7, 2, 1)
    assert delivery.ranges == {0: (0, 1), 1: (5, 9)}
    assert delivery.last_error.startswith("MSG_SIZE_TOO_LARGE")
    assert delivery.size_bytes == 7 * len("E{}")
    assert delivery.finished_at == START + timedelta(seconds=1.5)


def test_the_error_that_ended_a_delivery_comes_before_a_message_s_reason():
    ledger = make_ledger(0, failed=1)
    ledger.undelivered = [Undelivered("E8", "too large")]
    assert record_ledger(ledger, error="The brokers are gone.").last_error == (
        "The brokers are gone."
    )


def test_latency_is_recorded_once_the_ledger_measures_it():
    ledger = make_ledger(7)
    ledger.latencies = Latencies(12.0)
    delivery = record_ledger(ledger)
    assert delivery.latency_average_ms == 12.0
    assert (delivery.latency_p90_ms, delivery.latency_p99_ms) == (108.0, 118.8)


def test_the_database_refuses_counts_that_do_not_add_up():
    with pytest.raises(IntegrityError), transaction.atomic():
        make_delivery(10, handed=11)
    ledger = make_ledger(1)
    ledger.handed = 2
    with pytest.raises(IntegrityError), transaction.atomic():
        record_ledger(ledger)


def test_the_database_refuses_an_unknown_source():
    with pytest.raises(IntegrityError), transaction.atomic():
        make_delivery(source="fax")


def test_totals_of_nothing_are_zero_and_claim_no_success():
    metrics = totals(Scope(LONG_AGO))
    assert (metrics.deliveries, metrics.messages_sent, metrics.bytes_sent) == (0, 0, 0)
    assert metrics.success_rate is None
    assert metrics.latency_average_ms is None
    assert metrics.last_success_at is None


def test_totals_add_up_messages_bytes_and_the_success_rate():
    make_delivery(90, size_bytes=900)
    make_delivery(0, failed=6, unknown=4, last_error="refused", started_at=START + timedelta(1))
    metrics = totals(Scope(LONG_AGO))
    assert (metrics.messages_sent, metrics.messages_failed, metrics.messages_unknown) == (90, 6, 4)
    assert (metrics.bytes_sent, metrics.success_rate) == (900, 0.9)
    assert (metrics.last_success_at, metrics.last_error) == (START, "refused")
    assert metrics.last_error_at == START + timedelta(1)


def test_average_latency_is_weighted_and_percentiles_are_the_worst():
    make_delivery(90, latency_average_ms=10.0, latency_p90_ms=20.0, latency_p99_ms=30.0)
    make_delivery(10, latency_average_ms=110.0, latency_p90_ms=200.0, latency_p99_ms=25.0)
    make_delivery(1000)  # Not measured: no part of the average.
    metrics = totals(Scope(LONG_AGO))
    assert metrics.latency_average_ms == pytest.approx(20.0)
    assert (metrics.latency_p90_ms, metrics.latency_p99_ms) == (200.0, 30.0)


def test_a_scope_leaves_out_other_connections_topics_and_times():
    make_delivery(1)
    make_delivery(2, connection="other")
    make_delivery(4, topic="other")
    make_delivery(8, started_at=START - timedelta(days=2))
    since = START - timedelta(days=1)
    assert totals(Scope(since)).messages_sent == 7
    assert totals(Scope(since, connection="default")).messages_sent == 5
    assert totals(Scope(since, topic="shipments.events")).messages_sent == 3


def test_hours_come_in_order_and_hold_their_own_deliveries_only():
    make_delivery(1, started_at=START + timedelta(hours=2))
    make_delivery(2)
    make_delivery(4, started_at=START + timedelta(minutes=30))
    hours = [(row.hour.hour, row.metrics.messages_sent) for row in by_hour(Scope(LONG_AGO))]
    assert hours == [(8, 6), (10, 1)]


def test_topics_come_by_name_with_their_own_success_rate():
    make_delivery(3, topic="b", failed=1)
    make_delivery(2, topic="a")
    rows = [(row.topic, row.metrics.success_rate) for row in by_topic(Scope(LONG_AGO))]
    assert rows == [("a", 1.0), ("b", 0.75)]


def test_metrics_are_computed_by_the_database(django_assert_num_queries):
    for number in range(20):
        make_delivery(number, topic=f"topic-{number}")
    with django_assert_num_queries(2):
        totals(Scope(LONG_AGO))
    with django_assert_num_queries(1):
        assert len(list(by_topic(Scope(LONG_AGO)))) == 20
    with django_assert_num_queries(1):
        list(by_hour(Scope(LONG_AGO)))
