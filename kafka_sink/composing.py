"""Makes messages of what a person typed, and says what is wrong with it, line by line."""

import json
from collections.abc import Iterator
from typing import Any

from kafka_sink.exact_json import encoded, exact
from kafka_sink.messages import Headers, Message
from kafka_sink.publishing import BATCH_BYTES, MESSAGE_BYTES, MOST_MESSAGES, size

ADDED_HEADERS = frozenset({"export_id", "row"})
FIELDS = frozenset({"key", "value"})
ERRORS_SHOWN = 10


class Wrong(Exception):
    """What has to be corrected, in sentences for the person who typed it."""

    def __init__(self, *sentences: str) -> None:
        super().__init__(*sentences)
        self.sentences = list(sentences)


def headers(text: str) -> Headers:
    """The headers of a JSON object of texts; none of an empty text."""
    found = _json(text) if text.strip() else {}
    if not isinstance(found, dict) or not all(isinstance(each, str) for each in found.values()):
        raise Wrong('Enter an object of texts, such as {"source": "admin"}.')
    if taken := found.keys() & ADDED_HEADERS:
        raise Wrong(f"The header {min(taken)} is added to each message anyway. Take it out.")
    return tuple((name, _bytes(value)) for name, value in found.items())


def single(key: str, value: str, headers: Headers, *, plain: bool) -> Message:
    """The value as it is; unless it is plain text, what looks like JSON has to be JSON."""
    if not plain and value.lstrip().startswith(("{", "[")):
        try:
            _json(value)
        except Wrong as error:
            raise Wrong(*error.sentences, "Correct the value, or tick Plain text.") from error
    return _within_limit(Message(_bytes(key) if key else None, _bytes(value), headers))


def several(lines: str, headers: Headers) -> list[Message]:
    """One message of each line that is not blank."""
    numbered = [(number, line) for number, line in _numbered(lines) if line.strip()]
    if len(numbered) > MOST_MESSAGES:
        raise Wrong(f"{len(numbered)} messages; the most is {MOST_MESSAGES}. Send them in parts.")
    messages, errors = _read(numbered, headers)
    if errors:
        raise Wrong(*errors[:ERRORS_SHOWN], *_more(len(errors) - ERRORS_SHOWN))
    if (total := sum(map(size, messages))) > BATCH_BYTES:
        raise Wrong(f"The messages have {total} bytes; the most is {BATCH_BYTES}. Send fewer.")
    return messages


def _numbered(lines: str) -> Iterator[tuple[int, str]]:
    # Not splitlines(): JSON may hold other separators than the line feed.
    return enumerate(lines.split("\n"), start=1)


def _read(numbered: list[tuple[int, str]], headers: Headers) -> tuple[list[Message], list[str]]:
    messages, errors = [], []
    for number, line in numbered:
        try:
            messages.append(_message(line, headers))
        except Wrong as error:
            errors += [f"Line {number}: {sentence}" for sentence in error.sentences]
    return messages, errors


def _message(line: str, headers: Headers) -> Message:
    row = _json(line)
    if not isinstance(row, dict) or row.get("value") is None or row.keys() - FIELDS:
        raise Wrong('Enter {"key": …, "value": …} with a value, and nothing else beside them.')
    key = row.get("key")
    if not isinstance(key, str | None):
        raise Wrong("The key has to be a text in quotes, or null.")
    return _within_limit(
        Message(_bytes(key) if key is not None else None, _bytes(row["value"]), headers)
    )


def _within_limit(message: Message) -> Message:
    if (total := size(message)) > MESSAGE_BYTES:
        raise Wrong(f"The message has {total} bytes; the most is {MESSAGE_BYTES}. Shorten it.")
    return message


def _json(text: str) -> Any:
    try:
        return exact(text)
    except json.JSONDecodeError as error:
        where = (
            f"line {error.lineno}, column {error.colno}"
            if "\n" in text
            else f"column {error.colno}"
        )
        raise Wrong(f"This is no JSON: {error.msg.lower()} at {where}.") from error
    except ValueError as error:
        raise Wrong(f"This is no JSON: {error}.") from error


def _bytes(value: Any) -> bytes:
    try:
        return encoded(value)
    except ValueError as error:
        raise Wrong(f"This cannot be sent: {error}.") from error


def _more(count: int) -> list[str]:
    return [f"And {count} more like these."] if count > 0 else []
