"""Parquet by pyarrow, with types that every value of a column fits, decided when all are known."""

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, tzinfo
from decimal import Decimal
from importlib import import_module
from types import NoneType
from typing import IO, Any

from queryexport.errors import ConfigurationError, DeliveryError
from queryexport.formats import Written
from queryexport.formats.texts import Texts, counted, refuse_repeated_names, unwritable
from queryexport.nameless import nameless_file, temporary_disk_errors_named
from queryexport.rows import Result, Row

WHAT = "the rows of a Parquet file"
INT64 = range(-(2**63), 2**63)
UINT64 = range(2**64)
EXACT_IN_FLOAT = range(-(2**53), 2**53 + 1)
# DuckDB reads decimals of more digits as floating point numbers, and Spark does not read them.
MOST_DIGITS = 38
ROWS_PER_GROUP = 120_000
BYTES_PER_GROUP = 32 << 20
NATIVE = frozenset({bool, int, float, Decimal, date, datetime, time, bytes, str})
TO_TEXT = "values to text in columns of mixed types or too many digits"
ERRORS = (TypeError, ValueError, OverflowError)  # Those of pyarrow are kinds of the first two.


class Parquet:
    """Columns with types of their own, compressed with zstd, in groups of at most 120,000 rows.

    A column's type is decided by all of its values: `int64` or `uint64`, `double`, `decimal` with
    the digits that are needed, `bool`, `date`, `time`, `timestamp` in microseconds (in UTC when the
    times have a zone), `binary` or `string`. A column whose values share none of these becomes
    `string`, in the forms of `Texts`, and the values that changed are counted; so does one with
    integers over 64 bits or decimals over 38 digits. Intervals, lists, objects, UUIDs and network
    addresses are `string`, and so is a column without any value. Two columns of one name, a value
    with no form and text that is not valid Unicode fail the file.

    The rows wait in a temporary file without a name until all are known; memory is that of one
    group. Raises `ConfigurationError` when pyarrow is not installed.
    """

    mime_type = "application/vnd.apache.parquet"

    def __init__(self, zone: tzinfo) -> None:
        self._texts = Texts(zone)

    def write(self, result: Result, file: IO[bytes]) -> Written:
        arrow, parquet = _pyarrow("pyarrow"), _pyarrow("pyarrow.parquet")
        refuse_repeated_names(result.names, "a reader of Parquet")
        with nameless_file(WHAT) as spool:
            with temporary_disk_errors_named(WHAT):
                kinds = self._spooled(result, spool)
            types = [_arrow_type(arrow, kind) for kind in kinds]
            columns = _Columns(arrow, result.names, types, self._texts)
            with parquet.ParquetWriter(file, columns.schema, compression="zstd") as writer:
                for group in _groups(columns.batches(_chunks(spool))):
                    writer.write_table(arrow.Table.from_batches(group, columns.schema))
        return Written(columns.rows, columns.conversions)

    def _spooled(self, result: Result, spool: IO[bytes]) -> list["ColumnKind"]:
        """Puts the rows aside, a list of columns for each batch, and says what the columns hold."""
        kinds = [ColumnKind() for _ in result.columns]
        count = 0
        for batch in result.batches:
            if not batch:
                continue
            try:
                columns = [self._plain(column) for column in zip(*batch, strict=True)]
            except ERRORS as error:
                raise self._unwritable(result.names, batch, count + 1) from error
            for kind, column in zip(kinds, columns, strict=True):
                kind.add(column)
            pickle.dump(columns, spool, pickle.HIGHEST_PROTOCOL)
            count += len(batch)
        spool.seek(0)
        return kinds

    def _plain(self, column: Sequence[Any]) -> Sequence[Any]:
        """The column with text, or bytes, for what Parquet has no type for."""
        if NATIVE.issuperset(set(map(type, column)) - {NoneType}):
            return column
        return [self._native(value) for value in column]

    def _native(self, value: Any) -> Any:
        if value is None or type(value) in NATIVE:
            return value
        return (
            bytes(value) if isinstance(value, bytearray | memoryview) else self._texts.text(value)
        )

    def _unwritable(self, names: Sequence[str], batch: Sequence[Row], first: int) -> DeliveryError:
        def form(name: str, value: Any) -> None:
            self._native(value)

        return unwritable(names, batch, first, form, "a Parquet file")


@dataclass
class ColumnKind:
    """What is known of all values of a column, from which its type follows."""

    types: set[type] = field(default_factory=set)
    smallest: int = 0
    largest: int = 0
    whole_digits: int = 0
    fraction_digits: int = 0
    not_finite: bool = False
    zoned: bool = False
    without_zone: bool = False

    def add(self, column: Sequence[Any]) -> None:
        types = set(map(type, column)) - {NoneType}
        self.types |= types
        if int in types:
            self._add_integers([value for value in column if type(value) is int])
        if Decimal in types:
            self._add_decimals([value for value in column if type(value) is Decimal])
        if datetime in types or time in types:
            zones = {value.tzinfo is None for value in column if isinstance(value, datetime | time)}
            self.zoned |= False in zones
            self.without_zone |= True in zones

    def _add_integers(self, values: Sequence[int]) -> None:
        self.smallest = min(self.smallest, *values)
        self.largest = max(self.largest, *values)

    def _add_decimals(self, values: Sequence[Decimal]) -> None:
        for value in values:
            exponent = value.as_tuple().exponent
            if isinstance(exponent, str):  # NaN or infinity.
                self.not_finite = True
                continue
            self.fraction_digits = max(self.fraction_digits, -exponent)
            if value:
                self.whole_digits = max(self.whole_digits, value.adjusted() + 1)

    def integers_in(self, allowed: range) -> bool:
        return self.smallest in allowed and self.largest in allowed

    @property
    def digits(self) -> int:
        """How many digits a decimal needs to hold all decimals and integers of the column."""
        of_integers = Decimal(max(-self.smallest, self.largest)).adjusted() + 1
        return max(self.whole_digits, of_integers) + self.fraction_digits


def _arrow_type(arrow: Any, kind: ColumnKind) -> Any:
    """The type that keeps every value as it is; None when only text does."""
    match sorted(each.__name__ for each in kind.types):
        case [] | ["str"]:
            return arrow.string()
        case ["bool"]:
            return arrow.bool_()
        case ["int"] if kind.integers_in(INT64):
            return arrow.int64()
        case ["int"] if kind.integers_in(UINT64):
            return arrow.uint64()
        case ["float"]:
            return arrow.float64()
        case ["float", "int"] if kind.integers_in(EXACT_IN_FLOAT):
            return arrow.float64()
        case ["Decimal"] | ["Decimal", "int"] if not kind.not_finite and kind.digits <= MOST_DIGITS:
            return arrow.decimal128(kind.digits, kind.fraction_digits)
        case ["date"]:
            return arrow.date32()
        case ["datetime"] if not kind.zoned:
            return arrow.timestamp("us")
        case ["datetime"] if not kind.without_zone:
            return arrow.timestamp("us", tz="UTC")
        case ["time"] if not kind.zoned:
            return arrow.time64("us")
        case ["bytes"]:
            return arrow.binary()
    return None


class _Columns:
    """Columns of Python values as pyarrow's batches; `types` has None for a column of text."""

    def __init__(
        self, arrow: Any, names: Sequence[str], types: Sequence[Any], texts: Texts
    ) -> None:
        self.rows = 0
        self.conversions: dict[str, int] = {}
        self._arrow = arrow
        self._names = names
        self._types = types
        self._texts = texts
        self.schema = self._schema()

    def _schema(self) -> Any:
        string = self._arrow.string()
        try:
            return self._arrow.schema(
                [
                    (name, each or string)
                    for name, each in zip(self._names, self._types, strict=True)
                ]
            )
        except UnicodeEncodeError as error:
            raise DeliveryError(
                f"The column name {error.object!a} is not valid Unicode and cannot be written to a "
                "Parquet file. Give the column another name with AS."
            ) from error

    def batches(self, chunks: Iterator[Sequence[Sequence[Any]]]) -> Iterator[Any]:
        for columns in chunks:
            try:
                arrays = list(map(self._array, columns, self._types))
            except ERRORS as error:
                raise self._unwritable(columns) from error
            self.rows += len(columns[0])
            yield self._arrow.record_batch(arrays, schema=self.schema)

    def _array(self, column: Sequence[Any], arrow_type: Any) -> Any:
        if arrow_type is not None:
            return self._arrow.array(column, arrow_type)
        changed = sum(value is not None and type(value) is not str for value in column)
        counted(self.conversions, TO_TEXT, changed)
        texts = [None if value is None else self._texts.text(value) for value in column]
        return self._arrow.array(texts, self._arrow.string())

    def _unwritable(self, columns: Sequence[Sequence[Any]]) -> DeliveryError:
        types = dict(zip(self._names, self._types, strict=True))

        def form(name: str, value: Any) -> None:
            self._array([value], types[name])

        rows = list(zip(*columns, strict=True))
        return unwritable(self._names, rows, self.rows + 1, form, "a Parquet file")


def _chunks(spool: IO[bytes]) -> Iterator[Sequence[Sequence[Any]]]:
    while True:
        try:
            yield pickle.load(spool)  # noqa: S301  Our own file, which has no name.
        except EOFError:
            return


def _groups(batches: Iterator[Any]) -> Iterator[list[Any]]:
    """The batches, together as many as a row group should have."""
    group: list[Any] = []
    rows = size = 0
    for batch in batches:
        group.append(batch)
        rows += batch.num_rows
        size += batch.nbytes
        if rows >= ROWS_PER_GROUP or size >= BYTES_PER_GROUP:
            yield group
            group, rows, size = [], 0, 0
    if group:
        yield group


def _pyarrow(module: str) -> Any:
    """The module, which is imported when the first Parquet file is written, because it is large."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigurationError(
            f"Parquet files need pyarrow, which cannot be imported here ({error}). Install it on "
            "every worker (pip install -r requirements-extras.txt), or choose another format."
        ) from error
