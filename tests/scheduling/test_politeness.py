"""Runs are polite to their source: so many at once, and none in its black-out windows."""

from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
import time_machine

from queryexport.models import DatabaseConnection
from scheduling import runs
from scheduling.models import SchedulingHistoryItem, SchedulingItem
from scheduling.sweep import sweep
from tests.factories import MakeItem, make_connection

pytestmark = pytest.mark.django_db

SLOT = datetime(2026, 1, 18, 8, 0, tzinfo=UTC)  # A Sunday.
MINUTE = timedelta(minutes=1)


@pytest.fixture(autouse=True)
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(SLOT, tick=False) as traveller:
        yield traveller


@pytest.fixture
def source(tracking: Path, task_folder: Path) -> DatabaseConnection:
    return make_connection(tracking, name="cdg_prod", most_runs=2)


def queued(item: SchedulingItem, slot: datetime = SLOT) -> SchedulingHistoryItem:
    run = runs.queue(item, slot, trigger=runs.Trigger.SCHEDULE)
    assert run
    return run


def going_on(item: SchedulingItem) -> SchedulingHistoryItem:
    run = queued(item, SLOT - MINUTE)
    held = {"status": "running", "started_at": SLOT, "heartbeat_at": SLOT, "claim_token": uuid4()}
    SchedulingHistoryItem.objects.filter(pk=run.pk).update(**held)
    return run


def executed(run: SchedulingHistoryItem) -> SchedulingHistoryItem:
    runs.execute(run.pk)
    run.refresh_from_db()
    return run


def test_no_more_runs_begin_than_the_connection_allows(
    make_item: MakeItem, source: DatabaseConnection
) -> None:
    first = going_on(make_item(connection=source))
    assert executed(queued(make_item(connection=source))).status == "success"
    going_on(make_item(connection=source))
    waiting = executed(queued(make_item(connection=source)))
    assert waiting.status == "queued"
    assert waiting.waits_for == (
        "the connection cdg_prod, which is used by 2 runs, of at most 2 at once"
    )
    first.refresh_from_db()
    SchedulingHistoryItem.objects.filter(pk=first.pk).update(status="lost", error="gone")
    again = executed(waiting)
    assert (again.status, again.waits_for) == ("success", "")


def test_other_connections_do_not_count(
    make_item: MakeItem, source: DatabaseConnection, tracking: Path
) -> None:
    other = make_connection(tracking, name="other", most_runs=1)
    going_on(make_item(connection=other))
    assert executed(queued(make_item(connection=source))).status == "success"


def test_a_run_that_sends_rows_again_neither_waits_nor_counts(
    make_item: MakeItem, source: DatabaseConnection
) -> None:
    source.most_runs = 1
    source.save()
    replay = going_on(make_item(connection=source))
    SchedulingHistoryItem.objects.filter(pk=replay.pk).update(trigger="replay")
    assert executed(queued(make_item(connection=source))).status == "success"


def test_what_waits_is_handed_over_when_a_run_ends(
    make_item: MakeItem, source: DatabaseConnection, task_folder: Path
) -> None:
    source.most_runs = 1
    source.save()
    blocking = make_item(connection=source)
    before = going_on(blocking)
    later, sooner = (make_item(connection=source) for _ in range(2))
    runs_waiting = [executed(queued(later)), executed(queued(sooner, SLOT - MINUTE))]
    assert {run.status for run in runs_waiting} == {"queued"}
    SchedulingHistoryItem.objects.filter(pk=before.pk).delete()
    messages = len(list(task_folder.glob("*.msg")))
    executed(queued(blocking))
    assert len(list(task_folder.glob("*.msg"))) == messages + 1
    for run in runs_waiting:
        run.refresh_from_db()
    assert [run.not_before for run in runs_waiting] == [SLOT + MINUTE / 2, SLOT]
    assert executed(runs_waiting[1]).status == "success"


def test_the_next_run_of_an_item_begins_when_the_one_before_ends(
    make_item: MakeItem, task_folder: Path
) -> None:
    item = make_item(overlap="queue")
    blocking = going_on(item)
    waiting = executed(queued(item))
    assert waiting.waits_for == f"run {blocking.pk} of the same item"
    SchedulingHistoryItem.objects.filter(pk=blocking.pk).update(status="queued", started_at=None)
    executed(blocking)
    waiting.refresh_from_db()
    assert (waiting.not_before, waiting.dispatched_at) == (SLOT, SLOT)


def test_an_attempt_that_waits_for_its_delay_is_not_woken(
    make_item: MakeItem, task_folder: Path
) -> None:
    item = make_item()
    again = queued(item, SLOT - MINUTE)
    SchedulingHistoryItem.objects.filter(pk=again.pk).update(not_before=SLOT + 30 * MINUTE)
    executed(queued(item))
    again.refresh_from_db()
    assert again.not_before == SLOT + 30 * MINUTE


def test_a_run_waits_for_the_end_of_a_black_out(
    make_item: MakeItem, source: DatabaseConnection, clock: time_machine.Traveller
) -> None:
    source.blackouts.create(start=time(7), end=time(9, 30), timezone="UTC", days_of_week=[6])
    run = executed(queued(make_item(connection=source)))
    end = SLOT + 90 * MINUTE
    assert (run.status, run.not_before) == ("queued", end)
    assert run.waits_for == "the end of a black-out of the connection cdg_prod"
    clock.move_to(end - MINUTE)
    assert sweep(end - MINUTE).dispatched == 0
    clock.move_to(end)
    assert sweep(end).dispatched == 1
    run = executed(run)
    assert (run.status, run.scheduled_for) == ("success", SLOT)


def test_a_run_that_goes_on_is_not_stopped_by_a_black_out(
    make_item: MakeItem, source: DatabaseConnection
) -> None:
    source.blackouts.create(start=time(9), end=time(10), timezone="UTC")
    assert executed(queued(make_item(connection=source))).status == "success"
