"""What becomes of a file that is there already, and of what killed processes have left."""

import fcntl
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

import pytest

from queryexport.contents import Contents, Gzip
from queryexport.errors import DeliveryError, RunSuperseded
from queryexport.rows import Result
from queryexport.sinks import file as files
from queryexport.sinks import folder as folders
from queryexport.sinks.file import FileSink, OnExisting
from queryexport.sinks.folder import opened_folder
from queryexport.sinks.parts import clear_parts
from tests.fakes import RecordedProgress, result_of
from tests.queryexport.file_steps import Lines, Steps, without

KEEP, NUMBER, REFUSE, REPLACE = (
    OnExisting.KEEP,
    OnExisting.NUMBER,
    OnExisting.REFUSE,
    OnExisting.REPLACE,
)
LITTER = ".query-export-0123456789abcdef0123456789abcdef.part"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "exports"
    path.mkdir()
    return path


def one_row(value: object) -> Result:
    return result_of(["n"], [[value]])


def deliver(sink: FileSink, value: object) -> Path:
    receipt = sink.deliver(one_row(value), RecordedProgress())
    assert receipt.place == receipt.path
    return Path(receipt.path)


def while_writing(act: Callable[[], object]) -> Result:
    """A result that does something between its first row and its last."""

    def rows() -> Iterator[Sequence[object]]:
        yield ["first"]
        act()
        yield ["last"]

    return result_of(["n"], rows(), batch_rows=1)


def held(folder: Path) -> dict[str, str]:
    """What each file of the folder holds, in one line."""
    return {path.name: path.read_text().strip() for path in sorted(folder.iterdir())}


# A file that is there already ---------------------------------------------------------------------


def test_a_file_that_is_there_is_refused_before_any_row_is_read(folder: Path) -> None:
    path = folder / "a.txt"
    path.write_text("old")
    sink = FileSink(path, Contents(Lines()), on_existing=REFUSE)
    read: list[str] = []
    with pytest.raises(DeliveryError, match="exists already") as caught:
        sink.deliver(while_writing(lambda: read.append("row")), RecordedProgress())
    assert str(path) in caught.value.message
    assert not caught.value.retryable
    assert read == []
    assert held(folder) == {"a.txt": "old"}


@pytest.mark.parametrize("missing", ["nothing", "links"])
def test_a_file_that_comes_up_meanwhile_is_refused_too(folder: Path, missing: str) -> None:
    path = folder / "a.txt"
    sink = FileSink(path, Contents(Lines()), on_existing=REFUSE)
    result = while_writing(lambda: path.write_text("another's"))
    with without(missing), pytest.raises(DeliveryError, match="exists already"):
        sink.deliver(result, RecordedProgress())
    assert held(folder) == {"a.txt": "another's"}


@pytest.mark.parametrize("missing", ["nothing", "links", "locks"])
def test_without_a_file_in_its_place_a_refusing_item_delivers(folder: Path, missing: str) -> None:
    with without(missing):
        deliver(FileSink(folder / "a.txt", Contents(Lines()), on_existing=REFUSE), "new")
    assert held(folder) == {"a.txt": "new"}


@pytest.mark.parametrize("missing", ["nothing", "links", "locks"])
def test_numbers_go_on_from_the_first_free_one(folder: Path, missing: str) -> None:
    sink = FileSink(folder / "a.txt", Contents(Lines()), on_existing=NUMBER)
    with without(missing):
        places = [deliver(sink, number).name for number in range(3)]
        (folder / "a_2.txt").unlink()
        places.append(deliver(sink, 3).name)
    assert places == ["a.txt", "a_2.txt", "a_3.txt", "a_2.txt"]
    assert held(folder) == {"a.txt": "0", "a_2.txt": "3", "a_3.txt": "2"}


def test_a_number_of_a_compressed_file_goes_before_both_suffixes(folder: Path) -> None:
    sink = FileSink(folder / "a.txt.gz", Contents(Lines(), Gzip()), on_existing=NUMBER)
    assert [deliver(sink, number).name for number in range(2)] == ["a.txt.gz", "a_2.txt.gz"]


def test_a_number_that_is_taken_meanwhile_is_left_alone(folder: Path) -> None:
    sink = FileSink(folder / "a.txt", Contents(Lines()), on_existing=NUMBER)
    deliver(sink, "one")
    receipt = sink.deliver(
        while_writing(lambda: (folder / "a_2.txt").write_text("another's")), RecordedProgress()
    )
    assert receipt.path == str(folder / "a_3.txt")
    assert held(folder)["a_2.txt"] == "another's"


def test_a_folder_with_all_numbers_taken_is_a_clear_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MOST_NUMBERS", 2)
    sink = FileSink(folder / "a.txt", Contents(Lines()), on_existing=NUMBER)
    deliver(sink, 0)
    deliver(sink, 1)
    with pytest.raises(DeliveryError, match="Move the old files away"):
        deliver(sink, 2)
    assert held(folder) == {"a.txt": "0", "a_2.txt": "1"}


@pytest.mark.parametrize("missing", ["nothing", "links", "locks"])
def test_the_files_before_are_kept_in_order_and_the_oldest_goes(folder: Path, missing: str) -> None:
    sink = FileSink(folder / "a.txt", Contents(Lines()), on_existing=KEEP, keep_versions=2)
    with without(missing):
        for number in range(5):
            assert deliver(sink, number) == folder / "a.txt"
    assert held(folder) == {"a.1.txt": "3", "a.2.txt": "2", "a.txt": "4"}


def test_fewer_versions_than_before_leaves_fewer(folder: Path) -> None:
    for most, number in [(4, 0), (4, 1), (4, 2), (4, 3), (4, 4), (1, 5)]:
        sink = FileSink(folder / "a.txt", Contents(Lines()), on_existing=KEEP, keep_versions=most)
        deliver(sink, number)
    assert held(folder) == {"a.1.txt": "4", "a.txt": "5"}


def test_a_file_that_only_looks_like_an_old_version_stays(folder: Path) -> None:
    (folder / "a.2026.txt").write_text("another item's")
    sink = FileSink(folder / "a.txt", Contents(Lines()), on_existing=KEEP, keep_versions=1)
    for number in range(4):
        deliver(sink, number)
    assert held(folder) == {"a.1.txt": "2", "a.2026.txt": "another item's", "a.txt": "3"}


def test_the_same_rows_again_are_a_version_of_their_own(folder: Path) -> None:
    sink = FileSink(folder / "a.txt", Contents(Lines()), on_existing=KEEP)
    for _ in range(3):
        deliver(sink, "same")
    assert held(folder) == {"a.1.txt": "same", "a.2.txt": "same", "a.txt": "same"}


def test_a_failed_delivery_moves_no_version(folder: Path) -> None:
    sink = FileSink(folder / "a.txt", Contents(Lines()), on_existing=KEEP, keep_versions=2)
    for number in range(4):
        deliver(sink, number)
    before = held(folder)
    with pytest.raises(RunSuperseded):
        sink.deliver(one_row("new"), RecordedProgress(stop=RunSuperseded("Taken over.")))
    assert held(folder) == before


# Several at once ----------------------------------------------------------------------------------

AT_ONCE = 4
EACH = 12


def deliver_often(path: Path, on_existing: str, seed: int, missing: str) -> list[str]:
    """What one of several processes does: where its files are, or "" where it was refused."""
    with without(missing):
        return _deliver_often(path, on_existing, seed)


def _deliver_often(path: Path, on_existing: str, seed: int) -> list[str]:
    places = []
    for number in range(EACH):
        sink = FileSink(
            path, Contents(Lines()), on_existing=OnExisting(on_existing), keep_versions=1000
        )
        try:
            places.append(deliver(sink, seed * EACH + number).name)
        except DeliveryError as error:
            places.append("" if "exists already" in error.message else error.message)
    return places


@pytest.fixture
def all_at_once(folder: Path) -> Callable[..., list[str]]:
    """Lets several processes deliver to one path; all places."""

    def run(on_existing: OnExisting, missing: str = "nothing") -> list[str]:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(AT_ONCE, mp_context=context) as processes:
            asked = [
                processes.submit(deliver_often, folder / "a.txt", on_existing.value, seed, missing)
                for seed in range(AT_ONCE)
            ]
            return [place for each in asked for place in each.result(timeout=60)]

    return run


@pytest.mark.parametrize("missing", ["nothing", "locks"])
def test_processes_at_once_never_take_one_number(
    folder: Path, all_at_once: Callable[..., list[str]], missing: str
) -> None:
    places = all_at_once(NUMBER, missing)
    assert sorted(places) == sorted(held(folder))
    assert len(set(places)) == AT_ONCE * EACH
    assert sorted(map(int, held(folder).values())) == list(range(AT_ONCE * EACH))


def test_processes_at_once_lose_no_version(
    folder: Path, all_at_once: Callable[..., list[str]]
) -> None:
    all_at_once(KEEP)
    assert sorted(map(int, held(folder).values())) == list(range(AT_ONCE * EACH))


@pytest.mark.parametrize("missing", ["nothing", "locks"])
def test_of_processes_at_once_one_creates_the_file(
    folder: Path, all_at_once: Callable[..., list[str]], missing: str
) -> None:
    places = all_at_once(REFUSE, missing)
    assert sorted(filter(None, places)) == ["a.txt"]
    assert list(held(folder)) == ["a.txt"]


def test_a_run_waits_for_its_turn_to_publish_and_can_be_stopped(folder: Path) -> None:
    sink = FileSink(folder / "a.txt", Contents(Lines()))
    with opened_folder(folder, root=None) as other:
        fcntl.flock(other.descriptor, fcntl.LOCK_EX)
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(deliver, sink, "new")
            time.sleep(0.3)
            assert not waiting.done()
            with pytest.raises(RunSuperseded):
                sink.deliver(one_row("x"), RecordedProgress(stop=RunSuperseded("Taken over.")))
            assert "a.txt" not in held(folder)
            fcntl.flock(other.descriptor, fcntl.LOCK_UN)
            assert waiting.result(timeout=10) == folder / "a.txt"


def test_a_folder_that_stays_locked_fails_the_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "LOCK_WAIT_SEC", 0.2)
    with opened_folder(folder, root=None) as other:
        fcntl.flock(other.descriptor, fcntl.LOCK_EX)
        with pytest.raises(DeliveryError, match="locked") as caught:
            deliver(FileSink(folder / "a.txt", Contents(Lines())), "new")
    assert caught.value.retryable
    assert held(folder) == {}


# Links that are put in the way --------------------------------------------------------------------


def test_folders_are_made_below_the_root(tmp_path: Path) -> None:
    root = tmp_path / "not" / "yet"
    sink = FileSink(root / "a" / "b" / "c.txt", Contents(Lines()), root=root)
    assert deliver(sink, "new").read_text() == "new\n"


def test_a_root_that_is_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "root").symlink_to("disk")
    for path in ("root/a/one.txt", "disk/a/two.txt"):
        deliver(FileSink(tmp_path / path, Contents(Lines()), root=tmp_path / "root"), "new")
    assert held(tmp_path / "disk" / "a") == {"one.txt": "new", "two.txt": "new"}


@pytest.mark.parametrize("path", ["outside/a.txt", "root/../outside/a.txt"])
def test_a_path_outside_of_the_root_is_refused(tmp_path: Path, path: str) -> None:
    sink = FileSink(tmp_path / path, Contents(Lines()), root=tmp_path / "root")
    with pytest.raises(DeliveryError, match="lies outside the export folder"):
        deliver(sink, "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("level", ["a", "a/b"])
def test_a_link_put_in_after_the_check_is_not_followed(tmp_path: Path, level: str) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / level).parent.mkdir(parents=True)
    (outside / "b").mkdir(parents=True)
    (root / level).symlink_to(outside)
    with pytest.raises(DeliveryError, match="became a link") as caught:
        deliver(FileSink(root / "a" / "b" / "c.txt", Contents(Lines()), root=root), "new")
    assert str(root / level) in caught.value.message
    assert not caught.value.retryable
    assert [path.name for path in outside.rglob("*")] == ["b"]


def test_a_link_put_in_while_rows_are_written_is_not_followed(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    outside.mkdir()
    path = root / "a" / "b.txt"
    deliver(FileSink(path, Contents(Lines()), root=root), "old")

    def swap() -> None:
        (root / "a").rename(root / "moved")
        (root / "a").symlink_to(outside)

    with pytest.raises(DeliveryError, match="removed, moved or replaced") as caught:
        FileSink(path, Contents(Lines()), root=root).deliver(
            while_writing(swap), RecordedProgress()
        )
    assert caught.value.retryable
    assert held(outside) == {}
    assert held(root / "moved") == {"b.txt": "old"}


def test_another_folder_put_in_while_rows_are_written_is_noticed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    path = root / "a" / "b.txt"

    def swap() -> None:
        (root / "a").rename(root / "moved")
        (root / "a").mkdir()

    with pytest.raises(DeliveryError, match="removed, moved or replaced"):
        FileSink(path, Contents(Lines()), root=root).deliver(
            while_writing(swap), RecordedProgress()
        )
    assert (held(root / "a"), held(root / "moved")) == ({}, {})


@pytest.mark.slow
def test_a_folder_that_turns_into_a_link_all_the_time_lets_nothing_out(tmp_path: Path) -> None:
    root, outside, over = tmp_path / "root", tmp_path / "outside", Event()
    (root / "a").mkdir(parents=True)
    outside.mkdir()

    def swap() -> None:
        number = 0
        while not over.is_set():
            number += 1
            time.sleep(number % 8 / 1000)  # So that some deliveries fit in between.
            with suppress(FileNotFoundError, FileExistsError):  # The sink makes the folder, too.
                (root / "a").rename(root / f"moved-{number}")
                (root / "a").symlink_to(outside)
                (root / "a").unlink()

    swapping = Thread(target=swap)
    swapping.start()
    sink = FileSink(root / "a" / "b.txt", Contents(Lines()), root=root)
    delivered = refused = 0
    while min(delivered, refused) < 20 and delivered + refused < 5000:
        try:
            deliver(sink, "new")
            delivered += 1
        except DeliveryError:
            refused += 1
    over.set()
    swapping.join()
    assert held(outside) == {}
    assert delivered and refused, (delivered, refused)


@pytest.mark.parametrize("on_existing", [REPLACE, KEEP, NUMBER])
def test_a_target_that_is_a_link_is_never_written_through(
    folder: Path, tmp_path: Path, on_existing: OnExisting
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("theirs")
    (folder / "a.txt").symlink_to(secret)
    place = deliver(FileSink(folder / "a.txt", Contents(Lines()), on_existing=on_existing), "new")
    assert secret.read_text() == "theirs"
    assert place.read_text() == "new\n"
    assert not place.is_symlink()


# What killed processes leave ----------------------------------------------------------------------


def test_a_delivery_removes_what_a_killed_one_has_left(folder: Path) -> None:
    (folder / LITTER).write_text("half")
    others = [".query-export-x.part", "a.part", ".0123456789abcdef0123456789abcdef.part"]
    for name in others:
        (folder / name).write_text("not ours")
    deliver(FileSink(folder / "a.txt", Contents(Lines())), "new")
    assert sorted(held(folder)) == sorted(["a.txt", *others])


def test_clearing_says_how_many_and_needs_no_folder(folder: Path) -> None:
    (folder / LITTER).write_text("half")
    assert [clear_parts(folder), clear_parts(folder), clear_parts(folder / "none")] == [1, 0, 0]


def test_clearing_follows_no_link(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / LITTER).write_text("theirs")
    (folder / "link").symlink_to(outside)
    (folder / LITTER).symlink_to(outside / LITTER)
    assert clear_parts(folder / "link", root=folder) == 0
    assert clear_parts(folder) == 0
    assert held(outside) == {LITTER: "theirs"}


def test_a_part_that_is_a_pipe_holds_nobody_up(folder: Path) -> None:
    os.mkfifo(folder / LITTER)
    assert clear_parts(folder) == 0


def test_a_part_that_is_being_written_is_no_litter(folder: Path) -> None:
    seen: list[object] = []

    def look() -> None:
        seen.append(clear_parts(folder))
        seen.append(deliver(FileSink(folder / "b.txt", Contents(Lines())), "other").name)

    FileSink(folder / "a.txt", Contents(Lines())).deliver(while_writing(look), RecordedProgress())
    assert seen == [0, "b.txt"]
    assert held(folder) == {"a.txt": "first\nlast", "b.txt": "other"}


def test_without_locks_only_old_parts_are_litter(folder: Path) -> None:
    old, young = LITTER, LITTER.replace("0", "f")
    for name, days in [(old, 2.01), (young, 1.99)]:
        (folder / name).write_text("half")
        moment = time.time() - days * 86_400
        os.utime(folder / name, (moment, moment))
    with without("locks"):
        assert clear_parts(folder) == 1
    assert list(held(folder)) == [young]


def test_a_part_that_is_taken_for_litter_before_it_is_locked_is_made_again(folder: Path) -> None:
    cleared = []

    def at(_: int, step: str) -> None:
        if step == "flock" and not cleared:
            names = [path.name for path in folder.iterdir()]
            cleared.extend([names] if names else [])
            for name in names:
                (folder / name).unlink()

    with Steps(at).counted():
        deliver(FileSink(folder / "a.txt", Contents(Lines())), "new")
    assert len(cleared) == 1
    assert held(folder) == {"a.txt": "new"}


def test_clearing_all_the_time_disturbs_no_delivery(folder: Path) -> None:
    over, cleared = Event(), 0

    def clear() -> None:
        nonlocal cleared
        while not over.is_set():
            cleared += clear_parts(folder)

    clearing = [Thread(target=clear) for _ in range(2)]
    for thread in clearing:
        thread.start()
    try:
        sink = FileSink(folder / "a.txt", Contents(Lines()), on_existing=NUMBER)
        for number in range(150):
            deliver(sink, number)
    finally:
        over.set()
        for thread in clearing:
            thread.join()
    assert sorted(map(int, held(folder).values())) == list(range(150))
