"""Cancels runs: one that waits at once, one that is going on by the process that runs it."""

from django.contrib.auth.models import AnonymousUser, User
from django.utils import timezone

from queryexport.errors import ConfigurationError
from scheduling.models import SchedulingHistoryItem

Status = SchedulingHistoryItem.Status

NOBODY_NAMED = "somebody at the command line"


def cancel(run: SchedulingHistoryItem, *, user: User | AnonymousUser | None) -> bool:
    """Asks that the run end; True if it has ended by that, False if its worker will end it.

    No further attempt follows. Raises `ConfigurationError` when the run is over already.
    """
    now = timezone.now()
    asked = {"cancel_requested_at": now, "cancelled_by": user if isinstance(user, User) else None}
    rows = SchedulingHistoryItem.objects.filter(pk=run.pk)
    by = user.get_username() if isinstance(user, User) else NOBODY_NAMED
    error = f"Cancelled by {by} before it began."
    ended = {"status": Status.CANCELLED, "error": error, "finished_at": now, "waits_for": ""}
    if rows.filter(status=Status.QUEUED).update(**asked, **ended):
        return True
    if rows.filter(status=Status.RUNNING, cancel_requested_at=None).update(**asked):
        return False
    run.refresh_from_db()
    if not run.is_over:
        return False  # It was asked for before.
    raise ConfigurationError(
        f"Run {run.pk} is over already ({run.get_status_display().lower()}), so there is nothing "
        "to cancel."
    )
