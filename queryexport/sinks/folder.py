"""A folder held open, so that what is done in it stays in it, whatever its path leads to later."""

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from queryexport.errors import DeliveryError
from queryexport.rows import Progress

OPENED = os.O_RDONLY | os.O_DIRECTORY
LOCK_WAIT_SEC = 60.0
LOCK_LOOK_SEC = 0.05
# What file systems say that have no such thing, besides ENOSYS.
UNSUPPORTED = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS})
NO_LOCKS = UNSUPPORTED | {errno.ENOLCK, errno.EBADF}
NO_FOLDER_SYNC = UNSUPPORTED | {errno.EBADF}


class Lock(Enum):
    TAKEN = auto()
    HELD = auto()  # By somebody else.
    UNSUPPORTED = auto()


@dataclass(frozen=True)
class Folder:
    """An open folder. Its methods take names of entries in it, never paths, and follow no link.

    They raise the errors of `os`.
    """

    path: Path
    descriptor: int
    root: Path | None = None

    def names(self) -> list[str]:
        with os.scandir(self.descriptor) as entries:
            return [entry.name for entry in entries]

    def status(self, name: str) -> os.stat_result | None:
        """None when there is no such entry."""
        try:
            return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def open(self, name: str, flags: int, mode: int = 0) -> int:
        return os.open(name, flags | os.O_NOFOLLOW, mode, dir_fd=self.descriptor)

    def link(self, old: str, new: str) -> None:
        """Gives the file a second name; `FileExistsError` when that is taken."""
        os.link(
            old,
            new,
            src_dir_fd=self.descriptor,
            dst_dir_fd=self.descriptor,
            follow_symlinks=False,
        )

    def rename(self, old: str, new: str) -> None:
        """In one step; what was called `new` is gone."""
        os.rename(old, new, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)

    def remove(self, name: str) -> None:
        """Nothing happens when it is gone already."""
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.descriptor)

    def sync(self) -> None:
        """Makes new names survive a power cut, where the file system can promise that."""
        _sync(self.descriptor)

    def is_in_place(self) -> bool:
        """Whether its path still leads to it: nobody has moved, removed or replaced it."""
        try:
            with opened_folder(self.path, root=self.root, make=False) as again:
                here, there = os.fstat(self.descriptor), os.fstat(again.descriptor)
        except (FileNotFoundError, NotADirectoryError, DeliveryError):
            return False
        return os.path.samestat(here, there)

    @contextmanager
    def locked(self, progress: Progress) -> Iterator[None]:
        """Only one at a time is in such a block, where the file system has locks.

        Elsewhere the block runs without. Raises what `progress` does while it waits, and
        `DeliveryError` after `LOCK_WAIT_SEC`.
        """
        deadline = time.monotonic() + LOCK_WAIT_SEC
        while try_lock(self.descriptor) is Lock.HELD:
            progress.check()
            if time.monotonic() > deadline:
                raise DeliveryError(
                    f"Somebody else has kept the folder {self.path} locked for {LOCK_WAIT_SEC:.0f} "
                    "seconds. Nothing was delivered. See which process holds it (lslocks).",
                    retryable=True,
                )
            time.sleep(LOCK_LOOK_SEC)
        try:
            yield
        finally:
            with suppress(OSError):
                fcntl.flock(self.descriptor, fcntl.LOCK_UN)


@contextmanager
def opened_folder(path: Path, *, root: Path | None, make: bool = True) -> Iterator[Folder]:
    """The folder, made if it is missing and `make` says so.

    Below `root` every step is taken from the folder before it, and none is a link, so that one that
    is put there after the path was checked leads nowhere; `root` itself may be one. Without `root`
    the path is taken as it is. Raises `DeliveryError` for a link or a path outside of `root`, and
    the errors of `os`.
    """
    descriptor = _open_plainly(path, make) if root is None else _walk(root, path, make)
    try:
        yield Folder(path, descriptor, root)
    finally:
        os.close(descriptor)


def try_lock(descriptor: int) -> Lock:
    """Never waits. The lock is gone when the descriptor is closed, also by a kill."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return Lock.HELD
    except OSError as error:
        if error.errno in NO_LOCKS:
            return Lock.UNSUPPORTED
        raise
    return Lock.TAKEN


def _open_plainly(path: Path, make: bool) -> int:
    if make:
        path.mkdir(parents=True, exist_ok=True)
    return os.open(path, OPENED)


def _walk(root: Path, path: Path, make: bool) -> int:
    steps = _steps(root, path)
    descriptor = _open_plainly(root, make)
    try:
        for number, step in enumerate(steps, 1):
            inner = _step(descriptor, step, root.joinpath(*steps[:number]), make)
            os.close(descriptor)
            descriptor = inner
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _steps(root: Path, path: Path) -> tuple[str, ...]:
    for start in (root.resolve(), root):
        if path.is_relative_to(start) and ".." not in path.parts:
            return path.relative_to(start).parts
    raise DeliveryError(
        f"The folder {path} lies outside the export folder {root}. Nothing was written. Correct "
        "the item's “output dir”."
    )


def _step(descriptor: int, name: str, path: Path, make: bool) -> int:
    flags = OPENED | os.O_NOFOLLOW
    try:
        return os.open(name, flags, dir_fd=descriptor)
    except FileNotFoundError:
        if not make:
            raise
    except OSError as error:
        if _is_link(name, descriptor):
            raise DeliveryError(
                f"{path} became a link after the item's folder was checked. It was not followed, "
                "and nothing was written. Put a folder in its place."
            ) from error
        raise
    with suppress(FileExistsError):
        os.mkdir(name, dir_fd=descriptor)
        _sync(descriptor)
    return os.open(name, flags, dir_fd=descriptor)


def _is_link(name: str, descriptor: int) -> bool:
    with suppress(OSError):
        status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        return stat.S_ISLNK(status.st_mode)
    return False


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
