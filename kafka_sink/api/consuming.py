"""Calls that look at clusters: connections, topics, a topic's partitions, its newest messages."""

from dataclasses import asdict
from datetime import datetime
from typing import Any, Literal

from django.http import HttpRequest
from ninja import Query as QueryParameter
from ninja import Router, Schema
from pydantic import Field

from kafka_sink import probe
from kafka_sink.api.access import needs
from kafka_sink.api.connections import DEFAULT, settings_of
from kafka_sink.api.errors import PROBLEMS
from kafka_sink.models import KafkaConnection
from kafka_sink.probe.reading import MOST_MESSAGES

router = Router()


class ConnectionOut(Schema):
    """A Kafka connection without its secrets."""

    name: str
    description: str
    bootstrap_servers: str
    security_protocol: str
    sasl_mechanism: str
    username: str
    compression: str


class TopicOut(Schema):
    name: str
    partitions: int


class PartitionOut(Schema):
    number: int
    leader: int
    replicas: list[int]
    in_sync: list[int]
    first_offset: int
    end_offset: int
    messages: int


class TopicInfoOut(Schema):
    name: str
    messages: int = Field(description="At most that many: deleted ones can leave gaps")
    partitions: list[PartitionOut]


class ReadMessageOut(Schema):
    partition: int
    offset: int
    timestamp: datetime | None
    key: str | None
    value: str | None
    cut: bool = Field(description="The value was longer than shown")
    size_bytes: int
    headers: list[tuple[str, str]]


class SampleOut(Schema):
    complete: bool = Field(description="False when the time ran out")
    messages: list[ReadMessageOut]


class ConsumeIn(Schema):
    topic: str = Field(min_length=1, max_length=249)
    connection: str = DEFAULT
    last: int = Field(10, ge=1, le=MOST_MESSAGES, description="How many messages")
    start: Literal["latest", "earliest"] = "latest"


@router.get("/connections", response={200: list[ConnectionOut], **PROBLEMS})
@needs("view_kafkaconnection")
def connections(request: HttpRequest) -> Any:
    """The Kafka connections, without secrets."""
    return list(KafkaConnection.objects.all())


@router.get("/topics", response={200: list[TopicOut], **PROBLEMS})
@needs("view_kafkaconnection")
def topics(request: HttpRequest, connection: str = DEFAULT) -> Any:
    """The topics of a cluster, without Kafka's internal ones."""
    found = probe.topics(settings_of(connection))
    return [{"name": name, "partitions": count} for name, count in found.items()]


@router.get("/topics/{topic}", response={200: TopicInfoOut, **PROBLEMS})
@needs("view_kafkaconnection")
def topic_info(request: HttpRequest, topic: str, connection: str = DEFAULT) -> Any:
    """Leader, replicas and offsets of each partition."""
    return probe.topic_info(settings_of(connection), topic)


@router.get("/consume", response={200: SampleOut, **PROBLEMS})
@needs("consume_messages")
def consume(request: HttpRequest, query: QueryParameter[ConsumeIn]) -> Any:
    """The newest or oldest messages of a topic; commits nothing, creates nothing."""
    settings = settings_of(query.connection)
    return asdict(probe.consume(settings, query.topic, last=query.last, start=query.start))
