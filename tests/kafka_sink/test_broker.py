"""The embedded broker is real enough for other clients and other processes."""

import socket
import subprocess
import sys

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from kafka_sink.broker import EmbeddedBroker
from kafka_sink.config import client_config
from tests.kafka_sink.conftest import PARTITIONS, TOPIC


def test_the_topics_have_the_partitions_that_were_asked_for(settings_for):
    topics = AdminClient(client_config(settings_for())).list_topics(timeout=5).topics
    assert len(topics[TOPIC].partitions) == PARTITIONS


def test_another_process_can_produce_to_it(embedded_broker, read_topic):
    program = (
        "import sys; from confluent_kafka import Producer\n"
        "producer = Producer({'bootstrap.servers': sys.argv[1]})\n"
        "producer.produce(sys.argv[2], b'hello'); assert producer.flush(10) == 0\n"
    )
    arguments = [sys.executable, "-c", program, embedded_broker.bootstrap_servers, TOPIC]
    subprocess.run(arguments, check=True, timeout=30)
    assert [message.value() for message in read_topic()] == [b"hello"]


def test_two_brokers_live_side_by_side_and_share_nothing():
    with EmbeddedBroker({"one": 1}) as first, EmbeddedBroker({"two": 1}) as second:
        assert first.bootstrap_servers != second.bootstrap_servers
        assert set(topics_of(first)) == {"one"}
        assert set(topics_of(second)) == {"two"}


def test_a_topic_can_be_added_while_it_runs(embedded_broker):
    embedded_broker.create_topic("late", 2)
    assert len(topics_of(embedded_broker)["late"].partitions) == 2


def test_its_port_is_free_again_when_it_has_ended():
    with EmbeddedBroker() as broker:
        host, port = broker.bootstrap_servers.rsplit(":", 1)
    with socket.socket() as probe:
        assert probe.connect_ex((host, int(port))) != 0


def topics_of(broker):
    return Producer({"bootstrap.servers": broker.bootstrap_servers}).list_topics(timeout=5).topics
