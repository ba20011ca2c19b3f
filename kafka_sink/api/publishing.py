"""Calls that test a cluster or write to it: test-connection, publish, publish-batch."""

from http import HTTPStatus
from typing import Annotated, Any, Self

from django.http import HttpRequest
from ninja import Router, Schema
from pydantic import BeforeValidator, Field, model_validator

from kafka_sink.api.access import needs
from kafka_sink.api.connections import DEFAULT, Configuration, settings_of
from kafka_sink.api.errors import PROBLEMS, ApiProblem
from kafka_sink.config import BATCH_MESSAGES, TOPIC_PATTERN
from kafka_sink.exact_json import encoded
from kafka_sink.messages import Message
from kafka_sink.probe import probe
from kafka_sink.publishing import (
    BATCH_BYTES,
    MESSAGE_BYTES,
    MOST_MESSAGES,
    Published,
    publish,
    size,
)

LEAST_BATCH, MOST_BATCH = BATCH_MESSAGES

router = Router()


def _json_value(value: Any) -> Any:
    if value is None:
        raise ValueError("a message needs a value")
    encoded(value)
    return value


Topic = Annotated[str, Field(pattern=TOPIC_PATTERN, examples=["shipments.events"])]
Key = Annotated[str | None, Field(examples=["ABC123456"])]
Value = Annotated[
    Any,
    BeforeValidator(_json_value),
    Field(
        description="Text is sent as it is, anything else as JSON with every digit of a number.",
        examples=[{"stato": "CONSEGNATO"}],
    ),
]


class MessageIn(Schema):
    key: Key = None
    value: Value

    def message(self) -> Message:
        """Raises `ApiProblem` 413 when it is over the limit."""
        key = self.key.encode() if self.key is not None else None
        message = Message(key, encoded(self.value))
        if (total := size(message)) > MESSAGE_BYTES:
            raise _too_large(f"A message has {total} bytes; the most is {MESSAGE_BYTES}.")
        return message


class PublishIn(MessageIn):
    topic: Topic
    connection: str = DEFAULT


class PublishOut(Schema):
    """The message is in the topic, on all in-sync replicas."""

    success: bool = True
    partition: int | None
    offset: int | None
    delivery: int = Field(description="Number of its row in the ledger")


class BatchIn(Schema):
    topic: Topic
    messages: list[MessageIn] = Field(min_length=1)
    batch_size: int = Field(100, ge=LEAST_BATCH, le=MOST_BATCH)
    connection: str = DEFAULT

    def all_messages(self) -> list[Message]:
        """Raises `ApiProblem` 413 when they are too many or too large together."""
        if len(self.messages) > MOST_MESSAGES:
            raise _too_large(f"{len(self.messages)} messages in one call; the most is 10000.")
        messages = [each.message() for each in self.messages]
        if (total := sum(map(size, messages))) > BATCH_BYTES:
            raise _too_large(f"The messages have {total} bytes; the most is {BATCH_BYTES}.")
        return messages


class MessageError(Schema):
    key: str
    reason: str


class BatchOut(Schema):
    """`succeeded` + `failed` + `unknown` = `total`; unknown ones may be in the topic or not."""

    success: bool
    total: int
    succeeded: int
    failed: int
    unknown: int
    error: str = Field(description="What ended the batch early, or the first reason")
    errors: list[MessageError] = Field(description="Of the first 100 that did not arrive")
    duration_sec: float
    delivery: int = Field(description="Number of its row in the ledger")


class ProbeIn(Schema):
    """One of the two: the name of a stored connection, or a whole configuration."""

    connection_name: str | None = Field(None, examples=[DEFAULT])
    configuration: Configuration | None = None

    @model_validator(mode="after")
    def one_of_them(self) -> Self:
        if (self.connection_name is None) == (self.configuration is None):
            raise ValueError("send either connection_name or configuration")
        return self


class StepOut(Schema):
    name: str
    ok: bool
    duration_ms: float
    message: str


class ProbeOut(Schema):
    """The steps up to the first that failed; `error` is that step's."""

    reachable: bool
    brokers: int
    topics: int
    latency_ms: float | None
    error: str
    steps: list[StepOut]


@router.post("/test-connection", response={200: ProbeOut, **PROBLEMS})
@needs("test_kafkaconnection")
def test_connection(request: HttpRequest, body: ProbeIn) -> Any:
    """Resolve, connect, TLS, authenticate, metadata: within 10 s."""
    if body.configuration:
        settings = body.configuration.settings()
    else:
        settings = settings_of(body.connection_name or DEFAULT)
    result = probe(settings)
    counts = {"brokers": result.brokers, "topics": result.topics, "latency_ms": result.latency_ms}
    return {"reachable": result.ok, "error": result.error, "steps": result.steps, **counts}


@router.post("/publish", response={200: PublishOut, **PROBLEMS})
@needs("publish_message")
def publish_one(request: HttpRequest, body: PublishIn) -> Any:
    """Sends one message and waits for its acknowledgement."""
    messages = [body.message()]
    published = publish(
        settings_of(body.connection), body.topic, messages=messages, user=request.user
    )
    if published.acked != 1:
        raise _not_delivered(published)
    partition, offset = published.place or (None, None)
    return {"partition": partition, "offset": offset, "delivery": published.delivery}


@router.post("/publish-batch", response={200: BatchOut, **PROBLEMS})
@needs("publish_message")
def publish_batch(request: HttpRequest, body: BatchIn) -> Any:
    """Sends messages in order of the list and waits for every acknowledgement."""
    published = publish(
        settings_of(body.connection),
        body.topic,
        messages=body.all_messages(),
        batch_size=body.batch_size,
        user=request.user,
    )
    return {
        "success": published.acked == published.total,
        "total": published.total,
        "succeeded": published.acked,
        "failed": published.failed,
        "unknown": published.unknown,
        "error": published.error,
        "errors": [{"key": row.key, "reason": row.reason} for row in published.undelivered],
        "duration_sec": published.duration_sec,
        "delivery": published.delivery,
    }


def _not_delivered(published: Published) -> ApiProblem:
    if published.failed:
        return ApiProblem(
            HTTPStatus.BAD_GATEWAY,
            f"The message was refused and is not in the topic. {published.error}",
            "Correct what the reason names, then publish again.",
        )
    return ApiProblem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        f"Nobody knows whether the message is in the topic. {published.error}",
        "Look into the topic before you publish it again, or expect it twice.",
    )


def _too_large(error: str) -> ApiProblem:
    return ApiProblem(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, error, "Send less in one call, or smaller messages."
    )
