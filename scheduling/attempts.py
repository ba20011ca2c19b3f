"""Decides which failed runs are tried again, and writes the row of the next attempt."""

from datetime import datetime, timedelta

from django.db import IntegrityError, transaction

from scheduling.models import SchedulingHistoryItem


def try_again(run: SchedulingHistoryItem, *, now: datetime) -> SchedulingHistoryItem | None:
    """Queues the next attempt of a run that did not work out, for later; None when there is none.

    The caller has decided that the error may pass. A run that sends kept rows again is not
    repeated: what it did not deliver is kept, or waits for a decision on its own page. Nor is one
    that a person wanted to cancel. Only one that ran a slot again keeps its parameters.
    """
    item = run.item
    if item is None or run.trigger == SchedulingHistoryItem.Trigger.REPLAY:
        return None
    if run.cancel_requested_at:
        return None
    if run.attempt >= item.most_attempts:
        return None
    asked_for_again = run.trigger == SchedulingHistoryItem.Trigger.RERUN
    try:
        with transaction.atomic():
            again = SchedulingHistoryItem.of(
                item,
                run.scheduled_for,
                trigger=SchedulingHistoryItem.Trigger(run.trigger),
                user=run.user,
                attempt=run.attempt + 1,
                retry_of=run,
                carries_on=True,
                spool=run.spool,
                given_parameters=run.given_parameters if asked_for_again else None,
                not_before=now + timedelta(minutes=item.retry_delay_minutes),
            )
            again.save(force_insert=True)
            return again
    except IntegrityError:
        if run.next_attempts.exists():
            return None  # Somebody else was faster.
        raise
