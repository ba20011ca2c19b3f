"""Turns a row into a Kafka message: its key, its JSON value, and the metadata it travels with."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from queryexport.errors import ConfigurationError, DeliveryError
from queryexport.rows import Column, Row
from queryexport.values import NETWORKS, JsonEncoder

METADATA = "_metadata"
TEXT_BY_ENCODER = (date, time, timedelta, bytes, bytearray, memoryview, *NETWORKS)


class Message(NamedTuple):
    """What one row is on the wire."""

    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


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
    to the same partition. The value is a JSON object with the column names, and `_metadata` last
    when there is an `envelope`. A time without a zone is taken to be in `zone`.

    Raises `ConfigurationError` when the columns do not fit, before any row is touched.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        key_field: str,
        *,
        envelope: Envelope | None,
        zone: tzinfo,
    ) -> None:
        self._names = tuple(column.name for column in columns)
        self._key_field = key_field
        self._key_index = _index(self._names, key_field)
        self._encoder = JsonEncoder(zone)
        self._metadata: dict[str, Any] = {}
        if envelope:
            _refuse_metadata_column(self._names)
            # Encoded once: every row of the run carries the same bytes.
            self._metadata = {METADATA: orjson.Fragment(envelope.encoded())}

    def build(self, row: Row, number: int) -> Message:
        """The message of the row with that 1-based number.

        Raises `DeliveryError` for a key that is NULL and for a value that JSON cannot hold.
        """
        key = row[self._key_index]
        key_bytes = key.encode() if type(key) is str and key.isascii() else self._key(key, number)
        try:
            value = self._encoder.encode(dict(zip(self._names, row, strict=True), **self._metadata))
        except TypeError as error:
            raise self._unencodable(row, number) from error
        return Message(key_bytes, value)

    def _key(self, value: Any, number: int) -> bytes:
        if value is None:
            raise DeliveryError(
                f"Row {number} has NULL in its key column “{self._key_field}”, so it cannot be "
                "sent. Choose a key column that is never NULL, or leave such rows out in the query."
            )
        try:
            return key_text(value, self._encoder).encode()
        except (TypeError, ValueError) as error:
            raise DeliveryError(
                f"Row {number} cannot be sent: the value of its key column “{self._key_field}” has "
                f"the type {type(value).__name__} and no stable text ({error}). "
                "Cast it to text in the query."
            ) from error

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
