"""Remembers of rows that are sent again what was known of them before, in bounded memory."""

import hashlib
from dataclasses import dataclass

from kafka_sink.messages import Message
from scheduling.undelivered.rows import UndeliveredRow

MOST_REMEMBERED = 100_000


@dataclass(frozen=True)
class Origin:
    """Whether a row may be in the topic from earlier runs, and how often they sent it."""

    unknown: bool
    attempts: int


class Origins:
    """What was known of each row, found by its message alone.

    Most rows failed after one attempt; only the others are remembered, by a digest of key and
    value. Past `MOST_REMEMBERED` of them, or where two rows are equal, the answer is the more
    careful one: unknown if any was, and the most attempts of any.
    """

    USUAL = Origin(unknown=False, attempts=1)

    def __init__(self) -> None:
        self._known: dict[bytes, Origin] = {}
        self._others = self.USUAL

    def remember(self, row: UndeliveredRow) -> None:
        origin = Origin(row.unknown, row.attempts)
        if origin == self.USUAL:
            return
        digest = _digest(row.message)
        if digest in self._known or len(self._known) < MOST_REMEMBERED:
            self._known[digest] = _careful(self._known.get(digest, origin), origin)
        else:
            self._others = _careful(self._others, origin)

    def of(self, message: Message) -> Origin:
        return self._known.get(_digest(message), self._others)


def _careful(one: Origin, other: Origin) -> Origin:
    return Origin(one.unknown or other.unknown, max(one.attempts, other.attempts))


def _digest(message: Message) -> bytes:
    key = message.key or b""
    mark = b"%d:" % len(key)
    return hashlib.blake2b(mark + key + message.value, digest_size=16).digest()
