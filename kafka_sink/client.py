"""Opens the Kafka client, and knows what the installed one can do."""

import logging
from collections.abc import Callable
from functools import lru_cache
from time import time
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from kafka_sink.config import FEATURES, KafkaSettings
from queryexport.errors import ConfigurationError

logger = logging.getLogger(__name__)


def open_producer(
    settings: KafkaSettings, config: dict[str, Any], *, on_error: Callable[[KafkaError], None]
) -> Producer:
    """Raises `ConfigurationError` for settings that the client refuses."""
    callbacks: dict[str, Any] = {"error_cb": on_error, "logger": logger}
    if settings.uses_sasl and settings.sasl_mechanism == "OAUTHBEARER":
        callbacks["oauth_cb"] = bearer_token(settings.password)
    try:
        return Producer({**config, **callbacks})
    except KafkaException as error:
        raise ConfigurationError(
            f"The Kafka client refuses the connection {settings}: "
            f"{settings.without_secrets(error.args[0].str())}. Correct the connection."
        ) from error


def bearer_token(token: str) -> Callable[[str], tuple[str, float]]:
    """The client asks again when a token is used up; it is told that ours lasts another hour."""
    return lambda _config: (token, time() + 3600)


@lru_cache
def client_features() -> frozenset[str]:
    """The SASL features that the installed client library was built with."""
    return frozenset(filter(_has_feature, set(FEATURES.values())))


def _has_feature(feature: str) -> bool:
    # The library offers no question, but refuses a feature that it lacks.
    try:
        Producer({"builtin.features": feature, "bootstrap.servers": "localhost", "log_level": 0})
    except KafkaException:
        return False
    return True
