"""What the cells of a filled template hold of values, one cell at a time."""

import re
from collections import Counter
from datetime import date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from typing import Any

from queryexport.formats.serials import DAY_ZERO, serial
from queryexport.formats.texts import Texts
from queryexport.values import is_finite

# Excel's own limits: support.microsoft.com, "Excel specifications and limits".
LONGEST_TEXT = 32_767  # UTF-16 units.
EXACT_DIGITS = 15
MOST_EXACT = 10**EXACT_DIGITS
LARGEST_NUMBER = 9.99e307
FIRST_SAFE_DATE = date(1900, 3, 1)  # Excel believes in a 29 February 1900.

# What XML 1.0 cannot hold, and what Excel reads as its own escape of such a character.
UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
ESCAPE = re.compile("_(?=x[0-9A-Fa-f]{4}_)")
CARRIAGE_RETURN = "_x000D_"  # Which XML would turn into a line feed.

REPLACED = "texts with characters that Excel cannot hold to texts with � in their place"
CUT = "texts over 32,767 characters to their beginning"
NOT_FINITE = "NaN or infinity to an empty cell"
MICROSECONDS = "times with microseconds to milliseconds"
TO_TEXT = "numbers over 15 digits and times that Excel cannot count to text"


class CellValues:
    """Gives openpyxl the value of each cell; counts what a cell cannot hold as it was.

    Numbers, dates, times, intervals and booleans keep their type, and a time with a zone is shown
    in `zone`. A number of over 15 digits, a date before March 1900, a time of day with a zone and a
    negative interval become text, NaN and infinity an empty cell. Everything else is the text of
    `Texts`. What XML cannot hold is replaced, and what is too long for a cell cut. Readers round a
    time to milliseconds, which counts where it changes one.
    """

    def __init__(self, zone: tzinfo) -> None:
        self.conversions: Counter[str] = Counter()
        self._zone = zone
        self._texts = Texts(zone)

    def cell(self, value: Any) -> Any:
        """The value of a cell; raises `TypeError` when there is none."""
        match value:
            case None | bool():
                return value
            case str():
                return self.text(value)
            case int() | float() | Decimal():
                return self._number(value)
            case datetime():
                return self._moment(value)
            case date():
                return value if value >= FIRST_SAFE_DATE else self._as_text(value)
            case time():
                return self._as_text(value) if value.tzinfo else self._rounded(value)
            case timedelta():
                return self._as_text(value) if value < timedelta() else self._rounded(value)
        return self.text(self._texts.text(value))

    def text(self, value: str) -> str:
        """The text as openpyxl has to be given it."""
        if UNWRITABLE.search(value):
            self.conversions[REPLACED] += 1
            value = UNWRITABLE.sub("\ufffd", value)
        if 2 * len(value) > LONGEST_TEXT:
            value = self._fitting(value)
        return ESCAPE.sub("_x005F_", value).replace("\r", CARRIAGE_RETURN)

    def _fitting(self, value: str) -> str:
        units = value.encode("utf-16-le")
        length = len(units) // 2
        if length <= LONGEST_TEXT:
            return value
        self.conversions[CUT] += 1
        mark = f"… [cut, {length:,} characters]"
        # Of a character of two units, a half may be left at the end.
        return units[: 2 * (LONGEST_TEXT - len(mark))].decode("utf-16-le", errors="ignore") + mark

    def _as_text(self, value: Any) -> str:
        self.conversions[TO_TEXT] += 1
        return self.text(self._texts.text(value))

    def _number(self, value: int | float | Decimal) -> Any:
        if isinstance(value, int):
            return value if -MOST_EXACT < value < MOST_EXACT else self._as_text(value)
        if not is_finite(value):
            self.conversions[NOT_FINITE] += 1
            return None
        return value if _is_exact(value) else self._as_text(value)

    def _moment(self, value: datetime) -> Any:
        try:
            local = value.astimezone(self._zone).replace(tzinfo=None) if value.tzinfo else value
        except OverflowError:  # At the ends of the calendar the zone's date does not exist.
            return self._as_text(value)
        return self._rounded(local) if local.date() >= FIRST_SAFE_DATE else self._as_text(value)

    def _rounded(self, value: Any) -> Any:
        microseconds = value.microseconds if isinstance(value, timedelta) else value.microsecond
        if microseconds % 1000:
            self.conversions[MICROSECONDS] += 1
        return value


def stored(value: Any) -> str | None:
    """The digits that stand in the file for a number or a time which openpyxl would round."""
    match value:
        case float() | Decimal():
            return str(value)
        case datetime():
            return serial(value - DAY_ZERO)
        case time():
            return serial(datetime.combine(DAY_ZERO, value) - DAY_ZERO)
        case timedelta():
            return serial(value)
    return None


def _is_exact(value: float | Decimal) -> bool:
    """Whether Excel holds a number as it is."""
    if not -LARGEST_NUMBER <= value <= LARGEST_NUMBER:
        return False
    if isinstance(value, float):
        return True
    return len(value.as_tuple().digits) <= EXACT_DIGITS or _digits(value) <= EXACT_DIGITS


def _digits(value: Decimal) -> int:
    """How many digits a decimal has without the zeros at its ends, whatever the context says."""
    return len("".join(map(str, value.as_tuple().digits)).strip("0"))
