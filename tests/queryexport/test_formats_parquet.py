"""A Parquet file has types that every value fits, and every reader finds the same values in it."""

import errno
import io
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from queryexport.errors import ConfigurationError, DeliveryError, QueryError
from queryexport.formats import Written, parquet
from queryexport.formats.parquet import TO_TEXT, Parquet
from queryexport.rows import Column, Result
from tests.fakes import result_of

ROME = ZoneInfo("Europe/Rome")
MOMENTS = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).filter(lambda at: not at.fold)
COLUMNS = st.sampled_from(
    [
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False),
        st.decimals(-(10**9), 10**9, places=3).filter(lambda value: value != 0),
        st.dates(),
        MOMENTS,
        MOMENTS.map(lambda at: at.replace(tzinfo=UTC)),
        st.times().filter(lambda at: not at.fold),
        st.binary(max_size=9),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
    ]
)
VALUES = COLUMNS.flatmap(lambda values: st.lists(st.none() | values, min_size=1, max_size=9))


def write(
    names: Sequence[str], rows: Sequence[Sequence[Any]], **options: Any
) -> tuple[io.BytesIO, Written]:
    file = io.BytesIO()
    written = Parquet(ROME).write(result_of(names, rows, **options), file)
    assert written.rows == len(rows)
    return file, written


def column_of(*values: Any) -> tuple[pa.ChunkedArray, dict[str, int]]:
    """The column that these values make, and what was counted."""
    file, written = write(["v"], [[value] for value in values])
    return pq.read_table(file).column("v"), dict(written.conversions)


def read_by_duckdb(file: io.BytesIO, folder: Path) -> list[tuple[Any, ...]]:
    path = folder / "rows.parquet"
    path.write_bytes(file.getvalue())
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return connection.execute(f"SELECT * FROM read_parquet('{path}')").fetchall()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([True, None], pa.bool_()),
        ([1, None, -(2**63), 2**63 - 1], pa.int64()),
        ([None, None, None, 7], pa.int64()),
        ([1, 2**64 - 1], pa.uint64()),
        ([0.5, float("inf"), None], pa.float64()),
        ([0.5, 1, 2**53], pa.float64()),
        ([Decimal("1.5"), Decimal("-100.25")], pa.decimal128(5, 2)),
        ([Decimal("0"), None], pa.decimal128(1, 0)),
        ([Decimal("0.001"), Decimal("1E+3")], pa.decimal128(7, 3)),
        ([Decimal("0.5"), 1234], pa.decimal128(5, 1)),
        ([Decimal("1." + "1" * 37)], pa.decimal128(38, 37)),
        ([date(1, 1, 1), date(9999, 12, 31)], pa.date32()),
        ([datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999_999)], pa.timestamp("us")),
        ([datetime(2024, 7, 1, 12, tzinfo=ROME)], pa.timestamp("us", tz="UTC")),
        ([time(6, 30, 5, 1)], pa.time64("us")),
        ([b"\x00\xff", b""], pa.binary()),
        (["text", "", None], pa.string()),
        ([None, None], pa.string()),
    ],
)
def test_a_column_has_the_type_that_keeps_every_value(values: list[Any], expected: Any) -> None:
    column, conversions = column_of(*values)
    assert (column.type, column.to_pylist(), conversions) == (expected, values, {})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([bytearray(b"\x00"), memoryview(b"\xff"), b"x"], [b"\x00", b"\xff", b"x"]),
        ([UUID(int=1), None], ["00000000-0000-0000-0000-000000000001", None]),
        ([timedelta(days=1, seconds=2)], ["P1DT2S"]),
        ([[1, "à"], {"a": date(2024, 1, 1)}], ['[1,"à"]', '{"a":"2024-01-01"}']),
        ([ip_address("10.0.0.1")], ["10.0.0.1"]),
    ],
)
def test_what_parquet_has_no_type_for_has_its_stated_form(
    values: list[Any], expected: list[Any]
) -> None:
    column, conversions = column_of(*values)
    assert (column.to_pylist(), conversions) == (expected, {})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, "text", None, 2.5], ["1", "text", None, "2.5"]),
        ([2**64], ["18446744073709551616"]),
        ([-1, 2**63], ["-1", "9223372036854775808"]),
        ([0.5, 2**53 + 1], ["0.5", "9007199254740993"]),
        ([Decimal("1.5"), 0.5], ["1.5", "0.5"]),
        ([Decimal("1.50"), Decimal("NaN")], ["1.50", "NaN"]),
        ([Decimal("1." + "1" * 38)], ["1." + "1" * 38]),
        ([Decimal("1E+38")], ["1" + "0" * 38]),
        ([10**37, Decimal("0.01")], ["1" + "0" * 37, "0.01"]),
        ([date(2024, 1, 1), datetime(2024, 1, 1, 5)], ["2024-01-01", "2024-01-01T05:00:00"]),
        (
            [datetime(2024, 7, 1), datetime(2024, 7, 1, tzinfo=UTC)],
            ["2024-07-01T00:00:00", "2024-07-01T02:00:00+02:00"],
        ),
        ([time(1, tzinfo=UTC)], ["01:00:00+00:00"]),
        ([True, 1], ["true", "1"]),
        ([b"\x00\xff", "x"], ["AP8=", "x"]),
    ],
)
def test_a_column_without_such_a_type_is_text_and_counted(
    values: list[Any], expected: list[Any]
) -> None:
    column, conversions = column_of(*values)
    changed = sum(value is not None and not isinstance(value, str) for value in values)
    assert (column.type, column.to_pylist()) == (pa.string(), expected)
    assert conversions == {TO_TEXT: changed}


def test_a_value_of_the_last_batch_decides_as_much_as_one_of_the_first() -> None:
    rows: list[list[Any]] = [[number] for number in range(1000)]
    file, written = write(["v"], [*rows, ["n/a"]], batch_rows=10)
    assert pq.read_table(file).column("v").to_pylist() == [*map(str, range(1000)), "n/a"]
    assert written.conversions == {TO_TEXT: 1000}


@pytest.mark.parametrize("names", [["n"], ["n", "città"]])
def test_no_rows_are_a_file_with_the_columns_as_text(names: list[str], tmp_path: Path) -> None:
    file, _ = write(names, [])
    table = pq.read_table(file)
    assert (table.column_names, table.num_rows) == (names, 0)
    assert set(table.schema.types) == {pa.string()}
    assert read_by_duckdb(file, tmp_path) == []


def test_rows_come_in_groups_of_a_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "ROWS_PER_GROUP", 100)
    file, _ = write(["n"], [[number] for number in range(1050)], batch_rows=30)
    metadata = pq.ParquetFile(file).metadata
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [
        *[120] * 8,
        90,
    ]
    assert metadata.row_group(0).column(0).compression == "ZSTD"
    assert pq.read_table(file).column("n").to_pylist() == list(range(1050))


def test_wide_rows_make_smaller_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "BYTES_PER_GROUP", 10_000)
    file, _ = write(["t"], [["x" * 5_000]] * 6, batch_rows=1)
    assert pq.ParquetFile(file).metadata.num_row_groups == 3


def test_a_file_that_cannot_seek_is_enough() -> None:
    file = OnlyWritten()
    assert Parquet(ROME).write(result_of(["n"], [[1], [2]]), file).rows == 2  # type: ignore[arg-type]
    assert pq.read_table(io.BytesIO(file.data)).column("n").to_pylist() == [1, 2]


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(DeliveryError, match="more than one column called 'id'"):
        write(["id", "id"], [])


def test_a_column_name_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(DeliveryError, match="is not valid Unicode"):
        write(["half\ud83d"], [[1]])


def test_an_integer_beyond_what_python_writes_is_named() -> None:
    with pytest.raises(DeliveryError, match="Row 2, column v, cannot be written"):
        write(["v"], [[Decimal("0.5")], [10**5_000]])


@pytest.mark.parametrize("value", [object(), "half\ud83d", [object()]])
def test_what_has_no_form_is_named_by_row_and_column(value: Any) -> None:
    rows = [[number, "fine"] for number in range(4)] + [[4, value]]
    with pytest.raises(DeliveryError, match="Row 5, column text, cannot be written") as caught:
        write(["n", "text"], rows)
    assert not caught.value.retryable


def test_a_broken_stream_raises_its_own_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    error = QueryError("The connection was lost.")

    def batches() -> Any:
        yield [[1]]
        raise error

    file = io.BytesIO()
    with pytest.raises(QueryError) as caught:
        Parquet(ROME).write(Result((Column("n"),), batches()), file)
    assert (caught.value, list(tmp_path.iterdir()), file.getvalue()) == (error, [], b"")


def test_a_temporary_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(
        DeliveryError, match=r"temporary file for the rows of .*gone could"
    ) as caught:
        write(["n"], [[1]])
    assert caught.value.retryable


def test_a_full_disk_raises_its_own_error() -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        Parquet(ROME).write(result_of(["n"], [[1]]), FullDisk())  # type: ignore[arg-type]
    assert caught.value.errno == errno.ENOSPC


def test_an_installation_without_pyarrow_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # As Python has it: cannot be imported.
    result = result_of(["n"], (pytest.fail("a row was read") for _ in range(1)))
    with pytest.raises(ConfigurationError, match=r"pip install -r requirements-extras\.txt"):
        Parquet(ROME).write(result, io.BytesIO())


@given(VALUES)
@settings(deadline=None)
@example([datetime.min, datetime.max])
def test_pyarrow_reads_the_same_values(values: list[Any]) -> None:
    column, conversions = column_of(*values)
    assert (column.to_pylist(), conversions) == (values, {})


@given(VALUES)
@settings(deadline=None, max_examples=50)
def test_duckdb_reads_the_same_values(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any]
) -> None:
    file, _ = write(["v"], [[value] for value in values])
    assert read_by_duckdb(file, tmp_path_factory.mktemp("parquet")) == [(each,) for each in values]


@given(st.lists(st.none() | st.integers() | st.text("ab", max_size=3) | st.booleans(), max_size=9))
@settings(deadline=None)
def test_a_mixed_column_loses_nothing_and_is_counted(values: list[Any]) -> None:
    column, conversions = column_of(*values)
    if conversions:
        words = {True: "true", False: "false"}
        expected = [words[each] if isinstance(each, bool) else each for each in values]
        assert column.to_pylist() == [None if each is None else str(each) for each in expected]
    else:
        assert column.to_pylist() == values


class OnlyWritten:
    """A file that knows nothing but `write`."""

    closed = False

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> int:
        self.data += data
        return len(data)


class FullDisk:
    closed = False

    def write(self, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")
