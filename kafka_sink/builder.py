"""Turns rows into Kafka messages: their keys, their JSON values, and the metadata in them."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

import orjson

from kafka_sink.messages import Batch, Envelope, Headers, Message
from queryexport.errors import ConfigurationError, DeliveryError
from queryexport.rows import Column, JsonRows, JsonShape, Row
from queryexport.values import NETWORKS, JsonEncoder, is_finite

METADATA = "_metadata"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FRACTIONS = frozenset({float, Decimal})
TEXT_BY_ENCODER = (date, time, timedelta, bytes, bytearray, memoryview, *NETWORKS)


class NullKey(StrEnum):
    """What happens to a row whose key column is NULL."""

    FAIL = "fail"
    SEND = "null"
    SKIP = "skip"


@dataclass(frozen=True)
class MessageOptions:
    """What an item may choose about its messages; `timestamp_field` names a column, or nothing."""

    null_key: NullKey = NullKey.FAIL
    decimals_as_numbers: bool = False
    headers: Headers = ()
    timestamp_field: str = ""


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
        self._timestamp_index = _timestamp_index(self._names, self._options.timestamp_field)
        self._zone = zone
        self._encoder = JsonEncoder(zone, decimals_as_numbers=self._options.decimals_as_numbers)
        self._ending = b"}"
        if envelope:
            _refuse_metadata_column(self._names)
            # Encoded once: every row of the run carries the same bytes.
            self._ending = b',"%b":%b}' % (METADATA.encode(), envelope.encoded())

    @property
    def shape(self) -> JsonShape | None:
        """What a source must know to write the rows; None if only Python can build the messages."""
        if len(self._key_indexes) > 1 or self._options.timestamp_field:
            return None
        key = self._names[self._key_indexes[0]]
        return JsonShape(key, decimals_as_numbers=self._options.decimals_as_numbers)

    def build(self, rows: Sequence[Row] | JsonRows, first_number: int) -> Batch:
        """The messages of the rows, whose 1-based numbers begin at `first_number`.

        Raises `DeliveryError` for a key that may not be NULL, and for what JSON cannot hold.
        """
        if isinstance(rows, JsonRows):
            batch = Batch(rows.keys, self._ended(rows.values))
        else:
            batch = self._encoded(rows, first_number)
        self._check_keys(batch.keys, first_number)
        if self._options.null_key != NullKey.SKIP or None not in batch.keys:
            self.nulled += _not_finite(rows)
            return batch
        kept = [number for number, key in enumerate(batch.keys) if key is not None]
        self.skipped += len(batch) - len(kept)
        self.nulled += _not_finite(rows, kept)
        return batch.only(kept)

    def build_possible(self, rows: Sequence[Row] | JsonRows, first_number: int) -> list[Message]:
        """The messages of those rows that can be one, for a batch of which `build` failed."""
        if isinstance(rows, JsonRows):
            whole = Batch(rows.keys, self._ended(rows.values)).messages(self._options.headers)
            return [message for message in whole if message.key is not None]
        messages: list[Message] = []
        for number, row in enumerate(rows, first_number):
            with suppress(DeliveryError):
                messages += self.build([row], number).messages(self._options.headers)
        return messages

    def _encoded(self, rows: Sequence[Row], first_number: int) -> Batch:
        try:
            keys = self._keys(rows, first_number)
            values = self._encoder.encode_rows(self._names, rows, ending=self._ending)
        except TypeError:
            raise self._unencodable(rows, first_number) from None
        return Batch(keys, values, self._timestamps(rows, first_number))

    def _ended(self, values: Sequence[bytes]) -> Sequence[bytes]:
        """The JSON objects with the metadata in them."""
        if self._ending == b"}":
            return values
        ending = self._ending
        return [value[:-1] + ending for value in values]

    def _keys(self, rows: Sequence[Row], first_number: int) -> list[bytes | None]:
        if len(self._key_indexes) == 1:
            [index] = self._key_indexes
            column = [row[index] for row in rows]
            if {str}.issuperset(map(type, column)):
                with suppress(UnicodeEncodeError):
                    return list(map(str.encode, column))
        return [self._key(row, number) for number, row in enumerate(rows, first_number)]

    def _check_keys(self, keys: Sequence[bytes | None], first_number: int) -> None:
        if self._options.null_key == NullKey.FAIL and None in keys:
            raise DeliveryError(
                f"Row {first_number + keys.index(None)} has NULL in its key column "
                f"“{self._key_field}”, so it cannot be sent. Choose a key column that is never "
                "NULL, leave such rows out in the query, or let the item skip them or send them "
                "without a key."
            )

    def _key(self, row: Row, number: int) -> bytes | None:
        values = [row[index] for index in self._key_indexes]
        if None in values:
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

    def _timestamps(self, rows: Sequence[Row], first_number: int) -> Sequence[int]:
        if self._timestamp_index is None:
            return ()
        column = [row[self._timestamp_index] for row in rows]
        return [self._timestamp(value, number) for number, value in enumerate(column, first_number)]

    def _timestamp(self, value: Any, number: int) -> int:
        if value is None:
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

    def _unencodable(self, rows: Sequence[Row], first_number: int) -> DeliveryError:
        for number, row in enumerate(rows, first_number):
            for name, value in zip(self._names, row, strict=True):
                try:
                    self._encoder.encode({name: value})
                except TypeError as error:
                    return DeliveryError(
                        f"Row {number} cannot be sent: the value of column “{name}” has the type "
                        f"{type(value).__name__} and no form in JSON ({error}). "
                        "Cast it to text in the query."
                    )
        return DeliveryError(
            f"Row {first_number}, or one after it, cannot be written as JSON. "
            "Cast its columns to text."
        )


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


class ReadyMessages:
    """The builder for rows that are messages already, as an earlier delivery kept them."""

    shape = None
    skipped = 0
    nulled = 0

    def build(self, rows: Sequence[Any], first_number: int) -> Batch:
        return Batch.of(rows)

    def build_possible(self, rows: Sequence[Any], first_number: int) -> list[Message]:
        return list(rows)


def key_fields(key_field: str) -> list[str]:
    """The columns that an item's key field names."""
    return [name.strip() for name in key_field.split(",")]


def _not_finite(rows: Sequence[Row] | JsonRows, numbers: Sequence[int] | None = None) -> int:
    """How many numbers of the rows, or of those with these numbers, JSON writes as null."""
    if isinstance(rows, JsonRows):
        nulled = rows.nulled
        return sum(nulled if numbers is None or not nulled else [nulled[each] for each in numbers])
    if numbers is not None:
        rows = [rows[number] for number in numbers]
    return sum(
        sum(map(is_not_finite, column))
        for column in zip(*rows, strict=True)
        if not FRACTIONS.isdisjoint(map(type, column))
    )


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
