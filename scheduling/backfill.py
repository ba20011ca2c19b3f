"""Runs the slots of a past range that a person asks for, one after the other."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice, takewhile

from django.contrib.auth.models import AnonymousUser, User
from django.db import transaction
from django.utils import timezone

from queryexport.errors import ConfigurationError
from scheduling import again, runs
from scheduling.models import SchedulingHistoryItem, SchedulingItem
from scheduling.watermarks import refuse_backfill

Status = SchedulingHistoryItem.Status

MOST_SLOTS = 1000
MOST_COUNTED = 100_000
# Whether a slot whose latest attempt has this status is run again unless the person says so.
LEFT_ALONE = (Status.SUCCESS, Status.HELD)


@dataclass(frozen=True)
class PlannedSlot:
    """A slot, in the item's zone, with its latest attempt if it has any."""

    slot: datetime
    latest: SchedulingHistoryItem | None

    @property
    def can_run(self) -> bool:
        return self.latest is None or self.latest.is_over

    @property
    def chosen(self) -> bool:
        """Whether it is run unless the person says otherwise."""
        return self.can_run and (self.latest is None or self.latest.status not in LEFT_ALONE)

    @property
    def state(self) -> str:
        """In words, for example `no run` or `missed`."""
        return self.latest.get_status_display().lower() if self.latest else "no run"


@dataclass(frozen=True)
class Started:
    """The queued runs, earliest slot first, and the slots that got a run from somebody else."""

    runs: Sequence[SchedulingHistoryItem]
    left_out: Sequence[PlannedSlot]


def plan(item: SchedulingItem, first: datetime, last: datetime) -> list[PlannedSlot]:
    """The item's slots from `first` to `last`, both included, that are not in the future.

    They are those of its schedule as it is now, also from before it was last changed, and also of
    a disabled item. Raises `ConfigurationError` when there is none or too many.
    """
    refuse_backfill(item)
    end = min(last, timezone.now())
    slots = takewhile(
        lambda slot: slot.astimezone(UTC) <= end, item.schedule.after(first - datetime.resolution)
    )
    found = list(islice(slots, MOST_COUNTED + 1))
    if not found:
        raise ConfigurationError(_why_none(item, first, last))
    if len(found) > MOST_SLOTS:
        raise ConfigurationError(_too_many(item, len(found)))
    return _planned(item, found)


def start(
    item: SchedulingItem, slots: Collection[datetime], *, user: User | AnonymousUser | None
) -> Started:
    """Queues a run for each of the slots, earliest first, and hands them to the workers once they
    are committed.

    All are queued or none, but for those that have a queued or running attempt by now: they are
    left out. Raises `ConfigurationError` for a moment that is no slot of the item, for none, for
    too many, and when the item's parameters do not fit its query.
    """
    now = timezone.now()
    with transaction.atomic():
        item = _locked(item)
        refuse_backfill(item)
        wanted = _planned(item, _checked(item, slots, now))
        item.check_parameters(wanted[0].slot)
        rows = [_row(item, each, user, now) for each in wanted if each.can_run]
        SchedulingHistoryItem.objects.bulk_create(rows)
        transaction.on_commit(lambda: runs.dispatch_all(rows, now))
    return Started(rows, [each for each in wanted if not each.can_run])


def _locked(item: SchedulingItem) -> SchedulingItem:
    """The item as it is now, to which nobody else adds runs meanwhile."""
    again.lock(item.pk)
    items = SchedulingItem.objects.select_related("query", "connection")
    if (found := items.filter(pk=item.pk).first()) is None:
        raise ConfigurationError(f"“{item}” was just deleted, so none of its slots can be run.")
    return found


def _checked(item: SchedulingItem, slots: Collection[datetime], now: datetime) -> list[datetime]:
    """The slots in order, each once, in the item's zone."""
    if not slots:
        raise ConfigurationError("No slot was chosen. Choose at least one.")
    if len(slots) > MOST_SLOTS:
        raise ConfigurationError(_too_many(item, len(slots)))
    moments = sorted({slot.astimezone(UTC) for slot in slots})
    for moment in moments:
        latest = item.schedule.latest(moment)
        if moment > now or latest is None or latest.astimezone(UTC) != moment:
            raise ConfigurationError(
                f"{local(item, moment)} is no past slot of “{item}”, whose schedule is "
                f"{_schedule(item)}. It may have been changed: look at the list of slots again."
            )
    return [moment.astimezone(item.timezone) for moment in moments]


def _planned(item: SchedulingItem, slots: Sequence[datetime]) -> list[PlannedSlot]:
    # In UTC, because Python finds no time of an hour that comes twice equal to any other.
    moments = [slot.astimezone(UTC) for slot in slots]
    rows = item.history.filter(scheduled_for__in=moments).order_by("attempt")
    latest = {row.scheduled_for: row for row in rows}
    return [
        PlannedSlot(slot, latest.get(moment)) for slot, moment in zip(slots, moments, strict=True)
    ]


def _row(
    item: SchedulingItem, planned: PlannedSlot, user: User | AnonymousUser | None, now: datetime
) -> SchedulingHistoryItem:
    return SchedulingHistoryItem.of(
        item,
        planned.slot,
        trigger=SchedulingHistoryItem.Trigger.BACKFILL,
        user=user if isinstance(user, User) else None,
        attempt=planned.latest.attempt + 1 if planned.latest else 1,
        retry_of=planned.latest,
        not_before=now,  # So that the next sweep finds it, if it cannot be handed over now.
    )


def local(item: SchedulingItem, moment: datetime) -> str:
    """The moment in the item's zone, for example `2026-11-01 08:00 +01:00`."""
    there = moment.astimezone(item.timezone)
    return f"{there:%Y-%m-%d %H:%M} {there.isoformat()[-6:]}"


def _schedule(item: SchedulingItem) -> str:
    until = f" until {item.end_date}" if item.end_date else ""
    return f"{item.schedule.expression} in {item.timezone}{until}"


def _why_none(item: SchedulingItem, first: datetime, last: datetime) -> str:
    if first > last:
        return (
            f"The range ends at {local(item, last)}, before it begins at {local(item, first)}. "
            "Enter the earlier moment first."
        )
    return (
        f"“{item}” has no past slot from {local(item, first)} to {local(item, last)}. Its schedule "
        f"is {_schedule(item)}. Choose another range; what is still to come runs by itself."
    )


def _too_many(item: SchedulingItem, count: int) -> str:
    number = f"more than {MOST_COUNTED:,}" if count > MOST_COUNTED else f"{count:,}"
    return (
        f"These are {number} slots of “{item}”, and at most {MOST_SLOTS:,} can be run at once. "
        "Choose a shorter range, and the next one when its runs are over."
    )
