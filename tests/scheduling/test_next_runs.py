"""The next runs of a schedule that is not saved yet are those that would come."""

from datetime import UTC, date, datetime, timedelta
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import time_machine
from django.test import Client
from django.urls import reverse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduling.admin.next_runs import FIELDS, NAME
from scheduling.models import SchedulingHistoryItem, SchedulingItem
from scheduling.occurrences import Schedule, classic
from tests.factories import MakeItem
from tests.scheduling.conftest import LogIn

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 3, 27, 12, 0, tzinfo=UTC)  # Two days before the clock goes forward in Rome.
CRON = {
    "scheduling_mode": "cron", "hour": "8", "minute": "0", "cron_expression": "30 2 * * *",
    "timezone": "Europe/Rome", "end_date": "",
}  # fmt: skip
CLASSIC = CRON | {
    "scheduling_mode": "classic", "days_of_week": ["0", "6"], "hour": "23", "minute": "45",
    "cron_expression": "",
}  # fmt: skip


def answer(client: Client, fields: dict[str, Any]) -> dict[str, Any]:
    with time_machine.travel(NOW, tick=False):
        response = client.get(reverse(f"admin:{NAME}"), fields)
    assert (response.status_code, response["Content-Type"]) == (200, "application/json")
    found: dict[str, Any] = response.json()
    return found


def expected(schedule: Schedule) -> list[str]:
    return [f"{slot:%a %Y-%m-%d %H:%M %Z} (" for slot in islice(schedule.after(NOW), 10)]


@pytest.mark.parametrize("zone", ["UTC", "Europe/Rome", "Asia/Kathmandu", "America/Sao_Paulo"])
@pytest.mark.parametrize("expression", ["30 2 * * *", "*/20 * * * 7", "0 0 29 2 *", "0 8 1 * 5"])
def test_they_are_those_of_the_cron_expression(
    admin_client: Client, expression: str, zone: str
) -> None:
    found = answer(admin_client, CRON | {"cron_expression": expression, "timezone": zone})
    wanted = expected(Schedule(expression, ZoneInfo(zone)))
    assert (found["error"], len(found["runs"])) == ("", 10)
    assert [run[: run.index("(") + 1] for run in found["runs"]] == wanted


def test_they_are_those_of_days_and_time(admin_client: Client) -> None:
    found = answer(admin_client, CLASSIC)
    wanted = expected(Schedule(classic([0, 6], 23, 45), ZoneInfo("Europe/Rome")))
    assert [run[: run.index("(") + 1] for run in found["runs"]] == wanted


def test_each_says_the_day_the_zone_and_the_time_in_utc(admin_client: Client) -> None:
    runs = answer(admin_client, CRON)["runs"]
    assert runs[:3] == [
        "Sat 2026-03-28 02:30 CET (01:30 UTC)",
        "Sun 2026-03-29 03:00 CEST (01:00 UTC)",  # 02:30 does not exist on that day.
        "Mon 2026-03-30 02:30 CEST (00:30 UTC)",
    ]
    tokyo = answer(admin_client, CRON | {"timezone": "Asia/Tokyo"})["runs"]
    assert tokyo[0] == "Sat 2026-03-28 02:30 JST (Fri 17:30 UTC)"


def test_none_comes_after_the_end_date(admin_client: Client) -> None:
    runs = answer(admin_client, CRON | {"end_date": "2026-03-29"})["runs"]
    assert [run[4:14] for run in runs] == ["2026-03-28", "2026-03-29"]
    assert answer(admin_client, CRON | {"end_date": "2026-03-27"}) == {
        "runs": ["ended"], "error": "",
    }  # fmt: skip


def test_a_field_of_seconds_is_dropped_as_it_is_on_saving(admin_client: Client) -> None:
    found = answer(admin_client, CRON | {"cron_expression": "0 30 2 * * *"})
    assert found == answer(admin_client, CRON)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (CRON | {"cron_expression": "* * * * 9"}, "Cron expression: “* * * * 9” is no cron"),
        (CRON | {"cron_expression": "0 8 31 2 *"}, "Cron expression: "),
        (CRON | {"cron_expression": ""}, "cron expression"),
        (CLASSIC | {"days_of_week": []}, "at least one day"),
        (CLASSIC | {"days_of_week": ["7"]}, "Days of week: Select a valid choice"),
        (CLASSIC | {"hour": "24"}, "Hour: Ensure this value is less than or equal to 23"),
        (CLASSIC | {"minute": "soon"}, "Minute: Enter a whole number"),
        (CRON | {"timezone": "Mars/Base"}, "Timezone: Select a valid choice"),
        (CRON | {"end_date": "2026-02-30"}, "End date: Enter a valid date"),
        (CRON | {"scheduling_mode": "never"}, "Scheduling mode: Select a valid choice"),
        (CRON | {"cron_expression": "0 8 * * \0"}, "Null characters are not allowed"),
        ({}, "This field is required"),
    ],
)
def test_what_is_wrong_is_said_as_the_form_says_it(
    admin_client: Client, fields: dict[str, Any], message: str
) -> None:
    found = answer(admin_client, fields)
    assert found["runs"] == []
    assert message in found["error"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(FIELDS),
        st.one_of(
            st.text(max_size=120),
            st.integers().map(str),
            st.lists(st.sampled_from(["0", "6", "7", "x", ""]), max_size=9),
            st.text("0123456789*/-,L# ", max_size=40),
        ),
    )
)
def test_garbage_is_answered_with_what_is_wrong(
    admin_client: Client, fields: dict[str, Any]
) -> None:
    found = answer(admin_client, CRON | fields)
    assert bool(found["runs"]) != bool(found["error"])


@pytest.mark.parametrize(
    ("permission", "status"),
    [
        ("view_schedulingitem", 200),
        ("change_schedulingitem", 200),
        ("add_schedulingitem", 200),
        ("view_schedulinghistoryitem", 403),
    ],
)
def test_who_may_see_items_may_ask(log_in: LogIn, permission: str, status: int) -> None:
    assert log_in(permission).get(reverse(f"admin:{NAME}"), CRON).status_code == status


def test_nobody_else_may(client: Client) -> None:
    response = client.get(reverse(f"admin:{NAME}"), CRON)
    assert response.status_code == 302
    assert "login" in response.url


def test_asking_changes_nothing(make_item: MakeItem, admin_client: Client) -> None:
    item = make_item(next_slot=NOW + timedelta(days=1), end_date=date(2030, 1, 1))
    before = SchedulingItem.objects.filter(pk=item.pk).values().get()
    answer(admin_client, CRON)
    assert SchedulingItem.objects.values().get() == before
    assert not SchedulingHistoryItem.objects.exists()
    assert admin_client.post(reverse(f"admin:{NAME}"), CRON).status_code == 405


@pytest.mark.parametrize("page", ["add", "change"])
def test_the_page_of_an_item_has_a_place_and_a_script_for_them(
    make_item: MakeItem, admin_client: Client, page: str
) -> None:
    arguments = [make_item().pk] if page == "change" else []
    shown = admin_client.get(
        reverse(f"admin:scheduling_schedulingitem_{page}", args=arguments)
    ).content.decode()
    assert f'id="next-runs" aria-live="polite" data-url="{reverse(f"admin:{NAME}")}"' in shown
    assert 'next_runs.js" defer></script>' in shown
    assert all(f'name="{field}"' in shown for field in FIELDS)
