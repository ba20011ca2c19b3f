"""Rows that were not delivered: kept in memory and files, then stored, each of them as it was."""

import resource
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_sink.messages import Message
from queryexport.errors import ConfigurationError, RunSuperseded
from scheduling import runs
from scheduling.models import SchedulingHistoryItem, UndeliveredFile, UndeliveredMessage
from scheduling.undelivered import kept as kept_module
from scheduling.undelivered.files import read
from scheduling.undelivered.kept import KeptRows
from scheduling.undelivered.origins import Origin, Origins
from scheduling.undelivered.rows import UndeliveredRow
from scheduling.undelivered.store import kept_rows, store
from tests.factories import MakeItem

SLOT = datetime(2026, 1, 18, 8, 0, tzinfo=UTC)
MESSAGE = Message(b"key", b'{"id": 1}', (("source", b"tracking"),), 1_768_723_200_000)


def row(number: int, *, unknown: bool = False, attempts: int = 1) -> UndeliveredRow:
    return UndeliveredRow(Message(b"%d" % number, b"value"), "refused", unknown, attempts)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    """Files of this process cannot grow further, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@given(
    key=st.none() | st.binary(),
    value=st.binary(),
    headers=st.lists(st.tuples(st.text(), st.binary())),
    reason=st.text(),
)
def test_a_row_is_the_same_after_its_line_was_read(
    key: bytes | None, value: bytes, headers: list[tuple[str, bytes]], reason: str
) -> None:
    before = UndeliveredRow(Message(key, value, tuple(headers), 7), reason, True, 3)
    assert UndeliveredRow.from_line(before.to_line()) == before


class TestKeeping:
    """The rows as they come, before the database hears of them."""

    def test_the_first_rows_stay_in_memory_and_the_others_go_to_files_by_outcome(
        self, tmp_path: Path
    ) -> None:
        kept = KeptRows(tmp_path / "new" / "run-1", in_memory=2)
        rows = [row(number, unknown=number % 2 == 0) for number in range(1, 8)]
        for each in rows:
            kept.add(each)
        kept.complete()
        assert kept.in_memory == rows[:2]
        assert list(read(tmp_path / "new/run-1.failed.jsonl")) == [rows[2], rows[4], rows[6]]
        assert list(read(tmp_path / "new/run-1.unknown.jsonl")) == [rows[3], rows[5]]
        assert sorted(kept, key=lambda each: each.message.key or b"") == rows
        assert (kept.rows, kept.lost, kept.why_lost) == (7, 0, "")

    def test_only_the_worker_may_read_the_files(self, tmp_path: Path) -> None:
        kept = KeptRows(tmp_path / "new" / "run-1", in_memory=0)
        kept.add(row(1))
        kept.complete()
        assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "new/run-1.failed.jsonl").stat().st_mode & 0o777 == 0o600

    def test_a_file_has_no_name_before_it_is_complete(self, tmp_path: Path) -> None:
        kept = KeptRows(tmp_path / "run-1", in_memory=0)
        for number in range(3000):
            kept.add(row(number))
        assert names(tmp_path) == [".run-1.failed.jsonl.part"]
        kept.complete()
        assert names(tmp_path) == ["run-1.failed.jsonl"]

    def test_without_undelivered_rows_there_is_no_file_and_no_folder(self, tmp_path: Path) -> None:
        kept = KeptRows(tmp_path / "new" / "run-1", in_memory=0)
        kept.complete()
        assert names(tmp_path) == []
        assert (kept.rows, list(kept)) == (0, [])

    def test_rows_thrown_away_leave_nothing(self, tmp_path: Path) -> None:
        kept = KeptRows(tmp_path / "run-1", in_memory=1)
        for number in range(3000):
            kept.add(row(number, unknown=number % 2 == 0))
        kept.complete()
        kept.discard()
        assert (names(tmp_path), kept.rows) == ([], 0)

    def test_large_rows_go_to_the_file_before_their_number_is_reached(self, tmp_path: Path) -> None:
        kept = KeptRows(tmp_path / "run-1", in_memory=1000)
        large = Message(b"k", b"x" * (kept_module.MOST_BYTES_IN_MEMORY // 4))
        for _ in range(5):
            kept(large, reason="too large", unknown=False, attempts=1)
        kept.add(row(6))  # Small, but later.
        kept.complete()
        assert (len(kept.in_memory), kept.rows) == (3, 6)

    def test_memory_does_not_grow_with_the_rows(self, tmp_path: Path) -> None:
        kept = KeptRows(tmp_path / "run-1", in_memory=10)
        tracemalloc.start()
        try:
            for _ in range(20_000):
                kept(Message(b"k", b"x" * 1000), reason="refused", unknown=False, attempts=1)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        kept.complete()
        assert kept.rows == 20_000
        assert peak < 1_000_000

    def test_a_full_disk_keeps_whole_rows_and_counts_the_others(self, tmp_path: Path) -> None:
        kept = KeptRows(tmp_path / "run-1", in_memory=0)
        with file_size_limit(300_000):
            for number in range(10_000):
                kept.add(row(number))
            kept.complete()
        stored = list(read(tmp_path / "run-1.failed.jsonl"))
        assert stored == [row(number) for number in range(kept.rows)]
        assert 0 < kept.rows < 10_000
        assert kept.rows + kept.lost == 10_000
        assert kept.why_lost == f"File too large in {tmp_path}"

    def test_a_folder_that_cannot_be_made_raises_nothing_and_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        kept = KeptRows(tmp_path / "file" / "run-1", in_memory=1)
        for number in range(3):
            kept.add(row(number))
        kept.complete()
        assert (kept.rows, kept.lost, list(kept)) == (1, 2, [row(0)])
        assert kept.why_lost == f"File exists in {tmp_path / 'file'}"

    def test_a_file_that_is_gone_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match=r"gone\.jsonl cannot be read: No such file"):
            list(read(tmp_path / "gone.jsonl"))

    @pytest.mark.parametrize("line", ["half a li", "{}", '{"key": null}'])
    def test_a_damaged_file_is_named(self, tmp_path: Path, line: str) -> None:
        (tmp_path / "bad.jsonl").write_text(line)
        with pytest.raises(ConfigurationError, match=r"bad\.jsonl was changed or is damaged"):
            list(read(tmp_path / "bad.jsonl"))


class TestStoring:
    """What the database has of them when the run is over."""

    @pytest.fixture
    def run(self, make_item: MakeItem) -> SchedulingHistoryItem:
        item = make_item(sharing_mode="kafka", kafka_topic="events")
        queued = runs.queue(item, SLOT, trigger=runs.Trigger.SCHEDULE)
        assert queued and queued.claim("this worker")
        return queued

    def test_the_rows_become_the_runs(
        self, run: SchedulingHistoryItem, undelivered_root: Path, settings: object
    ) -> None:
        settings.UNDELIVERED_IN_DATABASE = 1  # type: ignore[attr-defined]
        kept = kept_rows(run)
        kept(MESSAGE, reason="too large", unknown=False, attempts=4)
        kept.add(row(2))
        store(run, kept)
        stored = UndeliveredMessage.objects.get()
        assert stored.row == UndeliveredRow(MESSAGE, "too large", False, 4)
        assert (stored.run, stored.number, stored.taken_by) == (run, 1, None)
        file = UndeliveredFile.objects.get()
        assert (file.run, file.rows, file.unknown) == (run, 1, False)
        assert list(read(undelivered_root / file.name)) == [row(2)]
        run.refresh_from_db()
        assert run.undelivered_kept == 2

    def test_a_run_that_was_taken_over_keeps_nothing(
        self, run: SchedulingHistoryItem, undelivered_root: Path, settings: object
    ) -> None:
        settings.UNDELIVERED_IN_DATABASE = 1  # type: ignore[attr-defined]
        kept = kept_rows(run)
        for number in range(3):
            kept.add(row(number))
        SchedulingHistoryItem.objects.update(status="lost", error="no heartbeat")
        with pytest.raises(RunSuperseded):
            store(run, kept)
        assert not UndeliveredMessage.objects.exists()
        assert not UndeliveredFile.objects.exists()
        assert names(undelivered_root) == []


class TestOrigins:
    """What was known of a row before it is sent again."""

    def test_a_row_that_failed_once_needs_no_memory(self) -> None:
        origins = Origins()
        origins.remember(row(1))
        assert origins.of(row(1).message) == Origin(unknown=False, attempts=1)
        assert not origins._known

    def test_other_rows_are_known_by_their_message(self) -> None:
        origins = Origins()
        origins.remember(row(1, unknown=True))
        origins.remember(row(2, attempts=3))
        assert origins.of(row(1).message) == Origin(unknown=True, attempts=1)
        assert origins.of(row(2).message) == Origin(unknown=False, attempts=3)

    def test_of_equal_rows_the_more_careful_answer_holds(self) -> None:
        origins = Origins()
        for one in (row(1, attempts=5), row(1, unknown=True), row(1)):
            origins.remember(one)
        assert origins.of(row(1).message) == Origin(unknown=True, attempts=5)

    def test_past_the_limit_the_careful_answer_holds_for_all(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("scheduling.undelivered.origins.MOST_REMEMBERED", 1)
        origins = Origins()
        origins.remember(row(1, attempts=2))
        origins.remember(row(2, unknown=True, attempts=7))
        assert origins.of(row(1).message) == Origin(unknown=False, attempts=2)
        assert origins.of(row(3).message) == Origin(unknown=True, attempts=7)
