"""A delivery is read back from its topic, and what is missing or double comes to light."""

import json
from io import StringIO

import pytest
from confluent_kafka import Producer
from django.core.management import CommandError, call_command
from django.utils import timezone

from kafka_sink.config import producer_config
from kafka_sink.deliveries.verification import verify
from kafka_sink.errors import UnknownTopic
from kafka_sink.models import Delivery, KafkaConnection
from tests.kafka_sink.conftest import TOPIC

pytestmark = pytest.mark.django_db

NUMBERED, WITH_METADATA, BARE = "numbered", "with metadata", "bare"


def message(number, kind, export_id="events-1"):
    value = {"id": number}
    headers = []
    if kind == NUMBERED:
        headers = [("export_id", export_id.encode()), ("row", b"%d" % number)]
    elif kind == WITH_METADATA:
        value["_metadata"] = {"export_id": export_id}
    return {"key": f"E{number}", "value": json.dumps(value), "headers": headers}


@pytest.fixture
def stored(settings_for):
    """Puts messages into partition 0 and writes the delivery that claims `acked` of them."""

    def store(messages, *, acked, topic=TOPIC, **changes):
        settings = settings_for()
        producer = Producer(producer_config(settings, batch_messages=100))
        for each in messages:
            producer.produce(topic, partition=0, **each)
        assert producer.flush(10) == 0
        fields = {"connection": "default", "topic": topic, "source": "run", "duration_sec": 1}
        fields |= {"started_at": timezone.now(), "export_id": "events-1", "handed": acked}
        offsets = {"0": [0, len(messages) - 1]}
        return Delivery.objects.create(**{**fields, "acked": acked, "offsets": offsets, **changes})

    return store


@pytest.mark.parametrize("kind", [NUMBERED, WITH_METADATA, BARE])
def test_a_whole_delivery_is_proved_to_be_whole(stored, settings_for, kind):
    delivery = stored([message(number, kind) for number in range(700)], acked=700)
    found = verify(delivery, settings_for())
    assert found.all_there
    assert (found.found, found.missing, found.duplicates, found.unexpected) == (700, 0, 0, 0)
    assert found.by_export_id is (kind != BARE)


@pytest.mark.parametrize("kind", [NUMBERED, WITH_METADATA, BARE])
def test_a_missing_message_is_found(stored, settings_for, kind):
    delivery = stored([message(number, kind) for number in range(9)], acked=10)
    found = verify(delivery, settings_for())
    assert (found.missing, found.duplicates, found.all_there) == (1, 0, False)


@pytest.mark.parametrize("kind", [NUMBERED, WITH_METADATA, BARE])
def test_a_duplicate_does_not_hide_a_missing_message(stored, settings_for, kind):
    messages = [message(number, kind) for number in (0, 1, 2, 3, 3)]
    found = verify(stored(messages, acked=5), settings_for())
    assert (found.missing, found.duplicates, found.all_there) == (1, 1, False)


def test_equal_rows_with_row_numbers_are_no_duplicates(stored, settings_for):
    messages = [message(1, NUMBERED), message(1, NUMBERED)]
    messages[1]["headers"] = [("export_id", b"events-1"), ("row", b"2")]
    assert verify(stored(messages, acked=2), settings_for()).all_there


def test_messages_of_another_export_in_between_are_unexpected_and_no_fault(stored, settings_for):
    messages = [message(0, NUMBERED), message(7, NUMBERED, "other-1"), message(1, NUMBERED)]
    messages.insert(1, message(8, BARE))
    found = verify(stored(messages, acked=2), settings_for())
    assert (found.found, found.unexpected, found.missing) == (2, 2, 0)
    assert found.all_there


def test_without_export_ids_more_messages_than_were_sent_are_unexpected(stored, settings_for):
    found = verify(stored([message(n, BARE) for n in range(5)], acked=4), settings_for())
    assert (found.unexpected, found.by_export_id) == (1, False)


def test_an_unknown_message_may_stand_in_for_a_missing_one(stored, settings_for):
    messages = [message(number, NUMBERED) for number in range(3)]
    delivery = stored(messages, acked=2, handed=3, unknown=1)
    assert verify(delivery, settings_for()).all_there
    delivery.unknown = 2
    found = verify(delivery, settings_for())
    assert (found.missing, found.unproved, found.all_there) == (0, 1, False)


def test_a_delivery_without_offsets_but_with_acknowledged_messages_is_not_proved(settings_for):
    delivery = Delivery(topic=TOPIC, export_id="events-1", acked=1, offsets={})
    assert verify(delivery, settings_for()).missing == 1


def test_a_topic_that_is_gone_is_an_error_that_names_it(settings_for):
    delivery = Delivery(topic="gone", export_id="events-1", acked=1, offsets={"0": [0, 0]})
    with pytest.raises(UnknownTopic, match="The topic gone does not exist"):
        verify(delivery, settings_for())


def test_no_time_is_an_incomplete_reading_and_no_proof(stored, settings_for):
    delivery = stored([message(number, NUMBERED) for number in range(3)], acked=3)
    found = verify(delivery, settings_for(), limit_sec=0)
    assert (found.complete, found.all_there) == (False, False)


@pytest.fixture
def connection(embedded_broker):
    return KafkaConnection.objects.create(
        name="default", bootstrap_servers=embedded_broker.bootstrap_servers
    )


def test_the_command_tells_what_it_found_by_number_and_by_export_id(stored, connection):
    delivery = stored([message(number, NUMBERED) for number in range(3)], acked=3)
    for which in (str(delivery.pk), "events-1"):
        output = StringIO()
        call_command("verify_delivery", which, stdout=output)
        assert "acknowledged 3, found 3 by export id" in output.getvalue()
        assert "missing 0" in output.getvalue()


def test_the_command_fails_when_a_message_is_missing(stored, connection):
    stored([message(0, NUMBERED)], acked=2)
    output = StringIO()
    with pytest.raises(CommandError, match="not proved to be whole"):
        call_command("verify_delivery", "events-1", stdout=output)
    assert "missing 1" in output.getvalue()


def test_the_command_names_a_delivery_or_connection_that_does_not_exist(stored):
    with pytest.raises(CommandError, match="There is no delivery 999999"):
        call_command("verify_delivery", "999999")
    stored([], acked=0)
    with pytest.raises(CommandError, match="“default” of delivery"):
        call_command("verify_delivery", "events-1")


@pytest.mark.services
def test_a_missing_and_a_duplicate_message_are_found_on_apache_kafka(kafka):
    kafka.create_topic("verified.events", 1)
    KafkaConnection.objects.create(name="real", bootstrap_servers=kafka.bootstrap_servers)
    settings = KafkaConnection.objects.get(name="real").settings()
    producer = Producer(producer_config(settings, batch_messages=100))
    for number in (0, 1, 2, 2):
        producer.produce("verified.events", **message(number, NUMBERED))
    assert producer.flush(30) == 0
    delivery = Delivery(
        topic="verified.events", export_id="events-1", acked=4, offsets={"0": [0, 3]}
    )
    found = verify(delivery, settings)
    assert (found.found, found.missing, found.duplicates) == (4, 1, 1)
