"""Black-out windows: which moments they cover, and when they end."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from django.core.exceptions import ValidationError
from django.test import Client
from django.urls import reverse
from hypothesis import given
from hypothesis import strategies as st

from queryexport.models import BlackoutWindow, DatabaseConnection
from tests.factories import make_connection

ROME = ZoneInfo("Europe/Rome")
MONDAY = datetime(2026, 11, 23, tzinfo=ROME)


def window(start: str, end: str, *, days: str = "0123456", zone: ZoneInfo = ROME) -> BlackoutWindow:
    return BlackoutWindow(
        start=time.fromisoformat(start),
        end=time.fromisoformat(end),
        days_of_week=[int(day) for day in days],
        timezone=zone,
    )


def at(clock: str, *, day: datetime = MONDAY) -> datetime:
    return datetime.combine(day.date(), time.fromisoformat(clock), ROME)


@pytest.mark.parametrize(
    ("clock", "end"),
    [
        ("07:59:59", None),
        ("08:00", "18:00"),
        ("17:59:59", "18:00"),
        ("18:00", None),
    ],
)
def test_a_window_within_a_day(clock: str, end: str | None) -> None:
    assert window("08:00", "18:00").end_after(at(clock)) == (at(end) if end else None)


@pytest.mark.parametrize(
    ("moment", "covered"),
    [
        (at("21:59"), False),
        (at("22:00"), True),
        (at("23:59"), True),
        (at("05:29", day=MONDAY + timedelta(days=1)), True),
        (at("05:30", day=MONDAY + timedelta(days=1)), False),
        (at("05:00"), False),  # It would have begun on Sunday.
    ],
)
def test_a_window_over_midnight_belongs_to_the_day_on_which_it_begins(
    moment: datetime, covered: bool
) -> None:
    end = at("05:30", day=MONDAY + timedelta(days=1))
    assert window("22:00", "05:30", days="0").end_after(moment) == (end if covered else None)


def test_equal_times_are_a_whole_day() -> None:
    saturday = MONDAY + timedelta(days=5)
    whole = window("00:00", "00:00", days="5")
    assert whole.end_after(at("12:00", day=saturday)) == at("00:00", day=saturday + timedelta(1))
    assert whole.end_after(at("12:00")) is None


def test_the_times_are_those_of_a_clock_on_the_wall() -> None:
    changing = datetime(2026, 10, 25, tzinfo=ROME)  # At 3:00 it is 2:00 again.
    night = window("01:00", "04:00")
    lengths = []
    for hours in range(4):
        moment = datetime(2026, 10, 24, 23, tzinfo=UTC) + timedelta(hours=hours)
        lengths.append(night.end_after(moment))
    assert set(lengths) == {at("04:00", day=changing).astimezone(UTC)}
    assert night.end_after(datetime(2026, 10, 25, 3, tzinfo=UTC)) is None


@given(
    st.times(), st.times(), st.sets(st.integers(0, 6)), st.integers(0, 14 * 24 * 60),
    st.sampled_from(["UTC", "Europe/Rome", "America/New_York", "Australia/Lord_Howe"]),
)  # fmt: skip
def test_inside_means_not_before_its_start_and_before_its_end(
    start: time, end: time, days: set[int], minutes: int, zone: str
) -> None:
    """Against the same rule told another way: by the wall clock's own reading."""
    own = ZoneInfo(zone)
    moment = datetime(2026, 6, 1, tzinfo=UTC) + timedelta(minutes=minutes)  # No clock changes here.
    local = moment.astimezone(own)
    yesterday = (local.weekday() - 1) % 7
    if start < end:
        inside = local.weekday() in days and start <= local.time() < end
    else:
        inside = (local.weekday() in days and local.time() >= start) or (
            yesterday in days and local.time() < end
        )
    found = BlackoutWindow(start=start, end=end, days_of_week=sorted(days), timezone=own).end_after(
        moment
    )
    assert (found is not None) == inside
    if found:
        assert moment < found <= moment + timedelta(days=1)
        assert found.astimezone(own).time() == end


@pytest.fixture
def connection(db: None) -> DatabaseConnection:
    return make_connection("x.sqlite3")


def add(connection: DatabaseConnection, *windows: BlackoutWindow) -> None:
    for each in windows:
        each.connection = connection
        each.save()


def test_windows_that_touch_or_overlap_are_one_black_out(connection: DatabaseConnection) -> None:
    add(connection, window("08:00", "12:00"), window("11:00", "14:00"), window("14:00", "15:00"))
    assert connection.blackout_end(at("09:00")) == at("15:00")
    assert connection.blackout_end(at("15:00")) is None


def test_a_black_out_that_never_ends_is_looked_at_again_after_a_week(
    connection: DatabaseConnection,
) -> None:
    add(connection, window("00:00", "00:00"))
    end = connection.blackout_end(at("09:00"))
    assert end and timedelta(weeks=1) <= end - at("09:00") < timedelta(days=8)


def test_without_windows_there_is_no_black_out(connection: DatabaseConnection) -> None:
    assert connection.blackout_end(at("09:00")) is None


@pytest.mark.parametrize("days", [[], [7], ["0"], "0", None])
def test_days_that_are_none_are_refused(days: object) -> None:
    with pytest.raises(ValidationError, match=r"from 0 \(Monday\) to 6"):
        BlackoutWindow(days_of_week=days).clean()


def test_the_connections_page_keeps_windows(
    connection: DatabaseConnection, admin_client: Client
) -> None:
    page = reverse("admin:queryexport_databaseconnection_change", args=[connection.pk])
    data = {
        "name": "tracking", "engine": "sqlite", "database": "x.sqlite3", "options": "{}",
        "connect_timeout_sec": 10, "statement_timeout_sec": 300, "most_runs": 2,
        "blackouts-TOTAL_FORMS": 1, "blackouts-INITIAL_FORMS": 0, "blackouts-0-start": "22:00",
        "blackouts-0-end": "05:30", "blackouts-0-timezone": "Europe/Rome",
        "blackouts-0-days_of_week": ["5", "6"],
    }  # fmt: skip
    response = admin_client.post(page, data)
    assert response.status_code == 302, response.context["errors"]
    [kept] = connection.blackouts.all()
    assert (str(kept), kept.days_of_week) == ("22:00–05:30 Europe/Rome", [5, 6])
    connection.refresh_from_db()
    assert connection.most_runs == 2
    shown = admin_client.get(page).content.decode()
    assert shown.count("checked") == 2 + 7, "the window's days, and every day for a new one"
