"""When schedules are due, at ordinary times and at the changes of the clock."""

from datetime import UTC, date, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from celery.schedules import crontab
from hypothesis import given
from hypothesis import strategies as st

from queryexport.errors import ConfigurationError
from scheduling.occurrences import Schedule, classic, five_fields, tick

ROME = ZoneInfo("Europe/Rome")


def at(text: str, zone: ZoneInfo = ROME) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone)


def first(schedule: Schedule, moment: datetime, count: int) -> list[str]:
    return [slot.isoformat() for slot in islice(schedule.after(moment), count)]


def test_a_daily_time_is_local_in_winter_and_in_summer() -> None:
    schedule = Schedule("0 8 * * *", ROME)
    assert first(schedule, at("2026-03-27T12:00"), 3) == [
        "2026-03-28T08:00:00+01:00",
        "2026-03-29T08:00:00+02:00",
        "2026-03-30T08:00:00+02:00",
    ]


def test_a_time_that_does_not_exist_runs_at_the_first_instant_after() -> None:
    schedule = Schedule("30 2 * * *", ROME)
    assert first(schedule, at("2026-03-28T12:00"), 1) == ["2026-03-29T03:00:00+02:00"]


def test_a_time_that_exists_twice_runs_once() -> None:
    schedule = Schedule("30 2 * * *", ROME)
    assert first(schedule, at("2026-10-24T12:00"), 2) == [
        "2026-10-25T02:30:00+02:00",
        "2026-10-26T02:30:00+01:00",
    ]


def test_several_skipped_times_are_one_run() -> None:
    schedule = Schedule("0,30 2,3 * * *", ROME)
    assert first(schedule, at("2026-03-28T12:00"), 3) == [
        "2026-03-29T03:00:00+02:00",
        "2026-03-29T03:30:00+02:00",
        "2026-03-30T02:00:00+02:00",
    ]


def test_a_time_that_has_run_is_not_due_in_the_second_turn_of_its_hour() -> None:
    schedule = Schedule("30 2 * * *", ROME)
    second_turn = at("2026-10-25T02:10").replace(fold=1)
    assert first(schedule, second_turn, 1) == ["2026-10-26T02:30:00+01:00"]
    assert str(schedule.latest(second_turn)) == "2026-10-25 02:30:00+02:00"


def test_the_latest_slot_is_never_in_the_second_turn_during_the_first() -> None:
    latest = Schedule("*/5 * * * *", ROME).latest(at("2026-10-25T02:59"))
    assert str(latest) == "2026-10-25 02:55:00+02:00"


def test_the_latest_slot_may_be_in_the_second_turn_of_the_last_hour_of_its_day() -> None:
    cairo = ZoneInfo("Africa/Cairo")
    for schedule in (
        Schedule("*/5 * * * 4", cairo),
        Schedule("*/5 * * * *", cairo, end_date=date(2026, 10, 29)),
    ):
        assert str(schedule.latest(at("2026-10-30T12:00"))) == "2026-10-29 23:55:00+02:00"


@pytest.mark.parametrize(
    ("expression", "start", "slots"),
    [
        ("45 * * * *", "2026-04-05T01:00", ["01:45:00+11:00", "01:45:00+10:30", "02:45:00+10:30"]),
        ("0 */2 * * *", "2026-04-04T23:59", ["00:00:00+11:00", "02:00:00+10:30", "04:00:00+10:30"]),
        ("*/30 3 * * *", "2026-10-04T00:00", ["03:00:00+11:00", "03:30:00+11:00"]),
    ],
)
def test_a_change_of_half_an_hour_loses_no_slot(
    expression: str, start: str, slots: list[str]
) -> None:
    lord_howe = ZoneInfo("Australia/Lord_Howe")
    found = first(Schedule(expression, lord_howe), at(start, lord_howe), len(slots))
    assert [slot[11:] for slot in found] == slots


@pytest.mark.parametrize(
    ("expression", "slots"),
    [("0 */2 * * 5", ["02:00:00+03:00", "04:00:00+03:00"]), ("*/30 1 * * 5", ["01:00:00+03:00"])],
)
def test_a_day_without_midnight_has_the_slots_that_its_clock_shows(
    expression: str, slots: list[str]
) -> None:
    cairo = ZoneInfo("Africa/Cairo")
    found = first(Schedule(expression, cairo), at("2026-04-23T12:00", cairo), len(slots))
    assert found == [f"2026-04-24T{slot}" for slot in slots]


def test_a_schedule_that_is_only_due_in_repeated_hours_keeps_the_order() -> None:
    schedule = Schedule("*/30 2 * 10 0L", ROME)
    slots = [f"{slot:%y %H:%M %z}" for slot in islice(schedule.after(at("2026-01-01T00:00")), 5)]
    assert slots == [
        "26 02:00 +0200",
        "26 02:30 +0200",
        "26 02:00 +0100",
        "26 02:30 +0100",
        "27 02:00 +0200",
    ]
    assert str(schedule.latest(at("2027-06-01T00:00"))) == "2026-10-25 02:30:00+01:00"


@pytest.mark.parametrize("start", ["2026-03-28T22:00", "2026-10-24T22:00"])
def test_every_five_minutes_has_no_gap_at_either_change(start: str) -> None:
    slots = [
        slot.astimezone(UTC) for slot in islice(Schedule("*/5 * * * *", ROME).after(at(start)), 120)
    ]
    gaps = {later - earlier for earlier, later in pairwise(slots)}
    assert gaps == {timedelta(minutes=5)}


def test_day_of_month_and_day_of_week_are_combined_with_or() -> None:
    schedule = Schedule("0 9 13 * 5", ROME)
    assert first(schedule, at("2026-11-10T00:00"), 3) == [
        "2026-11-13T09:00:00+01:00",
        "2026-11-20T09:00:00+01:00",
        "2026-11-27T09:00:00+01:00",
    ]


@pytest.mark.parametrize("sunday", ["0", "7"])
def test_sunday_is_zero_or_seven(sunday: str) -> None:
    slot = next(iter(Schedule(f"0 9 * * {sunday}", ROME).after(at("2026-11-23T00:00"))))
    assert slot.strftime("%A %Y-%m-%d") == "Sunday 2026-11-29"


def test_classic_days_count_from_monday() -> None:
    expression = classic([0, 4], 7, 30)
    slots = islice(Schedule(expression, ROME).after(at("2026-11-23T12:00")), 2)
    assert [f"{slot:%A %H:%M}" for slot in slots] == ["Friday 07:30", "Monday 07:30"]


def test_classic_sunday_is_six() -> None:
    slot = next(iter(Schedule(classic([6], 7, 30), ROME).after(at("2026-11-23T12:00"))))
    assert f"{slot:%A}" == "Sunday"


def test_the_end_date_is_the_last_day_on_which_it_runs() -> None:
    schedule = Schedule("0 8 * * *", ROME, end_date=date(2026, 11, 25))
    assert [f"{slot:%d}" for slot in schedule.after(at("2026-11-23T12:00"))] == ["24", "25"]


def test_the_latest_slot_includes_this_very_minute() -> None:
    assert Schedule("0 8 * * *", ROME).latest(at("2026-11-23T08:00")) == at("2026-11-23T08:00")
    assert Schedule("0 8 * * *", ROME).latest(at("2026-11-23T07:59")) == at("2026-11-22T08:00")


def test_the_latest_slot_is_never_past_the_end_date() -> None:
    schedule = Schedule("0 8 * * *", ROME, end_date=date(2026, 11, 20))
    assert schedule.latest(at("2026-11-23T12:00")) == at("2026-11-20T08:00")


@given(
    st.sampled_from(["*/5 * * * *", "0 8 * * *", "30 2 * * *", "15 */6 * * 1-5", "0 0 1 * *"]),
    st.sampled_from(["Europe/Rome", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"]),
    st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1)),
)
def test_the_latest_slot_is_the_one_before_the_next(
    expression: str, zone: str, moment: datetime
) -> None:
    schedule = Schedule(expression, ZoneInfo(zone))
    now = moment.replace(tzinfo=UTC, second=0, microsecond=0)
    latest = schedule.latest(now)
    assert latest is not None
    assert latest <= now
    following = next(iter(schedule.after(latest)))
    assert following.astimezone(UTC) > now


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("61 * * * *", "bad minute"),
        ("* * * * 8", "bad day-of-week"),
        ("0 8 * *", "wrong number of fields"),
        ("0 0 30 2 *", "bad day-of-month"),
        ("daily", "wrong number of fields"),
    ],
)
def test_what_is_no_cron_expression_is_refused_with_the_reason(
    expression: str, reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        next(iter(Schedule(expression, ROME).after(at("2026-11-23T12:00"))))


def test_a_sixth_field_in_front_is_dropped() -> None:
    assert five_fields("0  0 8 * * 1-5") == "0 8 * * 1-5"
    assert five_fields("0 8 * * 1-5") == "0 8 * * 1-5"


@pytest.mark.parametrize(
    "expression", ["0 8 * * *", "0 9 13 * 5", "*/5 * * * 7", "0 6 L * *", "5,35 8-18 * JAN MON-FRI"]
)
def test_the_tick_for_beat_misses_no_slot(expression: str) -> None:
    ticks = tick(expression)
    beat = crontab(minute=ticks.minute, hour=ticks.hour)
    for slot in islice(Schedule(expression, ZoneInfo("UTC")).after(at("2026-11-23T12:00")), 50):
        assert slot.minute in beat.minute
        assert slot.hour in beat.hour
