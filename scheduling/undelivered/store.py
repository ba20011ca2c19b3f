"""Writes the rows that a run kept to the database, as long as the run is this process's."""

from pathlib import Path

from django.conf import settings
from django.db import transaction

from scheduling.models import SchedulingHistoryItem, UndeliveredFile, UndeliveredMessage
from scheduling.undelivered.kept import KeptRows

ROWS_AT_ONCE = 100


def kept_rows(run: SchedulingHistoryItem) -> KeptRows:
    """Where a claimed run keeps its undelivered rows; nothing is written before one comes."""
    assert run.claim_token
    stem = root() / f"run-{run.pk}-{run.claim_token.hex[:12]}"
    return KeptRows(stem, in_memory=settings.UNDELIVERED_IN_DATABASE)


def root() -> Path:
    return Path(settings.UNDELIVERED_ROOT)


def store(run: SchedulingHistoryItem, kept: KeptRows, *, settled: bool = False) -> None:
    """Makes the rows the run's, all of them together.

    `settled` says of a run that sends rows again that with these each row is accounted for, which
    has to be true even if the process ends right after.

    Raises `RunSuperseded`, and then keeps nothing, when the run has another owner by now.
    """
    kept.complete()
    try:
        with transaction.atomic():
            run.record(undelivered_kept=kept.rows, taken_settled=settled)
            _write(run, kept)
    except BaseException:
        kept.discard()
        raise


def _write(run: SchedulingHistoryItem, kept: KeptRows) -> None:
    messages = [
        UndeliveredMessage.of(row, run=run, number=number)
        for number, row in enumerate(kept.in_memory, 1)
    ]
    UndeliveredMessage.objects.bulk_create(messages, batch_size=ROWS_AT_ONCE)
    UndeliveredFile.objects.bulk_create(
        UndeliveredFile(run=run, name=file.path.name, rows=file.rows, unknown=unknown)
        for file, unknown in kept.files
    )
