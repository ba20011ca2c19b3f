"""JSON in and out of a message without rounding: a number keeps every digit."""

import json
from datetime import UTC
from decimal import Decimal
from typing import Any

from queryexport.values import JsonEncoder

# 1e999999999 is ten characters to send and a gigabyte to write out.
LARGEST_EXPONENT = 400
ENCODER = JsonEncoder(UTC, decimals_as_numbers=True)


def exact(text: str | bytes) -> Any:
    """JSON with every digit of its numbers; raises `ValueError` for what is none."""
    try:
        return json.loads(text, parse_float=_decimal, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def encoded(value: Any) -> bytes:
    """Text as it is, anything else as JSON; raises `ValueError` for what is not valid Unicode."""
    try:
        return value.encode() if isinstance(value, str) else ENCODER.encode(value)
    except (TypeError, UnicodeError) as error:
        raise ValueError("not valid Unicode, or nested too deeply") from error


def _decimal(text: str) -> Decimal:
    number = Decimal(text)
    if abs(number.adjusted()) > LARGEST_EXPONENT:
        raise ValueError(f"{text[:40]} is out of range")
    return number


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
