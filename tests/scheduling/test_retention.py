"""Retention deletes what is listed and due, nothing else, and the history says so."""

import fcntl
import os
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytest_django import Settings

from scheduling import tasks
from scheduling.models import Destination, RunDestination, SchedulingItem
from scheduling.retention import CHANGED, DELETED, GONE, REPLACED, Retained, retain
from tests.factories import MakeItem
from tests.scheduling.files_of_runs import WRITTEN, put, wrote

pytestmark = pytest.mark.django_db


def on_day(day: int) -> datetime:
    return WRITTEN + timedelta(days=day, hours=1)


def why(row: RunDestination) -> str:
    row.refresh_from_db()
    assert bool(row.deleted_at) == bool(row.deleted_why)
    return row.deleted_why


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_files_are_deleted_after_their_days(make_item: MakeItem, export_root: Path) -> None:
    item = make_item(retention_days=3)
    rows = [wrote(item, f"{day}.xlsx", day=day) for day in range(5)]
    retained = retain(on_day(4))
    assert (retained.done, retained.failed) == ({DELETED: 2}, 0)
    assert [why(row) for row in rows] == [DELETED, DELETED, "", "", ""]
    assert files(export_root) == ["2.xlsx", "3.xlsx", "4.xlsx"]
    assert rows[0].deleted_at == on_day(4)


def test_only_the_newest_files_are_kept(make_item: MakeItem, export_root: Path) -> None:
    item, other = make_item(retention_files=2), make_item(retention_files=1)
    for day in range(5):
        wrote(item, f"{day}.xlsx", day=day)
        wrote(other, f"other {day}.xlsx", day=day)
    retain(on_day(5))
    assert files(export_root) == ["3.xlsx", "4.xlsx", "other 4.xlsx"]


def test_without_a_rule_nothing_is_deleted(make_item: MakeItem, export_root: Path) -> None:
    row = wrote(make_item())
    assert retain(on_day(40_000)) == Retained()
    assert why(row) == ""
    assert files(export_root) == ["rows.xlsx"]


def test_a_further_destination_has_its_own_rule(make_item: MakeItem, export_root: Path) -> None:
    item = make_item(retention_days=10)
    copy = Destination.objects.create(item=item, name="Copy", retention_days=1)
    forever = Destination.objects.create(item=item, name="Archive")
    own = wrote(item, "own.xlsx")
    rows = [
        wrote(item, f"{further.name}.xlsx", destination=further, run=own.run)
        for further in (copy, forever)
    ]
    retain(on_day(2))
    assert [why(row) for row in [own, *rows]] == ["", DELETED, ""]
    retain(on_day(100))
    assert files(export_root) == ["Archive.xlsx"]


def test_files_of_a_deleted_item_or_destination_stay(
    make_item: MakeItem, export_root: Path
) -> None:
    item, other = make_item(retention_days=1), make_item(retention_days=1)
    copy = Destination.objects.create(item=other, name="Copy", retention_days=1)
    rows = [wrote(item, "of item.xlsx"), wrote(other, "of copy.xlsx", destination=copy)]
    item.delete()
    copy.delete()
    retain(on_day(9))
    assert [why(row) for row in rows] == ["", ""]
    assert files(export_root) == ["of copy.xlsx", "of item.xlsx"]


def test_what_history_does_not_list_is_never_touched(
    make_item: MakeItem, export_root: Path
) -> None:
    item = make_item(retention_days=1, output_dir="daily")
    wrote(item)
    put(item.folder() / "by hand.xlsx", b"by hand")
    retain(on_day(9))
    assert files(export_root) == ["by hand.xlsx"]
    assert item.folder().is_dir()


def test_a_changed_file_stays_and_is_told(make_item: MakeItem, export_root: Path) -> None:
    row = wrote(make_item(retention_days=1), content=b"rows")
    put(Path(row.path), b"mine")
    retain(on_day(9))
    assert why(row) == CHANGED
    assert Path(row.path).read_bytes() == b"mine"


def test_a_file_that_is_gone_is_told(make_item: MakeItem) -> None:
    """Also when a round was killed after it removed the file and before it said so."""
    row = wrote(make_item(retention_days=1))
    Path(row.path).unlink()
    retain(on_day(9))
    assert why(row) == GONE


def test_a_folder_that_is_gone_is_told(make_item: MakeItem) -> None:
    row = wrote(make_item(retention_days=1, output_dir="daily"))
    Path(row.path).unlink()
    Path(row.path).parent.rmdir()
    retain(on_day(9))
    assert why(row) == GONE


@pytest.mark.parametrize("bytes_", ["other", "the same"])
def test_a_replaced_file_belongs_to_the_latest_run(
    make_item: MakeItem, export_root: Path, bytes_: str
) -> None:
    item = make_item(retention_days=3)
    old = wrote(item, content=b"old!", day=0)
    new = wrote(item, content=b"old!" if bytes_ == "the same" else b"new!", day=3)
    retain(on_day(4))
    assert (why(old), why(new)) == (REPLACED, "")
    assert files(export_root) == ["rows.xlsx"]
    retain(on_day(7))
    assert why(new) == DELETED
    assert files(export_root) == []


def test_replaced_files_are_not_counted(make_item: MakeItem, export_root: Path) -> None:
    item = make_item(retention_files=2)
    for day, name in enumerate(["a", "b", "b", "b", "c", "c"]):
        wrote(item, f"{name}.xlsx", f"{day}".encode(), day=day)
    assert retain(on_day(6)).done == {REPLACED: 3, DELETED: 1}
    assert files(export_root) == ["b.xlsx", "c.xlsx"]


def test_another_items_file_of_that_name_is_not_deleted(
    make_item: MakeItem, export_root: Path
) -> None:
    old = wrote(make_item(retention_days=1), content=b"same")
    new = wrote(make_item(), content=b"same", day=1)
    retain(on_day(9))
    assert (why(old), why(new)) == (REPLACED, "")
    assert files(export_root) == ["rows.xlsx"]


def keep(path: Path, versions: int) -> None:
    """Moves the file and its versions by one, as the item says that keeps old files."""
    for number in range(versions, 0, -1):
        before = path.with_name(f"rows.{number - 1}.xlsx") if number > 1 else path
        if before.exists():
            before.rename(path.with_name(f"rows.{number}.xlsx"))


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(contents=st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=1, max_size=7))
def test_a_kept_version_is_deleted_as_the_file_of_its_own_run(
    make_item: MakeItem, export_root: Path, contents: list[bytes]
) -> None:
    """Whatever the bytes are, those of the three newest runs are left, in their order."""
    RunDestination.objects.all().delete()
    SchedulingItem.objects.all().delete()
    for old in export_root.glob("*"):
        old.unlink()
    item = make_item(name="Kept", output_on_existing="keep", retention_files=3)
    rows = []
    for day, content in enumerate(contents):
        keep(export_root / "rows.xlsx", 9)
        rows.append(wrote(item, content=content, day=day))
    retain(on_day(30))
    due = max(len(contents) - 3, 0)
    assert [why(row) for row in rows] == [DELETED] * due + [""] * (len(contents) - due)
    names = ["rows.xlsx", "rows.1.xlsx", "rows.2.xlsx"]
    found = [(export_root / name).read_bytes() for name in names if (export_root / name).exists()]
    assert found == contents[::-1][:3]
    assert len(files(export_root)) == len(found)


def test_a_version_that_was_dropped_is_replaced(make_item: MakeItem, export_root: Path) -> None:
    item = make_item(output_on_existing="keep", retention_days=1)
    first = wrote(item, content=b"1")
    wrote(item, content=b"2", day=5)
    retain(on_day(5))
    assert why(first) == REPLACED


def test_a_file_of_another_run_is_not_taken_for_a_version(
    make_item: MakeItem, export_root: Path
) -> None:
    item = make_item(output_on_existing="keep", retention_days=1)
    old = wrote(item, content=b"same")
    wrote(item, content=b"new", day=8)
    wrote(make_item(), "rows.1.xlsx", content=b"same", day=8)
    retain(on_day(8))
    assert files(export_root) == ["rows.1.xlsx", "rows.xlsx"]
    assert why(old) == ""


def test_a_file_outside_the_export_folder_is_never_deleted(
    make_item: MakeItem, tmp_path: Path
) -> None:
    outside = put(tmp_path / "outside.xlsx", b"rows")
    row = wrote(make_item(retention_days=1), path=str(outside))
    retain(on_day(9))
    assert (outside.read_bytes(), why(row)) == (b"rows", "")


def test_a_path_that_climbs_out_is_never_followed(make_item: MakeItem, export_root: Path) -> None:
    outside = put(export_root.parent / "outside.xlsx", b"rows")
    row = wrote(make_item(retention_days=1), path=f"{export_root}/../outside.xlsx")
    assert retain(on_day(9)).failed == 1
    assert (outside.read_bytes(), why(row)) == (b"rows", "")


def test_a_link_is_never_followed(make_item: MakeItem, export_root: Path, tmp_path: Path) -> None:
    elsewhere = put(tmp_path / "elsewhere" / "rows.xlsx", b"rows")
    item = make_item(retention_days=1)
    through = wrote(item, "a.xlsx", path=str(export_root / "link" / "rows.xlsx"))
    (export_root / "link").symlink_to(elsewhere.parent)
    file = wrote(item, "b.xlsx")
    Path(file.path).unlink()
    Path(file.path).symlink_to(elsewhere)
    assert retain(on_day(9)).failed == 1
    assert (elsewhere.read_bytes(), why(through), why(file)) == (b"rows", "", CHANGED)


def test_a_file_without_its_bytes_on_record_stays(make_item: MakeItem) -> None:
    row = wrote(make_item(retention_days=1), sha256="")
    assert retain(on_day(9)) == Retained()
    assert Path(row.path).exists()


def test_a_file_that_was_just_written_waits(make_item: MakeItem) -> None:
    """It may be a later run's with the same bytes, which has not said so yet."""
    row = wrote(make_item(retention_days=1))
    put(Path(row.path), b"rows", on_day(9) - timedelta(minutes=9))
    assert retain(on_day(9)) == Retained()
    put(Path(row.path), b"rest", on_day(9) - timedelta(minutes=9))
    assert retain(on_day(9)) == Retained()
    assert why(row) == ""
    put(Path(row.path), b"rows", on_day(9) - timedelta(minutes=11))
    retain(on_day(9))
    assert why(row) == DELETED


def test_a_folder_that_somebody_writes_to_waits(make_item: MakeItem, export_root: Path) -> None:
    row = wrote(make_item(retention_days=1))
    held = os.open(export_root, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    assert retain(on_day(9)) == Retained()
    assert (Path(row.path).exists(), why(row)) == (True, "")
    os.close(held)
    assert retain(on_day(9)).done == {DELETED: 1}


def test_what_fails_is_logged_and_tried_again(
    make_item: MakeItem, export_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    item = make_item(retention_days=1)
    wrote(item, "a.xlsx", path=str(export_root / "a.xlsx" / "b.xlsx"))  # Its folder is a file.
    row = wrote(item, "c.xlsx")
    retained = retain(on_day(9))
    assert (retained.done, retained.failed) == ({DELETED: 1}, 1)
    assert "Retention could not deal with the file" in caplog.text
    assert why(row) == DELETED
    assert retain(on_day(9)).failed == 1


@pytest.mark.django_db(transaction=True)
def test_rounds_at_once_delete_each_file_once(make_item: MakeItem, export_root: Path) -> None:
    item = make_item(retention_days=1)
    rows = [wrote(item, f"{number}.xlsx", day=number) for number in range(8)]
    barrier, done = Barrier(4), []

    def round_() -> None:
        barrier.wait()
        done.append(retain(on_day(30)))
        connection.close()

    threads = [Thread(target=round_) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(2):  # What gave way to another round.
        done.append(retain(on_day(30)))
    assert sum(each.done[DELETED] for each in done) == 8
    assert {why(row) for row in rows} == {DELETED}
    assert files(export_root) == []


def test_a_round_whose_time_is_over_goes_on_later(make_item: MakeItem) -> None:
    item = make_item(retention_days=1)
    for number in range(3):
        wrote(item, f"{number}.xlsx", day=number)
    first = retain(on_day(30), longest_sec=-1)
    assert (first.done, first.unfinished) == ({DELETED: 1}, True)
    assert retain(on_day(30)).done == {DELETED: 2}
    assert not retain(on_day(30), longest_sec=-1).unfinished


def test_the_task_does_a_round(make_item: MakeItem) -> None:
    row = wrote(make_item(retention_days=1))
    tasks.retain()
    assert why(row) == DELETED


def test_beat_asks_for_a_round_every_hour(settings: Settings) -> None:
    entry = settings.CELERY_BEAT_SCHEDULE["retention"]
    assert (entry["task"], entry["schedule"]) == (tasks.retain.name, 3600)
    assert settings.CELERY_TASK_ROUTES[tasks.retain.name] == {"queue": "service"}


def test_queries_do_not_grow_with_what_is_kept(make_item: MakeItem) -> None:
    def queries(round_: Callable[[], Any]) -> int:
        with CaptureQueriesContext(
            connection,
        ) as captured:
            round_()
        return len(captured)

    item = make_item(retention_days=3, retention_files=300)
    wrote(item, "0.xlsx", day=30)
    few = queries(lambda: retain(on_day(30)))
    other = make_item(retention_days=3, retention_files=300)
    for number in range(30):
        wrote(other, f"other {number}.xlsx", day=30)
    assert queries(lambda: retain(on_day(30))) == few
