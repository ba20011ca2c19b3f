"""The doors that Celery opens: a tick, and a queued run."""

from datetime import UTC, datetime, timedelta

import pytest
import time_machine

from scheduling import runs, tasks
from scheduling.models import SchedulingHistoryItem, SchedulingItem
from tests.factories import MakeItem

SLOT = datetime(2026, 1, 18, 8, 0, tzinfo=UTC)


@pytest.fixture
def item(make_item: MakeItem) -> SchedulingItem:
    with time_machine.travel(SLOT - timedelta(days=3)):
        return make_item()


def test_a_tick_runs_the_slot_once_however_often_it_comes(item: SchedulingItem) -> None:
    with time_machine.travel(SLOT + timedelta(seconds=4), tick=False):
        tasks.run_item(item.pk)
        tasks.run_item(item.pk)
    run = SchedulingHistoryItem.objects.get()
    assert (run.status, run.trigger, run.scheduled_for) == ("success", "schedule", SLOT)


def test_a_tick_without_a_slot_leaves_no_row(item: SchedulingItem) -> None:
    with time_machine.travel(SLOT + timedelta(hours=5)):
        tasks.run_item(item.pk)
    assert not SchedulingHistoryItem.objects.exists()


def test_a_tick_for_a_deleted_item_is_nothing(item: SchedulingItem) -> None:
    pk = item.pk
    item.delete()
    tasks.run_item(pk)
    assert not SchedulingHistoryItem.objects.exists()


def test_a_queued_run_is_executed_by_its_id(item: SchedulingItem) -> None:
    run = runs.queue(item, SLOT, trigger=runs.Trigger.MANUAL)
    assert run
    tasks.execute(run.pk)
    run.refresh_from_db()
    assert run.status == "success"
