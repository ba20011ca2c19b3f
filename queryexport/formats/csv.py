"""CSV by RFC 4180: NULL and empty text differ, and no text runs as a formula."""

import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, tzinfo
from decimal import Decimal
from types import NoneType
from typing import IO, Any
from uuid import UUID

from queryexport.errors import ConfigurationError, DeliveryError
from queryexport.formats import Written
from queryexport.formats.texts import Texts, counted, holds_any, number, unwritable
from queryexport.rows import Result, Row

DELIMITERS = (",", ";", "\t", "|")
ENCODINGS = (
    "utf-8", "utf-8-sig", "utf-16", "cp1250", "cp1251", "cp1252", "cp1253", "cp1254",
    "iso-8859-1", "iso-8859-2", "iso-8859-9", "iso-8859-15", "ascii", "gb18030", "big5",
    "shift_jis", "euc-kr",
)  # fmt: skip
# What makes a spreadsheet program take a cell for a formula: OWASP, "CSV Injection".
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
DEFUSED = "apostrophe before text that starts like a formula"
WRITTEN_BY_STR = frozenset({int, date, UUID})
NEVER_FORMULAS = (bool, int, float, Decimal, date, datetime, UUID)


@dataclass(frozen=True)
class CsvDialect:
    """How a CSV file is written. Raises `ConfigurationError` for what no file can be.

    `delimiter` and `encoding` are one of `DELIMITERS` and `ENCODINGS`; utf-8-sig and utf-16 begin
    with a byte order mark. With `decimal_comma`, numbers are written as `1,5`. Lines end with CRLF,
    as RFC 4180 has it, or with `line_feed` alone. With `formula_safe`, text that starts like a
    formula has an apostrophe before it.
    """

    delimiter: str = ","
    encoding: str = "utf-8"
    decimal_comma: bool = False
    line_feed: bool = False
    formula_safe: bool = True

    def __post_init__(self) -> None:
        if self.delimiter not in DELIMITERS:
            raise ConfigurationError(
                f"A CSV file cannot have {self.delimiter!a} between its columns. "
                "Choose a comma, a semicolon, a tab or a vertical bar."
            )
        if self.encoding not in ENCODINGS:
            raise ConfigurationError(
                f"The encoding {self.encoding!a} of a CSV file is not known here. "
                f"Choose one of {', '.join(ENCODINGS)}."
            )


DEFAULT_DIALECT = CsvDialect()


class Csv:
    """A line of column names, then a line for each row. Memory is that of one batch.

    A field is quoted when it holds the delimiter, a quote or a line end, and a quote in it is
    doubled. NULL is nothing at all, empty text is `""`. The forms of the other types are those of
    `Texts`. What the encoding cannot hold is replaced and counted. A value with no form as text
    fails the file, naming row and column.
    """

    mime_type = "text/csv"

    def __init__(self, zone: tzinfo, dialect: CsvDialect = DEFAULT_DIALECT) -> None:
        self._dialect = dialect
        self._texts = Texts(zone)

    def write(self, result: Result, file: IO[bytes]) -> Written:
        lines = _Lines(self._dialect, self._texts)
        encoded = _Encoded(self._dialect.encoding)
        file.write(encoded.bytes(lines.of([result.names])))
        count = 0
        for batch in result.batches:
            if not batch:
                continue
            try:
                text = lines.of(batch)
            except (TypeError, ValueError, OverflowError) as error:
                raise self._unwritable(result.names, batch, count + 1) from error
            file.write(encoded.bytes(text))
            count += len(batch)
        return Written(count, lines.conversions | encoded.conversions)

    def _unwritable(self, names: Sequence[str], batch: Sequence[Row], first: int) -> DeliveryError:
        def form(name: str, value: Any) -> None:
            if value is not None:
                self._texts.text(value)

        return unwritable(names, batch, first, form, "a CSV file")


class _Lines:
    """Rows as the text of their lines. Most columns hold one type, and little to quote."""

    def __init__(self, dialect: CsvDialect, texts: Texts) -> None:
        self.conversions: dict[str, int] = {}
        self._dialect = dialect
        self._texts = texts
        self._line_end = "\n" if dialect.line_feed else "\r\n"
        self._quoted_for = (dialect.delimiter, '"', "\r", "\n")

    def of(self, rows: Sequence[Row]) -> str:
        columns = [self._fields(column) for column in zip(*rows, strict=True)]
        lines = map(self._dialect.delimiter.join, zip(*columns, strict=True))
        return self._line_end.join(lines) + self._line_end

    def _fields(self, column: Sequence[Any]) -> Sequence[str]:
        """The fields of one column."""
        kinds = set(map(type, column))
        with_null = NoneType in kinds
        kinds.discard(NoneType)
        texts = column if kinds == {str} else self._converted(column, kinds)
        if self._dialect.formula_safe and not kinds.issubset(NEVER_FORMULAS):
            texts = self._defused(texts, column)
        return self._quoted(texts, with_null)

    def _converted(self, column: Sequence[Any], kinds: set[type]) -> list[Any]:
        write = self._writer(kinds)
        return [None if value is None else write(value) for value in column]

    def _writer(self, kinds: set[type]) -> Callable[[Any], str]:
        if kinds <= WRITTEN_BY_STR:
            return str
        if kinds == {datetime}:
            return self._texts.moment
        if kinds <= {float, Decimal} and not self._dialect.decimal_comma:
            return number
        return self._text

    def _text(self, value: Any) -> str:
        text = self._texts.text(value)
        if self._dialect.decimal_comma and isinstance(value, float | Decimal):
            return text.replace(".", ",")
        return text

    def _defused(self, texts: Sequence[Any], column: Sequence[Any]) -> Sequence[Any]:
        """The texts, those that start like a formula with an apostrophe before them."""
        dangerous = {
            place
            for place, text in enumerate(texts)
            if text is not None
            and text.startswith(FORMULA_STARTS)
            and not isinstance(column[place], NEVER_FORMULAS)
        }
        if not dangerous:
            return texts
        counted(self.conversions, DEFUSED, len(dangerous))
        return [f"'{text}" if n in dangerous else text for n, text in enumerate(texts)]

    def _quoted(self, texts: Sequence[Any], with_null: bool) -> Sequence[str]:
        present = [text for text in texts if text is not None] if with_null else texts
        if "" in present or holds_any("".join(present), self._quoted_for):
            return [self._field(text) for text in texts]
        return [text or "" for text in texts] if with_null else texts

    def _field(self, text: str | None) -> str:
        if text is None:
            return ""
        if text and not holds_any(text, self._quoted_for):
            return text
        return '"' + text.replace('"', '""') + '"'


class _Encoded:
    """Text as bytes, piece by piece, with a byte order mark once where the encoding has one."""

    def __init__(self, encoding: str) -> None:
        self.conversions: dict[str, int] = {}
        self._encoding = encoding
        self._encoder = codecs.getincrementalencoder(encoding)()
        self._substitute = "\ufffd" if _holds(encoding, "\ufffd") else "?"

    def bytes(self, text: str) -> bytes:
        try:
            return self._encoder.encode(text)
        except UnicodeEncodeError:
            return self._encoder.encode(self._replaced(text))

    def _replaced(self, text: str) -> str:
        foreign = {each for each in set(text) if not _holds(self._encoding, each)}
        what = f"characters outside {self._encoding} to {self._substitute}"
        counted(self.conversions, what, sum(map(text.count, foreign)))
        return text.translate({ord(each): self._substitute for each in foreign})


def _holds(encoding: str, character: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
