"""Past slots of an item: which ones there are, and that each that is asked for runs, once."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.contrib.auth.models import User

from queryexport.errors import ConfigurationError
from scheduling import backfill, runs
from scheduling.models import SchedulingHistoryItem, SchedulingItem
from scheduling.moments import moment
from scheduling.sweep import sweep
from tests.factories import MakeItem

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
SLOT = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)
ENDED = ["success", "partial", "fail", "skipped", "missed", "held", "cancelled", "lost"]


@pytest.fixture(autouse=True)
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(NOW, tick=False) as traveller:
        yield traveller


def planned(item: SchedulingItem, first: str, last: str) -> list[backfill.PlannedSlot]:
    zone = item.timezone
    return backfill.plan(item, moment(first, zone), moment(last, zone, last=True))


def slots(item: SchedulingItem, first: str, last: str) -> list[str]:
    return [backfill.local(item, each.slot) for each in planned(item, first, last)]


def with_run(
    item: SchedulingItem, slot: datetime = SLOT, status: str = "success", **values: Any
) -> SchedulingHistoryItem:
    run = runs.queue(item, slot, trigger=runs.Trigger.SCHEDULE, **values)
    assert run
    SchedulingHistoryItem.objects.filter(pk=run.pk).update(
        status=status, error="" if status in ("queued", "running", "success") else "why"
    )
    run.refresh_from_db()
    return run


class TestTheRange:
    def test_includes_both_ends(self, make_item: MakeItem) -> None:
        item = make_item()
        wanted = ["2026-11-20 08:00 +00:00", "2026-11-21 08:00 +00:00", "2026-11-22 08:00 +00:00"]
        assert slots(item, "2026-11-20T08:00", "2026-11-22T08:00") == wanted
        assert slots(item, "2026-11-20T08:01", "2026-11-22T07:59") == wanted[1:2]
        assert slots(item, "2026-11-20", "2026-11-22") == wanted

    def test_ends_with_the_slot_of_this_very_minute(self, make_item: MakeItem) -> None:
        hourly = make_item(cron_expression="0 * * * *")
        found = slots(hourly, "2026-11-23T10:30", "2030-01-01")
        assert found == ["2026-11-23 11:00 +00:00", "2026-11-23 12:00 +00:00"]

    def test_has_slots_from_before_the_schedule_was_changed_and_of_a_disabled_item(
        self, make_item: MakeItem
    ) -> None:
        item = make_item(enabled=False)
        assert item.schedule_changed_at == NOW
        assert len(slots(item, "2026-10-01", "2026-10-31")) == 31

    def test_does_not_pass_the_last_day_of_the_item(self, make_item: MakeItem) -> None:
        item = make_item(end_date=date(2026, 11, 20))
        assert slots(item, "2026-11-19", "2026-11-22")[-1] == "2026-11-20 08:00 +00:00"

    def test_has_one_slot_for_a_fixed_time_that_the_clock_skips(self, make_item: MakeItem) -> None:
        item = make_item(cron_expression="30 2 * * *", timezone="Europe/Rome")
        assert slots(item, "2026-03-28", "2026-03-30") == [
            "2026-03-28 02:30 +01:00", "2026-03-29 03:00 +02:00", "2026-03-30 02:30 +02:00",
        ]  # fmt: skip
        assert slots(item, "2026-03-29T02:30", "2026-03-29T02:30") == ["2026-03-29 03:00 +02:00"]

    def test_has_one_slot_for_a_fixed_time_that_the_clock_shows_twice(
        self, make_item: MakeItem
    ) -> None:
        item = make_item(cron_expression="30 2 * * *", timezone="Europe/Rome")
        assert slots(item, "2026-10-24", "2026-10-26") == [
            "2026-10-24 02:30 +02:00", "2026-10-25 02:30 +02:00", "2026-10-26 02:30 +01:00",
        ]  # fmt: skip

    def test_tells_the_two_turns_of_an_hour_apart(self, make_item: MakeItem) -> None:
        item = make_item(cron_expression="*/30 2 * * *", timezone="Europe/Rome")
        second_turn = datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
        with_run(item, second_turn)
        found = planned(item, "2026-10-25", "2026-10-25")
        assert [(backfill.local(item, each.slot)[11:], each.state) for each in found] == [
            ("02:00 +02:00", "no run"), ("02:30 +02:00", "no run"),
            ("02:00 +01:00", "no run"), ("02:30 +01:00", "success"),
        ]  # fmt: skip
        started = backfill.start(item, [each.slot for each in found], user=None)
        asked = [(run.scheduled_for.astimezone(UTC).hour, run.attempt) for run in started.runs]
        assert asked == [(0, 1), (0, 1), (1, 1), (1, 2)]

    def test_of_1000_slots_is_the_longest(self, make_item: MakeItem) -> None:
        minutely = make_item(cron_expression="* * * * *")
        assert len(slots(minutely, "2026-11-20T00:01", "2026-11-20T16:40")) == 1000
        with pytest.raises(ConfigurationError, match=r"are 1,001 slots of .* at most 1,000 can"):
            slots(minutely, "2026-11-20T00:00", "2026-11-20T16:40")

    def test_of_years_of_minutes_is_refused_without_counting_them_all(
        self, make_item: MakeItem
    ) -> None:
        with pytest.raises(ConfigurationError, match="more than 100,000 slots"):
            slots(make_item(cron_expression="* * * * *"), "1970-01-01", "2026-11-20")

    def test_without_any_slot_says_what_the_schedule_is(self, make_item: MakeItem) -> None:
        item = make_item(cron_expression="0 8 * * 1", timezone="Europe/Rome", name="Weekly")
        with pytest.raises(ConfigurationError, match=r"“Weekly” has no past slot") as error:
            slots(item, "2026-11-17", "2026-11-22")
        assert "is 0 8 * * 1 in Europe/Rome." in error.value.message
        with pytest.raises(ConfigurationError, match="what is still to come runs by itself"):
            slots(item, "2026-11-24", "2026-12-24")

    def test_that_ends_before_it_begins_is_refused(self, make_item: MakeItem) -> None:
        with pytest.raises(ConfigurationError, match="Enter the earlier moment first"):
            slots(make_item(), "2026-11-20", "2026-11-18")

    def test_of_a_schedule_that_is_none_is_refused(self, make_item: MakeItem) -> None:
        item = make_item()
        SchedulingItem.objects.update(cron_expression="0 8 * * 9")
        item.refresh_from_db()
        with pytest.raises(ConfigurationError, match="is no cron expression"):
            slots(item, "2026-11-20", "2026-11-22")


class TestTheChoice:
    @pytest.mark.parametrize("status", ENDED)
    def test_is_every_slot_that_did_not_end_in_success(
        self, make_item: MakeItem, status: str
    ) -> None:
        item = make_item()
        run = with_run(item, status=status)
        (found,) = planned(item, "2026-11-20", "2026-11-20")
        assert (found.latest, found.can_run) == (run, True)
        assert found.chosen == (status not in ("success", "held"))

    @pytest.mark.parametrize("status", ["queued", "running"])
    def test_is_never_a_slot_whose_run_is_not_over(self, make_item: MakeItem, status: str) -> None:
        item = make_item()
        with_run(item, status=status)
        (found,) = planned(item, "2026-11-20", "2026-11-20")
        assert (found.state, found.can_run, found.chosen) == (status, False, False)

    def test_is_a_slot_without_any_run(self, make_item: MakeItem) -> None:
        (found,) = planned(make_item(), "2026-11-20", "2026-11-20")
        assert (found.state, found.can_run, found.chosen) == ("no run", True, True)

    def test_goes_by_the_latest_attempt(self, make_item: MakeItem) -> None:
        item = make_item()
        with_run(item, status="success", attempt=2)
        with_run(item, status="fail", attempt=1)
        (found,) = planned(item, "2026-11-20", "2026-11-20")
        assert (found.state, found.chosen) == ("success", False)

    def test_takes_no_notice_of_other_items(self, make_item: MakeItem) -> None:
        with_run(make_item())
        assert planned(make_item(), "2026-11-20", "2026-11-20")[0].latest is None


class TestStarting:
    def test_queues_one_run_for_each_slot_earliest_first(
        self, make_item: MakeItem, admin_user: User
    ) -> None:
        item = make_item()
        failed = with_run(item, SLOT, "fail", attempt=2)
        started = backfill.start(item, [SLOT + DAY, SLOT, SLOT - DAY], user=admin_user)
        rows = [
            (run.scheduled_for, run.attempt, run.retry_of, run.status, run.trigger, run.user)
            for run in item.history.exclude(pk=failed.pk).order_by("pk")
        ]
        assert rows == [
            (SLOT - DAY, 1, None, "queued", "backfill", admin_user),
            (SLOT, 3, failed, "queued", "backfill", admin_user),
            (SLOT + DAY, 1, None, "queued", "backfill", admin_user),
        ]
        assert [run.pk for run in started.runs] == list(
            item.history.exclude(pk=failed.pk).order_by("pk").values_list("pk", flat=True)
        )
        assert not started.left_out

    def test_leaves_out_a_slot_that_got_a_run_meanwhile(self, make_item: MakeItem) -> None:
        item = make_item()
        seen = planned(item, "2026-11-20", "2026-11-21")
        other = with_run(item, status="queued")
        started = backfill.start(item, [each.slot for each in seen], user=None)
        assert [run.scheduled_for for run in started.runs] == [SLOT + DAY]
        assert [each.latest for each in started.left_out] == [other]
        assert item.history.count() == 2

    def test_twice_queues_nothing_the_second_time(self, make_item: MakeItem) -> None:
        item = make_item()
        backfill.start(item, [SLOT, SLOT + DAY], user=None)
        again = backfill.start(item, [SLOT, SLOT + DAY], user=None)
        assert (len(again.runs), len(again.left_out), item.history.count()) == (0, 2, 2)

    @pytest.mark.parametrize(
        ("wanted", "message"),
        [
            ([], "No slot was chosen"),
            ([SLOT, SLOT + timedelta(minutes=1)], "2026-11-20 08:01 .* is no past slot of"),
            ([NOW + timedelta(hours=20)], "2026-11-24 08:00 .* is no past slot of"),
            ([SLOT - n * DAY for n in range(1001)], "1,001 slots"),
        ],
    )
    def test_refuses_what_is_no_past_slot_and_queues_nothing(
        self, make_item: MakeItem, wanted: list[datetime], message: str
    ) -> None:
        with pytest.raises(ConfigurationError, match=message):
            backfill.start(make_item(), wanted, user=None)
        assert not SchedulingHistoryItem.objects.exists()

    def test_refuses_an_item_whose_parameters_do_not_fit(self, make_item: MakeItem) -> None:
        item = make_item(sql="SELECT id FROM events WHERE day = :day")
        with pytest.raises(ConfigurationError, match="uses :day but the item gives no value"):
            backfill.start(item, [SLOT], user=None)
        assert not SchedulingHistoryItem.objects.exists()

    def test_refuses_an_item_with_a_watermark(self, make_item: MakeItem) -> None:
        sql = "SELECT id FROM events WHERE id > :watermark_from AND id <= :watermark_to"
        item = make_item(sql=sql, watermark_column="id", watermark_kind="number")
        with pytest.raises(ConfigurationError, match="has a watermark"):
            planned(item, "2026-11-20", "2026-11-20")
        with pytest.raises(ConfigurationError, match="has a watermark"):
            backfill.start(item, [SLOT], user=None)

    def test_refuses_an_item_that_was_deleted_meanwhile(self, make_item: MakeItem) -> None:
        item = make_item()
        SchedulingItem.objects.get().delete()
        item.pk = 1
        with pytest.raises(ConfigurationError, match="was just deleted"):
            backfill.start(item, [SLOT], user=None)

    def test_takes_a_thousand_slots(self, make_item: MakeItem) -> None:
        item = make_item(cron_expression="* * * * *")
        wanted = [SLOT + timedelta(minutes=minute) for minute in range(1000)]
        started = backfill.start(item, wanted, user=None)
        assert [run.scheduled_for for run in started.runs] == wanted
        assert item.history.filter(status="queued").count() == 1000


class TestRunning:
    @pytest.mark.parametrize("overlap", ["skip", "queue"])
    def test_each_waits_for_its_turn_and_all_run_in_the_end(
        self, make_item: MakeItem, overlap: str
    ) -> None:
        item = make_item(overlap=overlap)
        waiting = list(backfill.start(item, [SLOT, SLOT + DAY, SLOT + 2 * DAY], user=None).runs)
        while waiting:
            first, *others = waiting
            assert first.claim("a worker that takes its time")
            assert [runs.execute(run.pk) for run in others] == [None] * len(others)
            first.finish(runs.Status.SUCCESS)
            waiting = list(item.history.filter(status="queued").order_by("pk"))
            assert waiting == others
        assert set(item.history.values_list("status", flat=True)) == {"success"}

    def test_runs_at_once_where_the_item_allows_that(self, make_item: MakeItem) -> None:
        item = make_item(overlap="allow")
        first, second = backfill.start(item, [SLOT, SLOT + DAY], user=None).runs
        assert first.claim("a worker that takes its time")
        finished = runs.execute(second.pk)
        assert finished and finished.status == "success"

    def test_does_not_take_the_place_of_the_one_scheduled_run_that_may_wait(
        self, make_item: MakeItem
    ) -> None:
        item = make_item(overlap="queue")
        first, _ = backfill.start(item, [SLOT, SLOT + DAY], user=None).runs
        assert first.claim("a worker that takes its time")
        due = runs.queue(item, SLOT + 2 * DAY, trigger=runs.Trigger.SCHEDULE)
        assert due and runs.execute(due.pk) is None
        due.refresh_from_db()
        assert due.status == "queued"

    def test_has_the_relative_dates_and_the_file_of_its_slot(
        self, make_item: MakeItem, export_root: Path
    ) -> None:
        item = make_item(
            sql="SELECT id FROM events WHERE day = :day", parameters={"day": "{today-1}"},
        )  # fmt: skip
        for run in backfill.start(item, [SLOT, SLOT + DAY], user=None).runs:
            runs.execute(run.pk)
        bound = item.history.order_by("pk").values_list("status", "parameters")
        assert list(bound) == [
            ("success", {"day": "2026-11-19"}),
            ("success", {"day": "2026-11-20"}),
        ]
        assert sorted(path.name[-15:] for path in export_root.iterdir()) == [
            "2026-11-20.xlsx", "2026-11-21.xlsx",
        ]  # fmt: skip

    def test_is_tried_again_with_the_items_parameters_of_then(
        self, make_item: MakeItem, clock: time_machine.Traveller
    ) -> None:
        item = make_item(
            sql="SELECT id FROM events WHERE day = :day", parameters={"day": "{today-1}"}
        )
        (run,) = backfill.start(item, [SLOT], user=None).runs
        with pytest.raises(SystemExit):
            runs.execute(run.pk, watch=_shut_down)
        item.parameters = {"day": "{today-2}"}
        item.save()
        second = run.next_attempts.get()
        assert (second.trigger, second.attempt) == ("backfill", 2)
        clock.shift(timedelta(minutes=30))
        assert runs.execute(second.pk)
        second.refresh_from_db()
        assert (second.status, second.parameters) == ("success", {"day": "2026-11-18"})

    @pytest.mark.usefixtures("task_folder")
    def test_is_handed_to_the_workers_once_it_is_committed(
        self, make_item: MakeItem, django_capture_on_commit_callbacks: Any
    ) -> None:
        item = make_item()
        with django_capture_on_commit_callbacks(execute=True):
            backfill.start(item, [SLOT, SLOT + DAY], user=None)
            assert not item.history.filter(dispatched_at__isnull=False).exists()
        assert list(item.history.values_list("status", "dispatched_at")) == [("queued", NOW)] * 2
        assert sweep(NOW).dispatched == 0

    @pytest.mark.usefixtures("task_folder")
    def test_waits_for_the_next_sweep_when_it_was_not_handed_over(
        self, make_item: MakeItem, django_capture_on_commit_callbacks: Any
    ) -> None:
        item = make_item()
        with django_capture_on_commit_callbacks(execute=False):
            backfill.start(item, [SLOT, SLOT + DAY], user=None)
        assert list(item.history.values_list("status", "dispatched_at")) == [("queued", None)] * 2
        assert sweep(NOW).dispatched == 2


def _shut_down(progress: object) -> None:
    raise SystemExit
