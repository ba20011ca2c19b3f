"""How the processes of a worker learn that it is to stop, and when their time for that is over."""

import mmap
import struct
import time
from typing import Any

from celery.signals import worker_shutting_down
from django.conf import settings

# When the worker was told to stop, by the clock that is never set, which is the same in all of its
# processes; 0: it was not. The memory is shared with those that it forks. No lock, because one
# that is killed would keep it.
_told = mmap.mmap(-1, 8)
_TIME = struct.Struct("d")


def listen() -> None:
    """Connects the signal that the worker's main process gets from SIGTERM."""
    worker_shutting_down.connect(_begin, dispatch_uid="query_export_shutdown")


def is_overdue() -> bool:
    """Whether runs that are still going on have to end now."""
    [told_at] = _TIME.unpack(_told[:])
    return bool(told_at) and time.monotonic() - told_at > grace_sec()


def grace_sec() -> float:
    """The seconds that a run has from the signal on."""
    return float(settings.SHUTDOWN_GRACE_SEC)


def _begin(**kwargs: Any) -> None:
    _told[:] = _TIME.pack(time.monotonic())
