"""`manage.py backfill`: it says what it will run, queues just that, and refuses with a sentence."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from django.core.management import CommandError, call_command

from scheduling import runs
from scheduling.models import SchedulingHistoryItem, SchedulingItem
from tests.factories import MakeItem

pytestmark = pytest.mark.usefixtures("task_folder")

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
SLOT = datetime(2026, 11, 20, 7, 0, tzinfo=UTC)  # 08:00 in Rome.


@pytest.fixture(autouse=True)
def clock() -> Iterator[None]:
    with time_machine.travel(NOW, tick=False):
        yield


@pytest.fixture
def item(make_item: MakeItem) -> SchedulingItem:
    """An item that runs daily at 08:00 in Rome, and whose slot on the 20th was a success."""
    item = make_item(name="Traces", timezone="Europe/Rome")
    assert runs.queue(item, SLOT, trigger=runs.Trigger.SCHEDULE)
    SchedulingHistoryItem.objects.update(status="success")
    return item


def backfill(*options: str, first: str = "2026-11-19", last: str = "2026-11-21") -> None:
    call_command("backfill", "Traces", "--from", first, "--to", last, *options)


def test_a_dry_run_prints_what_would_run_and_queues_nothing(
    item: SchedulingItem, capsys: pytest.CaptureFixture[str]
) -> None:
    backfill("--dry-run")
    assert capsys.readouterr().out.splitlines() == [
        "2026-11-19 08:00 +01:00  no run     will run",
        "2026-11-20 08:00 +01:00  success    left out: success",
        "2026-11-21 08:00 +01:00  no run     will run",
    ]
    assert item.history.count() == 1


def test_it_queues_what_it_prints_and_says_the_numbers(
    item: SchedulingItem, capsys: pytest.CaptureFixture[str]
) -> None:
    backfill()
    queued = list(item.history.filter(trigger="backfill").order_by("pk"))
    assert [(run.scheduled_for, run.user) for run in queued] == [
        (SLOT - DAY, None), (SLOT + DAY, None),
    ]  # fmt: skip
    output = capsys.readouterr().out.splitlines()
    assert len(output) == 4
    assert output[-1] == f"2 runs are queued: {queued[0].pk}, {queued[1].pk}."


def test_of_one_slot_it_says_one_run(
    item: SchedulingItem, capsys: pytest.CaptureFixture[str]
) -> None:
    backfill(last="2026-11-19")
    run = item.history.get(trigger="backfill")
    assert capsys.readouterr().out.endswith(f"1 run is queued: {run.pk}.\n")


def test_all_includes_what_ended_in_success_and_never_what_is_not_over(
    item: SchedulingItem, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runs.queue(item, SLOT + DAY, trigger=runs.Trigger.SCHEDULE)
    backfill("--all")
    output = capsys.readouterr().out.splitlines()
    assert output[1] == "2026-11-20 08:00 +01:00  success    will run"
    assert output[2] == "2026-11-21 08:00 +01:00  queued     left out: queued"
    slots = item.history.filter(trigger="backfill").order_by("pk")
    assert list(slots.values_list("scheduled_for", "attempt")) == [(SLOT - DAY, 1), (SLOT, 2)]


def test_with_nothing_to_run_it_says_so_and_is_content(
    item: SchedulingItem, capsys: pytest.CaptureFixture[str]
) -> None:
    backfill(first="2026-11-20", last="2026-11-20")
    assert "Nothing is queued." in capsys.readouterr().out
    assert item.history.count() == 1


@pytest.mark.parametrize(
    ("first", "last", "days"),
    [
        ("2026-11-19T08:00", "2026-11-21T08:00", [19, 21]),
        ("2026-11-19T08:01", "2026-11-21T07:59", []),
        ("2026-11-19T07:00Z", "2026-11-19T07:00Z", [19]),
        ("2026-11-19T07:01Z", "2026-11-21T07:00Z", [21]),
    ],
)
def test_moments_are_in_the_items_zone_unless_they_have_an_offset(
    item: SchedulingItem, first: str, last: str, days: list[int]
) -> None:
    backfill(first=first, last=last)
    queued = item.history.filter(trigger="backfill").order_by("pk")
    assert [run.scheduled_for.day for run in queued] == days


@pytest.mark.parametrize(
    ("first", "last", "message"),
    [
        ("soon", "2026-11-21", "“soon” is no date and no time. Write 2026-11-01"),
        ("2026-11-21", "2026-11-19", "Enter the earlier moment first"),
        ("2026-11-20T09:00", "2026-11-20T10:00", "has no past slot .* Its schedule is 0 8"),
        ("2020-01-01", "2026-11-20", "These are 2,516 slots of “Traces”, and at most 1,000"),
    ],
)
def test_what_it_cannot_do_is_an_error_in_a_sentence(
    item: SchedulingItem, first: str, last: str, message: str
) -> None:
    with pytest.raises(CommandError, match=message):
        backfill(first=first, last=last)
    assert item.history.count() == 1


def test_an_unknown_name_is_refused_with_the_known_ones(item: SchedulingItem) -> None:
    with pytest.raises(CommandError, match=r"no scheduling item “Trace”\. Known: Traces\."):
        call_command("backfill", "Trace", "--from", "2026-11-19", "--to", "2026-11-19")


def test_both_ends_must_be_given(item: SchedulingItem) -> None:
    with pytest.raises(CommandError, match="required: --to"):
        call_command("backfill", "Traces", "--from", "2026-11-19")
