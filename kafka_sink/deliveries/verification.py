"""Compares a delivery with what its offset ranges hold in the topic today."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kafka_sink.builder import METADATA
from kafka_sink.config import KafkaSettings
from kafka_sink.models import Delivery
from kafka_sink.probe import TopicInfo, read_ranges, topic_info
from kafka_sink.probe.reading import Ranges

EXPORT_ID = "export_id"
NUMBERS = ("row", "seq")
LIMIT_SEC = 300.0


@dataclass(frozen=True)
class Identity:
    """What a message says of itself: the delivery it belongs to, and its number in there."""

    export_id: str | None
    number: str | None


@dataclass(frozen=True)
class Verification:
    """What was found between the first and last offset of each partition.

    `found` messages are the delivery's own: by their export id when any message in the ranges has
    the delivery's, else all without one (`by_export_id` says which). `missing` is how many fewer
    different ones there are than were acknowledged. `duplicates` are own messages that came before:
    with the same number when they have numbers (`by_number`), else with the same key and value.
    `unproved` messages may be missing: a message whose outcome is unknown can stand in for one.
    `unexpected` messages are others': of another export id, or more than can be the delivery's.
    `expired` offsets were deleted by retention, and `complete` is False when the time ran out.
    """

    acked: int
    found: int
    missing: int
    unproved: int
    duplicates: int
    unexpected: int
    expired: int
    by_export_id: bool
    by_number: bool
    complete: bool

    @property
    def all_there(self) -> bool:
        return self.complete and not (self.missing or self.unproved or self.duplicates)


def verify(
    delivery: Delivery, settings: KafkaSettings, *, limit_sec: float = LIMIT_SEC
) -> Verification:
    """Reads the delivery's offset ranges back, in `limit_sec` at most, and compares.

    Raises `DeliveryError` when the topic is gone or cannot be read.
    """
    ranges = _kept(delivery.ranges, topic_info(settings, delivery.topic))
    reading = read_ranges(settings, delivery.topic, ranges, limit_sec=limit_sec)
    tally = Tally(delivery.export_id)
    tally.count(reading)
    expired = _offsets_in(delivery.ranges) - _offsets_in(ranges)
    return tally.compared(delivery, expired=expired, complete=reading.complete)


def _kept(ranges: Ranges, info: TopicInfo) -> Ranges:
    """The part of the ranges that retention has left."""
    kept_from = {partition.number: partition.first_offset for partition in info.partitions}
    return {
        number: (max(first, kept_from[number]), last)
        for number, (first, last) in ranges.items()
        if number in kept_from
    }


def _offsets_in(ranges: Ranges) -> int:
    return sum(max(0, last - first + 1) for first, last in ranges.values())


class Tally:
    """Counts messages by whose they are, in 16 bytes for each."""

    def __init__(self, export_id: str) -> None:
        self._export_id = export_id
        self._own = _Group()
        self._nobodys = _Group()
        self._others = 0

    def count(self, messages: Iterable[Any]) -> None:
        for message in messages:
            identity = identify(message)
            if identity.export_id == self._export_id:
                self._own.add(message, identity)
            elif identity.export_id is None:
                self._nobodys.add(message, identity)
            else:
                self._others += 1

    def compared(self, delivery: Delivery, *, expired: int, complete: bool) -> Verification:
        by_export_id = self._own.total > 0
        group = self._own if by_export_id else self._nobodys
        most = delivery.acked + delivery.unknown
        different = group.total - group.repeats
        excess = 0 if by_export_id else max(0, different - most)
        return Verification(
            acked=delivery.acked,
            found=group.total,
            missing=max(0, delivery.acked - different),
            unproved=min(delivery.unknown, max(0, most - different)),
            duplicates=group.repeats,
            unexpected=self._others + (self._nobodys.total if by_export_id else excess),
            expired=expired,
            by_export_id=by_export_id,
            by_number=group.numbered,
            complete=complete,
        )


class _Group:
    """Messages of one owner: how many, and how many of them were there before."""

    def __init__(self) -> None:
        self.total = 0
        self.repeats = 0
        self.numbered = False
        self._seen: set[bytes] = set()

    def add(self, message: Any, identity: Identity) -> None:
        self.total += 1
        if identity.number is not None:
            self.numbered = True
            mark = _digest(identity.number.encode())
        else:
            mark = _digest(message.key() or b"", message.value() or b"")
        self.repeats += mark in self._seen
        self._seen.add(mark)


def identify(message: Any) -> Identity:
    """By the headers `export_id` and `row` or `seq`, else by those names in `_metadata`."""
    known = {name: text.decode(errors="replace") for name, text in message.headers() or () if text}
    if EXPORT_ID not in known:
        known = {name: str(text) for name, text in _metadata(message.value()).items()} | known
    number = next((known[name] for name in NUMBERS if name in known), None)
    return Identity(known.get(EXPORT_ID), number)


def _metadata(value: bytes | None) -> dict[str, Any]:
    if not value or METADATA.encode() not in value:
        return {}
    try:
        metadata = json.loads(value).get(METADATA)
    except (ValueError, AttributeError):
        return {}
    return metadata if isinstance(metadata, dict) else {}


def _digest(*parts: bytes) -> bytes:
    return hashlib.blake2b(b"%d:" % len(parts[0]) + b"".join(parts), digest_size=16).digest()
