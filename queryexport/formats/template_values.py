"""What the cells of a filled template hold of values, one cell at a time."""

from collections import Counter
from datetime import date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from typing import Any

from queryexport.formats.cell_texts import CARRIAGE_RETURN, ESCAPE, ESCAPED, CellTexts
from queryexport.formats.cells import (
    EXACT_DIGITS,
    LARGEST_NUMBER,
    MICROSECONDS,
    MOST_EXACT,
    NOT_FINITE,
)
from queryexport.formats.serials import DAY_ZERO, serial
from queryexport.formats.texts import Texts
from queryexport.values import is_finite

FIRST_SAFE_DATE = date(1900, 3, 1)  # Excel believes in a 29 February 1900.
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
        self._zone = zone
        self._texts = Texts(zone)
        self._fitted = CellTexts(zone)
        self._own: Counter[str] = Counter()

    @property
    def conversions(self) -> dict[str, int]:
        return dict(self._own + self._fitted.conversions)

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
        return ESCAPE.sub(ESCAPED, self._fitted.fitted(value)).replace("\r", CARRIAGE_RETURN)

    def _as_text(self, value: Any) -> str:
        self._own[TO_TEXT] += 1
        return self.text(self._texts.text(value))

    def _number(self, value: int | float | Decimal) -> Any:
        if isinstance(value, int):
            return value if -MOST_EXACT < value < MOST_EXACT else self._as_text(value)
        if not is_finite(value):
            self._own[NOT_FINITE] += 1
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
            self._own[MICROSECONDS] += 1
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
