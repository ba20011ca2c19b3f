"""A file is the old one or the complete new one."""

import errno
import gzip
import io
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any
from zoneinfo import ZoneInfo

import openpyxl
import pytest

from queryexport.contents import Contents, Gzip
from queryexport.errors import DeliveryError, QueryError, RunSuperseded
from queryexport.formats import Written
from queryexport.formats.xlsx import Xlsx
from queryexport.rows import Column, Result
from queryexport.sinks.file import FileSink
from tests.fakes import RecordedProgress, result_of

XLSX = Xlsx(ZoneInfo("Europe/Rome"))
OLD = b"the file of yesterday"


class Lines:
    """The plainest format: a line for each row, whose bytes a test can foretell."""

    mime_type = "application/x-lines"

    def write(self, result: Result, file: IO[bytes]) -> Written:
        count = 0
        for batch in result.batches:
            for row in batch:
                file.write(",".join(map(str, row)).encode() + b"\n")
                count += 1
        return Written(count)


class FullDisk(Lines):
    """A format that meets a full disk after it has written something."""

    def write(self, result: Result, file: IO[bytes]) -> Written:
        file.write(b"half of")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def some_rows(count: int = 5) -> Result:
    return result_of(["n"], [[number] for number in range(count)])


def breaking_result(after: int = 3) -> Result:
    """A result whose stream breaks after so many rows."""

    def batches() -> Iterator[Sequence[Sequence[Any]]]:
        yield [[number] for number in range(after)]
        raise QueryError("The connection was lost.")

    return Result((Column("n"),), batches())


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file that exists already, alone in its folder."""
    folder = tmp_path / "exports"
    folder.mkdir()
    path = folder / "daily.txt"
    path.write_bytes(OLD)
    return path


def test_the_new_file_replaces_the_old_one(target: Path) -> None:
    receipt = FileSink(target, Contents(Lines())).deliver(some_rows(3), RecordedProgress())
    assert target.read_bytes() == b"0\n1\n2\n"
    assert (receipt.rows, receipt.place, receipt.size_bytes) == (3, str(target), 6)
    assert [path.name for path in target.parent.iterdir()] == ["daily.txt"]


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "daily.txt"
    FileSink(path, Contents(Lines())).deliver(some_rows(1), RecordedProgress())
    assert path.read_bytes() == b"0\n"


def test_a_workbook_is_complete_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "daily.xlsx"
    FileSink(path, Contents(XLSX)).deliver(some_rows(3), RecordedProgress())
    workbook = openpyxl.load_workbook(path)
    assert list(workbook["data"].values) == [("n",), (0,), (1,), (2,)]


@pytest.mark.parametrize("umask", [0o022, 0o000])
def test_the_file_is_closed_to_others(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "daily.txt"
    before = os.umask(umask)
    try:
        FileSink(path, Contents(Lines())).deliver(some_rows(1), RecordedProgress())
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_compressed_file_holds_the_same_bytes_under_its_inner_name(tmp_path: Path) -> None:
    path = tmp_path / "daily.txt.gz"
    receipt = FileSink(path, Contents(Lines(), Gzip())).deliver(some_rows(500), RecordedProgress())
    packed = path.read_bytes()
    assert gzip.decompress(packed) == b"".join(b"%d\n" % number for number in range(500))
    assert packed[10:20] == b"daily.txt\0"
    assert receipt.size_bytes == len(packed) < 1890


def test_a_compressed_workbook_can_be_opened(tmp_path: Path) -> None:
    path = tmp_path / "daily.xlsx.gz"
    FileSink(path, Contents(XLSX, Gzip())).deliver(some_rows(3), RecordedProgress())
    workbook = openpyxl.load_workbook(io.BytesIO(gzip.decompress(path.read_bytes())))
    assert list(workbook["data"].values) == [("n",), (0,), (1,), (2,)]


def test_the_same_rows_make_the_same_compressed_bytes(tmp_path: Path) -> None:
    one, two = tmp_path / "1" / "a.gz", tmp_path / "2" / "a.gz"
    for path in (one, two):
        FileSink(path, Contents(Lines(), Gzip())).deliver(some_rows(), RecordedProgress())
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("compress", [False, True])
def test_a_broken_stream_leaves_the_old_file(target: Path, compress: bool) -> None:
    with pytest.raises(QueryError, match="was lost"):
        FileSink(target, Contents(Lines(), Gzip() if compress else None)).deliver(
            breaking_result(), RecordedProgress()
        )
    assert_untouched(target)


@pytest.mark.parametrize("after", [0, 1, 3, 1000])
def test_a_stream_broken_after_any_row_leaves_the_old_workbook(target: Path, after: int) -> None:
    with pytest.raises(QueryError, match="was lost"):
        FileSink(target, Contents(XLSX)).deliver(breaking_result(after), RecordedProgress())
    assert_untouched(target)


def test_an_unwritable_value_leaves_the_old_file(target: Path) -> None:
    rows = result_of(["n"], [["fine"], [object()]])
    with pytest.raises(DeliveryError, match="Row 2, column n"):
        FileSink(target, Contents(XLSX)).deliver(rows, RecordedProgress())
    assert_untouched(target)


def test_a_full_disk_leaves_the_old_file_and_names_the_new_one(target: Path) -> None:
    with pytest.raises(DeliveryError, match="No space left on device") as caught:
        FileSink(target, Contents(FullDisk())).deliver(some_rows(), RecordedProgress())
    assert str(target) in caught.value.message
    assert caught.value.retryable
    assert_untouched(target)


@pytest.mark.parametrize("stop", [RunSuperseded("Taken over."), KeyboardInterrupt()])
def test_a_run_that_must_stop_leaves_the_old_file(target: Path, stop: BaseException) -> None:
    with pytest.raises(type(stop)):
        FileSink(target, Contents(Lines())).deliver(some_rows(), RecordedProgress(stop=stop))
    assert_untouched(target)


def test_a_run_without_an_old_file_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "exports" / "daily.txt"
    with pytest.raises(QueryError):
        FileSink(path, Contents(Lines())).deliver(breaking_result(), RecordedProgress())
    assert list(path.parent.iterdir()) == []


def test_nothing_is_visible_before_the_last_row(target: Path) -> None:
    seen = []

    def rows() -> Iterator[list[int]]:
        for number in range(4):
            seen.append((target.read_bytes(), visible_names(target.parent)))
            yield [number]

    FileSink(target, Contents(Lines())).deliver(result_of(["n"], rows()), RecordedProgress())
    assert seen == [(OLD, ["daily.txt"])] * 4


def visible_names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if not path.name.startswith(".")]


@pytest.mark.parametrize("name", ["folder-in-the-way", "file-in-the-way/daily.txt"])
def test_a_path_that_cannot_be_written_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder-in-the-way").mkdir()
    (tmp_path / "file-in-the-way").write_text("")
    with pytest.raises(DeliveryError, match="could not be written") as caught:
        FileSink(tmp_path / name, Contents(Lines())).deliver(some_rows(), RecordedProgress())
    assert str(tmp_path / name) in caught.value.message
    assert names_in(tmp_path) == ["file-in-the-way", "folder-in-the-way"]


def assert_untouched(target: Path) -> None:
    assert target.read_bytes() == OLD
    assert names_in(target.parent) == [target.name]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
