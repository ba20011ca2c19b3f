"""Every slot has its row: run by a tick, run late, or missed, as the item's policy says."""

import json
from base64 import b64decode
from copy import copy
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.core import serializers
from hypothesis import given
from hypothesis import strategies as st

from scheduling import slots, tasks
from scheduling.models import SchedulingHistoryItem, SchedulingItem
from scheduling.models.item import NEVER
from scheduling.slots import HEAD_START, PUNCTUAL, plan
from scheduling.sweep import sweep
from tests.factories import MakeItem

EIGHT = datetime(2026, 1, 18, 8, 0, tzinfo=UTC)
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
POLICIES = ("skip", "latest", "all")


@pytest.fixture
def item_of(make_item: MakeItem) -> Any:
    """An item that was saved three days before the slots of these tests."""

    def make(expression: str = "0 8 * * *", **values: Any) -> SchedulingItem:
        with time_machine.travel(EIGHT - 3 * DAY, tick=False):
            item = make_item(cron_expression=expression, **values)
        item.next_slot = item.first_slot_after(EIGHT - HOUR)
        item.save()
        return item

    return make


def statuses(item: SchedulingItem) -> list[tuple[datetime, str]]:
    rows = item.history.order_by("scheduled_for").values_list("scheduled_for", "status")
    return list(rows)


@given(
    st.lists(st.integers(0, 10_000), min_size=1, unique=True),
    st.sampled_from(POLICIES),
    st.integers(0, 10_080),
)
def test_nothing_runs_outside_its_window_and_nothing_is_forgotten(
    minutes: list[int], policy: str, window: int
) -> None:
    missing = [EIGHT - number * MINUTE for number in sorted(minutes, reverse=True)]
    planned = plan(missing, EIGHT, policy=policy, window=window * MINUTE)
    assert [slot for slot, _ in planned] == missing
    late = [slot for slot, status in planned if status == "queued" and EIGHT - slot > PUNCTUAL]
    assert all(EIGHT - slot <= window * MINUTE for slot in late)
    assert len(late) <= {"skip": 0, "latest": 1, "all": len(missing)}[policy]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("skip", ["missed", "missed", "missed"]),
        ("latest", ["missed", "missed", "queued"]),
        ("all", ["missed", "queued", "queued"]),
    ],
)
@pytest.mark.usefixtures("task_folder")
def test_after_an_outage_the_policy_decides(item_of: Any, policy: str, expected: list[str]) -> None:
    item = item_of("0 * * * *", catch_up=policy, catch_up_minutes=90)
    assert sweep(EIGHT + 2 * HOUR + 15 * MINUTE).slots == 3
    assert [status for _, status in statuses(item)] == expected


@pytest.mark.django_db
def test_a_missed_slot_says_why_and_what_to_do(item_of: Any) -> None:
    item = item_of()
    sweep(EIGHT + 3 * HOUR)
    run = item.history.get()
    assert (run.status, run.trigger, run.scheduled_for) == ("missed", "schedule", EIGHT)
    assert "was away at the time; 180 minutes later" in run.error
    assert "Run the item now" in run.error


@pytest.mark.usefixtures("task_folder")
def test_a_slot_that_the_tick_did_not_bring_is_handed_over_soon(item_of: Any) -> None:
    item = item_of(catch_up="skip")
    assert sweep(EIGHT + HEAD_START / 2).slots == 0
    found = sweep(EIGHT + HEAD_START)
    assert (found.slots, found.dispatched) == (1, 1)
    assert statuses(item) == [(EIGHT, "queued")]


def test_a_slot_that_a_tick_has_run_is_left_alone(item_of: Any) -> None:
    item = item_of()
    with time_machine.travel(EIGHT + timedelta(seconds=3), tick=False):
        tasks.run_item(item.pk)
    assert sweep(EIGHT + MINUTE).slots == 0
    assert statuses(item) == [(EIGHT, "success")]


@pytest.mark.usefixtures("task_folder")
def test_a_tick_after_the_sweep_does_nothing_more(item_of: Any) -> None:
    item = item_of()
    sweep(EIGHT + 30 * SECOND)
    with time_machine.travel(EIGHT + timedelta(seconds=40), tick=False):
        tasks.run_item(item.pk)
    assert statuses(item) == [(EIGHT, "queued")]


@pytest.mark.usefixtures("task_folder")
def test_two_sweeps_write_each_row_once(item_of: Any) -> None:
    item = item_of("*/10 * * * *", catch_up="all")
    now = EIGHT + 35 * MINUTE
    SchedulingItem.objects.update(next_slot=EIGHT)
    first = sweep(now).slots
    SchedulingItem.objects.update(next_slot=EIGHT)  # As the other sweep had read it.
    assert (first, sweep(now).slots, item.history.count()) == (4, 0, 4)


@pytest.mark.usefixtures("task_folder")
def test_the_hour_that_comes_twice_has_each_slot_once(item_of: Any) -> None:
    item = item_of("*/30 * * * *", timezone="Europe/Rome", catch_up="all", catch_up_minutes=600)
    start = datetime(2026, 10, 24, 23, 30, tzinfo=UTC)  # 01:30; at 03:00 it is 02:00 again.
    SchedulingItem.objects.update(next_slot=start)
    assert sweep(start + 3 * HOUR + MINUTE).slots == 7
    SchedulingItem.objects.update(next_slot=start)
    assert sweep(start + 3 * HOUR + MINUTE).slots == 0
    found = [slot for slot, _ in statuses(item)]
    assert found == [start + number * 30 * MINUTE for number in range(7)]


@pytest.mark.parametrize(
    "change",
    [
        {"cron_expression": "0 7 * * *"},
        {"timezone": "Asia/Tokyo"},
        {"end_date": date(2030, 1, 1)},
        {"enabled": False},
    ],
)
def test_saving_a_change_starts_nothing(item_of: Any, change: dict[str, Any]) -> None:
    item = item_of()
    with time_machine.travel(EIGHT + HOUR, tick=False):
        for name, value in change.items():
            setattr(item, name, value)
        item.save()
        item.enabled = True
        item.save()
        assert sweep(EIGHT + HOUR).slots == 0
    assert statuses(item) == []


def test_loading_a_dump_starts_nothing(item_of: Any) -> None:
    item = item_of()
    dump = serializers.serialize("json", [item])
    for loaded in serializers.deserialize("json", dump):
        loaded.save()
    assert sweep(EIGHT + HOUR).slots == 0
    item.refresh_from_db()
    assert item.next_slot == EIGHT + DAY


def test_a_disabled_item_has_no_slots(item_of: Any) -> None:
    item_of(enabled=False)
    assert sweep(EIGHT + HOUR).slots == 0


def test_a_schedule_that_has_ended_is_never_looked_at_again(item_of: Any) -> None:
    item = item_of(end_date=date(2026, 1, 17))
    assert item.next_slot == NEVER
    assert sweep(EIGHT + DAY).slots == 0


def test_an_expression_that_was_written_past_the_form_stops_no_other_item(item_of: Any) -> None:
    broken, item = item_of(), item_of()
    SchedulingItem.objects.filter(pk=broken.pk).update(cron_expression="no cron")
    assert sweep(EIGHT + 3 * HOUR).slots == 1
    assert statuses(item) == [(EIGHT, "missed")]
    broken.refresh_from_db()
    assert broken.next_slot == NEVER


def test_a_long_outage_is_worked_off_in_pieces(
    item_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "MOST_SLOTS", 10)
    item = item_of("* * * * *", catch_up="skip")
    now = EIGHT + 25 * MINUTE + HEAD_START
    assert [sweep(now).slots for _ in range(4)] == [10, 10, 10, 10]
    first = EIGHT - HOUR + MINUTE
    assert [slot for slot, _ in statuses(item)] == [first + n * MINUTE for n in range(40)]


def test_a_schedule_that_is_changed_during_a_sweep_keeps_its_own_next_slot(
    item_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = item_of()
    first_slot_after = SchedulingItem.first_slot_after

    def changed_meanwhile(stale: SchedulingItem, moment: datetime) -> datetime:
        monkeypatch.undo()
        with time_machine.travel(EIGHT + 3 * HOUR, tick=False):
            item.cron_expression = "30 11 * * *"
            item.save()
        return first_slot_after(stale, moment)

    monkeypatch.setattr(SchedulingItem, "first_slot_after", changed_meanwhile)
    sweep(EIGHT + 3 * HOUR)
    item.refresh_from_db()
    assert item.next_slot == EIGHT + 3 * HOUR + 30 * MINUTE


def copies_of(item: SchedulingItem, count: int) -> list[SchedulingItem]:
    """Items that are the same but for their names, not saved yet."""
    copies = [copy(item) for _ in range(count)]
    for number, each in enumerate(copies):
        each.pk, each.name = None, f"{item.name}, copy {number}"
    return copies


def many_like(item: SchedulingItem, count: int) -> None:
    """So many items, most of which were and will be due at other times than the others."""
    copies = copies_of(item, count)
    for number, each in enumerate(copies):
        each.cron_expression = f"0 8 * * {number % 7}" if number % 2 else f"{number % 60} 7,9 * * *"
        each.next_slot = EIGHT - number % 5 * DAY
        each.catch_up = POLICIES[number % 3]
    SchedulingItem.objects.bulk_create(copies)


@pytest.mark.parametrize("count", [10, 500])
@pytest.mark.usefixtures("task_folder")
def test_a_sweep_takes_the_same_number_of_queries_for_any_number_of_items(
    item_of: Any, django_assert_num_queries: Any, count: int
) -> None:
    many_like(item_of(), count)
    with django_assert_num_queries(17):
        found = sweep(EIGHT + 30 * SECOND)
    assert found.slots > found.dispatched > count / 4
    assert not SchedulingItem.objects.filter(next_slot__lte=EIGHT).exists()


def test_a_minute_in_which_everything_is_due_has_a_row_and_a_message_for_each_item(
    item_of: Any, task_folder: Path
) -> None:
    SchedulingItem.objects.bulk_create(copies_of(item_of(), 499))
    before = set(task_folder.glob("*.msg"))
    found = [sweep(EIGHT + 30 * SECOND), sweep(EIGHT + MINUTE)]
    assert [(each.slots, each.dispatched) for each in found] == [(500, 500), (0, 0)]
    rows = SchedulingHistoryItem.objects.filter(status="queued", scheduled_for=EIGHT)
    assert rows.values("item").distinct().count() == rows.count() == 500
    sent = [run_of(message) for message in set(task_folder.glob("*.msg")) - before]
    assert sorted(sent) == sorted(rows.values_list("pk", flat=True))


def run_of(message: Path) -> int:
    """The run that a message of Celery's asks for."""
    ((pk,), _, _) = json.loads(b64decode(json.loads(message.read_text())["body"]))
    return pk
