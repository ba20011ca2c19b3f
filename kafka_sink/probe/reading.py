"""Reads messages of a topic by partition and offset, without a consumer group, in bounded time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Literal, TypeAlias

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from kafka_sink.config import KafkaSettings
from kafka_sink.probe.client import reader
from kafka_sink.probe.topics import TopicInfo, topic_info
from queryexport.errors import DeliveryError

READ_LIMIT_SEC = 8.0
BATCH = 500
TURN_SEC = 0.5
MOST_MESSAGES = 100
MOST_CHARACTERS = 10_000

Start: TypeAlias = Literal["latest", "earliest"]
Raw: TypeAlias = Any  # confluent_kafka.Message
# First and last offset of each partition, both included.
Ranges: TypeAlias = Mapping[int, tuple[int, int]]


@dataclass(frozen=True)
class ReadMessage:
    """One message for people: key and value as text; `cut` says that the value was longer."""

    partition: int
    offset: int
    timestamp: datetime | None
    key: str | None
    value: str | None
    cut: bool
    size_bytes: int
    headers: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Sample:
    """What a quick look found, oldest first; `complete` is False when its time ran out."""

    messages: tuple[ReadMessage, ...]
    complete: bool


def consume(
    settings: KafkaSettings,
    topic: str,
    *,
    last: int = 10,
    start: Start = "latest",
    limit_sec: float = READ_LIMIT_SEC,
) -> Sample:
    """The newest (`latest`) or oldest (`earliest`) messages over all partitions, by time.

    `last` is how many, 1 to 100. Nothing is committed and no topic is created. Raises
    `UnknownTopic`, or `DeliveryError` when the cluster does not answer.
    """
    count = max(1, min(last, MOST_MESSAGES))
    deadline = monotonic() + limit_sec
    ranges = _window(topic_info(settings, topic, limit_sec=limit_sec), count, start)
    reading = Reading(settings, topic, ranges, deadline=deadline)
    found = sorted(reading, key=_age)
    chosen = found[-count:] if start == "latest" else found[:count]
    return Sample(tuple(map(_readable, chosen)), reading.complete)


def read_ranges(
    settings: KafkaSettings, topic: str, ranges: Ranges, *, limit_sec: float
) -> "Reading":
    """The raw messages from the first to the last offset of each partition."""
    return Reading(settings, topic, ranges, deadline=monotonic() + limit_sec)


class Reading:
    """Iterates once over the messages of some offset ranges; then `complete` says if all were seen.

    Raises `DeliveryError` when a partition cannot be read, for example because its first offset
    was deleted by retention.
    """

    def __init__(
        self, settings: KafkaSettings, topic: str, ranges: Ranges, *, deadline: float
    ) -> None:
        self._settings = settings
        self._topic = topic
        self._deadline = deadline
        self._last = {number: last for number, (first, last) in ranges.items() if first <= last}
        self._first = {number: ranges[number][0] for number in self._last}
        self._open = set(self._last)

    @property
    def complete(self) -> bool:
        return not self._open

    def __iter__(self) -> Iterator[Raw]:
        if not self._open:
            return
        with reader(self._settings) as consumer:
            consumer.assign(
                [TopicPartition(self._topic, number, at) for number, at in self._first.items()]
            )
            while self._open and monotonic() < self._deadline:
                for message in self._turn(consumer):
                    if self._wanted(message):
                        yield message

    def _turn(self, consumer: Consumer) -> list[Raw]:
        left = max(0.05, min(TURN_SEC, self._deadline - monotonic()))
        try:
            return consumer.consume(BATCH, timeout=left)
        except KafkaException as error:
            raise self._unreadable(error.args[0]) from error

    def _wanted(self, message: Raw) -> bool:
        number = message.partition()
        if error := message.error():
            self._hear(error, number)
            return False
        if message.offset() >= self._last[number]:
            self._open.discard(number)
        return bool(message.offset() <= self._last[number])

    def _hear(self, error: KafkaError, number: int) -> None:
        """Without a partition it is about a connection, which may come back, or the group."""
        if error.code() == KafkaError._PARTITION_EOF:
            self._open.discard(number)
        elif number in self._last:
            raise self._unreadable(error)

    def _unreadable(self, error: KafkaError) -> DeliveryError:
        words = self._settings.without_secrets(error.str()).rstrip(".")
        return DeliveryError(
            f"The topic {self._topic} on {self._settings} cannot be read: {words}. Check that the "
            "connection's user may read it and that retention has not deleted these offsets."
        )


def _window(info: TopicInfo, count: int, start: Start) -> dict[int, tuple[int, int]]:
    """Where the wanted messages must be: in each partition, its newest or oldest `count`."""
    ranges = {}
    for partition in info.partitions:
        first, end = partition.first_offset, partition.end_offset
        if start == "latest":
            ranges[partition.number] = (max(first, end - count), end - 1)
        else:
            ranges[partition.number] = (first, min(end, first + count) - 1)
    return ranges


def _age(message: Raw) -> tuple[int, int, int]:
    return message.timestamp()[1], message.partition(), message.offset()


def _readable(message: Raw) -> ReadMessage:
    value = _text(message.value())
    kind, milliseconds = message.timestamp()
    return ReadMessage(
        partition=message.partition(),
        offset=message.offset(),
        timestamp=datetime.fromtimestamp(milliseconds / 1000, UTC) if kind else None,
        key=_cut(_text(message.key())),
        value=_cut(value),
        cut=value is not None and len(value) > MOST_CHARACTERS,
        size_bytes=len(message.value() or b""),
        headers=tuple((name, _cut(_text(text)) or "") for name, text in message.headers() or ()),
    )


def _text(content: bytes | None) -> str | None:
    return None if content is None else content.decode(errors="replace")


def _cut(text: str | None) -> str | None:
    if text is None or len(text) <= MOST_CHARACTERS:
        return text
    return f"{text[:MOST_CHARACTERS]}… (cut after {MOST_CHARACTERS} of {len(text)} characters)"
