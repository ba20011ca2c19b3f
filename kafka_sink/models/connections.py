"""The Kafka connections that operators keep."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

from kafka_sink.client import client_features
from kafka_sink.config import COMPRESSIONS, MECHANISMS, PROTOCOLS, RANGES, KafkaSettings, problems
from queryexport.encryption import EncryptedTextField, Secret
from queryexport.errors import ConfigurationError


def _number(name: str, default: int, **options: Any) -> "models.PositiveIntegerField[int, int]":
    low, high = RANGES[name]
    validators = [MinValueValidator(low), MaxValueValidator(high)]
    return models.PositiveIntegerField(default=default, validators=validators, **options)


def _in_range(name: str) -> models.CheckConstraint:
    low, high = RANGES[name]
    return models.CheckConstraint(
        condition=Q(**{f"{name}__range": (low, high)}),
        name=f"kafka_connection_{name}_range",
        violation_error_message=f"Enter {name.replace('_', ' ')} between {low} and {high}.",
    )


class KafkaConnection(models.Model):
    """A Kafka cluster that items send to, and how the producer behaves towards it."""

    class SecurityProtocol(models.TextChoices):
        PLAINTEXT = "PLAINTEXT", "PLAINTEXT: no encryption, no log-in"
        SSL = "SSL", "SSL: encrypted"
        SASL_PLAINTEXT = "SASL_PLAINTEXT", "SASL_PLAINTEXT: log-in without encryption"
        SASL_SSL = "SASL_SSL", "SASL_SSL: encrypted, with log-in"

    class SaslMechanism(models.TextChoices):
        PLAIN = "PLAIN"
        SCRAM_SHA_256 = "SCRAM-SHA-256", "SCRAM-SHA-256"
        SCRAM_SHA_512 = "SCRAM-SHA-512", "SCRAM-SHA-512"
        OAUTHBEARER = "OAUTHBEARER", "OAUTHBEARER"
        GSSAPI = "GSSAPI", "GSSAPI (Kerberos)"

    class Compression(models.TextChoices):
        NONE = "none", "none"
        GZIP = "gzip", "gzip"
        SNAPPY = "snappy", "snappy"
        LZ4 = "lz4", "lz4"
        ZSTD = "zstd", "zstd"

    class Acks(models.TextChoices):
        ALL = "all", "all in-sync replicas"

    name = models.CharField(
        max_length=100,
        unique=True,
        help_text="Short name. Items use the connection called default unless told otherwise.",
    )
    description = models.TextField(
        blank=True, help_text="Which cluster it is and whom to call, for example Events, team 3."
    )
    bootstrap_servers = models.CharField(
        max_length=1000,
        help_text="Servers to start from, host:port with commas, for example "
        "kafka1.example.com:9092,kafka2.example.com:9092.",
    )
    security_protocol = models.CharField(
        max_length=20,
        choices=SecurityProtocol,
        default=SecurityProtocol.PLAINTEXT,
        help_text="As the cluster's listener has it, for example SASL_SSL.",
    )
    sasl_mechanism = models.CharField(
        "SASL mechanism",
        max_length=20,
        blank=True,
        choices=SaslMechanism,
        help_text="How the user logs in, for example SCRAM-SHA-512. Empty without SASL.",
    )
    username = models.CharField(
        max_length=200,
        blank=True,
        help_text="An account that may write to the topics, for example query_export.",
    )
    password = EncryptedTextField(
        blank=True,
        default="",
        help_text="The password, the bearer token of OAUTHBEARER, or ${ENV_VAR} to take it from "
        "the worker's environment.",
    )
    ca_certificate = models.TextField(
        "CA certificate",
        blank=True,
        help_text="PEM text of the authority that signed the brokers' certificates, for example "
        "-----BEGIN CERTIFICATE-----… Empty for the well-known ones.",
    )
    client_certificate = models.TextField(
        blank=True,
        help_text="PEM text of this client's certificate, for example "
        "-----BEGIN CERTIFICATE-----… Empty unless the brokers ask for one.",
    )
    client_key = EncryptedTextField(
        blank=True,
        default="",
        help_text="PEM text of the certificate's key, or ${ENV_VAR}, for example "
        "${KAFKA_CLIENT_KEY}.",
    )
    compression = models.CharField(
        max_length=10,
        choices=Compression,
        default=Compression.LZ4,
        help_text="Of the batches on their way and in the topic, for example lz4.",
    )
    linger_ms = _number(
        "linger_ms",
        20,
        verbose_name="linger (ms)",
        help_text="How long a batch waits to fill up, for example 20.",
    )
    batch_bytes = _number(
        "batch_bytes",
        1_000_000,
        help_text="Most bytes in one batch, for example 1000000. Keep it under the topics' "
        "max.message.bytes.",
    )
    max_request_bytes = _number(
        "max_request_bytes",
        1_000_000,
        help_text="Most bytes in one message, for example 1000000; a larger row is refused.",
    )
    request_timeout_ms = _number(
        "request_timeout_ms",
        30_000,
        verbose_name="request timeout (ms)",
        help_text="How long a broker may wait for its replicas, for example 30000.",
    )
    acks = models.CharField(
        max_length=3,
        choices=Acks,
        default=Acks.ALL,
        help_text="Fixed to all: a row counts, for example in history, once every in-sync replica "
        "has it.",
    )
    idempotence = models.BooleanField(
        default=True,
        help_text="Fixed on: the client's retries, for example after a broken connection, never "
        "store a message twice.",
    )
    retry_backoff_ms = _number(
        "retry_backoff_ms",
        100,
        verbose_name="retry backoff (ms)",
        help_text="Wait before the first retry, doubled twice, for example 100: then 200 and 400.",
    )
    max_in_flight = _number(
        "max_in_flight",
        5,
        help_text="Requests under way to one broker at a time, 1 to 5, for example 5.",
    )

    class Meta:
        ordering = ["name"]
        verbose_name = "Kafka connection"
        permissions = [
            ("test_kafkaconnection", "Can test a Kafka connection"),
            ("publish_message", "Can publish messages by API"),
            ("consume_messages", "Can read messages of topics"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=~Q(bootstrap_servers=""),
                name="kafka_connection_has_servers",
                violation_error_message="Enter at least one server as host:port.",
            ),
            models.CheckConstraint(
                condition=Q(security_protocol__in=PROTOCOLS),
                name="kafka_connection_security_protocol_known",
                violation_error_message="Choose one of the listed security protocols.",
            ),
            models.CheckConstraint(
                condition=Q(sasl_mechanism__in=("", *MECHANISMS)),
                name="kafka_connection_sasl_mechanism_known",
                violation_error_message="Choose one of the listed SASL mechanisms.",
            ),
            models.CheckConstraint(
                condition=Q(security_protocol__in=("PLAINTEXT", "SSL")) | ~Q(sasl_mechanism=""),
                name="kafka_connection_sasl_has_mechanism",
                violation_error_message="Choose a SASL mechanism, or a protocol without SASL.",
            ),
            models.CheckConstraint(
                condition=Q(compression__in=COMPRESSIONS),
                name="kafka_connection_compression_known",
                violation_error_message="Choose one of the listed compressions.",
            ),
            models.CheckConstraint(
                condition=Q(acks="all"),
                name="kafka_connection_acks_all",
                violation_error_message="Leave acks at all, so that no counted row can be lost.",
            ),
            models.CheckConstraint(
                condition=Q(idempotence=True),
                name="kafka_connection_idempotence_on",
                violation_error_message="Leave idempotence on, so that no retry stores twice.",
            ),
            *(_in_range(name) for name in RANGES),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        messages: dict[str, list[str]] = defaultdict(list)
        try:
            # ${ENV_VAR} stays as it is: the variable is the worker's, not the form's.
            for problem in problems(
                self._settings(lambda secret: secret.stored()), client_features()
            ):
                messages[problem.field].append(problem.message)
        except ConfigurationError as error:
            raise ValidationError(error.message) from error
        if messages:
            raise ValidationError(dict(messages))

    def settings(self) -> KafkaSettings:
        """What a worker needs to connect, with `${ENV_VAR}` references resolved.

        Raises `ConfigurationError` when a variable is not set or a secret cannot be decrypted.
        """
        return self._settings(lambda secret: secret.reveal())

    def _settings(self, text: Callable[[Secret], str]) -> KafkaSettings:
        field = EncryptedTextField()
        return KafkaSettings(
            name=self.name,
            bootstrap_servers=self.bootstrap_servers,
            security_protocol=self.security_protocol,
            sasl_mechanism=self.sasl_mechanism,
            username=self.username,
            password=text(field.to_python(self.password)),
            ca_pem=self.ca_certificate,
            certificate_pem=self.client_certificate,
            key_pem=text(field.to_python(self.client_key)),
            compression=self.compression,
            linger_ms=self.linger_ms,
            batch_bytes=self.batch_bytes,
            max_request_bytes=self.max_request_bytes,
            request_timeout_ms=self.request_timeout_ms,
            acks=self.acks,
            idempotence=self.idempotence,
            retry_backoff_ms=self.retry_backoff_ms,
            max_in_flight=self.max_in_flight,
        )
