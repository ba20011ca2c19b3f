"""The one place that says how a database value looks in JSON."""

import base64
import math
from collections.abc import Mapping, Sequence
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
from typing import Any

import orjson

INT64 = range(-(2**63), 2**64)
NETWORKS = (IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network)


class JsonEncoder:
    """Turns rows into JSON that loses nothing.

    Decimals become text with every digit (numbers with every digit, on request), integers of any
    size stay exact numbers, times are ISO 8601 (a time without a zone is taken to be in `zone`),
    bytes are base64, NaN and infinity
    are null, a UUID and a network address are text, an interval is an ISO 8601 duration.

    Raises `TypeError` for a value with no such form, and for text that is not valid Unicode.
    """

    OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_NON_STR_KEYS

    def __init__(self, zone: tzinfo, *, decimals_as_numbers: bool = False) -> None:
        self._zone = zone
        self._decimals_as_numbers = decimals_as_numbers

    def encode(self, record: Mapping[str, Any] | Sequence[Any]) -> bytes:
        try:
            return orjson.dumps(record, default=self.plain, option=self.OPTIONS)
        except TypeError:
            # orjson stops at integers over 64 bits without asking `default`.
            return orjson.dumps(wide_integers(record), default=self.plain, option=self.OPTIONS)

    def plain(self, value: Any) -> Any:
        """The JSON form of a value that JSON does not know."""
        match value:
            case Decimal():
                return self._decimal(value)
            case datetime():
                return (value if value.tzinfo else value.replace(tzinfo=self._zone)).isoformat()
            case date() | time():
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
