"""Files that are being written: under a name that tells them, and locked until they are done."""

import logging
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO
from uuid import uuid4

from queryexport.errors import DeliveryError
from queryexport.sinks.folder import Folder, Lock, opened_folder, try_lock
from queryexport.sinks.prepared import closed_quietly

log = logging.getLogger(__name__)

FILE_MODE = 0o640
NAME = re.compile(r"\.query-export-[0-9a-f]{32}\.part")
KEPT_WITHOUT_LOCKS = timedelta(days=2)


@dataclass(frozen=True)
class Part:
    """A file that is being written, which nobody takes for an export; `name` is in its folder."""

    name: str
    file: IO[bytes]


@contextmanager
def part_in(folder: Folder) -> Iterator[Part]:
    """A new file, to be written and read. After the block, that name is gone."""
    name, descriptor = _new(folder)
    with closed_quietly(os.fdopen(descriptor, "w+b")) as file:
        try:
            yield Part(name, file)
        finally:
            with suppress(OSError):  # Then the next delivery removes it.
                folder.remove(name)


def _new(folder: Folder) -> tuple[str, int]:
    while True:
        name = f".query-export-{uuid4().hex}.part"
        descriptor = folder.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, FILE_MODE)
        # Whoever clears the folder may have taken it for litter before it was locked.
        lock = try_lock(descriptor)
        if lock is not Lock.HELD and os.fstat(descriptor).st_nlink:
            return name, descriptor
        os.close(descriptor)


def clear_parts(folder: Path, *, root: Path | None = None) -> int:
    """Removes what killed processes have left in the folder, and says how many files that were.

    That is every part whose lock can be taken, because a process keeps it while it writes; where
    the file system has no locks, every part that is older than `KEPT_WITHOUT_LOCKS`. Where each
    machine has its own locks on a shared folder, a part that another one is writing goes as well,
    and that run fails with its old file unchanged. What cannot be removed stays; no folder, no
    parts. `root` is that of `opened_folder`.
    """
    try:
        with opened_folder(folder, root=root, make=False) as opened:
            return clear(opened)
    except (OSError, DeliveryError) as error:
        if not isinstance(error, FileNotFoundError):
            log.warning("The folder %s could not be cleared of part files: %s", folder, error)
        return 0


def clear(folder: Folder) -> int:
    """The same for an open folder."""
    return sum(_cleared(folder, name) for name in folder.names() if NAME.fullmatch(name))


def _cleared(folder: Folder, name: str) -> bool:
    try:
        descriptor = folder.open(name, os.O_RDWR | os.O_NONBLOCK)
    except OSError:  # It is gone meanwhile, or another user's.
        return False
    try:
        if not _is_litter(descriptor):
            return False
        folder.remove(name)
    except OSError as error:
        log.warning("The part file %s could not be removed: %s", folder.path / name, error)
        return False
    finally:
        os.close(descriptor)
    log.info("Removed %s, which a killed process had left", folder.path / name)
    return True


def _is_litter(descriptor: int) -> bool:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        return False
    lock = try_lock(descriptor)
    if lock is Lock.UNSUPPORTED:
        return time.time() - status.st_mtime > KEPT_WITHOUT_LOCKS.total_seconds()
    return lock is Lock.TAKEN
