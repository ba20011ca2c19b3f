"""The one place that says how a database value looks in JSON."""

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from types import NoneType
from typing import Any
from uuid import UUID

import orjson

INT64 = range(-(2**63), 2**64)
WRITTEN_BY_ORJSON = frozenset({str, int, float, bool, date, UUID})
CONTAINERS = frozenset({list, tuple, dict, set, frozenset})
# Until Liberia gave up its 44 minutes and 30 seconds in January 1972, offsets could have seconds,
# which orjson leaves out.
ZONES_KEEP_TO_MINUTES = 1973
NETWORKS = (IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network)


class JsonEncoder:
    """Turns rows into JSON that loses nothing.

    Decimals become text with every digit (numbers with every digit, on request), integers of any
    size stay exact numbers, times are ISO 8601 with as many digits of a second as they need (a
    time without a zone is taken to be in `zone`), bytes are base64, NaN and infinity are null, a
    UUID and a network address are text, an interval is an ISO 8601 duration.

    Raises `TypeError` for a value with no such form, and for text that is not valid Unicode.
    """

    OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_NON_STR_KEYS
    OPTIONS_FOR_FLAT_ROWS = orjson.OPT_NON_STR_KEYS

    def __init__(self, zone: tzinfo, *, decimals_as_numbers: bool = False) -> None:
        self._zone = zone
        self._decimals_as_numbers = decimals_as_numbers

    def encode(self, record: Mapping[str, Any] | Sequence[Any]) -> bytes:
        try:
            return orjson.dumps(record, default=self.plain, option=self.OPTIONS)
        except TypeError:
            # orjson stops at integers over 64 bits without asking `default`.
            return orjson.dumps(wide_integers(record), default=self.plain, option=self.OPTIONS)

    def encode_rows(
        self, names: Sequence[str], rows: Sequence[Sequence[Any]], *, ending: bytes = b"}"
    ) -> list[bytes]:
        """Each row as `encode` would write it with those names, several times as fast.

        What needs a form of its own is found a column at a time, and most columns hold nothing
        of the kind. `ending` stands in for the brace that closes each object.
        """
        columns: list[Sequence[Any]] = list(zip(*rows, strict=True))
        assert len(columns) == len(names), "a row has one value per name"
        kinds = [set(map(type, column)) for column in columns]
        if any(not kind.isdisjoint(CONTAINERS) for kind in kinds):
            return self._one_by_one(names, rows, ending)
        for number, kind in enumerate(kinds):
            if write := self._writer(kind - {NoneType}):
                column = columns[number]
                columns[number] = [None if value is None else write(value) for value in column]
        dumps, plain, options = orjson.dumps, self.plain, self.OPTIONS_FOR_FLAT_ROWS
        try:
            # orjson's own result holds on to a kilobyte; as a copy, a thousand of them are made in
            # a tenth of the time.
            return [
                dumps(dict(zip(names, row)), plain, options)[:-1] + ending  # noqa: B905
                for row in zip(*columns, strict=True)
            ]
        except TypeError:
            return self._one_by_one(names, rows, ending)

    def _one_by_one(
        self, names: Sequence[str], rows: Sequence[Sequence[Any]], ending: bytes
    ) -> list[bytes]:
        return [self.encode(dict(zip(names, row, strict=True)))[:-1] + ending for row in rows]

    def _writer(self, kind: set[type]) -> Callable[[Any], Any] | None:
        """What has to be done to the values of a column before orjson may write them."""
        if kind <= WRITTEN_BY_ORJSON:
            return None
        return self._moment if kind == {datetime} else self._value

    def _moment(self, value: datetime) -> Any:
        """The moment itself where orjson gives it the form that `plain` does, which is faster."""
        if value.microsecond or value.year < ZONES_KEEP_TO_MINUTES:
            return self.plain(value)
        return value if value.tzinfo else value.replace(tzinfo=self._zone)

    def _value(self, value: Any) -> Any:
        return value if type(value) in WRITTEN_BY_ORJSON else self.plain(value)

    def plain(self, value: Any) -> Any:
        """The JSON form of a value that JSON does not know."""
        match value:
            case Decimal():
                return self._decimal(value)
            case datetime():
                return iso(value if value.tzinfo else value.replace(tzinfo=self._zone))
            case time():
                return iso(value)
            case date():
                return value.isoformat()
            case timedelta():
                return duration(value)
            case bytes() | bytearray() | memoryview():
                return base64.b64encode(value).decode()
            case set() | frozenset():
                return list(value)
        if isinstance(value, NETWORKS):
            return str(value)
        raise TypeError(f"a value of type {type(value).__name__} has no form in JSON")

    def _decimal(self, value: Decimal) -> Any:
        if not value.is_finite():
            return None
        digits = format(value, "f")
        return orjson.Fragment(digits) if self._decimals_as_numbers else digits


def iso(value: datetime | time) -> str:
    """ISO 8601 without the zeros that end a fraction of a second, as PostgreSQL writes it."""
    text = value.isoformat()
    if not value.microsecond:
        return text
    end = text.index(".") + 7
    return text[:end].rstrip("0") + text[end:]


def wide_integers(value: Any) -> Any:
    """`value` with every integer over 64 bits replaced by its exact digits."""
    match value:
        case dict():
            return {key: wide_integers(item) for key, item in value.items()}
        case list() | tuple():
            return [wide_integers(item) for item in value]
        case int() if value not in INT64:
            return orjson.Fragment(str(value))
    return value


def duration(value: timedelta) -> str:
    """An ISO 8601 duration in days and seconds, for example `P1DT3600S` or `-P0DT0.5S`."""
    sign, value = ("-", -value) if value < timedelta() else ("", value)
    fraction = f".{value.microseconds:06d}".rstrip("0") if value.microseconds else ""
    return f"{sign}P{value.days}DT{value.seconds}{fraction}S"


def is_finite(value: float | Decimal) -> bool:
    return value.is_finite() if isinstance(value, Decimal) else math.isfinite(value)
