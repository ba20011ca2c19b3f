"""JSON in and out of a call without rounding: a number in a message keeps every digit."""

import json
from datetime import UTC
from decimal import Decimal
from typing import Any, cast

from django.http import HttpRequest
from ninja.parser import Parser
from ninja.types import DictStrAny

from queryexport.values import JsonEncoder

# 1e999999999 is ten characters to send and a gigabyte to write out.
LARGEST_EXPONENT = 400
ENCODER = JsonEncoder(UTC, decimals_as_numbers=True)


class ExactParser(Parser):
    def parse_body(self, request: HttpRequest) -> DictStrAny:
        return cast(
            DictStrAny, json.loads(request.body, parse_float=_decimal, parse_constant=_refuse)
        )


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
