"""Two runs of one item at once: the second is skipped, waits, or runs, as the item says."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from scheduling import runs
from scheduling.models import SchedulingHistoryItem, SchedulingItem
from scheduling.sweep import sweep
from tests.factories import MakeItem

SLOT = datetime(2026, 1, 18, 8, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


def queued(item: SchedulingItem, slot: datetime = SLOT, **values: Any) -> SchedulingHistoryItem:
    run = runs.queue(item, slot, trigger=runs.Trigger.SCHEDULE, **values)
    assert run
    return run


def going_on(item: SchedulingItem, **values: Any) -> SchedulingHistoryItem:
    run = queued(item, SLOT - HOUR)
    SchedulingHistoryItem.objects.filter(pk=run.pk).update(
        **{"status": "running", "started_at": SLOT - HOUR, "claim_token": uuid4(), **values}
    )
    return run


def executed(run: SchedulingHistoryItem) -> SchedulingHistoryItem:
    runs.execute(run.pk)
    run.refresh_from_db()
    return run


def test_by_default_a_run_is_skipped_while_another_goes_on(make_item: MakeItem) -> None:
    item = make_item()
    before = going_on(item)
    run = executed(queued(item))
    assert run.status == "skipped"
    assert f"Run {before.pk} of the same item was still going on, since 2026-01-18 07" in run.error
    assert run.finished_at and not run.started_at


def test_a_run_may_wait_for_the_one_that_goes_on(make_item: MakeItem) -> None:
    item = make_item(overlap="queue")
    before = going_on(item)
    run = executed(queued(item))
    assert run.status == "queued" and run.not_before
    SchedulingHistoryItem.objects.filter(pk=before.pk).update(status="skipped")
    assert executed(run).status == "success"


def test_only_one_run_waits(make_item: MakeItem) -> None:
    item = make_item(overlap="queue")
    going_on(item)
    first, second = executed(queued(item)), executed(queued(item, SLOT + HOUR))
    assert (first.status, second.status) == ("queued", "skipped")


@pytest.mark.usefixtures("task_folder")
def test_a_run_that_waits_is_looked_at_again(make_item: MakeItem) -> None:
    item = make_item(overlap="queue")
    going_on(item, heartbeat_at=SLOT + 100 * 365 * 24 * HOUR)
    run = executed(queued(item))
    assert run.not_before
    assert sweep(run.not_before - timedelta(seconds=1)).dispatched == 0
    assert sweep(run.not_before).dispatched == 1


@pytest.mark.usefixtures("task_folder")
def test_a_run_that_gave_way_before_its_hand_over_was_written_down_waits_no_longer(
    make_item: MakeItem,
) -> None:
    item = make_item(overlap="queue")
    going_on(item, heartbeat_at=SLOT + 100 * 365 * 24 * HOUR)
    run = executed(queued(item))
    assert run.not_before
    handed_over = run.not_before - timedelta(seconds=29)
    SchedulingHistoryItem.objects.filter(pk=run.pk).update(dispatched_at=handed_over)
    assert [sweep(run.not_before).dispatched, sweep(run.not_before).dispatched] == [1, 0]


def test_runs_may_be_allowed_at_once(make_item: MakeItem) -> None:
    item = make_item(overlap="allow")
    going_on(item)
    assert executed(queued(item)).status == "success"


def test_a_further_attempt_waits_and_is_not_skipped(make_item: MakeItem) -> None:
    item = make_item()
    going_on(item)
    run = executed(queued(item, attempt=2))
    assert (run.status, run.not_before is not None) == ("queued", True)


def test_runs_of_other_items_do_not_matter(make_item: MakeItem) -> None:
    going_on(make_item())
    assert executed(queued(make_item())).status == "success"


def test_a_run_that_another_process_has_is_not_skipped(make_item: MakeItem) -> None:
    item = make_item()
    run = going_on(item)
    assert runs.execute(run.pk) is None
    run.refresh_from_db()
    assert run.status == "running"
