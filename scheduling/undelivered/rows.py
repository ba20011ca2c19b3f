"""One row that was not delivered, and its form as a line of a file."""

from base64 import b64decode, b64encode
from dataclasses import dataclass

import orjson

from kafka_sink.messages import Message


@dataclass(frozen=True, slots=True)
class UndeliveredRow:
    """The message exactly as it was sent, and what became of it.

    An `unknown` one may be in the topic already. `attempts` counts the times it was sent, in all
    runs that tried.
    """

    message: Message
    reason: str
    unknown: bool
    attempts: int

    def to_line(self) -> bytes:
        """A JSON object and a line feed; bytes are in base64."""
        key, value, headers, timestamp_ms = self.message
        fields = {
            "key": None if key is None else _text(key),
            "value": _text(value),
            "headers": [(name, _text(content)) for name, content in headers],
            "timestamp_ms": timestamp_ms,
            "reason": self.reason,
            "unknown": self.unknown,
            "attempts": self.attempts,
        }
        return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def from_line(cls, line: bytes) -> "UndeliveredRow":
        """What `to_line` wrote; raises `ValueError` or `KeyError` for anything else."""
        fields = orjson.loads(line)
        message = Message(
            None if fields["key"] is None else b64decode(fields["key"]),
            b64decode(fields["value"]),
            tuple((name, b64decode(content)) for name, content in fields["headers"]),
            fields["timestamp_ms"],
        )
        return cls(message, fields["reason"], fields["unknown"], fields["attempts"])


def _text(content: bytes) -> str:
    return b64encode(content).decode()
