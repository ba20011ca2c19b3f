"""What no process looks after any more is found by the clock."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from queryexport.errors import RunSuperseded
from scheduling import runs
from scheduling.models import SchedulingHistoryItem
from scheduling.sweep import DISPATCH_AGAIN_AFTER, LOST_AFTER, Swept, sweep
from tests.factories import MakeItem

pytestmark = pytest.mark.django_db

SLOT = datetime(2026, 1, 18, 8, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)


@pytest.fixture
def make_run(make_item: MakeItem):
    """A row as it stands while a worker has it, or before."""

    def make(**values: object) -> SchedulingHistoryItem:
        number = SchedulingHistoryItem.objects.count()
        item = getattr(make, "item", None) or make_item()
        make.item = item
        run = runs.queue(item, SLOT + number * SECOND, trigger=runs.Trigger.SCHEDULE)
        running = {"status": "running", "started_at": SLOT, "claim_token": uuid4(), "worker": "w:1"}
        SchedulingHistoryItem.objects.filter(pk=run.pk).update(
            **{"timestamp": SLOT, **running, **values}
        )
        run.refresh_from_db()
        return run

    return make


def test_a_run_without_a_sign_of_life_is_lost_and_tried_again(make_run) -> None:
    run = make_run(heartbeat_at=SLOT)
    now = SLOT + LOST_AFTER + SECOND
    assert sweep(now) == Swept(slots=0, lost=1, dispatched=0)
    run.refresh_from_db()
    assert (run.status, run.finished_at) == ("lost", now)
    assert "w:1 gave no sign of life for 51 s" in run.error
    assert run.next_attempts.get().not_before == now + timedelta(minutes=30)


def test_a_run_that_never_gave_a_sign_of_life_is_lost_as_well(make_run) -> None:
    make_run(heartbeat_at=None)
    assert sweep(SLOT + LOST_AFTER + SECOND).lost == 1


def test_a_run_that_lives_is_left_alone(make_run) -> None:
    run = make_run(heartbeat_at=SLOT + 5 * SECOND)
    assert sweep(SLOT + LOST_AFTER) == Swept(slots=0, lost=0, dispatched=0)
    run.refresh_from_db()
    assert run.status == "running"


def test_a_sign_of_life_in_the_last_moment_saves_the_run(make_run) -> None:
    run = make_run(heartbeat_at=SLOT)
    SchedulingHistoryItem.objects.update(heartbeat_at=SLOT + SECOND)
    assert not run.lose(SLOT + HOUR)
    run.refresh_from_db()
    assert run.status == "running"


def test_a_worker_that_comes_back_can_write_no_more(make_run) -> None:
    run = make_run(heartbeat_at=SLOT)
    sweep(SLOT + HOUR)
    with pytest.raises(RunSuperseded):
        run.record(row_count=7)
    with pytest.raises(RunSuperseded):
        run.finish(SchedulingHistoryItem.Status.SUCCESS)
    run.refresh_from_db()
    assert (run.status, run.row_count) == ("lost", 0)


def test_the_last_attempt_that_is_lost_is_the_end(make_run) -> None:
    run = make_run(heartbeat_at=SLOT)
    run.item.most_attempts = 1
    run.item.save()
    assert sweep(SLOT + HOUR).lost == 1
    assert not run.next_attempts.exists()


def test_a_run_that_died_before_the_clock_was_set_back_is_lost_all_the_same(make_run) -> None:
    run = make_run(heartbeat_at=SLOT + HOUR)
    assert sweep(SLOT).lost == 0
    assert sweep(SLOT + 49 * SECOND).lost == 0
    assert sweep(SLOT + 51 * SECOND).lost == 1
    run.refresh_from_db()
    assert run.status == "lost"


def test_a_run_that_lives_while_the_clock_is_set_back_goes_on(make_run) -> None:
    run = make_run(heartbeat_at=SLOT + HOUR)
    sweep(SLOT)
    SchedulingHistoryItem.objects.update(heartbeat_at=SLOT + 10 * SECOND)  # Its next sign.
    assert sweep(SLOT + 51 * SECOND).lost == 0
    run.refresh_from_db()
    assert run.status == "running"


def test_two_sweeps_find_a_lost_run_once(make_run) -> None:
    run = make_run(heartbeat_at=SLOT)
    later = SLOT + HOUR
    assert [sweep(later).lost, sweep(later).lost] == [1, 0]
    assert run.next_attempts.count() == 1


@pytest.mark.usefixtures("task_folder")
def test_a_queued_run_that_nobody_takes_is_handed_over_again_now_and_then(make_run) -> None:
    make_run(status="queued", started_at=None, claim_token=None)
    late = SLOT + DISPATCH_AGAIN_AFTER + SECOND
    found = [sweep(moment).dispatched for moment in (SLOT, late, late + SECOND)]
    assert found == [0, 1, 0]
    assert sweep(late + DISPATCH_AGAIN_AFTER + SECOND).dispatched == 1


def test_a_sweep_takes_the_same_number_of_queries_however_many_items_there_are(
    make_run, django_assert_num_queries
) -> None:
    for _ in range(20):
        make_run(heartbeat_at=SLOT)
    with django_assert_num_queries(5):
        sweep(SLOT + SECOND)


def test_runs_wait_for_a_broker_that_is_away_and_it_is_asked_once(
    make_run, task_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        make_run(status="queued", started_at=None, claim_token=None, not_before=SLOT)
    away = task_folder.rename(task_folder.with_name("away"))
    try:
        assert sweep(SLOT + SECOND).dispatched == 0
    finally:
        away.rename(task_folder)
    assert [record.message for record in caplog.records] == [
        "Runs still wait: the broker cannot be reached"
    ]
    assert not SchedulingHistoryItem.objects.filter(dispatched_at__isnull=False).exists()
    assert sweep(SLOT + 2 * SECOND).dispatched == 5


@pytest.mark.usefixtures("task_folder")
def test_a_run_that_was_handed_over_before_the_clock_was_set_back_is_handed_over_again(
    make_item: MakeItem,
) -> None:
    run = runs.queue(make_item(), SLOT, trigger=runs.Trigger.SCHEDULE)
    assert run
    SchedulingHistoryItem.objects.filter(pk=run.pk).update(dispatched_at=SLOT + HOUR)
    assert [sweep(SLOT).dispatched, sweep(SLOT + SECOND).dispatched] == [1, 0]
