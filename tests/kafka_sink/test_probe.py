"""The connection test names the step that fails; looking at a topic changes nothing in it."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import FrozenInstanceError, replace
from time import monotonic

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AclOperation

from kafka_sink.config import KafkaSettings, producer_config
from kafka_sink.errors import UnknownTopic
from kafka_sink.probe import consume, probe, topic_info, topics
from kafka_sink.probe.reading import MOST_CHARACTERS
from queryexport.errors import DeliveryError
from tests.kafka_sink.conftest import PARTITIONS, TOPIC
from tests.services.secured_kafka import WRITER
from tests.services.tls import Authority

CANARY = "s3cret-canary-7f"
STEPS = ["resolve", "connect", "TLS", "authenticate", "metadata"]


def names(result):
    return [step.name for step in result.steps]


def failed(result):
    """The name and the words of the step that failed; the ones before passed."""
    *passed, last = result.steps
    assert all(step.ok for step in passed)
    assert not last.ok
    assert not result.ok
    assert result.error == f"{last.name}: {last.message}"
    return last.name, last.message


@contextmanager
def listening(context: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server that is no Kafka: it takes connections, with TLS or without, and says nothing."""
    with ExitStack() as opened, socket.create_server(("127.0.0.1", 0)) as server:

        def accept():
            with suppress(OSError):
                while True:
                    connection = opened.enter_context(server.accept()[0])
                    with suppress(OSError):
                        if context:
                            opened.enter_context(context.wrap_socket(connection, server_side=True))

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture
def tls_port(authority, tmp_path):
    identity = authority.identity("127.0.0.1")
    (tmp_path / "server.pem").write_text(identity.chain_pem + identity.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    with listening(context) as port:
        yield port


@pytest.fixture
def produce(settings_for):
    def send(values, *, topic=TOPIC, partition=0, key=b"k"):
        producer = Producer(producer_config(settings_for(), batch_messages=100))
        for value in values:
            producer.produce(topic, value, key, partition)
        assert producer.flush(10) == 0

    return send


def test_a_connection_that_works_passes_every_step_with_its_time(settings_for):
    result = probe(settings_for())
    assert (names(result), result.ok, result.error) == (STEPS, True, "")
    assert all(step.duration_ms >= 0 and step.message for step in result.steps)
    assert (result.brokers, result.topics) == (1, 1)
    assert result.latency_ms is not None
    with pytest.raises(FrozenInstanceError):
        result.brokers = 2


def test_a_name_that_nobody_knows_fails_to_resolve():
    name, words = failed(probe(KafkaSettings("x", "nowhere.invalid:9092")))
    assert name == "resolve"
    assert "nowhere.invalid" in words


def test_one_server_that_is_known_and_reached_is_enough(settings_for):
    good = settings_for().bootstrap_servers
    result = probe(settings_for(bootstrap_servers=f"nowhere.invalid:9092,127.0.0.1:1,{good}"))
    assert result.ok
    assert "nowhere.invalid" in result.steps[0].message
    assert "127.0.0.1:1" in result.steps[1].message


def test_a_port_that_nobody_listens_on_fails_to_connect():
    name, words = failed(probe(KafkaSettings("x", "127.0.0.1:1")))
    assert name == "connect"
    assert "127.0.0.1:1 connection refused" in words


def test_settings_that_cannot_work_are_told_at_the_first_step():
    settings = KafkaSettings("x", "a:1", security_protocol="SASL_SSL", sasl_mechanism="PLAIN")
    assert "PLAIN needs a user name" in failed(probe(settings))[1]


def test_a_server_without_tls_fails_at_tls(settings_for):
    assert failed(probe(settings_for(security_protocol="SSL")))[0] == "TLS"


def test_a_certificate_of_another_authority_fails_at_tls(tls_port):
    settings = KafkaSettings(
        "x", f"127.0.0.1:{tls_port}", security_protocol="SSL", ca_pem=Authority().pem
    )
    name, words = failed(probe(settings))
    assert name == "TLS"
    assert "not accepted" in words


def test_a_certificate_for_another_name_fails_at_tls(tls_port, authority):
    settings = KafkaSettings(
        "x", f"localhost:{tls_port}", security_protocol="SSL", ca_pem=authority.pem
    )
    name, words = failed(probe(settings))
    assert name == "TLS"
    assert "localhost" in words


def test_a_client_key_that_is_none_fails_at_tls_without_being_shown(tls_port, authority):
    key = f"-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----"
    settings = KafkaSettings(
        "x",
        f"127.0.0.1:{tls_port}",
        security_protocol="SSL",
        ca_pem=authority.pem,
        certificate_pem=authority.identity("client").chain_pem,
        key_pem=key,
    )
    result = probe(settings)
    assert failed(result)[0] == "TLS"
    assert CANARY not in repr(result)


def test_a_tls_server_that_is_no_broker_passes_tls_and_fails_after_it(tls_port, authority):
    settings = KafkaSettings(
        "x", f"127.0.0.1:{tls_port}", security_protocol="SSL", ca_pem=authority.pem
    )
    result = probe(settings, limit_sec=3)
    assert failed(result)[0] == "metadata"
    assert "TLSv1" in result.steps[2].message


def test_a_server_that_says_nothing_fails_within_the_limit():
    with listening() as port:
        started = monotonic()
        name, words = failed(probe(KafkaSettings("x", f"127.0.0.1:{port}"), limit_sec=2))
    assert monotonic() - started < 4
    assert name == "metadata"
    assert "not as a Kafka broker with PLAINTEXT" in words


def test_a_refused_log_in_fails_at_authenticate_without_the_password(settings_for):
    settings = settings_for(
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        username="query_export",
        password=CANARY,
    )
    result = probe(settings)
    name, words = failed(result)
    assert name == "authenticate"
    assert "refuse the log-in" in words
    assert CANARY not in repr(result)


def test_topics_come_with_their_partitions(settings_for, embedded_broker):
    embedded_broker.create_topic("a.first", 1)
    embedded_broker.create_topic("__internal", 1)
    assert topics(settings_for()) == {"a.first": 1, TOPIC: PARTITIONS}


def test_topic_info_tells_leader_copies_and_offsets(settings_for, produce):
    produce([b"1", b"2"], partition=1)
    info = topic_info(settings_for(), TOPIC)
    assert [partition.messages for partition in info.partitions] == [0, 2, 0]
    middle = info.partitions[1]
    assert (middle.leader, middle.replicas, middle.in_sync) == (1, (1,), (1,))
    assert (middle.first_offset, middle.end_offset, info.messages) == (0, 2, 2)


def test_looking_at_a_missing_topic_says_so_and_does_not_create_it(settings_for):
    for look in (topic_info, consume):
        with pytest.raises(UnknownTopic, match="The topic typo does not exist"):
            look(settings_for(), "typo")
    assert "typo" not in topics(settings_for())


def test_brokers_that_are_down_are_an_error_in_bounded_time(settings_for, embedded_broker):
    embedded_broker.down()
    started = monotonic()
    with pytest.raises(DeliveryError, match="do not answer"):
        topics(settings_for(), limit_sec=1)
    assert monotonic() - started < 3


def test_the_newest_and_the_oldest_messages_are_over_all_partitions(settings_for, produce):
    for number in range(9):
        produce([b"%d" % number], partition=number % 3)
    latest = consume(settings_for(), TOPIC, last=3)
    earliest = consume(settings_for(), TOPIC, last=4, start="earliest")
    assert [message.value for message in latest.messages] == ["6", "7", "8"]
    assert [message.value for message in earliest.messages] == ["0", "1", "2", "3"]
    assert latest.complete
    assert earliest.complete


def test_more_messages_are_asked_for_than_there_are(settings_for, produce):
    produce([b"only"])
    sample = consume(settings_for(), TOPIC, last=100)
    assert [(message.key, message.value) for message in sample.messages] == [("k", "only")]


def test_a_long_value_is_cut_and_says_so_and_bytes_become_text(settings_for, produce):
    produce([b"x" * (MOST_CHARACTERS + 5), b"\xff\xfe"])
    long, odd = consume(settings_for(), TOPIC).messages
    assert (long.cut, long.size_bytes) == (True, MOST_CHARACTERS + 5)
    assert long.value.endswith(f"(cut after {MOST_CHARACTERS} of {MOST_CHARACTERS + 5} characters)")
    assert (odd.cut, odd.value) == (False, "��")


def test_looking_twice_finds_the_same(settings_for, produce):
    produce([b"1", b"2"])
    assert consume(settings_for(), TOPIC) == consume(settings_for(), TOPIC)


@pytest.fixture
def secured(secured_kafka):
    return KafkaSettings(
        "secured",
        secured_kafka.bootstrap_servers,
        security_protocol="SASL_SSL",
        sasl_mechanism="SCRAM-SHA-512",
        username=WRITER,
        password=secured_kafka.passwords[WRITER],
        ca_pem=secured_kafka.authority.pem,
    )


@pytest.mark.services
def test_a_secured_cluster_passes_every_step(secured):
    result = probe(secured)
    assert result.ok, result
    assert "TLSv1" in result.steps[2].message
    assert f"Logged in as {WRITER} by SCRAM-SHA-512" in result.steps[3].message
    assert secured.password not in repr(result)


@pytest.mark.services
def test_a_wrong_password_on_a_secured_cluster_fails_at_authenticate(secured):
    started = monotonic()
    result = probe(replace(secured, password=CANARY))
    name, words = failed(result)
    assert name == "authenticate"
    assert "refuse the log-in" in words
    assert CANARY not in repr(result)
    assert monotonic() - started < 10


@pytest.mark.services
def test_a_wrong_authority_on_a_secured_cluster_fails_at_tls(secured):
    assert failed(probe(replace(secured, ca_pem=Authority().pem)))[0] == "TLS"


@pytest.mark.services
def test_a_topic_of_a_secured_cluster_is_read_without_a_right_on_any_group(secured, secured_kafka):
    secured_kafka.broker.create_topic("looked.at", 2)
    secured_kafka.allow(WRITER, AclOperation.READ, "looked.at")
    secured_kafka.allow(WRITER, AclOperation.WRITE, "looked.at")
    producer = Producer(producer_config(secured, batch_messages=10))
    producer.produce("looked.at", b"value", b"key")
    assert producer.flush(20) == 0
    assert topic_info(secured, "looked.at").messages == 1
    assert [message.value for message in consume(secured, "looked.at").messages] == ["value"]
