"""On a real secured cluster, what is right arrives, and what is wrong is named within seconds."""

import logging
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC
from time import monotonic
from uuid import uuid4

import pytest
from confluent_kafka.admin import AclOperation

from kafka_sink.config import KafkaSettings
from kafka_sink.sink import KafkaSink
from queryexport.errors import ConfigurationError, DeliveryError, ExportError
from queryexport.rows import Receipt, Result
from tests.kafka_sink.conftest import CountedProgress
from tests.kafka_sink.oracle import COLUMNS, NumberedRows, held
from tests.services.kafka import KafkaBroker
from tests.services.secured_kafka import OTHER_HOST, WRITER, SecuredKafka
from tests.services.tls import Authority

pytestmark = pytest.mark.services

FAILS_WITHIN_SEC = 10
WRONG_PASSWORD = "wrong-s3cret-canary"
ROWS = 1000


@pytest.fixture
def settings(secured_kafka: SecuredKafka) -> KafkaSettings:
    """The connection of a user who may write to `topic` and do nothing else."""
    return KafkaSettings(
        "secured",
        secured_kafka.bootstrap_servers,
        security_protocol="SASL_SSL",
        sasl_mechanism="SCRAM-SHA-512",
        username=WRITER,
        password=secured_kafka.passwords[WRITER],
        ca_pem=secured_kafka.authority.pem,
        linger_ms=5,
    )


@pytest.fixture
def denied_topic(secured_kafka: SecuredKafka) -> str:
    """A topic that the user has no right to."""
    name = f"denied.{uuid4().hex}"
    secured_kafka.broker.create_topic(name)
    return name


@pytest.fixture
def topic(secured_kafka: SecuredKafka) -> str:
    """A topic that the user may write to."""
    name = f"allowed.{uuid4().hex}"
    secured_kafka.broker.create_topic(name, 3)
    secured_kafka.allow(WRITER, AclOperation.WRITE, name)
    return name


@pytest.fixture
def refusal(
    caplog: pytest.LogCaptureFixture, secured_kafka: SecuredKafka
) -> Iterator[Callable[[KafkaSettings, str], ExportError]]:
    """Delivers what cannot arrive, and gives the error; no password is told anywhere."""
    caplog.set_level(logging.DEBUG)
    errors: list[ExportError] = []

    def refused(settings: KafkaSettings, topic: str) -> ExportError:
        started = monotonic()
        with pytest.raises(ExportError) as caught:
            deliver(settings, topic, NumberedRows("refused", ROWS))
        assert monotonic() - started < FAILS_WITHIN_SEC
        assert str(settings) in caught.value.message
        errors.append(caught.value)
        return caught.value

    yield refused
    told = "".join(line for error in errors for line in traceback.format_exception(error))
    for password in (WRONG_PASSWORD, *secured_kafka.passwords.values()):
        assert password not in told + caplog.text


def deliver(settings: KafkaSettings, topic: str, rows: NumberedRows) -> Receipt:
    sink = KafkaSink(settings, topic, "seq", 100, envelope=None, zone=UTC)
    return sink.deliver(Result(COLUMNS, rows.batches()), CountedProgress())


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "PLAIN"])
def test_the_right_user_delivers_every_row_once(
    secured_kafka: SecuredKafka, settings: KafkaSettings, topic: str, mechanism: str
) -> None:
    rows = NumberedRows(uuid4().hex, ROWS)
    receipt = deliver(replace(settings, sasl_mechanism=mechanism), topic, rows)
    assert (receipt.rows, receipt.failed, receipt.unknown) == (ROWS, 0, 0)
    stored = held(secured_kafka.broker.client_config, topic, rows)
    assert (stored.distinct, stored.duplicates, stored.unexpected) == (ROWS, 0, 0)


def test_a_certificate_with_the_host_name_is_as_good_as_one_with_the_address(
    settings: KafkaSettings, topic: str
) -> None:
    port = settings.bootstrap_servers.rpartition(":")[2]
    by_name = replace(settings, bootstrap_servers=f"localhost:{port}")
    assert deliver(by_name, topic, NumberedRows("by-name", 10)).rows == 10


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "PLAIN"])
def test_a_wrong_password_is_named(
    settings: KafkaSettings, topic: str, refusal: Callable[..., ExportError], mechanism: str
) -> None:
    wrong = replace(settings, password=WRONG_PASSWORD, sasl_mechanism=mechanism)
    error = refusal(wrong, topic)
    assert isinstance(error, DeliveryError) and not error.retryable
    assert "Authentication failed" in error.message
    assert "Check protocol, user, password" in error.message


def test_an_unknown_user_is_told_like_a_wrong_password(
    settings: KafkaSettings, topic: str, refusal: Callable[..., ExportError]
) -> None:
    error = refusal(replace(settings, username="nobody"), topic)
    assert isinstance(error, DeliveryError) and not error.retryable
    assert "Authentication failed" in error.message


def test_a_mechanism_that_the_brokers_do_not_offer_is_named(
    settings: KafkaSettings, topic: str, refusal: Callable[..., ExportError]
) -> None:
    error = refusal(replace(settings, sasl_mechanism="SCRAM-SHA-256"), topic)
    assert isinstance(error, DeliveryError) and not error.retryable
    assert "SCRAM-SHA-256" in error.message


def test_an_authority_that_did_not_sign_the_certificate_is_not_trusted(
    settings: KafkaSettings, topic: str, refusal: Callable[..., ExportError]
) -> None:
    error = refusal(replace(settings, ca_pem=Authority().pem), topic)
    assert isinstance(error, DeliveryError) and not error.retryable
    assert "certificate verify failed" in error.message


def test_a_certificate_for_another_host_is_not_trusted(
    secured_kafka: SecuredKafka,
    settings: KafkaSettings,
    topic: str,
    refusal: Callable[..., ExportError],
) -> None:
    misnamed = replace(settings, bootstrap_servers=secured_kafka.misnamed_servers)
    error = refusal(misnamed, topic)
    assert isinstance(error, DeliveryError) and not error.retryable
    assert "certificate verify failed" in error.message
    assert OTHER_HOST not in error.message


def test_a_topic_that_the_user_may_not_see_is_refused_with_both_reasons(
    settings: KafkaSettings, denied_topic: str, refusal: Callable[..., ExportError]
) -> None:
    error = refusal(settings, denied_topic)
    assert isinstance(error, ConfigurationError)
    assert f"topic {denied_topic} does not exist" in error.message
    assert "its user may not see it" in error.message


def test_a_topic_that_the_user_may_see_but_not_write_ends_the_run_with_nothing_claimed(
    secured_kafka: SecuredKafka,
    settings: KafkaSettings,
    denied_topic: str,
    refusal: Callable[..., ExportError],
) -> None:
    secured_kafka.allow(WRITER, AclOperation.DESCRIBE, denied_topic)
    error = refusal(settings, denied_topic)
    assert isinstance(error, DeliveryError) and not error.retryable
    assert f"refuse the topic {denied_topic}" in error.message
    assert "TOPIC_AUTHORIZATION_FAILED" in error.message
    assert error.receipt is not None
    assert error.receipt.rows == 0 and error.receipt.failed > 0


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SASL_PLAINTEXT"])
def test_a_client_without_tls_at_a_tls_listener_is_told_to_look_at_its_protocol(
    settings: KafkaSettings, topic: str, refusal: Callable[..., ExportError], protocol: str
) -> None:
    error = refusal(replace(settings, security_protocol=protocol), topic)
    assert isinstance(error, DeliveryError)
    assert protocol in error.message


@pytest.mark.slow
def test_a_client_with_tls_at_a_plain_listener_is_told_so(
    kafka: KafkaBroker,
    settings: KafkaSettings,
    refusal: Callable[..., ExportError],
) -> None:
    error = refusal(replace(settings, bootstrap_servers=kafka.bootstrap_servers), "any")
    assert isinstance(error, DeliveryError)
    assert "SSL" in error.message
