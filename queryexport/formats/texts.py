"""How a database value looks as text, for the formats that have no type of their own for it."""

import base64
import math
from collections.abc import Callable, Collection, Sequence
from datetime import date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from typing import Any
from uuid import UUID

from queryexport.errors import DeliveryError
from queryexport.rows import Row
from queryexport.values import NETWORKS, JsonEncoder, duration, is_finite, iso


class Texts:
    """Gives every value one text that loses nothing.

    Numbers have all their digits, NaN and infinity are the words `NaN`, `Infinity` and
    `-Infinity`, booleans are `true` and `false`, times are ISO 8601 (a time with a zone is shown in
    `zone` with its offset, one without has none), an interval is an ISO 8601 duration, bytes are
    base64, lists and objects are JSON, a UUID and a network address are themselves.

    Raises `TypeError` for a value with no such form.
    """

    def __init__(self, zone: tzinfo) -> None:
        self._zone = zone
        self._json = JsonEncoder(zone)

    def text(self, value: Any) -> str:
        match value:
            case str():
                return value
            case bool():
                return "true" if value else "false"
            case int() | UUID():
                return str(value)
            case float() | Decimal():
                return number(value)
            case datetime():
                return self.moment(value)
            case time():
                return iso(value)
            case date():
                return value.isoformat()
            case timedelta():
                return duration(value)
            case bytes() | bytearray() | memoryview():
                return base64.b64encode(value).decode()
            case list() | tuple() | dict() | set() | frozenset():
                return self._json.encode(_listed(value)).decode()
        if isinstance(value, NETWORKS):
            return str(value)
        raise TypeError(f"a value of type {type(value).__name__} has no form as text")

    def moment(self, value: datetime) -> str:
        if value.tzinfo is None:
            return iso(value)
        try:
            return iso(value.astimezone(self._zone))
        except OverflowError:  # At the ends of the calendar the zone's date does not exist.
            return iso(value)


def number(value: float | Decimal) -> str:
    """Every digit, or the word for what has none."""
    if is_finite(value):
        return format(value, "f") if isinstance(value, Decimal) else repr(value)
    if value.is_nan() if isinstance(value, Decimal) else math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, set | frozenset) else value


def refuse_repeated_names(names: Sequence[str], what: str) -> None:
    """Raises `DeliveryError` when `what` would lose a column that shares its name with another."""
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DeliveryError(
            f"The query returns more than one column called {', '.join(map(ascii, repeated))}, of "
            f"which {what} would keep one. Give each column a name of its own with AS."
        )


def unwritable(
    names: Sequence[str],
    rows: Sequence[Row],
    first_number: int,
    form: Callable[[str, Any], object],
    place: str,
) -> DeliveryError:
    """The error for the first value of the rows for which `form(name, value)` raises.

    The rows' 1-based numbers begin at `first_number`; `place` says what could not hold the value.
    """
    for row_number, row in enumerate(rows, first_number):
        for name, value in zip(names, row, strict=True):
            try:
                form(name, value)
            except (TypeError, ValueError, OverflowError) as error:
                return DeliveryError(
                    f"Row {row_number}, column {name}, cannot be written to {place}: "
                    f"{_reason(error)}. Convert or clean the column in the query."
                )
    return DeliveryError(
        f"Row {first_number}, or one of the {len(rows) - 1} rows after it, cannot be written to "
        f"{place}. Cast its columns to text in the query."
    )


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeEncodeError):
        return f"the text holds {error.object[error.start]!a}, which is no Unicode character"
    return str(error)


def counted(conversions: dict[str, int], what: str, count: int) -> None:
    """Adds to a count, which begins to exist with the first."""
    if count:
        conversions[what] = conversions.get(what, 0) + count


def holds_any(text: str, characters: Collection[str]) -> bool:
    return any(character in text for character in characters)
