"""Which file of the export folder is the one that a run wrote, and whether it still stands there.

A run may have written to a name that later runs write to as well, and the file may lie under a
number since then. So a file is told by its bytes, and where several are equal, by their order: the
newest run's is the first of them.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from django.conf import settings
from django.db.models import Count, IntegerField, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce

from queryexport.errors import DeliveryError
from queryexport.filenames import version
from queryexport.sinks.folder import Folder, opened_folder
from scheduling.models import RunDestination

PIECE_BYTES = 1 << 20
MOST_VERSIONS = 99  # As many as an item may keep.


@dataclass(frozen=True)
class Found:
    """The run's file, open at its beginning, and what it is called in its folder now."""

    name: str
    file: IO[bytes]
    status: os.stat_result


def export_root() -> Path:
    return Path(settings.EXPORT_ROOT)


def with_later(rows: QuerySet[RunDestination]) -> QuerySet[Any]:
    """Adds what is needed to tell a run's file: `later_run`, which wrote the same path after it,
    and `later_twins`, how many of those files have the same bytes.
    """
    later = RunDestination.objects.filter(
        path=OuterRef("path"), deleted_at__isnull=True, pk__gt=OuterRef("pk")
    ).exclude(path="")
    same = later.filter(sha256=OuterRef("sha256"), size_bytes=OuterRef("size_bytes"))
    twins = same.order_by().values("path").annotate(number=Count("pk")).values("number")
    return rows.annotate(
        later_run=Subquery(later.order_by("pk").values("run_id")[:1]),
        later_twins=Coalesce(Subquery(twins), 0, output_field=IntegerField()),
    )


def open_file(row: RunDestination, *, by_size: bool = False) -> IO[bytes] | None:
    """A file with the bytes that the run wrote, for the caller to close; None when there is none.

    `by_size` takes the first one of that size and does without reading it. Raises `OSError` when it
    may not be read.
    """
    path = Path(row.path)
    try:
        with opened_folder(path.parent, root=export_root(), make=False) as folder:
            found = next(_matching(folder, row, by_size=by_size), None)
    except (DeliveryError, FileNotFoundError, NotADirectoryError):
        return None
    return found.file if found else None


def find(folder: Folder, row: Any) -> Found | None:
    """The file of a row of `with_later` in its open folder, and not one of equal bytes that a later
    run wrote.
    """
    before = row.later_twins
    for found in _matching(folder, row, by_size=False):
        if not before:
            return found
        found.file.close()
        before -= 1
    return None


def _matching(folder: Folder, row: Any, *, by_size: bool) -> Iterator[Found]:
    for name in _names(row):
        status = folder.status(name)
        is_file = status and stat.S_ISREG(status.st_mode)
        if not is_file or status is None or status.st_size != row.size_bytes:
            continue
        file = os.fdopen(folder.open(name, os.O_RDONLY | os.O_NONBLOCK), "rb")
        if by_size or not row.sha256 or _digest(file) == row.sha256:
            yield Found(name, file, status)
        else:
            file.close()


def _names(row: RunDestination) -> Sequence[str]:
    """The newest first. Runs from before bytes were recorded are told by their name and size."""
    name = Path(row.path).name
    numbers = range(1, MOST_VERSIONS + 1) if row.sha256 else ()
    return [name, *(version(name, number) for number in numbers)]


def _digest(file: IO[bytes]) -> str:
    digest = sha256()
    while piece := file.read(PIECE_BYTES):
        digest.update(piece)
    file.seek(0)
    return digest.hexdigest()
