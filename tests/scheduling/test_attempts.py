"""A failed run is tried again where that can help, later and not too often."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import time_machine

from queryexport.models import DatabaseConnection
from scheduling import attempts, runs
from scheduling.models import SchedulingHistoryItem, SchedulingItem
from scheduling.sweep import sweep
from tests.factories import MakeItem

pytestmark = pytest.mark.django_db

SLOT = datetime(2026, 1, 18, 8, 0, tzinfo=UTC)
DELAY = timedelta(minutes=30)


@pytest.fixture(autouse=True)
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(SLOT, tick=False) as traveller:
        yield traveller


def unreachable() -> DatabaseConnection:
    return DatabaseConnection.objects.create(
        name="away", engine="postgresql", host="127.0.0.1", port=1, database="x", username="x"
    )


def run_slot(item: SchedulingItem, **values: object) -> SchedulingHistoryItem:
    queued = runs.queue(item, SLOT, trigger=runs.Trigger.SCHEDULE)
    assert queued
    runs.execute(queued.pk)
    queued.refresh_from_db()
    return queued


def test_an_error_that_may_pass_is_followed_by_another_attempt(make_item: MakeItem) -> None:
    first = run_slot(make_item(connection=unreachable()))
    again = first.next_attempts.get()
    assert (first.status, again.status) == ("fail", "queued")
    assert (again.scheduled_for, again.attempt, again.retry_of) == (SLOT, 2, first)
    assert (again.not_before, again.trigger) == (SLOT + DELAY, "schedule")


def test_attempts_end_at_the_items_maximum(
    make_item: MakeItem, clock: time_machine.Traveller
) -> None:
    item = make_item(connection=unreachable(), most_attempts=3)
    run_slot(item)
    for number in (2, 3):
        clock.shift(DELAY)
        assert runs.execute(item.history.get(attempt=number).pk)
    statuses = item.history.order_by("attempt").values_list("attempt", "status")
    assert list(statuses) == [(1, "fail"), (2, "fail"), (3, "fail")]


@pytest.mark.parametrize("sql", ["SELECT no_such_column FROM events", "SELECT * FROM nowhere"])
def test_wrong_sql_is_not_tried_again(make_item: MakeItem, sql: str) -> None:
    assert not run_slot(make_item(sql=sql)).next_attempts.exists()


def test_a_fault_of_the_program_is_not_tried_again(make_item: MakeItem) -> None:
    def broken(progress: object) -> None:
        raise ZeroDivisionError

    queued = runs.queue(make_item(), SLOT, trigger=runs.Trigger.SCHEDULE)
    assert queued
    with pytest.raises(ZeroDivisionError):
        runs.execute(queued.pk, watch=broken)
    assert not queued.next_attempts.exists()


def test_a_worker_that_is_shut_down_loses_its_run_which_is_tried_again(
    make_item: MakeItem,
) -> None:
    def stop(progress: object) -> None:
        raise SystemExit

    queued = runs.queue(make_item(), SLOT, trigger=runs.Trigger.SCHEDULE)
    assert queued
    with pytest.raises(SystemExit):
        runs.execute(queued.pk, watch=stop)
    queued.refresh_from_db()
    assert queued.status == "lost"
    assert "shut down" in queued.error
    assert queued.next_attempts.get().attempt == 2


def test_a_success_is_not_tried_again(make_item: MakeItem) -> None:
    first = run_slot(make_item())
    assert (first.status, first.next_attempts.count()) == ("success", 0)


def test_an_attempt_is_followed_once_whoever_asks(make_item: MakeItem) -> None:
    first = run_slot(make_item(connection=unreachable()))
    assert attempts.try_again(first, now=SLOT) is None
    assert first.next_attempts.count() == 1


def test_a_deleted_items_run_is_not_tried_again(make_item: MakeItem) -> None:
    first = run_slot(make_item(connection=unreachable(), most_attempts=1))
    first.item = None
    assert attempts.try_again(first, now=SLOT) is None


@pytest.mark.usefixtures("task_folder")
def test_an_attempt_waits_for_its_time(make_item: MakeItem) -> None:
    first = run_slot(make_item(connection=unreachable()))
    again = first.next_attempts.get()
    assert sweep(SLOT + DELAY - timedelta(seconds=1)).dispatched == 0
    assert sweep(SLOT + DELAY).dispatched == 1
    again.refresh_from_db()
    assert (again.status, again.dispatched_at) == ("queued", SLOT + DELAY)


@pytest.mark.parametrize(("most", "delay"), [(0, 30), (21, 30), (3, 1441)])
def test_attempts_out_of_range_are_refused(make_item: MakeItem, most: int, delay: int) -> None:
    item = make_item()
    item.most_attempts, item.retry_delay_minutes = most, delay
    with pytest.raises(Exception, match=r"most_attempts|retry_delay_minutes|__all__"):
        item.full_clean()
