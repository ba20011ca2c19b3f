"""A delivery to a file that is killed at any step, or meets a disk that takes no more.

Afterwards the target is the old file or the complete new one, no version that is to be kept is
lost, and the next delivery leaves nothing but files in their places.
"""

import errno
import gzip
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import openpyxl
import pytest
from django.conf import settings

from queryexport.contents import Contents, EncryptedZip
from queryexport.errors import DeliveryError
from queryexport.filenames import numbered, version
from queryexport.formats.xlsx import Xlsx
from queryexport.sinks.file import FileSink
from queryexport.sinks.parts import NAME as PART
from queryexport.sinks.prepared import nameless
from tests.fakes import RecordedProgress, result_of
from tests.queryexport.file_steps import (
    NAME,
    PACKED_NAME,
    Lines,
    Steps,
    deliver,
    rows,
    sink,
    text,
    without,
)

KEPT = 2
SETTLED = "the delivery after"

# What lies in the folder before: none of a file, the target, and what was kept.
NOTHING: Mapping[int, str] = {}
ONE = {0: "old"}
ALL = {0: "old", 1: "older", 2: "oldest"}
WITH_A_GAP = {0: "old", 2: "oldest"}
# Killed before the last step, by an earlier version of events: the target is kept, one too many.
HALF_WAY = {0: "old", 1: "old", 2: "older", 3: "oldest"}

CASES = [
    ("replace", ONE, ()),
    ("replace", NOTHING, ()),
    ("refuse", NOTHING, ()),
    ("refuse", NOTHING, ("links",)),
    ("number", ALL, ()),
    ("number", ALL, ("links",)),
    ("keep", NOTHING, ()),
    ("keep", ONE, ()),
    ("keep", ALL, ()),
    ("keep", WITH_A_GAP, ()),
    ("keep", HALF_WAY, ()),
    ("keep", ALL, ("links",)),
    ("keep", ALL, ("locks",)),
]


def named(on_existing: str, number: int, name: str) -> str:
    """What the file of that number in a case is called."""
    if not number:
        return name
    return numbered(name, number + 1) if on_existing == "number" else version(name, number)


def lay(folder: Path, on_existing: str, before: Mapping[int, str], name: str) -> None:
    """Makes the folder as it is before: kept files that are equal are one file with two names."""
    folder.mkdir(parents=True)
    for number, seed in before.items():
        path = folder / named(on_existing, number, name)
        if number == 1 and before[0] == seed:
            os.link(folder / name, path)
        else:
            path.write_bytes(packed(seed) if name == PACKED_NAME else text(seed))


def packed(seed: str) -> bytes:
    return gzip.compress(text(seed))


def seen(folder: Path, seeds: set[str]) -> dict[str, str]:
    """Whose rows each file holds, without parts; a half says so."""
    return {
        path.name: _whose(path, seeds)
        for path in sorted(folder.iterdir())
        if not PART.fullmatch(path.name)
    }


def _whose(path: Path, seeds: set[str]) -> str:
    content = path.read_bytes()
    with suppress(EOFError, OSError):
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        for seed in seeds:
            if content == text(seed):
                return seed
    return f"a half of {len(content)} bytes"


def judge(on_existing: str, before: Mapping[int, str], name: str, folder: Path) -> bool:
    """Asserts what is promised of a folder in which a delivery was broken off; whether the new file
    is there.
    """
    seeds = {*before.values(), "new"}
    found = seen(folder, seeds)
    old = {named(on_existing, number, name): seed for number, seed in before.items()}
    if on_existing != "keep":
        place = named(on_existing, len(before) if on_existing == "number" else 0, name)
        assert found in (old, old | {place: "new"})
        return found != old
    target = found.get(name, "")
    assert target in (before.get(0, ""), "new")
    assert (target != "") == bool(before) or target == "new"
    kept = [seed for _, seed in sorted(before.items())]
    kept = list(dict.fromkeys(kept))  # One that was kept already is there under two names.
    if target == "new":
        kept = kept[:KEPT]
    elif before is HALF_WAY:
        kept = kept[: KEPT + 1]
    assert set(kept) <= set(found.values())
    order = [
        found[each] for each in (version(name, number) for number in range(9)) if each in found
    ]
    assert list(dict.fromkeys(order)) == [
        seed for seed in ("old", "older", "oldest") if seed in order
    ]
    return target == "new"


def judge_what_follows(
    on_existing: str, before: Mapping[int, str], name: str, folder: Path, *, arrived: bool
) -> None:
    """Delivers once more, and asserts that the folder is as if nothing had been broken off."""
    if on_existing == "refuse":
        (folder / name).unlink(missing_ok=True)
        arrived = False
    deliver(sink(folder, on_existing, packed=name == PACKED_NAME, keep=KEPT), SETTLED)
    files = list(dict.fromkeys(seed for _, seed in sorted(before.items())))
    files = [*files, "new"] if on_existing == "number" and arrived else files
    files = ["new", *files] if on_existing != "number" and arrived else files
    if on_existing == "number":
        expected = [*files, SETTLED]
    else:
        expected = [SETTLED, *files[:KEPT]] if on_existing == "keep" else [SETTLED]
    names = [path.name for path in folder.iterdir()]
    assert not any(map(PART.fullmatch, names))
    found = seen(folder, {*before.values(), "new", SETTLED})
    if before is WITH_A_GAP and not arrived:
        assert Counter(found.values()) == Counter(expected)
        return
    assert found == {named(on_existing, number, name): seed for number, seed in enumerate(expected)}


# Killed ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", [NAME, PACKED_NAME], ids=["plain", "packed"])
@pytest.mark.parametrize(("on_existing", "before", "missing"), CASES)
def test_killed_at_any_step(
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    on_existing: str,
    before: Mapping[int, str],
    missing: tuple[str, ...],
    name: str,
) -> None:
    lay(tmp_path / "before", on_existing, before, name)
    packing = "packed" if name == PACKED_NAME else "plain"
    steps = killed_at_each_step(tmp_path, on_existing, packing, *missing)
    arrived_at, litter = [], 0
    for number in range(1, len(steps) + 2):
        folder = tmp_path / f"{number:03}"
        litter += any(PART.fullmatch(path.name) for path in folder.iterdir())
        arrived = judge(on_existing, before, name, folder)
        judge_what_follows(on_existing, before, name, folder, arrived=arrived)
        arrived_at.append(arrived)
    record_property("killed", len(steps))
    # It arrives in one step, and both sides of it were seen, as was litter that had to go.
    assert arrived_at == sorted(arrived_at)
    assert {True, False} == set(arrived_at[:-1])
    assert litter > 10
    assert {"write", "write half-way", "flock"} <= set(steps)
    published = [number for number, step in enumerate(steps) if step in ("link", "rename")]
    written = max(number for number in range(published[0]) if steps[number].startswith("write"))
    assert "fsync" in steps[written : published[0]]
    assert "fsync" in steps[published[-1] :]


def killed_at_each_step(base: Path, *arguments: str) -> list[str]:
    """The steps; each leaves a folder, and so does the delivery that nobody killed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.queryexport.killed_deliveries", str(base), *arguments],
        cwd=settings.BASE_DIR,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout.split("\n")[:-1]


# A disk that takes no more -----------------------------------------------------------------------

MAY_FAIL = {
    "open", "write", "write half-way", "fsync", "link", "rename", "unlink", "utime", "scandir",
    "flock",
}  # fmt: skip
ERRORS = [
    *((*case, errno.ENOSPC) for case in CASES),
    *(("replace", ONE, (), code) for code in (errno.EDQUOT, errno.EIO)),
    *(("keep", ALL, (), code) for code in (errno.EDQUOT, errno.EIO)),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", [NAME, PACKED_NAME], ids=["plain", "packed"])
@pytest.mark.parametrize(("on_existing", "before", "missing", "code"), ERRORS)
def test_an_error_at_any_step(
    tmp_path: Path,
    on_existing: str,
    before: Mapping[int, str],
    missing: tuple[str, ...],
    name: str,
    code: int,
) -> None:
    """One error; what is done about it works, so that there is no litter, if it can be removed."""
    lay(tmp_path / "before", on_existing, before, name)
    failed = 0
    for number in count(1):
        folder = tmp_path / f"{number:03}"
        shutil.copytree(tmp_path / "before", folder, copy_function=linked_copy(tmp_path, folder))

        def fail(step: int, what: str, number: int = number) -> None:
            if step == number and what in MAY_FAIL:
                raise OSError(code, os.strerror(code))

        steps = Steps(fail)
        error = None
        try:
            with without(*missing), steps.counted():
                deliver(sink(folder, on_existing, packed=name == PACKED_NAME, keep=KEPT), "new")
        except DeliveryError as caught:
            error = caught
        arrived = judge(on_existing, before, name, folder)
        judge_the_error(error, folder, code, arrived=arrived)
        failed += error is not None
        judge_what_follows(on_existing, before, name, folder, arrived=arrived)
        if len(steps.names) < number:
            break
    assert failed > 10


def linked_copy(base: Path, folder: Path) -> Callable[[str, str], object]:
    """Copies files so that two names of one file stay that."""
    made: dict[int, str] = {}

    def copy(source: str, target: str) -> object:
        inode = Path(source).stat().st_ino
        if inode in made:
            return os.link(made[inode], target)
        made[inode] = target
        return shutil.copy2(source, target)

    return copy


def judge_the_error(error: DeliveryError | None, folder: Path, code: int, *, arrived: bool) -> None:
    if error is None:
        assert arrived
        return
    assert str(folder) in error.message
    assert os.strerror(code) in error.message
    if arrived:
        assert "complete and in its place" in error.message
    else:
        assert "previous file, if any, is unchanged" in error.message
        assert error.retryable


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts disks in memory; skips where that is not permitted."""
    mounted: list[Path] = []

    def make(name: str, size: int) -> Path:
        path = tmp_path / name
        path.mkdir()
        mount("-t", "tmpfs", "-o", f"size={size},nr_inodes=200", "tmpfs", str(path))
        mounted.append(path)
        return path

    yield make
    for path in mounted:
        subprocess.run(["umount", "-l", path], check=True)


def mount(*arguments: str) -> None:
    try:
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"this user may not mount a disk: {done.stderr.strip()}")


PAGE = os.sysconf("SC_PAGE_SIZE")
SIZE = 80 * PAGE


def leave(disk: Path, free: int) -> None:
    """Fills the disk until so many bytes, in whole pages, are free."""
    filler = disk / "filler"
    with filler.open("wb") as file, suppress(OSError):
        while True:
            os.write(file.fileno(), bytes(PAGE))
    os.truncate(filler, filler.stat().st_size - free)


@pytest.mark.parametrize("name", [NAME, PACKED_NAME], ids=["plain", "packed"])
def test_a_full_disk_at_any_page_leaves_the_old_file(
    make_disk: Callable[..., Path], name: str
) -> None:
    disk = make_disk("disk", SIZE)
    folder = disk / "exports"
    lay(folder, "keep", ALL, name)
    target = sink(folder, "keep", packed=name == PACKED_NAME, keep=KEPT)
    enough = -(-len(packed("new") if name == PACKED_NAME else text("new")) // PAGE)
    for pages in range(enough):
        (disk / "filler").unlink(missing_ok=True)
        leave(disk, pages * PAGE)
        with pytest.raises(DeliveryError, match="No space left on device") as caught:
            deliver(target, "new")
        assert str(folder / name) in caught.value.message
        assert "Free space" in caught.value.message
        assert caught.value.retryable
        old = {named("keep", number, name): seed for number, seed in ALL.items()}
        assert {path.name for path in folder.iterdir()} == set(old)
        assert seen(folder, set(ALL.values())) == old
    (disk / "filler").unlink()
    leave(disk, (enough + 1) * PAGE)
    deliver(target, "new")
    assert _whose(folder / name, {"new"}) == "new"


def test_a_full_disk_anywhere_in_a_workbook_and_its_spool_leaves_the_old_one(
    make_disk: Callable[..., Path],
) -> None:
    disk = make_disk("disk", SIZE)
    path = disk / "exports" / "daily.xlsx"
    book = FileSink(path, Contents(Xlsx(ZoneInfo("Europe/Rome"))), root=disk)
    deliver(book, "old")
    before, failed = path.read_bytes(), 0
    for pages in count():
        (disk / "filler").unlink(missing_ok=True)
        leave(disk, pages * PAGE)
        try:
            deliver(book, "new")
        except DeliveryError as error:
            failed += "No space left on device" in error.message
            assert path.read_bytes() == before
            assert [each.name for each in path.parent.iterdir()] == ["daily.xlsx"]
            continue
        break
    assert failed == pages > 5
    cells = openpyxl.load_workbook(path)["data"].iter_rows(min_row=2, values_only=True)
    assert list(cells) == [tuple(row) for row in rows("new")]


@pytest.mark.parametrize("pages", [0, 1, 5])
def test_a_full_folder_for_temporary_files_leaves_the_old_file(
    make_disk: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pages: int
) -> None:
    """What an encrypted zip holds is spooled there, before any of it is in the export folder."""
    disk = make_disk("temporary", SIZE)
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    path = tmp_path / "exports" / "daily.txt.zip"
    packed = FileSink(path, Contents(Lines(), EncryptedZip("secret")), root=tmp_path)
    deliver(packed, "old")
    before = path.read_bytes()
    leave(disk, pages * PAGE)
    with pytest.raises(DeliveryError, match="No space left on device") as caught:
        deliver(packed, "new")
    assert str(disk) in caught.value.message
    assert caught.value.retryable
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == ["daily.txt.zip"]
    (disk / "filler").unlink()
    deliver(packed, "new")
    assert path.read_bytes() != before
    assert list(disk.iterdir()) == []


@pytest.mark.parametrize("pages", [0, 1, 5])
def test_a_full_folder_for_temporary_files_prepares_no_attachment(
    make_disk: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, pages: int
) -> None:
    disk = make_disk("temporary", SIZE)
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    leave(disk, pages * PAGE)
    result = result_of(["n"], rows("new"))
    with (
        pytest.raises(DeliveryError, match="No space left on device") as caught,
        nameless(Contents(Lines()), result, name="daily.txt"),
    ):
        pytest.fail("there is no attachment")
    assert str(disk) in caught.value.message
    assert caught.value.retryable
    assert [path.name for path in disk.iterdir()] == ["filler"]
    (disk / "filler").unlink()
    with nameless(Contents(Lines()), result_of(["n"], rows("new")), name="daily.txt") as prepared:
        assert prepared.file.read() == text("new")
        assert list(disk.iterdir()) == []


@pytest.mark.parametrize("name", [NAME, PACKED_NAME], ids=["plain", "packed"])
def test_a_worker_that_may_write_no_larger_files_leaves_the_old_one(
    tmp_path: Path, name: str
) -> None:
    """Without any right to mount, the system ends a write in the middle, too."""
    folder = tmp_path / "exports"
    lay(folder, "keep", ALL, name)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (1, 5000, 10_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(DeliveryError, match="File too large") as caught:
                deliver(sink(folder, "keep", packed=name == PACKED_NAME, keep=KEPT), "new")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "ulimit -f" in caught.value.message
        old = {named("keep", number, name): seed for number, seed in ALL.items()}
        assert {path.name for path in folder.iterdir()} == set(old)
        assert seen(folder, set(ALL.values())) == old


def test_a_disk_without_entries_for_more_files_leaves_the_old_file(
    make_disk: Callable[..., Path],
) -> None:
    disk = make_disk("disk", 100 * PAGE)
    folder = disk / "exports"
    lay(folder, "replace", ONE, NAME)
    with suppress(OSError):
        for number in range(1000):
            (disk / f"{number}").touch()
    with pytest.raises(DeliveryError, match="No space left on device"):
        deliver(sink(folder, "replace"), "new")
    assert seen(folder, {"old"}) == {NAME: "old"}


def test_a_disk_that_is_read_only_says_so(make_disk: Callable[..., Path]) -> None:
    disk = make_disk("disk", 100 * PAGE)
    folder = disk / "exports"
    lay(folder, "replace", ONE, NAME)
    mount("-o", "remount,ro", str(disk))
    with pytest.raises(DeliveryError, match="Read-only file system") as caught:
        deliver(sink(folder, "replace"), "new")
    assert str(folder / NAME) in caught.value.message
    assert "mounted read-only" in caught.value.message
    assert not caught.value.retryable
    mount("-o", "remount,rw", str(disk))
    assert seen(folder, {"old"}) == {NAME: "old"}
    deliver(sink(folder, "replace"), "new")
    assert seen(folder, {"new"}) == {NAME: "new"}


# A folder that is not what it was ----------------------------------------------------------------


def test_a_folder_that_vanishes_while_rows_are_written(tmp_path: Path) -> None:
    folder = tmp_path / "exports"
    lay(folder, "replace", ONE, NAME)

    def vanishing() -> Iterator[Any]:
        yield from rows("new")
        shutil.rmtree(folder)

    target = sink(folder, "replace")
    with pytest.raises(DeliveryError, match="removed, moved or replaced") as caught:
        target.deliver(result_of(["n"], vanishing()), RecordedProgress())
    assert str(folder) in caught.value.message
    assert caught.value.retryable
    assert list(tmp_path.iterdir()) == []
    assert deliver(target, "new").read_bytes() == text("new")


@pytest.mark.parametrize("on_existing", ["replace", "refuse", "number", "keep"])
def test_a_name_too_long_for_the_file_system_fails_before_any_row_is_read(
    tmp_path: Path, on_existing: str
) -> None:
    read: list[object] = []

    def noted() -> Iterator[Any]:
        read.append("row")
        yield [1]

    path = tmp_path / "exports" / f"{'x' * 252}.txt"
    target = FileSink(path, Contents(Lines()), on_existing=sink(tmp_path, on_existing).on_existing)
    with pytest.raises(DeliveryError, match="File name too long") as caught:
        target.deliver(result_of(["n"], noted()), RecordedProgress())
    assert "Shorten the name" in caught.value.message
    assert not caught.value.retryable
    assert read == []
    assert list(path.parent.iterdir()) == []


def test_a_folder_in_the_files_place_is_said_before_any_row_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "exports"
    (folder / NAME / "inner").mkdir(parents=True)
    for on_existing in ("replace", "refuse", "number", "keep"):
        with pytest.raises(DeliveryError, match="Is a directory") as caught:
            deliver(sink(folder, on_existing), "new")
        assert not caught.value.retryable
    assert [path.name for path in folder.iterdir()] == [NAME]


def test_a_worker_without_permission_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "exports"
    lay(folder, "replace", ONE, NAME)

    def refuse(_: int, what: str) -> None:
        if what == "open":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with (
        Steps(refuse).counted(),
        pytest.raises(DeliveryError, match="Permission denied") as caught,
    ):
        deliver(sink(folder, "replace"), "new")
    assert "the worker's user has to write there" in caught.value.message
    assert not caught.value.retryable
