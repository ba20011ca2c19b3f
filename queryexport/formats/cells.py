"""The cells of one column of a workbook: one type for all of them, decided as the values come.

A column takes the type of its first value. When a value comes that Excel cannot hold exactly in
that type, the column becomes text, and with it the cells that are written already, so that no cell
differs from its neighbours.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from enum import Enum, auto
from types import NoneType
from typing import Any
from unicodedata import east_asian_width

from queryexport.formats.cell_texts import NOT_NUMBERS, CellTexts
from queryexport.formats.serials import DAY_ZERO, FIRST_SAFE_DAY, LAST_DAY, read, serial

# What Excel keeps of a number: support.microsoft.com, "Excel specifications and limits".
EXACT_DIGITS = 15
MOST_EXACT: int = 10**EXACT_DIGITS
LARGEST_NUMBER = 9.99e307
SMALLEST_NUMBER = 2.2251e-308
# With more digits, Excel shows a number rounded or with an exponent, unless its format has places.
DIGITS_SHOWN = 11

# How many zeros stand behind the serial number of a time that had a zone: one, and another if it is
# the second one that its clocks show.
ZONED = 1

EMPTY = "<c/>"
WIDEST = 60
NOT_FINITE = "NaN or infinity to an empty cell"
MICROSECONDS = "times with microseconds to milliseconds"


class Kind(Enum):
    """The type of a column."""

    NUMBER = auto()
    BOOLEAN = auto()
    DATE = auto()
    MOMENT = auto()
    TIME = auto()
    DURATION = auto()
    TEXT = auto()


KINDS: Mapping[type, Kind] = {
    bool: Kind.BOOLEAN,
    int: Kind.NUMBER,
    float: Kind.NUMBER,
    Decimal: Kind.NUMBER,
    datetime: Kind.MOMENT,
    date: Kind.DATE,
    time: Kind.TIME,
    timedelta: Kind.DURATION,
}


class NotHeld(Exception):
    """Excel cannot hold a value in its own type."""


class ColumnCells:
    """Writes the cells of one column, a batch at a time, in the style numbered `style`.

    What is written is final once `finished` has looked at it. `conversions` counts the values that
    the finished cells do not hold as they were; what a cell can only hold replaced or cut, `texts`
    counts.
    """

    def __init__(self, style: int, zone: tzinfo, texts: CellTexts) -> None:
        self.style = style
        self.kind: Kind | None = None
        self.was: Kind | None = None
        self._widest = 0
        self.conversions: Counter[str] = Counter()
        self._texts = texts
        self._zone = zone
        self._zone_day_zero = DAY_ZERO.replace(tzinfo=zone)
        self._zoned = self._fractions = self._many_digits = self._floats = False
        self._places = 0
        self._forms: Mapping[Kind, Callable[[Any], str | int]] = {
            Kind.NUMBER: self._number,
            Kind.DATE: _day,
            Kind.MOMENT: self._moment,
            Kind.TIME: self._time,
            Kind.DURATION: self._duration,
        }

    def cells(self, values: Sequence[Any]) -> list[str]:
        """The cells as XML; raises `TypeError` or `ValueError` for a value that has no form in one.

        After an error, the column cannot be used any more.
        """
        types = set(map(type, values))
        types.discard(NoneType)
        if not types:
            return [EMPTY] * len(values)
        kind = self._kind_with(types)
        if kind is not Kind.TEXT:
            try:
                cells = self._typed(kind, values, types)
            except NotHeld:
                kind = Kind.TEXT
        if kind is Kind.TEXT:
            cells = self._as_texts(values, types)
            self._become_text()
        self.kind = kind
        return cells

    def measure(self, values: Sequence[Any]) -> None:
        """Learns how wide the column has to be for these values."""
        cell_texts = CellTexts(self._zone)  # Which counts apart: nothing of this is written.
        texts = (cell_texts.of(value)[:WIDEST] for value in values if value is not None)
        self._widest = max(self._widest, *(width_of(text) for text in texts), 0)

    @property
    def width(self) -> int:
        """How many digits wide the column has to be for what was measured."""
        if self.kind in (Kind.TEXT, Kind.NUMBER):
            return self._widest
        return len(self.number_format)

    @property
    def number_format(self) -> str:
        """In which form Excel shows the cells."""
        fraction = ".000" if self._fractions else ""
        match self.kind:
            case Kind.TEXT:
                return "@"
            case Kind.DATE:
                return "yyyy-mm-dd"
            case Kind.MOMENT:
                zone = f' "{self._zone}"' if self._zoned else ""
                return f"yyyy-mm-dd hh:mm:ss{fraction}{zone}"
            case Kind.TIME:
                return f"hh:mm:ss{fraction}"
            case Kind.DURATION:
                return f"[h]:mm:ss{fraction}"
            case Kind.NUMBER if self._many_digits and not self._floats:
                return f"0.{'0' * self._places}" if self._places else "0"
        return "General"

    @property
    def is_finished(self) -> bool:
        """Whether the cells are final as they were written."""
        return self.was is None and not self.conversions[NOT_FINITE]

    def finished(self, written: str) -> str:
        """The final cell of one that was written with this content before the type was known."""
        if self.was is not None:
            return text_cell(self.style, self._text_of_written(written))
        return EMPTY if written in NOT_NUMBERS else number_cell(self.style, written)

    def _kind_with(self, types: set[type]) -> Kind:
        kinds = {_kind_of(each) for each in types}
        if self.kind:
            kinds.add(self.kind)
        if kinds == {Kind.DATE, Kind.MOMENT}:
            return Kind.MOMENT
        return kinds.pop() if len(kinds) == 1 else Kind.TEXT

    def _become_text(self) -> None:
        if self.kind is not Kind.TEXT:
            self.was = self.kind
            self.conversions.clear()

    def _typed(self, kind: Kind, values: Sequence[Any], types: set[type]) -> list[str]:
        """The cells of such a column; raises `NotHeld`."""
        if kind is Kind.BOOLEAN:
            true, false = (f'<c s="{self.style}" t="b"><v>{bit}</v></c>' for bit in (1, 0))
            return [EMPTY if v is None else true if v else false for v in values]
        if types == {int}:
            return self._integers(values)
        start, end = number_cell(self.style, "\0").split("\0")
        form = self._forms[kind]
        return [EMPTY if v is None else f"{start}{form(v)}{end}" for v in values]

    def _integers(self, values: Sequence[Any]) -> list[str]:
        distinct = set(values) - {None}
        most = max(max(distinct), -min(distinct))
        if most >= MOST_EXACT:
            raise NotHeld
        self._many_digits |= most >= 10**DIGITS_SHOWN
        cells = {v: number_cell(self.style, v) for v in distinct} | {None: EMPTY}
        return [cells[v] for v in values]

    def _number(self, value: Any) -> str:
        text = self._texts.of(value)
        if isinstance(value, float) or "E" in text:
            self._floats = True
        elif "." in text:
            self._places = max(self._places, len(text) - text.index(".") - 1)
        if text in NOT_NUMBERS:
            self.conversions[NOT_FINITE] += 1
        elif len(text) > DIGITS_SHOWN or self._floats:
            self._many_digits = True
            if not _is_exact(value, text):
                raise NotHeld
        return text

    def _moment(self, value: Any) -> str | int:
        if not isinstance(value, datetime):
            return _day(value)
        if value.tzinfo is None:
            since, zeros = value - DAY_ZERO, 0
        else:
            try:
                local = value.astimezone(self._zone)
            except OverflowError as error:  # Of a zone in which that date does not exist.
                raise NotHeld from error
            # Of one zone, two times differ by what its clocks show.
            since, zeros = local - self._zone_day_zero, ZONED + local.fold
            self._zoned = True
        if since.days < FIRST_SAFE_DAY:
            raise NotHeld
        return self._serial(since, zeros)

    def _time(self, value: time) -> str:
        if value.tzinfo is not None:
            raise NotHeld
        seconds = value.hour * 3600 + value.minute * 60 + value.second
        return self._serial(timedelta(0, seconds, value.microsecond))

    def _duration(self, value: timedelta) -> str:
        if not 0 <= value.days <= LAST_DAY:  # Excel shows a negative one as a row of #.
            raise NotHeld
        return self._serial(value)

    def _serial(self, value: timedelta, zeros: int = 0) -> str:
        if value.microseconds:
            self._fractions = True
            if value.microseconds % 1000:
                self.conversions[MICROSECONDS] += 1
        return serial(value, zeros)

    def _as_texts(self, values: Sequence[Any], types: set[type]) -> list[str]:
        if types != {str}:
            values = [None if v is None else self._texts.of(v) for v in values]
        start, end = text_cell(self.style, "\0").split("\0")
        return [EMPTY if v is None else f"{start}{v}{end}" for v in self._texts.escaped_all(values)]

    def _text_of_written(self, written: str) -> str:
        """The text of a value of which only the content of its cell is left."""
        match self.was:
            case Kind.NUMBER:
                return written
            case Kind.BOOLEAN:
                return self._texts.of(written == "1")
        since, zeros = read(written)
        moment = DAY_ZERO + since
        match self.was:
            case Kind.DURATION:
                return self._texts.of(since)
            case Kind.TIME:
                return self._texts.of(moment.time())
        if "." not in written:
            return self._texts.of(moment.date())
        if zeros:
            moment = moment.replace(tzinfo=self._zone, fold=zeros - ZONED)
        return self._texts.of(moment)


def text_cell(style: int, text: str) -> str:
    """A cell that holds this text, escaped already, and nothing else that it may look like."""
    return f'<c s="{style}" t="inlineStr"><is><t xml:space="preserve">{text}</t></is></c>'


def number_cell(style: int, number: str | int) -> str:
    return f'<c s="{style}"><v>{number}</v></c>'


def width_of(text: str) -> int:
    """In digits, the width of the longest line of a text."""
    return max((_line_width(line) for line in text.splitlines()), default=0)


def _line_width(line: str) -> int:
    return len(line) + sum(east_asian_width(character) in "WF" for character in line)


def _kind_of(type_: type) -> Kind:
    return next((KINDS[each] for each in type_.__mro__ if each in KINDS), Kind.TEXT)


def _is_exact(value: float | Decimal, text: str) -> bool:
    """Whether Excel keeps this finite number. Of a float, it keeps all of the bits."""
    if isinstance(value, int):
        return -MOST_EXACT < value < MOST_EXACT
    if isinstance(value, Decimal) and len(text) > EXACT_DIGITS:
        digits = text.partition("E")[0].lstrip("-").replace(".", "").strip("0")
        if len(digits) > EXACT_DIGITS:
            return False
    size = abs(float(value))
    return SMALLEST_NUMBER <= size <= LARGEST_NUMBER or not value


def _day(value: date) -> int:
    day = value.toordinal() - DAY_ZERO.toordinal()
    if day < FIRST_SAFE_DAY:
        raise NotHeld
    return day
