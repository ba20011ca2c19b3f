"""How far each item has come: which rows a run gets, and when the watermark moves.

A run gets the rows above the watermark, up to a bound that is fixed before its query runs. The
watermark moves to that bound in the transaction in which the run ends as a success, and only if it
is still the one that the run began with. So whatever breaks, the next run gets the same rows again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth.models import AnonymousUser, User
from django.db import transaction
from django.db.models import OuterRef, QuerySet, Subquery

from queryexport.errors import ConfigurationError
from queryexport.newest import newest
from queryexport.stopping import Stop
from scheduling.models import SchedulingHistoryItem, SchedulingItem, WatermarkChange
from scheduling.rules import watermark_fault
from scheduling.watermark_values import Value, far_end, of_kind, parse, upper_bound, write

Status = SchedulingHistoryItem.Status
Trigger = SchedulingHistoryItem.Trigger

LONGEST_REASON = 300


class WatermarkMoved(ConfigurationError):
    """Somebody or a run has changed the watermark since the person looked at it."""


@dataclass(frozen=True)
class Range:
    """Which rows a run gets: those above `lower`, up to `upper`.

    `seen` is the change that it moves the watermark on from; None for a run that moves nothing.
    """

    lower: Value
    upper: Value
    seen: int | None

    @property
    def bound(self) -> dict[str, Value]:
        """The values to bind."""
        return {"watermark_from": self.lower, "watermark_to": self.upper}

    @property
    def texts(self) -> dict[str, str]:
        """The same as the history keeps them."""
        return {name: write(value) for name, value in self.bound.items()}


def current(item: SchedulingItem) -> WatermarkChange | None:
    """The item's watermark: its latest change, whose value is empty if it was emptied."""
    return item.watermark_changes.order_by("-pk").first()


def with_marks(items: QuerySet[SchedulingItem]) -> list[tuple[SchedulingItem, str]]:
    """Those of the items whose watermark is set, each with its value."""
    latest = WatermarkChange.objects.filter(item=OuterRef("pk")).order_by("-pk").values("value")
    found = items.annotate(mark=Subquery(latest[:1])).filter(mark__gt="")
    return [(item, item.mark) for item in found]


def range_of(
    item: SchedulingItem,
    run: SchedulingHistoryItem,
    parameters: Mapping[str, Any],
    *,
    stop: Stop | None = None,
) -> Range | None:
    """Which rows the run gets; None for an item without a watermark, which sends all.

    The database is asked for the newest value, with the item's own `parameters`. A run that repeats
    another one takes the range of that one instead. Raises `ConfigurationError` when the watermark
    is not set, or does not fit the column or the query; and `QueryError` like an export.
    """
    if fault := watermark_fault(item):
        raise ConfigurationError(fault)
    if not item.watermark_column:
        return None
    if run.trigger == Trigger.BACKFILL:
        refuse_backfill(item)
    if repeated := _repeated(run):
        return _range_again(item, repeated)
    return _new_range(item, run, parameters, stop)


def move(run: SchedulingHistoryItem, covered: Range | None) -> bool:
    """Moves the watermark on, after the run has ended as it has, in the same transaction."""
    item = run.item
    if item is None or covered is None or covered.seen is None:
        return False
    if run.status != Status.SUCCESS or covered.lower == covered.upper or not _lock(item):
        return False
    latest = current(item)
    if latest is None or latest.pk != covered.seen:
        return False
    item.watermark_changes.create(run=run, value=write(covered.upper))
    SchedulingHistoryItem.objects.filter(pk=run.pk).update(watermark_moved=True)
    run.watermark_moved = True
    return True


def set_by_hand(
    item: SchedulingItem,
    text: str,
    *,
    user: User | AnonymousUser | None,
    reason: str,
    seen: int | None,
) -> WatermarkChange:
    """Sets the watermark, or empties it, for a person who has seen the change `seen` (or none).

    Raises `WatermarkMoved` when it is another one by now, `ConfigurationError` for a text that is
    no value of the item's kind, and for an item without a watermark column.
    """
    if not item.watermark_column:
        raise ConfigurationError(
            f"“{item}” has no watermark column, so it cannot have a watermark. Enter the column in "
            "the item first."
        )
    value = write(parse(item.watermark_kind, text)) if text else ""
    with transaction.atomic():
        _lock(item)
        latest = current(item)
        if (latest.pk if latest else None) != seen:
            raise WatermarkMoved(_moved_since(latest))
        return _changed(item, value, user=user, reason=reason)


def keep_or_empty(
    item: SchedulingItem, *, keep: bool, user: User | AnonymousUser | None, reason: str
) -> WatermarkChange | None:
    """What a person decided for an item whose rows were redefined; None if it has no watermark.

    To keep it is a change as well, so that a run that is going on does not move it.
    """
    with transaction.atomic():
        _lock(item)
        latest = current(item)
        if latest is None or not latest.value:
            return None
        return _changed(item, latest.value if keep else "", user=user, reason=reason)


def refuse_backfill(item: SchedulingItem) -> None:
    """Raises `ConfigurationError` for an item with a watermark: its slots have no rows of their
    own.
    """
    if item.watermark_column:
        raise ConfigurationError(
            f"“{item}” has a watermark, so each run sends what is new, and a past slot has no rows "
            "of its own. To send rows once more, run the old run again from its page, or rewind "
            "the watermark to the value above which they lie."
        )


def _new_range(
    item: SchedulingItem,
    run: SchedulingHistoryItem,
    parameters: Mapping[str, Any],
    stop: Stop | None,
) -> Range:
    latest = current(item)
    if latest is None or not latest.value:
        raise ConfigurationError(
            f"The watermark of “{item}” is not set, so it is not known where its rows begin. Set "
            f"it to the value of {item.watermark_column} above which rows are to be sent: open the "
            "item, section “Watermark”, and follow the link of the current mark. Then run it again."
        )
    column, mark = item.watermark_column, parse(item.watermark_kind, latest.value)
    far = {"watermark_from": mark, "watermark_to": far_end(mark)}
    settings = item.connection.settings()
    found = newest(settings, item.query.sql, column, {**parameters, **far}, stop=stop)
    upper = upper_bound(
        None if found is None else of_kind(item.watermark_kind, column, found),
        mark,
        column=column,
        not_after=_not_after(item, run),
        zone=item.timezone,
    )
    return Range(mark, upper, latest.pk)


def _not_after(item: SchedulingItem, run: SchedulingHistoryItem) -> datetime | None:
    """None without a lag: then no clock of ours takes part."""
    assert run.started_at
    lag_sec = item.watermark_lag_sec
    return run.started_at - timedelta(seconds=lag_sec) if lag_sec else None


def _repeated(run: SchedulingHistoryItem) -> SchedulingHistoryItem | None:
    """The run whose rows this one was asked to send again, if that one had got so far."""
    while (run.trigger == Trigger.RERUN or run.spool) and run.retry_of:
        run = run.retry_of
        if run.watermark_from:
            return run
    return None


def _range_again(item: SchedulingItem, repeated: SchedulingHistoryItem) -> Range:
    lower = parse(item.watermark_kind, repeated.watermark_from)
    upper = parse(item.watermark_kind, repeated.watermark_to)
    latest = current(item)
    still_there = (
        latest is not None and latest.value and parse(item.watermark_kind, latest.value) == lower
    )
    return Range(lower, upper, latest.pk if latest and still_there else None)


def _lock(item: SchedulingItem) -> SchedulingItem | None:
    """Keeps others from changing the watermark until the transaction ends; None if it is deleted.

    Whoever also writes to a run's row does that first, so that nobody waits in a circle.
    """
    return SchedulingItem.objects.select_for_update().filter(pk=item.pk).first()


def _changed(
    item: SchedulingItem, value: str, *, user: User | AnonymousUser | None, reason: str
) -> WatermarkChange:
    return item.watermark_changes.create(
        value=value, user=user if isinstance(user, User) else None, reason=reason[:LONGEST_REASON]
    )


def _moved_since(latest: WatermarkChange | None) -> str:
    if latest is None:
        return "The watermark was removed since this page was shown. Look at it, then save again."
    by = f"run {latest.run_id}" if latest.run_id else str(latest.user or "a person")
    return (
        f"The watermark has become {latest.value or 'empty'} since this page was shown, by {by}. "
        "Nothing was changed. Look at the history below, then save again if you still want to."
    )
