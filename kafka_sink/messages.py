"""Turns a row into a Kafka message: its key, its JSON value, and the metadata it travels with."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from queryexport.errors import ConfigurationError, DeliveryError
from queryexport.rows import Column, Row
from queryexport.values import NETWORKS, JsonEncoder, is_finite

METADATA = "_metadata"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TEXT_BY_ENCODER = (date, time, timedelta, bytes, bytearray, memoryview, *NETWORKS)


class NullKey(StrEnum):
    """What happens to a row whose key column is NULL."""

    FAIL = "fail"
    SEND = "null"
    SKIP = "skip"


class Message(NamedTuple):
    """What one row is on the wire; `timestamp_ms` is since 1970 UTC, 0 the time of sending."""

    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    timestamp_ms: int = 0


@dataclass(frozen=True)
class MessageOptions:
    """What an item may choose about its messages; `timestamp_field` names a column, or nothing."""

    null_key: NullKey = NullKey.FAIL
    decimals_as_numbers: bool = False
    headers: tuple[tuple[str, bytes], ...] = ()
    timestamp_field: str = ""


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


class MessageBuilder:
    """Turns the rows of one result into messages.

    The key is the canonical text of the value of `key_field`, so that the same value always goes
    to the same partition; several fields with commas between give a JSON array of their texts. The
    value is a JSON object with the column names, and `_metadata` last when there is an `envelope`.
    A time without a zone is taken to be in `zone`. `skipped` counts the rows left out for their
    NULL key, `nulled` the NaN and infinite numbers that JSON can only write as null.

    Raises `ConfigurationError` when the columns do not fit, before any row is touched.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        key_field: str,
        *,
        envelope: Envelope | None,
        zone: tzinfo,
        options: MessageOptions | None = None,
    ) -> None:
        self.skipped = 0
        self.nulled = 0
        self._options = options or MessageOptions()
        self._names = tuple(column.name for column in columns)
        self._key_field = key_field
        self._key_indexes = [_index(self._names, name) for name in key_fields(key_field)]
        # Most keys are one column of plain text, which needs nothing of what follows.
        self._single_key_index = self._key_indexes[0] if len(self._key_indexes) == 1 else None
        self._timestamp_index = _timestamp_index(self._names, self._options.timestamp_field)
        self._zone = zone
        self._encoder = JsonEncoder(zone, decimals_as_numbers=self._options.decimals_as_numbers)
        self._metadata: dict[str, Any] = {}
        if envelope:
            _refuse_metadata_column(self._names)
            # Encoded once: every row of the run carries the same bytes.
            self._metadata = {METADATA: orjson.Fragment(envelope.encoded())}

    def build_all(self, rows: Sequence[Row], first_number: int) -> Iterator[Message]:
        """The messages of the rows, whose 1-based numbers begin at `first_number`."""
        numbers = range(first_number, first_number + len(rows))
        return filter(None, map(self.build, rows, numbers))

    def build(self, row: Row, number: int) -> Message | None:
        """The message of the row with that 1-based number; None when its NULL key leaves it out.

        Raises `DeliveryError` for a key that may not be NULL, and for what JSON cannot hold.
        """
        key = self._key(row, number)
        if key is None and self._options.null_key == NullKey.SKIP:
            self.skipped += 1
            return None
        try:
            value = self._encoder.encode(dict(zip(self._names, row, strict=True), **self._metadata))
        except TypeError as error:
            raise self._unencodable(row, number) from error
        if value.count(b":null") > row.count(None):  # One more may also be part of a text.
            self.nulled += sum(map(is_not_finite, row))
        if self._timestamp_index is None:
            return Message(key, value, self._options.headers)
        return Message(key, value, self._options.headers, self._timestamp(row, number))

    def _key(self, row: Row, number: int) -> bytes | None:
        if self._single_key_index is not None:
            key = row[self._single_key_index]
            if type(key) is str and key.isascii():
                return key.encode()
        values = [row[index] for index in self._key_indexes]
        if None in values:
            if self._options.null_key == NullKey.FAIL:
                raise DeliveryError(
                    f"Row {number} has NULL in its key column “{self._key_field}”, so it cannot be "
                    "sent. Choose a key column that is never NULL, leave such rows out in the "
                    "query, or let the item skip them or send them without a key."
                )
            return None
        if len(values) == 1:
            return self._one(values[0], number)
        return orjson.dumps([self._one(value, number).decode() for value in values])

    def _one(self, value: Any, number: int) -> bytes:
        try:
            return key_text(value, self._encoder).encode()
        except (TypeError, ValueError) as error:
            raise DeliveryError(
                f"Row {number} cannot be sent: the value of its key column “{self._key_field}” has "
                f"the type {type(value).__name__} and no stable text ({error}). "
                "Cast it to text in the query."
            ) from error

    def _timestamp(self, row: Row, number: int) -> int:
        assert self._timestamp_index is not None
        if (value := row[self._timestamp_index]) is None:
            return 0
        match value:
            case datetime():
                moment = value if value.tzinfo else value.replace(tzinfo=self._zone)
            case date():
                moment = datetime.combine(value, time(), self._zone)
            case _:
                moment = EPOCH
        if moment <= EPOCH:
            raise DeliveryError(
                f"Row {number} cannot be sent: its timestamp column “"
                f"{self._options.timestamp_field}” holds {value!r:.60}, which is no date or time "
                "after 1970. Choose another column, or cast it in the query."
            )
        return round(moment.timestamp() * 1000)

    def _unencodable(self, row: Row, number: int) -> DeliveryError:
        for name, value in zip(self._names, row, strict=True):
            try:
                self._encoder.encode({name: value})
            except TypeError as error:
                return DeliveryError(
                    f"Row {number} cannot be sent: the value of column “{name}” has the type "
                    f"{type(value).__name__} and no form in JSON ({error}). "
                    "Cast it to text in the query."
                )
        return DeliveryError(f"Row {number} cannot be written as JSON. Cast its columns to text.")


def key_text(value: Any, encoder: JsonEncoder) -> str:
    """The one text of a key value, the same whichever driver or run it comes from.

    Raises `TypeError` or `ValueError` for a value without one: NaN, a list, an object.
    """
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int() | UUID():
            return str(value)
        case Decimal() if value.is_finite():
            return format(value, "f")
        case float() if math.isfinite(value):
            return repr(value)
    if isinstance(value, TEXT_BY_ENCODER):
        return str(encoder.plain(value))
    raise TypeError(f"{value!r:.40} cannot be a key")


def key_fields(key_field: str) -> list[str]:
    """The columns that an item's key field names."""
    return [name.strip() for name in key_field.split(",")]


def is_not_finite(value: Any) -> bool:
    """Whether JSON can only write the number as null."""
    return isinstance(value, float | Decimal) and not is_finite(value)


def _timestamp_index(names: Sequence[str], timestamp_field: str) -> int | None:
    if not timestamp_field:
        return None
    if timestamp_field not in names:
        raise ConfigurationError(
            f"The query returns no column “{timestamp_field}” to take the messages' time from. It "
            f"returns {', '.join(names)}. Change the item's timestamp field."
        )
    return names.index(timestamp_field)


def _index(names: Sequence[str], key_field: str) -> int:
    if key_field not in names:
        raise ConfigurationError(
            f"The query returns no column “{key_field}” to use as the message key. It returns "
            f"{', '.join(names)}. Change the item's key field, or add the column to the query."
        )
    return names.index(key_field)


def _refuse_metadata_column(names: Sequence[str]) -> None:
    if METADATA in names:
        raise ConfigurationError(
            f"The query returns a column “{METADATA}”, which is where the metadata goes. Give the "
            "column another name with AS, or turn the item's metadata off."
        )
