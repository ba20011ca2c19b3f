"""What a watermark can be: its text and its value, and where the rows of a run end."""

import re
from datetime import UTC, date, datetime, time, tzinfo
from decimal import Decimal
from typing import Any, TypeAlias, assert_never

from queryexport.errors import ConfigurationError
from scheduling.models import WatermarkKind

Value: TypeAlias = date | int | Decimal | str  # A datetime is a date, too.

LONGEST = 200
TIME = re.compile(
    r"\d{4}-\d\d-\d\d"
    r"(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?"
    r"(?:Z|[+-]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?)?)?",
    re.ASCII,
)
NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d{1,5})?", re.ASCII)

# What no value of the kind lies above. The number is the greatest that a 64-bit column can hold.
LAST_NUMBER = 2**63 - 1
LAST_TIME = datetime.max  # noqa: DTZ901
LAST_TEXT = "9999-12-31 23:59:59"

EXAMPLES = {
    WatermarkKind.TIME: "2026-11-23, 2026-11-23T08:00:00 or 2026-11-23T08:00:00+01:00",
    WatermarkKind.NUMBER: "120 or 120.50",
    WatermarkKind.TEXT: "2026-11-23 08:00:00",
}


def parse(kind: str, text: str) -> Value:
    """The value that a text stands for. Raises `ConfigurationError` when it is none of the kind.

    A time has an offset (an aware datetime), or none (a naive one), or is only a date. A number is
    an `int`, or a `Decimal` with all of its digits. Text is kept as it is. What lies above the far
    end is refused, because no row would ever be new.
    """
    chosen = WatermarkKind(kind)
    match chosen:
        case WatermarkKind.TIME:
            value: Value | None = _time(text.strip())
        case WatermarkKind.NUMBER:
            value = _number(text.strip())
        case WatermarkKind.TEXT:
            value = text if _can_be_kept(text) and text <= LAST_TEXT else None
        case _:
            assert_never(chosen)
    if value is None:
        raise ConfigurationError(
            f"“{text}” cannot be a watermark of the kind “{chosen.label}”. "
            f"Write for example {EXAMPLES[chosen]}."
        )
    return value


def write(value: Value) -> str:
    """The text that `parse` turns back into an equal value, of the same type and convention.

    A `Decimal` whose digits are those of an integer comes back as that integer.
    """
    return value.isoformat() if isinstance(value, date) else str(value)


def far_end(mark: Value) -> Value:
    """What no row of the kind lies above, in the convention of the mark."""
    match mark:
        case datetime():
            return LAST_TIME.replace(tzinfo=UTC if mark.tzinfo else None)
        case date():
            return LAST_TIME.date()
        case Decimal():
            return Decimal(LAST_NUMBER)
        case int():
            return LAST_NUMBER
        case str():
            return LAST_TEXT
        case _:
            assert_never(mark)


def of_kind(kind: str, column: str, found: Any) -> Value:
    """A value from a database, as `parse` would give it. Raises `ConfigurationError` for one that
    is not of the kind, or cannot be kept exactly.
    """
    if (actual := _kind_of(found)) != kind:
        raise ConfigurationError(
            f"The column {column} holds {_words(found)}, but the item's watermark is of the kind "
            f"“{WatermarkKind(kind).label}”. {_advice(column, actual)}"
        )
    value: Value = found
    if not _can_be_kept(write(value)):
        raise ConfigurationError(
            f"The greatest {column} cannot be kept as a watermark: it has more than {LONGEST} "
            "characters, or a NUL among them. Choose another column."
        )
    return parse(kind, write(value))


def upper_bound(
    newest: Value | None, mark: Value, *, column: str, not_after: datetime | None, zone: tzinfo
) -> Value:
    """Where the rows of a run end: at the newest value, or at `not_after` when that is earlier.

    Never below the mark. `not_after` is an aware moment; a time without an offset is compared with
    its wall time in `zone`, and a date with its day there. Raises `ConfigurationError` when the
    newest value lies below the mark, or only one of the two has an offset.
    """
    if newest is None:
        return mark
    if _is_below(newest, mark, column):
        raise ConfigurationError(
            f"The greatest {column} that the query gives is {write(newest)}, which lies before the "
            f"watermark {write(mark)}. Its condition must compare the column {column} itself with "
            ":watermark_from and :watermark_to."
        )
    if not_after is None or not isinstance(newest, date):
        return newest
    end = _like(newest, not_after, zone)
    if not _is_below(end, newest, column):
        return newest
    return mark if _is_below(end, mark, column) else end


def _time(text: str) -> date | None:
    if not TIME.fullmatch(text):
        return None
    try:
        return date.fromisoformat(text) if len(text) == 10 else datetime.fromisoformat(text)
    except ValueError:  # For example the 30th of February.
        return None


def _number(text: str) -> int | Decimal | None:
    if not NUMBER.fullmatch(text) or len(text) > LONGEST:
        return None
    whole = text.lstrip("+-").isdigit()
    number = int(text) if whole else Decimal(text)
    return number if -LAST_NUMBER <= number <= LAST_NUMBER else None


def _can_be_kept(text: str) -> bool:
    return 0 < len(text) <= LONGEST and "\x00" not in text


def _kind_of(found: Any) -> WatermarkKind | None:
    match found:
        case date():
            return WatermarkKind.TIME
        case bool():
            return None
        case int() | Decimal():
            return WatermarkKind.NUMBER
        case str():
            return WatermarkKind.TEXT
        case _:
            return None


def _words(found: Any) -> str:
    match found:
        case date():
            return f"times such as {found.isoformat()}"
        case bool():
            return "truth values"
        case int() | Decimal() | float():
            return f"numbers such as {found}"
        case str():
            return f"text such as “{found[:40]}”"
        case _:
            return f"values of the type {type(found).__name__}"


def _advice(column: str, actual: WatermarkKind | None) -> str:
    if actual:
        return f"Choose the kind “{actual.label}” in the item, or another column."
    return (
        "Choose another column, or convert it in the query, for example CAST(… AS DECIMAL(20, 6)) "
        f"AS {column}, and compare the same expression in its condition."
    )


def _like(newest: date, moment: datetime, zone: tzinfo) -> date:
    """The moment as a column would hold it whose newest value is that."""
    if isinstance(newest, datetime) and newest.tzinfo:
        return moment.astimezone(newest.tzinfo)
    wall = moment.astimezone(zone).replace(tzinfo=None)
    return wall if isinstance(newest, datetime) else wall.date()


def _is_below(one: Value, other: Value, column: str) -> bool:
    """Text is left to the database, which has its own order of characters."""
    match one, other:
        case (date(), date()):
            first, second = _moment(one), _moment(other)
            if bool(first.tzinfo) != bool(second.tzinfo):
                raise ConfigurationError(_mixed(one, other, column))
            return first < second
        case (int() | Decimal(), int() | Decimal()):
            return one < other
        case _:
            return False


def _moment(value: date) -> datetime:
    """A date is its first instant, as databases take it where they compare it with a time."""
    return value if isinstance(value, datetime) else datetime.combine(value, time.min)


def _mixed(newest: date, mark: date, column: str) -> str:
    needed = "with an offset, such as +00:00" if _moment(newest).tzinfo else "without an offset"
    return (
        f"The column {column} gives times such as {write(newest)}, and the watermark is "
        f"{write(mark)}: one has an offset from UTC and the other has none, so they cannot be "
        f"compared. Set the watermark again, {needed}, on its page."
    )
