"""Opens clients that only look, and puts their troubles into words an operator can act on."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from time import monotonic
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._metadata import ClusterMetadata

from kafka_sink.client import bearer_token
from kafka_sink.config import KafkaSettings, client_config
from queryexport.errors import ConfigurationError, DeliveryError

TURN_SEC = 0.5
NO_LOGIN = frozenset({KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED})
# Only a name: the partitions are assigned, so no group is joined and no offset is kept.
GROUP = "query-export-look"


class Looker:
    """An admin client that remembers the most telling trouble its connections had."""

    def __init__(self, settings: KafkaSettings) -> None:
        """Raises `ConfigurationError` for settings that cannot work."""
        self._settings = settings
        self.trouble: KafkaError | None = None
        self.client = self._open()

    def metadata(self, deadline: float) -> ClusterMetadata:
        """Brokers and topics; raises `DeliveryError` at a refused log-in or at the deadline.

        `deadline` is a time of `monotonic()`.
        """
        turn_sec = TURN_SEC
        while True:
            left = deadline - monotonic()
            try:
                return self.client.list_topics(timeout=max(0.05, min(turn_sec, left)))
            except KafkaException as error:
                self.client.poll(0)  # Serves the error callback, which knows the real reason.
                self.trouble = self.trouble or error.args[0]
                if self._hopeless() or monotonic() >= deadline:
                    raise self._unreachable() from error
                turn_sec *= 2  # A slow broker needs one long question, not many short ones.

    def words(self, error: KafkaError | None) -> str:
        """librdkafka's own words on one line, without secrets."""
        text = error.str() if error else "no answer in time"
        return self._settings.without_secrets(text).rstrip(".")

    def _open(self) -> AdminClient:
        config: dict[str, Any] = {**_config(self._settings), "error_cb": self._on_error}
        try:
            return AdminClient(config)
        except (KafkaException, ValueError) as error:
            raise refused(self._settings, error) from error

    def _on_error(self, error: KafkaError) -> None:
        # "All brokers down" comes last and says least.
        if self.trouble is None or error.code() in (KafkaError._SSL, *NO_LOGIN):
            self.trouble = error

    def _hopeless(self) -> bool:
        return self.trouble is not None and self.trouble.code() in (KafkaError._SSL, *NO_LOGIN)

    def _unreachable(self) -> DeliveryError:
        return DeliveryError(
            f"The brokers of {self._settings} do not answer: {self.words(self.trouble)}. "
            "Test the connection to see at which step.",
            retryable=not self._hopeless(),
        )


@contextmanager
def reader(settings: KafkaSettings) -> Iterator[Consumer]:
    """A consumer that commits nothing and creates no topic; the caller assigns its partitions."""
    options = {
        "group.id": GROUP,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "allow.auto.create.topics": False,
        "auto.offset.reset": "error",
        "enable.partition.eof": True,
        "isolation.level": "read_committed",
    }
    try:
        consumer = Consumer({**_config(settings), **options})
    except (KafkaException, ValueError) as error:
        raise refused(settings, error) from error
    with closing(consumer):
        yield consumer


def refused(settings: KafkaSettings, error: Exception) -> ConfigurationError:
    """What the client library itself objects to before it connects."""
    cause = error.args[0].str() if isinstance(error, KafkaException) else str(error)
    return ConfigurationError(
        f"The Kafka client refuses the connection {settings}: "
        f"{settings.without_secrets(cause).rstrip('.')}. Correct the connection."
    )


def _config(settings: KafkaSettings) -> dict[str, Any]:
    config = {**client_config(settings), "log_level": 0, "socket.timeout.ms": 5000}
    if settings.uses_sasl and settings.sasl_mechanism == "OAUTHBEARER":
        config["oauth_cb"] = bearer_token(settings.password)
    return config
