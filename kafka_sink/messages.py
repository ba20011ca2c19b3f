"""A Kafka message, a batch of them, and the metadata that messages of a run travel with."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cached_property
from itertools import islice, repeat, starmap
from typing import NamedTuple, Self, TypeAlias

import orjson

Headers: TypeAlias = tuple[tuple[str, bytes], ...]


class Message(NamedTuple):
    """What one row is on the wire; `timestamp_ms` is since 1970 UTC, 0 the time of sending."""

    key: bytes | None
    value: bytes
    headers: Headers = ()
    timestamp_ms: int = 0


@dataclass(frozen=True)
class Batch:
    """Messages by their parts, which is how they are made and sent fastest.

    `timestamps_ms` and `headers` have one for each message, or none: the time of sending, and the
    headers that all messages of the delivery share.
    """

    keys: Sequence[bytes | None]
    values: Sequence[bytes]
    timestamps_ms: Sequence[int] = ()
    headers: Sequence[Headers] = ()

    @classmethod
    def of(cls, messages: Sequence[Message]) -> Self:
        keys, values, headers, timestamps = zip(*messages, strict=True) if messages else ((),) * 4
        return cls(
            keys, values, timestamps if any(timestamps) else (), headers if any(headers) else ()
        )

    def __len__(self) -> int:
        return len(self.values)

    def messages(self, headers: Headers, start: int = 0) -> Iterator[Message]:
        """The messages from number `start` on, counted from 0; `headers` are the shared ones."""
        each = self.headers or repeat(headers)
        timestamps = self.timestamps_ms or repeat(0)
        parts = zip(self.keys, self.values, each, timestamps, strict=False)
        return starmap(Message, islice(parts, start, None))

    def size_bytes(self) -> int:
        """Keys and values together."""
        return sum(map(len, self.values)) + sum(map(len, filter(None, self.keys)))

    @cached_property
    def largest_bytes(self) -> int:
        """At least the size of the largest key with its value."""
        keys = map(len, filter(None, self.keys))
        return max(map(len, self.values), default=0) + max(keys, default=0)

    def first(self, count: int) -> "Batch":
        """The first so many messages."""
        return Batch(
            self.keys[:count], self.values[:count], self.timestamps_ms[:count], self.headers[:count]
        )

    def only(self, numbers: Sequence[int]) -> "Batch":
        """Those with these numbers, counted from 0."""
        return Batch(
            [self.keys[number] for number in numbers],
            [self.values[number] for number in numbers],
            [self.timestamps_ms[number] for number in numbers] if self.timestamps_ms else (),
            [self.headers[number] for number in numbers] if self.headers else (),
        )


@dataclass(frozen=True)
class Envelope:
    """Where the rows come from; the same for every row of a run. `export_timestamp` has a zone."""

    source_query: str
    source_connection: str
    export_timestamp: datetime
    export_id: str

    def __post_init__(self) -> None:
        if self.export_timestamp.tzinfo is None:
            raise ValueError("export_timestamp must have a time zone")

    def encoded(self) -> bytes:
        """The `_metadata` object as JSON."""
        return orjson.dumps({**asdict(self), "export_timestamp": self.export_timestamp.isoformat()})


def export_id(query_name: str, at: datetime, unique: str) -> str:
    """Names a run: `<query>-<YYYYMMDDHHMMSS>-<unique>`; `unique` tells runs of a second apart."""
    return f"{query_name}-{at:%Y%m%d%H%M%S}-{unique}"
