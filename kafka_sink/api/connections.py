"""Finds the Kafka connection that a call names, or takes the one that it describes."""

from http import HTTPStatus

from ninja import Schema
from pydantic import ConfigDict, Field, SecretStr

from kafka_sink.api.errors import ApiProblem
from kafka_sink.client import client_features
from kafka_sink.config import REFERENCE, KafkaSettings, problems
from kafka_sink.models import KafkaConnection

DEFAULT = "default"


class Configuration(Schema):
    """A whole Kafka connection, used once and not stored. Any other setting is refused."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    bootstrap_servers: str = Field(max_length=1000, examples=["kafka1.example.com:9092"])
    security_protocol: str = Field("PLAINTEXT", examples=["SASL_SSL"])
    sasl_mechanism: str = Field("", examples=["SCRAM-SHA-512"])
    sasl_username: str = Field("", examples=["query_export"])
    sasl_password: SecretStr = SecretStr("")
    ca_certificate: str = Field("", description="PEM text", max_length=100_000)
    client_certificate: str = Field("", description="PEM text", max_length=100_000)
    client_key: SecretStr = SecretStr("")

    def settings(self) -> KafkaSettings:
        """Raises `ApiProblem` for what cannot work, and for references to the environment."""
        settings = KafkaSettings(
            name="as sent",
            bootstrap_servers=self.bootstrap_servers,
            security_protocol=self.security_protocol,
            sasl_mechanism=self.sasl_mechanism,
            username=self.sasl_username,
            password=self.sasl_password.get_secret_value(),
            ca_pem=self.ca_certificate,
            certificate_pem=self.client_certificate,
            key_pem=self.client_key.get_secret_value(),
        )
        _refuse_references(settings)
        for problem in problems(settings, client_features()):
            raise ApiProblem(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                f"The configuration is not usable: {problem.message}",
                f"Correct {problem.field}, then call again.",
            )
        return settings


def settings_of(name: str) -> KafkaSettings:
    """The stored connection's settings; raises `ApiProblem` 404 when there is none."""
    connection = KafkaConnection.objects.filter(name=name).first()
    if connection is None:
        raise ApiProblem(
            HTTPStatus.NOT_FOUND,
            f"There is no Kafka connection “{name}”.",
            "Use a name from GET /api/kafka/connections.",
        )
    return connection.settings()


def _refuse_references(settings: KafkaSettings) -> None:
    # ${ENV_VAR} would send any variable of this server to a host of the caller's choice.
    if any(REFERENCE in text for text in (settings.password, settings.key_pem)):
        raise ApiProblem(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "A configuration in a call cannot refer to this server's environment (${…}).",
            "Send the secret itself, or store the connection and test it by its name.",
        )
