"""Gives every slot of every item its history row: to run late, or as missed.

A tick of beat runs most slots; this finds those that no tick brought, because beat, the broker or
the workers were away.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice, takewhile
from operator import itemgetter
from typing import Any

from django.db.models.signals import post_save

from queryexport.errors import ConfigurationError
from scheduling import bulk
from scheduling.models import CatchUp, SchedulingHistoryItem, SchedulingItem
from scheduling.models.item import NEVER
from scheduling.occurrences import Schedule

Status = SchedulingHistoryItem.Status
Decision = tuple[datetime, SchedulingHistoryItem.Status]

# So much is left to the tick, which runs the slot in the process that it comes to.
HEAD_START = timedelta(seconds=20)
# A slot that is no later than this is not missed, whatever the policy.
PUNCTUAL = timedelta(minutes=2)
MOST_ITEMS = 20_000
MOST_SLOTS = 1000


def plan(
    slots: Sequence[datetime], now: datetime, *, policy: str, window: timedelta
) -> list[Decision]:
    """What becomes of slots without a row, earliest first: queued or missed.

    A slot that is later than `window` is missed. Of the others, `all` runs each, `latest` the last
    one, `skip` none, except one that is punctual.
    """
    return [(slot, _decide(slot, slots[-1], now, policy, window)) for slot in slots]


def fill(now: datetime) -> int:
    """Writes the rows that are due at `now` and not there yet; returns how many."""
    _begin_where_nobody_knows(now)
    items = list(
        SchedulingItem.objects.filter(enabled=True, next_slot__lte=now - HEAD_START)
        .prefetch_related("query", "connection")  # Many items share them.
        .order_by("next_slot")[:MOST_ITEMS]
    )
    slots_of = cache(_slots)  # Many items share these as well.
    due = {item: slots_of(item.schedule, item.next_slot, now - HEAD_START) for item in items}
    there = _there_already(items)
    rows = [
        row
        for item, slots in sorted(due.items(), key=lambda found: found[0].pk)
        for row in _rows(item, [slot for slot in slots if (item.pk, slot) not in there], now)
    ]
    written = bulk.insert_new(rows)
    _move_on((item, slots[-1] if slots else now) for item, slots in due.items())
    return written


def start_afresh_after_a_load() -> None:
    """Connects the signal by which items that were loaded from a dump start nothing of old."""
    post_save.connect(_item_loaded, sender=SchedulingItem, dispatch_uid="slots_item_loaded")


def _item_loaded(instance: SchedulingItem, raw: bool = False, **kwargs: Any) -> None:
    if raw:
        SchedulingItem.objects.filter(pk=instance.pk).update(next_slot=None)


def _begin_where_nobody_knows(now: datetime) -> None:
    """Items that were loaded, or are from before an upgrade, begin with the slot after now."""
    unknown = SchedulingItem.objects.filter(next_slot__isnull=True)[:MOST_ITEMS]
    _move_on((item, now) for item in unknown)


def _move_on(items: Iterable[tuple[SchedulingItem, datetime]]) -> None:
    """Gives each item the first slot after its moment, unless its schedule was changed meanwhile.

    Many items have the same schedule, so the slots to be found are few.
    """
    alike: defaultdict[tuple[Schedule, datetime], list[SchedulingItem]] = defaultdict(list)
    for item, moment in items:
        alike[item.schedule, moment].append(item)
    changes = [
        (item.pk, item.next_slot, after)
        for (_, moment), some in alike.items()
        for after in [some[0].first_slot_after(moment)]
        for item in some
    ]
    bulk.replace(SchedulingItem, "next_slot", sorted(changes, key=itemgetter(0)))


def _slots(schedule: Schedule, first: datetime, until: datetime) -> list[datetime]:
    """The schedule's slots from that one on, at most so many; none if it is not one."""
    try:
        slots = schedule.after(first - timedelta(minutes=1))
        due = islice(takewhile(lambda slot: slot <= until, slots), MOST_SLOTS)
        # In UTC, because Python finds no time of an hour that comes twice equal to any other.
        return [slot.astimezone(UTC) for slot in due]
    except ConfigurationError:
        return []


def _there_already(items: Sequence[SchedulingItem]) -> set[tuple[int, datetime]]:
    if not items:
        return set()
    earliest = min(item.next_slot or NEVER for item in items)
    theirs = SchedulingHistoryItem.objects.filter(item__in=bulk.any_of([item.pk for item in items]))
    rows = theirs.filter(scheduled_for__gte=earliest)
    return set(rows.values_list("item_id", "scheduled_for"))


def _rows(
    item: SchedulingItem, slots: Sequence[datetime], now: datetime
) -> Iterator[SchedulingHistoryItem]:
    window = timedelta(minutes=item.catch_up_minutes)
    for slot, status in plan(slots, now, policy=item.catch_up, window=window):
        row = SchedulingHistoryItem.of(item, slot, trigger=SchedulingHistoryItem.Trigger.SCHEDULE)
        row.status = status
        if status == Status.MISSED:
            row.finished_at, row.error = now, _why_missed(item, slot, now)
        else:
            row.not_before = now
        yield row


def _why_missed(item: SchedulingItem, slot: datetime, now: datetime) -> str:
    minutes = (now - slot) / timedelta(minutes=1)
    return (
        f"Beat, the broker or every worker was away at the time; {minutes:.0f} minutes later this "
        f"was found. The item's choice for that is “{item.get_catch_up_display()}”, within "
        f"{item.catch_up_minutes} minutes. Run the item now if its rows are needed."
    )


def _decide(
    slot: datetime, latest: datetime, now: datetime, policy: str, window: timedelta
) -> SchedulingHistoryItem.Status:
    late = now - slot
    wanted = policy == CatchUp.ALL or (policy == CatchUp.LATEST and slot == latest)
    runs = late <= PUNCTUAL or (wanted and late <= window)
    return Status.QUEUED if runs else Status.MISSED
