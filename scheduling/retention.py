"""Deletes files that are older or more than their destination keeps, and writes down that it did.

Only what history lists is ever deleted, only in the export folder, and only if its bytes are those
that the run wrote. The row is marked in the transaction in which the file is removed: of any number
of rounds at once one does it, and what a killed one has removed is found gone by the next.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any

from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet, Window
from django.db.models.functions import RowNumber

from queryexport.errors import DeliveryError
from queryexport.sinks.folder import Folder, Lock, opened_folder, try_lock
from scheduling.models import Destination, RunDestination, SchedulingItem
from scheduling.run_files import Found, export_root, find, with_later

log = logging.getLogger(__name__)

DELETED = "deleted by retention"
GONE = "was already gone when retention looked for it"
REPLACED = "replaced by a later run"
CHANGED = "changed by somebody, and therefore not deleted"

# A run may have just written a younger one, and not have said so yet.
SETTLED_AFTER = timedelta(minutes=10)
# The sweep waits in the same queue; what is left goes on behind it.
LONGEST_SEC = 20.0
ROWS_AT_ONCE = 200


@dataclass
class Retained:
    """What one round did: how many rows got which `deleted_why`, and how many could not be dealt
    with. `unfinished`: its time was over, and another round goes on.
    """

    done: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    unfinished: bool = False


class _NotNow(Exception):
    """Somebody works on the file or in its folder; a later round deletes it."""


def retain(now: datetime, *, longest_sec: float = LONGEST_SEC) -> Retained:
    """One round; errors of a file are logged, and its turn comes again in the next round."""
    retained, deadline = Retained(), monotonic() + longest_sec
    for row, is_due in _candidates(now):
        try:
            if why := _settle(row, now, is_due=is_due):
                retained.done[why] += 1
        except (OSError, DeliveryError) as error:
            retained.failed += 1
            log.warning("Retention could not deal with the file %s: %s", row.path, error)
        if monotonic() > deadline:
            # Where nothing goes, the next hour is soon enough.
            retained.unfinished = bool(retained.done)
            break
    return retained


def _candidates(now: datetime) -> Iterator[tuple[Any, bool]]:
    """Rows to look at, each with whether its file is to be deleted.

    Those whose file was replaced come first, because they do not count as files any more.
    """
    for rows, is_due in ((_superseded(), False), (_old(now), True)):
        yield from ((row, is_due) for row in _paged(rows))
    for own in (True, False):
        yield from ((row, True) for row in _paged(_too_many(own=own)))


def _listed(*, own: bool) -> QuerySet[RunDestination]:
    """Rows of the items' own or of further destinations whose file may still stand."""
    inside = os.path.join(export_root().resolve(), "")  # noqa: PTH118  It ends in a slash.
    known = RunDestination.objects.filter(deleted_at__isnull=True, path__startswith=inside)
    # Files from before bytes were recorded cannot be told for certain, and are left.
    return known.exclude(path="").exclude(sha256="").filter(is_own=own)


def _superseded() -> QuerySet[RunDestination]:
    """Without kept versions, which would be read in every round before they are due."""
    later = RunDestination.objects.filter(
        path=OuterRef("path"), deleted_at__isnull=True, pk__gt=OuterRef("pk")
    ).exclude(path="")
    return _listed_by(
        lambda to: (
            ~Q(**{f"{to}output_on_existing": "keep"})
            & (
                Q(**{f"{to}retention_days__isnull": False})
                | Q(**{f"{to}retention_files__isnull": False})
            )
        )
    ).filter(Exists(later))


def _old(now: datetime) -> QuerySet[RunDestination]:
    models = (SchedulingItem, Destination)
    limits = {
        days
        for model in models
        for days in model.objects.order_by().values_list("retention_days", flat=True).distinct()
        if days
    }
    if not limits:
        return RunDestination.objects.none()
    return _listed_by(
        lambda to: Q(
            *(
                Q(**{f"{to}retention_days": days}, finished_at__lt=now - timedelta(days=days))
                for days in sorted(limits)
            ),
            _connector=Q.OR,
        )
    )


def _listed_by(condition: Any) -> QuerySet[RunDestination]:
    """Rows whose destination is as the condition says, which takes the way to its fields."""
    own = _listed(own=True).filter(condition("run__item__"))
    further = _listed(own=False).filter(condition("destination__"))
    return own | further


def _too_many(*, own: bool) -> QuerySet[RunDestination]:
    to = "run__item" if own else "destination"
    rows = _listed(own=own).filter(**{f"{to}__retention_files__isnull": False})
    place = Window(RowNumber(), partition_by=F(f"{to}_id"), order_by=F("pk").desc())
    return rows.annotate(place_from_newest=place).filter(
        place_from_newest__gt=F(f"{to}__retention_files")
    )


def _paged(rows: QuerySet[RunDestination]) -> Iterator[Any]:
    last = 0
    while pks := list(
        rows.filter(pk__gt=last).order_by("pk").values_list("pk", flat=True)[:ROWS_AT_ONCE]
    ):
        last = pks[-1]
        yield from with_later(RunDestination.objects.filter(pk__in=pks).order_by("pk"))


def _settle(row: Any, now: datetime, *, is_due: bool) -> str:
    """What became of the row, or nothing."""
    path = Path(row.path)
    try:
        with opened_folder(path.parent, root=export_root(), make=False) as folder:
            if found := find(folder, row):
                with found.file:
                    return _delete(row, folder, found, now) if is_due else ""
            return _not_there(row, folder, now)
    except FileNotFoundError:
        return _mark(row, REPLACED if row.later_run else GONE, now)


def _not_there(row: Any, folder: Folder, now: datetime) -> str:
    if row.later_run:
        return _mark(row, REPLACED, now)
    status = folder.status(Path(row.path).name)
    if status is None:
        return _mark(row, GONE, now)
    return "" if _is_young(status, now) else _mark(row, CHANGED, now)


def _delete(row: Any, folder: Folder, found: Found, now: datetime) -> str:
    if _is_young(found.status, now) or _is_anothers(row, folder, found):
        return ""
    try:
        with transaction.atomic():
            if not (why := _mark(row, DELETED, now)):
                return ""
            _remove(folder, found)
    except _NotNow:
        return ""
    folder.sync()
    log.info("Retention deleted %s, which run %s wrote", folder.path / found.name, row.run_id)
    return why


def _remove(folder: Folder, found: Found) -> None:
    if try_lock(folder.descriptor) is Lock.HELD:
        raise _NotNow
    status = folder.status(found.name)
    if status is None or _identity(status) != _identity(found.status):
        raise _NotNow
    folder.remove(found.name)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _is_young(status: os.stat_result, now: datetime) -> bool:
    return abs(now.timestamp() - status.st_mtime) < SETTLED_AFTER.total_seconds()


def _is_anothers(row: RunDestination, folder: Folder, found: Found) -> bool:
    """Whether what looks like a kept version is a file that another run wrote by that name."""
    path = str(folder.path / found.name)
    return path != row.path and RunDestination.objects.filter(
        path=path, deleted_at__isnull=True
    ).exists()  # fmt: skip


def _mark(row: RunDestination, why: str, now: datetime) -> str:
    """The reason if it was this round that wrote it down."""
    mine = RunDestination.objects.filter(pk=row.pk, deleted_at__isnull=True)
    return why if mine.update(deleted_at=now, deleted_why=why) else ""
