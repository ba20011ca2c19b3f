"""A file in a folder: the old one or the complete new one, never a half."""

import errno
import os
import shutil
import stat
from contextlib import ExitStack, suppress
from dataclasses import KW_ONLY, dataclass
from enum import StrEnum
from itertools import chain, count, takewhile
from pathlib import Path
from time import monotonic
from typing import IO, assert_never

from queryexport.contents import Contents
from queryexport.errors import DeliveryError
from queryexport.filenames import numbered, version
from queryexport.rows import Progress, Receipt, Result
from queryexport.sinks.folder import Folder, opened_folder
from queryexport.sinks.parts import Part, clear, part_in
from queryexport.sinks.prepared import PIECE_BYTES, Prepared, disk_errors_named, prepare

MOST_NUMBERS = 9999
# What file systems say that have no hard links; EPERM also for a file of another user.
NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})
UNCHANGED = "The previous file, if any, is unchanged."


class OnExisting(StrEnum):
    """What becomes of a file that is there already under the new one's name."""

    REPLACE = "replace"
    REFUSE = "refuse"
    NUMBER = "number"
    KEEP = "keep"


@dataclass(frozen=True)
class FileSink:
    """One file in a folder: the old file or the complete new one, never a half.

    The rows are written to a part beside the target, which is synced to disk, read back, and then
    given its name in one step. Whatever fails before that leaves the target as it was; whatever a
    killed process leaves, the next delivery to the folder removes. With `root`, no link below it is
    followed. By `on_existing` a file of that name

    - REPLACE: is replaced.
    - REFUSE: stays, and `DeliveryError` is raised: before any row is read, and again if one came up
      meanwhile.
    - NUMBER: stays, and the new one is `name_2.xlsx`, or the next number that is free.
    - KEEP: becomes `name.1.xlsx`, that one `name.2.xlsx`, and so on, `keep_versions` of them at
      most. The name itself is never without a file, and the oldest goes last.

    Two deliveries into one folder publish one after the other. Where the file system has no locks,
    two at the very same moment may lose one of each other's kept versions, and nothing else. Where
    it has no hard links, REFUSE and NUMBER look and then rename, so that a file which somebody else
    puts there between the two is replaced, and KEEP copies the file that it keeps.
    """

    path: Path
    contents: Contents
    _: KW_ONLY
    root: Path | None = None
    on_existing: OnExisting = OnExisting.REPLACE
    keep_versions: int = 5

    def deliver(self, result: Result, progress: Progress) -> Receipt:
        started = monotonic()
        with ExitStack() as stack:
            with disk_errors_named(f"The file {self.path}", note=UNCHANGED):
                folder = stack.enter_context(opened_folder(self.path.parent, root=self.root))
                self._check_target(folder)
                clear(folder)
                prepared, path = self._written(folder, result, progress)
            _sync_folder(folder, path)
        progress.arrived(prepared.written.rows)
        place = str(path)
        return prepared.receipt(place, path=place, duration_sec=monotonic() - started)

    def _check_target(self, folder: Folder) -> None:
        status = folder.status(self.path.name)
        if status and stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if status and self.on_existing is OnExisting.REFUSE:
            raise _exists(self.path)

    def _written(self, folder: Folder, result: Result, progress: Progress) -> tuple[Prepared, Path]:
        with part_in(folder) as part:
            prepared = prepare(self.contents, result, part.file, name=self.path.name)
            with folder.locked(progress):
                _check_place(folder)
                progress.check()
                name = self._published(folder, part)
        return prepared, self.path.with_name(name)

    def _published(self, folder: Folder, part: Part) -> str:
        """Gives the part its name; it may still have the old one as well."""
        name = self.path.name
        match self.on_existing:
            case OnExisting.REPLACE:
                folder.rename(part.name, name)
            case OnExisting.REFUSE:
                if not _linked(folder, part.name, name):
                    raise _exists(self.path)
            case OnExisting.NUMBER:
                return _linked_with_number(folder, part.name, name)
            case OnExisting.KEEP:
                _renamed_over_kept(folder, part.name, name, self.keep_versions)
            case _:
                assert_never(self.on_existing)
        return name


def _exists(path: Path) -> DeliveryError:
    return DeliveryError(
        f"The file {path} exists already, and the item does not replace files. It is unchanged, "
        "and nothing was written. Move it away, or change the item's file name or what it does "
        "with existing files."
    )


def _check_place(folder: Folder) -> None:
    if not folder.is_in_place():
        raise DeliveryError(
            f"The folder {folder.path} was removed, moved or replaced while the rows were written. "
            "Nothing was delivered. Make it again, or leave it alone while runs go on.",
            retryable=True,
        )


def _linked(folder: Folder, part: str, name: str) -> bool:
    """Gives the file a name that is free; False when it is not."""
    try:
        folder.link(part, name)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if folder.status(name):
            return False
        folder.rename(part, name)
    return True


def _linked_with_number(folder: Folder, part: str, name: str) -> str:
    taken = set(folder.names())
    others = (numbered(name, number) for number in range(2, MOST_NUMBERS + 1))
    for free in chain([name], others):
        if free not in taken and _linked(folder, part, free):
            return free
    raise DeliveryError(
        f"{folder.path / name} and its numbers up to {MOST_NUMBERS} exist. Nothing was written. "
        "Move the old files away."
    )


def _renamed_over_kept(folder: Folder, part: str, name: str, most: int) -> None:
    """The file before gets a second name, and only then the new one takes the first."""
    if folder.status(name) and not _is_kept(folder, name):
        _make_room(folder, name, most + 1)
        _keep(folder, name)
    folder.rename(part, name)
    with suppress(OSError):  # The file is delivered. The next delivery tries again.
        _drop(folder, name, most + 1)


def _is_kept(folder: Folder, name: str) -> bool:
    """Whether somebody was killed after keeping the file and before replacing it."""
    now, kept = folder.status(name), folder.status(version(name, 1))
    if not (now and kept):
        return False
    copied = (now.st_size, now.st_mtime_ns) == (kept.st_size, kept.st_mtime_ns)
    return os.path.samestat(now, kept) or (copied and _are_equal(folder, name, version(name, 1)))


def _are_equal(folder: Folder, one: str, other: str) -> bool:
    with _reading(folder, one) as first, _reading(folder, other) as second:
        pieces = iter(lambda: (first.read(PIECE_BYTES), second.read(PIECE_BYTES)), (b"", b""))
        return all(here == there for here, there in pieces)


def _reading(folder: Folder, name: str) -> IO[bytes]:
    return os.fdopen(folder.open(name, os.O_RDONLY), "rb")


def _make_room(folder: Folder, name: str, most: int) -> None:
    """Moves the versions up to the first gap, or from the last but one on, so that 1 is free."""
    numbers = range(1, most)
    gap = next((number for number in numbers if not folder.status(version(name, number))), most)
    for number in range(gap - 1, 0, -1):
        folder.rename(version(name, number), version(name, number + 1))


def _keep(folder: Folder, name: str) -> None:
    try:
        folder.link(name, version(name, 1))
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        _copy(folder, name, version(name, 1))


def _copy(folder: Folder, name: str, copy: str) -> None:
    with _reading(folder, name) as source, part_in(folder) as part:
        shutil.copyfileobj(source, part.file, PIECE_BYTES)
        part.file.flush()
        status = os.fstat(source.fileno())
        os.utime(part.file.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
        os.fsync(part.file.fileno())
        folder.rename(part.name, copy)


def _drop(folder: Folder, name: str, first: int) -> None:
    """Removes the version `first` and those that follow it without a gap, the oldest before."""
    names = (version(name, number) for number in count(first))
    for old in reversed(list(takewhile(folder.status, names))):
        folder.remove(old)


def _sync_folder(folder: Folder, path: Path) -> None:
    """Makes the new name survive a power cut."""
    try:
        folder.sync()
    except OSError as error:
        raise DeliveryError(
            f"The file {path} is complete and in its place, but a power cut may undo that, because "
            f"its folder could not be synced to the disk: {error.strerror or error}. Check the "
            "disk, and whether the file is there."
        ) from error
