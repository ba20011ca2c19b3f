"""The text of a cell: what it says of a value, and how a workbook must hold it."""

import re
from collections import Counter
from collections.abc import Sequence
from datetime import tzinfo
from decimal import Decimal
from typing import Any

from queryexport.formats.texts import Texts, number

LONGEST_TEXT = 32_767  # UTF-16 units: support.microsoft.com, "Excel specifications and limits".
# A decimal that would need more zeros than that is written with its exponent.
MOST_PLACES = 100
NOT_NUMBERS = frozenset({"NaN", "Infinity", "-Infinity"})

# What XML 1.0 cannot hold, and what Excel reads as its own escape of a character.
UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
UNWRITABLE_BUT_NUL = re.compile("[\x01-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
ESCAPE, ESCAPED = re.compile("_(?=x[0-9A-Fa-f]{4}_)"), "_x005F_"
CARRIAGE_RETURN = "_x000D_"  # Which XML would turn into a line feed.
SURROGATE = re.compile("[\ud800-\udfff]")
REPLACEMENT = "\ufffd"

REPLACED = "texts with characters that Excel cannot hold to texts with � in their place"
CUT = "texts over 32,767 characters to their beginning"


class CellTexts:
    """The texts of a workbook whose times are those of `zone`: in the form of `Texts`, and every
    one in a form that Excel opens. `conversions` counts those that had to change for it.
    """

    def __init__(self, zone: tzinfo) -> None:
        self.conversions: Counter[str] = Counter()
        self._texts = Texts(zone)

    def of(self, value: Any) -> str:
        """What a cell says of a value; raises `TypeError` or `ValueError` when it has no text."""
        match value:
            case str():
                return str.__str__(value)
            case Decimal() | float():
                return number_text(value)
            case list() | tuple() | dict() | set() | frozenset():
                return self._json(value)
        return self._texts.text(value)

    def escaped_all(self, texts: Sequence[str | None]) -> Sequence[str | None]:
        """Each text as a workbook must hold it."""
        present = [text for text in texts if text is not None]
        joined = "\0".join(present)
        is_long = 2 * len(joined) > LONGEST_TEXT and 2 * max(map(len, present)) > LONGEST_TEXT
        if is_long or UNWRITABLE_BUT_NUL.search(joined) or joined.count("\0") != len(present) - 1:
            return [None if text is None else self.escaped(text) for text in texts]
        escaped = _escaped(joined)
        if escaped == joined:
            return texts
        each = iter(escaped.split("\0"))
        return [None if text is None else next(each) for text in texts]

    def escaped(self, text: str) -> str:
        """The text as a workbook must hold it."""
        return _escaped(self.fitted(text))

    def fitted(self, text: str) -> str:
        """The text without what Excel cannot hold of it."""
        text, replaced = UNWRITABLE.subn(REPLACEMENT, text)
        self.conversions[REPLACED] += bool(replaced)
        return self._fitting(text) if 2 * len(text) > LONGEST_TEXT else text

    def _fitting(self, text: str) -> str:
        units = text.encode("utf-16-le")
        length = len(units) // 2
        if length <= LONGEST_TEXT:
            return text
        self.conversions[CUT] += 1
        mark = f"… [cut, {length:,} characters]"
        kept = units[: 2 * (LONGEST_TEXT - len(mark))]
        # Of a character of two units, one may be left at the end.
        return kept.decode("utf-16-le", errors="ignore") + mark

    def _json(self, value: Any) -> str:
        try:
            return self._texts.text(value)
        except TypeError:
            text = self._texts.text(_mended(value))
        self.conversions[REPLACED] += 1
        return text


def number_text(value: float | Decimal) -> str:
    """Every digit, or the word for what has none."""
    if not isinstance(value, Decimal):
        return number(float(value))
    text = str(value)
    if "E" in text and -MOST_PLACES < value.adjusted() < MOST_PLACES:
        return format(value, "f")
    return text if value.is_finite() else number(value)


def _escaped(text: str) -> str:
    return (
        (ESCAPE.sub(ESCAPED, text) if "_x" in text else text)
        .replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
        .replace("\r", CARRIAGE_RETURN)
    )


def _mended(value: Any) -> Any:
    """The same with a replacement for what is no Unicode."""
    match value:
        case str():
            return SURROGATE.sub(REPLACEMENT, value)
        case dict():
            return {_mended(key): _mended(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_mended(item) for item in value]
    return value
