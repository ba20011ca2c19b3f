"""A result becomes messages in a topic, and the receipt tells what arrived."""

import json
from collections import Counter
from datetime import UTC, datetime
from time import monotonic

import pytest
from confluent_kafka import KafkaError

from kafka_sink.messages import Envelope, Message
from kafka_sink.reports import NEVER_SENT
from kafka_sink.sink import KafkaSink
from queryexport.errors import ConfigurationError, DeliveryError, QueryError, RunSuperseded
from queryexport.rows import Column, Result
from tests.kafka_sink.conftest import TOPIC, CountedProgress

ENVELOPE = Envelope("events.sql", "cdg_prod", datetime(2026, 1, 18, 8, tzinfo=UTC), "events-1")
COLUMNS = (Column("id"), Column("state"))


@pytest.fixture
def sink_for(settings_for):
    def make(**changes):
        fields = {
            "settings": settings_for(),
            "topic": TOPIC,
            "key_field": "id",
            "batch_size": 100,
            "envelope": ENVELOPE,
            "zone": UTC,
        }
        return KafkaSink(**{**fields, **changes})

    return make


def batches(count, size=1000):
    rows = [(f"E{number}", "CONSEGNATO") for number in range(count)]
    return (rows[start : start + size] for start in range(0, count, size))


def breaking(count, error):
    yield from batches(count)
    raise error


def test_every_row_is_one_message_with_its_key_and_metadata(sink_for, read_topic):
    progress = CountedProgress()
    receipt = sink_for().deliver(Result(COLUMNS, batches(2500)), progress)
    stored = read_topic()
    assert (receipt.rows, receipt.failed, receipt.unknown) == (2500, 0, 0)
    assert progress.rows == 2500
    assert receipt.undelivered == ()
    assert receipt.size_bytes == sum(len(m.key()) + len(m.value()) for m in stored)
    assert Counter(m.key() for m in stored) == Counter(b"E%d" % n for n in range(2500))
    assert json.loads(stored[0].value())["_metadata"]["export_id"] == "events-1"


def test_the_place_names_topic_partitions_and_offsets(sink_for, embedded_broker):
    embedded_broker.create_topic("single", 1)
    sink = sink_for(topic="single")
    assert sink.deliver(Result(COLUMNS, batches(50)), CountedProgress()).place == (
        "single: partition 0 offsets 0–49"
    )
    assert sink.deliver(Result(COLUMNS, batches(50)), CountedProgress()).place == (
        "single: partition 0 offsets 50–99"
    )


def test_the_same_key_always_goes_to_the_same_partition(sink_for, read_topic):
    for _ in range(3):
        sink_for().deliver(Result(COLUMNS, batches(100)), CountedProgress())
    places = {(m.key(), m.partition()) for m in read_topic()}
    assert len(places) == 100
    assert {partition for _, partition in places} == {0, 1, 2}


def test_an_empty_result_is_delivered_and_says_so(sink_for):
    receipt = sink_for().deliver(Result(COLUMNS, iter([])), CountedProgress())
    assert (receipt.handed, receipt.place) == (0, f"{TOPIC}: no messages")


def test_a_missing_key_column_is_refused_before_anything_is_sent(sink_for, read_topic):
    with pytest.raises(ConfigurationError, match="no column “codice”"):
        sink_for(key_field="codice").deliver(Result(COLUMNS, batches(10)), CountedProgress())
    assert read_topic() == []


def test_a_missing_topic_is_refused_before_the_query_is_read(sink_for):
    unread = batches(10)
    with pytest.raises(ConfigurationError, match="The topic typo does not exist"):
        sink_for(topic="typo").deliver(Result(COLUMNS, unread), CountedProgress())
    assert len(next(unread)) == 10


def test_a_query_that_breaks_tells_how_many_rows_had_arrived(sink_for, read_topic):
    error = QueryError("the session was lost")
    with pytest.raises(QueryError) as caught:
        sink_for().deliver(Result(COLUMNS, breaking(2000, error)), CountedProgress())
    assert caught.value is error
    assert (error.receipt.rows, error.receipt.handed) == (2000, 2000)
    assert len(read_topic()) == 2000


def test_a_row_with_a_null_key_ends_the_run_with_a_receipt_of_the_rows_before(sink_for):
    rows = [[("A", 1), ("B", 2)], [(None, 3), ("D", 4)]]
    with pytest.raises(DeliveryError, match="Row 3 has NULL in its key column “id”") as caught:
        sink_for().deliver(Result(COLUMNS, iter(rows)), CountedProgress())
    assert caught.value.receipt.rows == 2


def test_the_rows_of_a_batch_that_stopped_the_run_are_kept_where_they_can_be(sink_for):
    kept = []
    rows = [[("A", 1)], [("B", 2), (None, 3), ("D", object()), ("E", 5)]]
    sink = sink_for(keep=lambda message, **facts: kept.append((message.key, facts["reason"])))
    with pytest.raises(DeliveryError, match="Row 4 cannot be sent") as caught:
        sink.deliver(Result(COLUMNS, iter(rows)), CountedProgress())
    receipt = caught.value.receipt
    assert (receipt.rows, receipt.failed, receipt.handed) == (1, 4, 5)
    assert kept == [(b"B", NEVER_SENT), (b"E", NEVER_SENT)]


def test_messages_that_an_earlier_delivery_kept_are_sent_as_they_are(sink_for, read_topic):
    messages = [
        Message(b"A", b"one", (("run", b"7"),), 1_768_723_200_000),
        Message(None, b"two"),
    ]
    receipt = sink_for(ready=True).deliver(Result((), iter([messages])), CountedProgress())
    assert receipt.rows == 2
    stored = {message.value(): message for message in read_topic()}
    assert stored[b"one"].headers() == [("run", b"7")]
    assert stored[b"one"].timestamp()[1] == 1_768_723_200_000
    assert (stored[b"two"].key(), stored[b"two"].headers()) == (None, None)


def test_a_run_that_another_worker_took_over_stops_and_accounts_for_its_rows(sink_for, read_topic):
    progress = CountedProgress(stop=RunSuperseded("taken over"), stop_after=1)
    with pytest.raises(RunSuperseded) as caught:
        sink_for(batch_size=10).deliver(Result(COLUMNS, batches(50_000)), progress)
    receipt = caught.value.receipt
    assert receipt.rows + receipt.failed + receipt.unknown < 50_000
    assert receipt.rows <= len(read_topic()) <= receipt.rows + receipt.unknown


def test_an_error_that_is_no_export_error_passes_through(sink_for):
    with pytest.raises(ZeroDivisionError):
        sink_for().deliver(Result(COLUMNS, breaking(10, ZeroDivisionError())), CountedProgress())


def test_a_partial_delivery_is_told_with_counts_and_reasons(sink_for, embedded_broker):
    embedded_broker.create_topic("single", 1)
    embedded_broker.refuse_next(KafkaError.INVALID_RECORD)
    receipt = sink_for(topic="single", batch_size=10).deliver(
        Result(COLUMNS, batches(100, size=10)), CountedProgress()
    )
    assert receipt.handed == 100
    assert 1 <= receipt.failed <= 10
    assert receipt.undelivered[0].reason.startswith("INVALID_RECORD")


def test_brokers_lost_in_mid_run_leave_an_error_with_the_receipt(sink_for, embedded_broker):
    def losing():
        yield from batches(1000)
        embedded_broker.down()
        yield [("late", "x")]

    started = monotonic()
    with pytest.raises(DeliveryError, match="cannot be reached") as caught:
        sink_for(outage_limit_sec=1).deliver(Result(COLUMNS, losing()), CountedProgress())
    receipt = caught.value.receipt
    assert monotonic() - started < 15
    assert (receipt.handed, receipt.failed) == (1001, 0)
    assert receipt.unknown >= 1


def test_a_batch_size_out_of_range_is_refused(sink_for):
    with pytest.raises(ConfigurationError, match="between 1 and 10000"):
        sink_for(batch_size=10_001).deliver(Result(COLUMNS, batches(1)), CountedProgress())
