"""Publishes a file in a folder of a server: written beside its target, then renamed over it.

What both SFTP and SMB need, which differ in how they say it.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol
from uuid import uuid4

from queryexport.errors import DeliveryError
from queryexport.sinks.file import OnExisting
from queryexport.stores.hand import GRACE_SEC, Hand, connected
from queryexport.stores.upload import Upload, taken, unsure

logger = logging.getLogger(__name__)

PIECE_BYTES = 256 * 1024
PART_PREFIX, PART_SUFFIX = ".query-export-", ".part"
LITTER_AFTER_SEC = 2 * 24 * 60 * 60
RECONNECT_SEC = 5.0
FINISH_SEC = 300.0  # A server may have a lot to put on its disk.


class Folder(Protocol):
    """One folder of a server, and one file in it that is being written. Every call may block."""

    def connect(self) -> None: ...

    def close(self) -> None: ...

    def sever(self) -> None: ...

    def twin(self) -> "Folder":
        """The same folder, not connected."""

    def place(self, name: str) -> str: ...

    def size(self, name: str) -> int | None:
        """In bytes; None when there is no such file."""

    def create(self, name: str) -> None: ...

    def write(self, piece: bytes) -> None: ...

    def finish(self) -> None:
        """Has the server put the file on its disk, where it can, and closes it."""

    def rename(self, part: str, name: str, *, replace: bool) -> None:
        """In one step. Raises `FileExistsError` if the name is taken and not to be replaced."""

    def remove(self, name: str) -> bool:
        """Whether there was such a file."""

    def clear_litter(self) -> None:
        """Removes unfinished files of runs that were killed `LITTER_AFTER_SEC` ago or earlier."""

    def is_lost(self, error: Exception) -> bool:
        """Whether the connection is gone, so that nobody knows what became of a request."""


@dataclass(frozen=True)
class Publication:
    """One file on its way into one folder."""

    folder: Folder
    upload: Upload
    hand: Hand

    def publish(self) -> str:
        """The name that the file got. Raises `DeliveryError`, or what the driver raises."""
        self.hand.do(self.folder.clear_litter)
        part = new_part()
        try:
            self._write(part)
            return self._rename(part)
        except BaseException as error:
            if not self._removed(part):
                error.add_note(
                    f"The unfinished file {self.folder.place(part)} could not be removed. It goes "
                    "with a delivery to that folder two days from now, or remove it."
                )
            raise

    def _write(self, part: str) -> None:
        upload, do = self.upload, self.hand.do
        upload.file.seek(0)
        do(self.folder.create, part)
        while piece := upload.file.read(PIECE_BYTES):
            do(self.folder.write, piece)
        do(self.folder.finish, limit_sec=FINISH_SEC)
        arrived = do(self.folder.size, part)
        if arrived != upload.size_bytes:
            raise DeliveryError(
                f"{self.folder.place(part)} has {arrived} bytes on the server, but "
                f"{upload.size_bytes} were sent. Nothing was published. Check the free space and "
                "the quota there.",
                retryable=True,
            )

    def _rename(self, part: str) -> str:
        self.upload.last_check()
        for name in self.upload.names():
            try:
                self._rename_to(part, name)
            except FileExistsError:
                continue
            return name
        raise taken(self.folder.place(self.upload.name), self.upload.on_existing)

    def _rename_to(self, part: str, name: str) -> None:
        replace = self.upload.on_existing is OnExisting.REPLACE
        try:
            self.hand.do(lambda: self.folder.rename(part, name, replace=replace), stoppable=False)
        except FileExistsError:
            raise
        except Exception as error:
            if not self.folder.is_lost(error):
                raise
            if not self._was_renamed(part, name, error):
                raise

    def _was_renamed(self, part: str, name: str, error: Exception) -> bool:
        """Finds out, by a new connection, whether the step took place whose answer was lost.

        A part that can be removed was not renamed, and can't be any more.
        """

        def look(folder: Folder) -> bool:
            return not folder.remove(part) and folder.size(name) == self.upload.size_bytes

        try:
            return self._anew(look)
        except Exception as second:
            raise unsure(self.upload, self.folder.place(name), error, second) from error

    def _anew(self, call: Callable[[Folder], bool]) -> bool:
        twin = self.folder.twin()
        with connected(twin, lambda: None, limit_sec=RECONNECT_SEC) as hand:
            return hand.do(call, twin)

    def _removed(self, part: str) -> bool:
        def remove(folder: Folder) -> bool:
            folder.remove(part)
            return True

        try:
            if not self.hand.cut_off:
                return self.hand.do(remove, self.folder, stoppable=False, limit_sec=GRACE_SEC)
        except Exception as error:
            logger.info("A second connection is needed to remove %s: %r", part, error)
        try:
            return self._anew(remove)
        except Exception as error:
            logger.warning("%s is left behind: %r", self.folder.place(part), error)
            return False


def new_part() -> str:
    return f"{PART_PREFIX}{uuid4().hex}{PART_SUFFIX}"


def is_part(name: str) -> bool:
    return name.startswith(PART_PREFIX) and name.endswith(PART_SUFFIX)
