"""What a run reports while it goes on reaches its row, and tells it when to stop."""

from datetime import UTC, datetime, timedelta

import pytest

from queryexport.errors import RunSuperseded
from scheduling import progress as progress_module
from scheduling import runs
from scheduling.models import SchedulingHistoryItem
from scheduling.progress import RunProgress
from tests.factories import MakeItem

SLOT = datetime(2026, 1, 18, 8, 0, tzinfo=UTC)


@pytest.fixture
def run(make_item: MakeItem) -> SchedulingHistoryItem:
    queued = runs.queue(make_item(), SLOT, trigger=runs.Trigger.SCHEDULE)
    assert queued
    queued.claim("this worker")
    return queued


def stored(run: SchedulingHistoryItem) -> SchedulingHistoryItem:
    return SchedulingHistoryItem.objects.get(pk=run.pk)


def test_counts_reach_the_row_when_it_is_time(
    run: SchedulingHistoryItem, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = RunProgress(run)
    progress.read(10)
    assert stored(run).row_count == 0, "written at most once a second"
    monkeypatch.setattr(progress_module, "WRITE_EVERY_SEC", 0)
    progress.delivered(7)
    assert (stored(run).row_count, stored(run).rows_delivered) == (10, 7)


def test_a_check_is_a_heartbeat(run: SchedulingHistoryItem) -> None:
    long_ago = SLOT - timedelta(days=1)
    SchedulingHistoryItem.objects.update(heartbeat_at=long_ago)
    RunProgress(run).check()
    heartbeat = stored(run).heartbeat_at
    assert heartbeat and heartbeat > long_ago


def test_a_check_stops_a_run_that_was_ended(run: SchedulingHistoryItem) -> None:
    SchedulingHistoryItem.objects.update(status="lost", error="its worker was silent")
    with pytest.raises(RunSuperseded, match=f"Run {run.pk} was ended"):
        RunProgress(run).check()


def test_the_watcher_sees_every_change(run: SchedulingHistoryItem) -> None:
    seen: list[tuple[int, int]] = []
    progress = RunProgress(run, watch=lambda p: seen.append((p.rows_read, p.rows_delivered)))
    progress.read(2)
    progress.delivered(1)
    assert seen == [(2, 0), (2, 1)]
    assert progress.first_row_sec is not None
