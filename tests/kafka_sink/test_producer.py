"""The producer counts what arrived, repeats what was refused for now, and claims no more."""

import os
import socket
import ssl
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from threading import Thread
from time import monotonic, sleep

import pytest
from confluent_kafka import KafkaError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kafka_sink.config import KafkaSettings
from kafka_sink.messages import Batch, Message
from kafka_sink.producer import CountingProducer
from queryexport.errors import ConfigurationError, DeliveryError
from tests.kafka_sink.conftest import PARTITIONS, TOPIC, CountedProgress


@pytest.fixture
def tls_server(tmp_path):
    """The address of a TLS server that signed its certificate itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(tmp_path / "server.pem"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        Thread(target=answer, args=(server, context), daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def answer(server, context):
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with suppress(OSError), connection:
            context.wrap_socket(connection, server_side=True).close()


def self_signed(path):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    secret = key.private_bytes(pem, pkcs8, serialization.NoEncryption())
    path.write_bytes(certificate.public_bytes(pem) + secret)
    return path


@pytest.fixture
def producer_for(settings_for):
    def make(
        batch_messages=10, outage_limit_sec=30.0, progress=None, headers=(), keep=None, **changes
    ):
        return CountingProducer(
            settings_for(**changes),
            TOPIC,
            batch_messages=batch_messages,
            progress=progress or CountedProgress(),
            outage_limit_sec=outage_limit_sec,
            headers=headers,
            keep=keep,
        )

    return make


def numbered(count, key=None):
    """Messages with their number as value; one key means one partition, so batches are known."""
    return [Message(key or b"%d" % number, b"%d" % number) for number in range(count)]


def deliver(producer, messages):
    producer.send(Batch.of(messages))
    producer.settle()


def counts(producer):
    ledger = producer.ledger
    return ledger.acked, ledger.failed, ledger.unknown


def copies(messages):
    return Counter(message.value() for message in messages)


def test_every_acknowledged_row_is_in_the_topic_once_with_its_key(producer_for, read_topic):
    progress = CountedProgress()
    with producer_for(progress=progress) as producer:
        deliver(producer, numbered(1000))
    stored = read_topic()
    assert counts(producer) == (1000, 0, 0)
    assert progress.rows == 1000
    assert progress.calls < 100
    assert copies(stored) == Counter(b"%d" % number for number in range(1000))
    assert all(message.key() == message.value() for message in stored)
    assert producer.ledger.size_bytes == sum(2 * len(message.value()) for message in stored)
    ends = {}
    for message in stored:
        ends[message.partition()] = (0, message.offset())
    assert producer.ledger.offsets == ends


@pytest.mark.parametrize("headers", [(), (("run", b"7"),)])
def test_one_by_one_or_together_each_key_has_the_same_partition(producer_for, read_topic, headers):
    with producer_for(headers=headers) as producer:
        producer.send(Batch([b"%d" % number for number in range(300)], [b"{}"] * 300))
        producer.settle()
    assert {m.key(): m.partition() for m in read_topic()} == {
        b"%d" % number: java_partition(b"%d" % number) for number in range(300)
    }
    assert {tuple(m.headers() or ()) for m in read_topic()} == {headers}


def java_partition(key):
    """The partition that Kafka's Java client chooses: murmur2, its sign bit cut off."""
    length, value = len(key), 0x9747B28C ^ len(key)
    for start in range(0, length & ~3, 4):
        part = int.from_bytes(key[start : start + 4], "little") * 0x5BD1E995 & 0xFFFFFFFF
        part = (part ^ part >> 24) * 0x5BD1E995 & 0xFFFFFFFF
        value = value * 0x5BD1E995 & 0xFFFFFFFF ^ part
    if rest := key[length & ~3 :]:
        value = (value ^ int.from_bytes(rest, "little")) * 0x5BD1E995 & 0xFFFFFFFF
    value = (value ^ value >> 13) * 0x5BD1E995 & 0xFFFFFFFF
    return ((value ^ value >> 15) & 0x7FFFFFFF) % PARTITIONS


def test_a_message_that_the_client_refuses_does_not_stop_those_sent_with_it(
    producer_for, read_topic
):
    values = [b"first", b"x" * 3000, b"last"]
    with producer_for(max_request_bytes=2000, batch_bytes=1000) as producer:
        producer.send(Batch([b"A"] * 3, values))
        producer.settle()
    assert counts(producer) == (2, 1, 0)
    assert [message.value() for message in read_topic()] == [b"first", b"last"]
    assert producer.ledger.undelivered[0].reason.startswith("MSG_SIZE_TOO_LARGE")
    assert producer.ledger.size_bytes == len(b"AfirstAlast")


def test_large_messages_that_fill_the_queue_keep_their_order(producer_for, read_topic):
    sizes = [900_000, 10] * 40  # 36 MB go into the topic, of which it keeps the last.
    values = [b"%03d" % number + b"x" * size for number, size in enumerate(sizes)]
    with producer_for(max_request_bytes=1_000_000, compression="none") as producer:
        producer.send(Batch([b"A"] * len(values), values))
        producer.settle()
    assert counts(producer) == (80, 0, 0)
    found = [message.value()[:3] for message in read_topic()]
    assert found == sorted(found)


def test_what_was_not_delivered_is_kept_whole(producer_for, embedded_broker):
    kept = []
    keep = lambda message, **facts: kept.append((message, facts))  # noqa: E731
    embedded_broker.refuse_next(KafkaError.INVALID_RECORD)
    with producer_for(headers=(("run", b"7"),), keep=keep, batch_messages=1) as producer:
        producer.send(Batch([b"A"], [b"{}"]))
        producer.settle()
        producer.send(Batch([b"A"], [b"{}"]))
        producer.settle()
    [(message, facts)] = kept
    assert message == Message(b"A", b"{}", (("run", b"7"),))
    assert (facts["unknown"], facts["attempts"]) == (False, 1)


def test_a_row_sent_again_has_its_headers_and_time_still(producer_for, embedded_broker, read_topic):
    shared = (("run", b"7"),)
    with producer_for(headers=shared) as producer:
        embedded_broker.refuse_next(KafkaError.THROTTLING_QUOTA_EXCEEDED)
        producer.send(Batch([b"A"], [b"{}"], [1_768_723_200_000]))
        producer.settle()
        embedded_broker.refuse_next(KafkaError.THROTTLING_QUOTA_EXCEEDED)
        producer.send(Batch([b"A"], [b"{}"]))
        producer.settle()
    first, second = read_topic()
    assert first.timestamp()[1] == 1_768_723_200_000
    assert first.headers() == second.headers() == [("run", b"7")]


def test_headers_travel_with_their_row(producer_for, read_topic):
    with producer_for() as producer:
        deliver(producer, [Message(b"A", b"{}", (("run", b"7"),))])
    assert read_topic()[0].headers() == [("run", b"7")]


def test_a_tenth_of_the_requests_refused_for_replicas_leaves_no_gap_and_no_copy(
    embedded_broker, producer_for, read_topic
):
    embedded_broker.refuse_next(*([0] * 9 + [KafkaError.NOT_ENOUGH_REPLICAS]) * 4)
    with producer_for() as producer:
        deliver(producer, numbered(1000))
    assert counts(producer) == (1000, 0, 0)
    assert copies(read_topic()) == Counter(b"%d" % number for number in range(1000))


def test_the_client_repeats_after_100_200_and_400_milliseconds(embedded_broker, producer_for):
    with producer_for() as producer:
        producer.require_topic()
        deliver(producer, numbered(1, b"warm"))
        embedded_broker.refuse_next(*[KafkaError.NOT_ENOUGH_REPLICAS] * 3)
        started = monotonic()
        deliver(producer, numbered(10, b"A"))
    assert counts(producer) == (11, 0, 0)
    assert 0.5 < monotonic() - started < 5  # The client varies its waits by up to a fifth.


@pytest.mark.parametrize("refusals", [1, 2, 3])
def test_rows_refused_for_now_are_sent_again_and_the_others_are_not(
    embedded_broker, producer_for, read_topic, refusals
):
    with producer_for() as producer:
        deliver(producer, numbered(10, b"A"))
        embedded_broker.refuse_next(*[KafkaError.THROTTLING_QUOTA_EXCEEDED] * refusals)
        started = monotonic()
        deliver(producer, [Message(b"A", b"late")])
    assert counts(producer) == (11, 0, 0)
    assert monotonic() - started > [0, 0.1, 0.3, 0.7][refusals]
    assert copies(read_topic()) == Counter([*(b"%d" % n for n in range(10)), b"late"])


def test_after_three_more_tries_a_row_refused_for_now_has_failed(
    embedded_broker, producer_for, read_topic
):
    embedded_broker.refuse_next(*[KafkaError.THROTTLING_QUOTA_EXCEEDED] * 4)
    with producer_for() as producer:
        deliver(producer, numbered(10, b"A"))
    assert counts(producer) == (0, 10, 0)
    assert "THROTTLING_QUOTA_EXCEEDED" in producer.ledger.undelivered[0].reason
    assert read_topic() == []


def test_a_batch_that_is_too_large_for_the_topic_fails_and_the_next_arrives(
    embedded_broker, producer_for
):
    embedded_broker.refuse_next(KafkaError.MSG_SIZE_TOO_LARGE)
    with producer_for() as producer:
        started = monotonic()
        deliver(producer, numbered(10, b"A"))
        assert monotonic() - started < 2
        deliver(producer, numbered(10, b"A"))
    assert counts(producer) == (10, 10, 0)


def test_a_row_over_the_request_size_fails_alone(producer_for, read_topic):
    messages = [Message(b"A", b"x" * 100), Message(b"B", b"x" * 5000), Message(b"C", b"x" * 100)]
    with producer_for(max_request_bytes=2000) as producer:
        deliver(producer, messages)
    assert counts(producer) == (2, 1, 0)
    assert producer.ledger.undelivered[0].key == "B"
    assert "MSG_SIZE_TOO_LARGE" in producer.ledger.undelivered[0].reason
    assert {message.key() for message in read_topic()} == {b"A", b"C"}


def test_a_topic_that_may_not_be_written_ends_the_run_at_once(embedded_broker, producer_for):
    embedded_broker.refuse_next(*[KafkaError.TOPIC_AUTHORIZATION_FAILED] * 20)
    started = monotonic()
    with producer_for() as producer, pytest.raises(DeliveryError, match="refuse the topic"):
        deliver(producer, numbered(100, b"A"))
    assert monotonic() - started < 5
    acked, failed, unknown = counts(producer)
    assert acked == 0
    assert failed >= 1
    assert failed + unknown == 100


def test_a_full_queue_makes_the_sender_wait_and_drops_nothing(producer_for, read_topic):
    with producer_for(batch_messages=1000, linger_ms=50) as producer:
        producer.send(Batch.of(numbered(50_000)))  # The queue holds 20,000.
        producer.settle()
    assert counts(producer) == (50_000, 0, 0)


def test_brokers_that_go_away_end_the_run_and_nothing_is_claimed(
    embedded_broker, producer_for, read_topic
):
    with producer_for(outage_limit_sec=1) as producer:
        deliver(producer, numbered(100, b"A"))
        embedded_broker.down()
        started = monotonic()
        with pytest.raises(DeliveryError, match="cannot be reached") as caught:
            deliver(producer, numbered(100, b"A"))
        assert caught.value.retryable
        assert monotonic() - started < 10
    assert counts(producer) == (100, 0, 100)
    embedded_broker.up()
    assert len(read_topic()) == 100


def test_a_short_outage_is_survived(embedded_broker, producer_for, read_topic):
    with producer_for() as producer:
        producer.send(Batch.of(numbered(100)))
        embedded_broker.down()
        producer.send(Batch.of(numbered(100)))
        sleep(0.5)
        embedded_broker.up()
        producer.settle()
    assert counts(producer) == (200, 0, 0)


def test_a_row_that_went_back_to_the_queue_is_unknown_for_it_may_be_in_the_log(
    embedded_broker, producer_for, read_topic
):
    with producer_for() as producer:
        deliver(producer, numbered(1, b"warm"))
        embedded_broker.answer_after(5000)
        producer.send(Batch.of(numbered(10, b"A")))
        sleep(0.5)
        embedded_broker.down()  # Stored, and the acknowledgement is lost.
        sleep(1)
        producer.abandon()
    assert counts(producer) == (1, 0, 10)
    assert {row.reason.split(":")[0] for row in producer.ledger.undelivered} == {"_PURGE_QUEUE"}
    embedded_broker.up()
    embedded_broker.answer_after(0)
    assert len(read_topic()) == 11


def test_leaving_the_block_accounts_for_rows_still_under_way(embedded_broker, producer_for):
    with producer_for() as producer:
        deliver(producer, numbered(1))
        embedded_broker.answer_after(60_000)
        started = monotonic()
        producer.send(Batch.of(numbered(500)))
    assert monotonic() - started < 5
    assert counts(producer) == (1, 0, 500)


def test_a_missing_topic_is_reported_and_not_created_by_asking(settings_for):
    progress = CountedProgress()
    for _ in range(2):
        with (
            CountingProducer(
                settings_for(), "no.such.topic", batch_messages=1, progress=progress
            ) as producer,
            pytest.raises(ConfigurationError, match=r"The topic no\.such\.topic does not exist on"),
        ):
            producer.require_topic()


def test_a_refused_log_in_is_reported_within_seconds_without_the_password(producer_for):
    started = monotonic()
    login = {"sasl_mechanism": "PLAIN", "username": "u", "password": "s3cret-canary"}
    with (
        producer_for(security_protocol="SASL_PLAINTEXT", **login) as producer,
        pytest.raises(DeliveryError, match="Check protocol, user, password") as caught,
    ):
        producer.require_topic()
    assert monotonic() - started < 5
    assert not caught.value.retryable
    assert "s3cret-canary" not in caught.value.message


def test_tls_towards_a_plaintext_broker_is_told_as_such(producer_for):
    with (
        producer_for(security_protocol="SSL") as producer,
        pytest.raises(DeliveryError, match="SSL_HANDSHAKE"),
    ):
        producer.require_topic(limit_sec=2)


def test_a_certificate_of_an_unknown_authority_is_reported_within_seconds(tls_server, producer_for):
    started = monotonic()
    with (
        producer_for(security_protocol="SSL", bootstrap_servers=tls_server) as producer,
        pytest.raises(DeliveryError, match="certificate verify failed") as caught,
    ):
        producer.require_topic()
    assert monotonic() - started < 5
    assert not caught.value.retryable


def test_brokers_out_of_reach_are_reported_with_the_reason():
    settings = KafkaSettings("default", "127.0.0.1:1")
    progress = CountedProgress()
    with (
        CountingProducer(settings, TOPIC, batch_messages=1, progress=progress) as producer,
        pytest.raises(DeliveryError, match="Connection refused") as caught,
    ):
        producer.require_topic(limit_sec=1)
    assert caught.value.retryable


def test_settings_that_the_client_refuses_are_a_configuration_error(producer_for):
    broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"
    with pytest.raises(ConfigurationError, match="client refuses the connection"):
        producer_for(security_protocol="SSL", ca_pem=broken)


def test_a_producer_is_not_used_after_a_fork(producer_for):
    with producer_for() as producer:
        child = os.fork()
        if child == 0:
            try:
                producer.send(Batch.of([]))
            except AssertionError:
                os._exit(7)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
