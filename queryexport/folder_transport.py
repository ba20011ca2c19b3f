"""The Celery transport that needs no server: kombu's folder of messages, made safe for two readers.

kombu's own channel shows a message to readers while it is still being written, and claims it by a
move that may be a copy. Here a message appears by one rename and is claimed by another.
"""

from contextlib import suppress
from pathlib import Path
from queue import Empty
from time import time_ns
from typing import Any
from uuid import uuid4

from kombu.transport import filesystem
from kombu.utils.json import dumps, loads


class Channel(filesystem.Channel):
    """A queue is the files `<time>_<uuid>.<queue>.msg` in one folder, oldest first."""

    # kombu's own classes disagree on the second name.
    def _put(self, queue: str, payload: Any, **kwargs: Any) -> None:  # type: ignore[override]
        name = f"{time_ns()}_{uuid4()}.{queue}.msg"
        unfinished = Path(self.data_folder_out, f".{name}")
        unfinished.write_text(dumps(payload))
        unfinished.rename(Path(self.data_folder_out, name))

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        for name in sorted(path.name for path in Path(self.data_folder_in).iterdir()):
            if name.startswith(".") or name.partition(".")[2] != f"{queue}.msg":
                continue
            claimed = Path(self.data_folder_in, f".claimed-{uuid4()}")
            with suppress(FileNotFoundError):  # Another worker was quicker.
                Path(self.data_folder_in, name).rename(claimed)
                payload = claimed.read_text()
                claimed.unlink()
                return loads(payload)
        raise Empty


class Transport(filesystem.Transport):
    Channel = Channel
