"""The pages that run past slots: what they say, who may use them, and that only a POST does it."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any

import pytest
import time_machine
from django.test import Client
from django.urls import reverse
from pytest_django import DjangoAssertNumQueries

from queryexport.models import Query
from scheduling import runs
from scheduling.again import run_again
from scheduling.models import SchedulingHistoryItem, SchedulingItem
from tests.factories import MakeItem
from tests.scheduling.conftest import LogIn
from tests.scheduling.kept_runs import row, run_that_kept

HISTORY = "admin:scheduling_schedulinghistoryitem"
ITEM = "admin:scheduling_schedulingitem"
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
SLOT = datetime(2026, 11, 20, 7, 0, tzinfo=UTC)  # 08:00 in Rome.
RANGE = {"first": "2026-11-19T08:00", "last": "2026-11-22T08:00"}
BY_DAY = "SELECT id, note FROM events WHERE day = :day"


@pytest.fixture(autouse=True)
def clock() -> Iterator[None]:
    with time_machine.travel(NOW, tick=False):
        yield


@pytest.fixture
def item(make_item: MakeItem) -> SchedulingItem:
    """An item that runs daily at 08:00 in Rome."""
    return make_item(name="Traces", timezone="Europe/Rome")


def with_run(item: SchedulingItem, slot: datetime, status: str) -> SchedulingHistoryItem:
    run = runs.queue(item, slot, trigger=runs.Trigger.SCHEDULE)
    error = "" if status in ("queued", "running", "success") else "why"
    SchedulingHistoryItem.objects.filter(pk=run.pk if run else 0).update(status=status, error=error)
    return SchedulingHistoryItem.objects.get(scheduled_for=slot, item=item)


def finished(item: SchedulingItem) -> SchedulingHistoryItem:
    run = runs.queue(item, SLOT, trigger=runs.Trigger.SCHEDULE)
    assert run and runs.execute(run.pk)
    return SchedulingHistoryItem.objects.get(pk=run.pk)


def words(response: Any) -> str:
    assert response.status_code == 200
    return " ".join(unescape(response.content.decode()).split())


def boxes(page: str) -> dict[str, bool]:
    """The moments that have a box, in UTC, and whether it is ticked."""
    found = page.split('<input type="checkbox" name="slot" value="')[1:]
    return {each[:16]: " checked" in each.split(">")[0] for each in found}


class TestThePageOfSlots:
    def url(self, item: SchedulingItem) -> str:
        return reverse(f"{ITEM}_backfill", args=[item.pk])

    def show(self, client: Client, item: SchedulingItem, **changes: str) -> str:
        return words(client.get(self.url(item), RANGE | changes))

    def post(self, client: Client, item: SchedulingItem, *slots: datetime) -> Any:
        data = RANGE | {"slot": [slot.isoformat() for slot in slots]}
        return client.post(self.url(item), data)

    def test_is_linked_from_the_item(self, item: SchedulingItem, admin_client: Client) -> None:
        page = words(admin_client.get(reverse(f"{ITEM}_change", args=[item.pk])))
        assert f'<a href="{self.url(item)}">Backfill</a>' in page

    def test_begins_with_the_last_seven_days_in_the_items_zone(
        self, item: SchedulingItem, admin_client: Client
    ) -> None:
        page = words(admin_client.get(self.url(item)))
        assert 'type="datetime-local" name="first" value="2026-11-16T13:00"' in page
        assert 'type="datetime-local" name="last" value="2026-11-23T13:00"' in page
        assert "<code>0 8 * * *</code> in Europe/Rome" in page
        assert not boxes(page)

    def test_ticks_what_did_not_end_in_success(
        self, item: SchedulingItem, admin_client: Client
    ) -> None:
        failed, done = with_run(item, SLOT, "fail"), with_run(item, SLOT + DAY, "success")
        page = self.show(admin_client, item)
        assert boxes(page) == {
            "2026-11-19T07:00": True, "2026-11-20T07:00": True, "2026-11-21T07:00": False,
            "2026-11-22T07:00": True,
        }  # fmt: skip
        assert ">2026-11-20 08:00 +01:00</label>" in page
        for run in (failed, done):
            assert f'{reverse(f"{HISTORY}_change", args=[run.pk])}">run {run.pk}</a>' in page

    @pytest.mark.parametrize("status", ["queued", "running"])
    def test_has_no_box_for_what_is_not_over_and_says_why(
        self, item: SchedulingItem, admin_client: Client, status: str
    ) -> None:
        run = with_run(item, SLOT, status)
        page = self.show(admin_client, item)
        assert "2026-11-20T07:00" not in boxes(page) and len(boxes(page)) == 3
        assert f"run {run.pk}</a>: it is not over, so the slot cannot be run again yet" in page

    def test_changes_nothing_on_get(self, item: SchedulingItem, admin_client: Client) -> None:
        self.show(admin_client, item, slot=SLOT.isoformat())
        assert not SchedulingHistoryItem.objects.exists()

    def test_queues_exactly_what_is_ticked_and_shows_the_history_of_the_item(
        self, item: SchedulingItem, admin_client: Client
    ) -> None:
        failed = with_run(item, SLOT, "fail")
        response = self.post(admin_client, item, SLOT + DAY, SLOT)
        assert response.url == f"{reverse(f'{HISTORY}_changelist')}?item__id__exact={item.pk}"
        queued = item.history.filter(trigger="backfill").order_by("pk")
        assert [(run.scheduled_for, run.attempt, str(run.user)) for run in queued] == [
            (SLOT, 2, "admin"), (SLOT + DAY, 1, "admin"),
        ]  # fmt: skip
        assert queued[0].retry_of == failed
        shown = admin_client.get(response.url)
        assert shown.context["cl"].result_count == 3
        links = ", ".join(
            f'<a href="{reverse(f"{HISTORY}_change", args=[run.pk])}">run {run.pk}</a>'
            for run in queued
        )
        assert f"2 runs are queued: {links}." in words(shown)

    def test_says_which_slot_somebody_else_was_faster_with(
        self, item: SchedulingItem, admin_client: Client
    ) -> None:
        other = with_run(item, SLOT, "queued")
        response = self.post(admin_client, item, SLOT, SLOT + DAY)
        page = words(admin_client.get(response.url))
        assert "1 slot was left out, because somebody else queued a run meanwhile" in page
        assert f"run {other.pk}</a> is queued)." in page
        assert "1 run is queued: " in page
        assert item.history.count() == 2

    def test_names_the_first_and_the_last_of_many_runs(
        self, item: SchedulingItem, admin_client: Client
    ) -> None:
        response = self.post(admin_client, item, *(SLOT - n * DAY for n in range(11)))
        page = words(admin_client.get(response.url))
        first, last = item.history.order_by("pk").first(), item.history.order_by("pk").last()
        assert first and last
        assert (
            f'11 runs are queued: <a href="{reverse(f"{HISTORY}_change", args=[first.pk])}' in page
        )
        assert f">run {first.pk}</a> to <a" in page and f">run {last.pk}</a>." in page

    @pytest.mark.parametrize(
        ("slots", "message"),
        [
            ([], "No slot was chosen"),
            ([SLOT + timedelta(minutes=1)], "is no past slot of “Traces”"),
        ],
    )
    def test_says_what_is_wrong_and_queues_nothing(
        self, item: SchedulingItem, admin_client: Client, slots: list[datetime], message: str
    ) -> None:
        page = words(self.post(admin_client, item, *slots))
        assert message in page and len(boxes(page)) == 4
        assert not SchedulingHistoryItem.objects.exists()

    def test_says_when_a_moment_that_was_sent_is_none(
        self, item: SchedulingItem, admin_client: Client
    ) -> None:
        page = words(admin_client.post(self.url(item), RANGE | {"slot": "yesterday"}))
        assert "“yesterday” is no date and no time" in page
        assert not SchedulingHistoryItem.objects.exists()

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"first": "soon"}, "“soon” is no date and no time"),
            ({"first": ""}, "This field is required"),
            ({"first": "2026-11-23T08:00"}, "Enter the earlier moment first"),
            ({"first": "2026-11-20T09:00", "last": "2026-11-20T10:00"}, "has no past slot from"),
            ({"first": "2020-01-01T00:00"}, "at most 1,000 can be run at once"),
        ],
    )
    def test_says_what_is_wrong_with_the_range(
        self, item: SchedulingItem, admin_client: Client, changes: dict[str, str], message: str
    ) -> None:
        page = self.show(admin_client, item, **changes)
        assert message in page
        assert not boxes(page)

    def test_says_why_an_item_with_a_watermark_has_no_slots_to_run(
        self, make_item: MakeItem, admin_client: Client
    ) -> None:
        sql = "SELECT id FROM events WHERE id > :watermark_from AND id <= :watermark_to"
        item = make_item(sql=sql, watermark_column="id", watermark_kind="number")
        assert "has a watermark" in self.show(admin_client, item)
        assert "has a watermark" in words(self.post(admin_client, item, SLOT))

    def test_says_that_a_disabled_item_can_be_run(
        self, item: SchedulingItem, admin_client: Client
    ) -> None:
        SchedulingItem.objects.update(enabled=False)
        page = self.show(admin_client, item)
        assert "The item is disabled; its past slots can be run nevertheless." in page
        assert len(boxes(page)) == 4

    def test_takes_a_thousand_ticks(self, make_item: MakeItem, admin_client: Client) -> None:
        item = make_item(cron_expression="* * * * *")
        shown = self.show(admin_client, item, first="2026-11-20T00:01", last="2026-11-20T16:40")
        ticked = [f"{moment}+00:00" for moment in boxes(shown)]
        response = admin_client.post(self.url(item), RANGE | {"slot": ticked})
        assert response.status_code == 302
        assert item.history.filter(status="queued").count() == 1000

    def test_takes_a_fixed_number_of_queries(
        self,
        item: SchedulingItem,
        admin_client: Client,
        django_assert_num_queries: DjangoAssertNumQueries,
    ) -> None:
        self.show(admin_client, item)
        with django_assert_num_queries(4):
            self.show(admin_client, item)
        for day in range(3):
            with_run(item, SLOT + day * DAY, "fail")
        with django_assert_num_queries(4):
            self.show(admin_client, item)

    @pytest.mark.parametrize(
        "permissions",
        [("view_schedulingitem", "change_schedulingitem"), ("run_schedulingitem",), ()],
    )
    def test_needs_permission_to_see_and_to_run(
        self, item: SchedulingItem, log_in: LogIn, permissions: tuple[str, ...]
    ) -> None:
        client = log_in(*permissions)
        assert client.get(self.url(item), RANGE).status_code == 403
        assert self.post(client, item, SLOT).status_code == 403
        assert not SchedulingHistoryItem.objects.exists()

    def test_has_no_button_for_those_who_may_not_run(
        self, item: SchedulingItem, log_in: LogIn
    ) -> None:
        client = log_in("view_schedulingitem", "change_schedulingitem")
        page = words(client.get(reverse(f"{ITEM}_change", args=[item.pk])))
        assert self.url(item) not in page

    def test_is_allowed_to_those_who_may_see_and_run(
        self, item: SchedulingItem, log_in: LogIn
    ) -> None:
        client = log_in("view_schedulingitem", "run_schedulingitem")
        assert boxes(self.show(client, item))
        assert self.post(client, item, SLOT).status_code == 302
        assert str(item.history.get().user) == "staff"

    def test_is_for_those_who_are_logged_in(self, item: SchedulingItem, client: Client) -> None:
        for response in (client.get(self.url(item)), self.post(client, item, SLOT)):
            assert "/login/" in response.url
        assert not SchedulingHistoryItem.objects.exists()

    def test_is_refused_without_the_token_of_the_page(
        self, item: SchedulingItem, admin_user: Any
    ) -> None:
        client = Client(enforce_csrf_checks=True)
        client.force_login(admin_user)
        assert self.post(client, item, SLOT).status_code == 403
        assert not SchedulingHistoryItem.objects.exists()


class TestThePageOfARun:
    def url(self, run: SchedulingHistoryItem) -> str:
        return reverse(f"{HISTORY}_again", args=[run.pk])

    def page(self, client: Client, run: SchedulingHistoryItem) -> str:
        return words(client.get(reverse(f"{HISTORY}_change", args=[run.pk])))

    def test_links_to_running_it_again_once_it_is_over(
        self, item: SchedulingItem, admin_client: Client
    ) -> None:
        link = f'<a href="{self.url(run)}">Run again</a>' if (run := finished(item)) else ""
        assert link in self.page(admin_client, run)
        SchedulingHistoryItem.objects.update(status="queued")
        assert link not in self.page(admin_client, run)

    def test_has_no_such_link_without_an_item_or_for_rows_that_were_sent_again(
        self, item: SchedulingItem, admin_client: Client
    ) -> None:
        run = finished(item)
        SchedulingHistoryItem.objects.update(trigger="replay")
        assert self.url(run) not in self.page(admin_client, run)
        SchedulingHistoryItem.objects.update(trigger="schedule")
        item.delete()
        assert self.url(run) not in self.page(admin_client, run)
        told = words(admin_client.get(self.url(run)))
        assert "was deleted" in told and 'value="Run again"' not in told

    def test_says_what_running_it_again_does_and_changes_nothing_on_get(
        self, make_item: MakeItem, admin_client: Client
    ) -> None:
        item = make_item(
            sql=BY_DAY, parameters={"day": "{today-1}"}, timezone="Europe/Rome", output_dir="out"
        )
        page = words(admin_client.get(self.url(finished(item))))
        assert "Slot: 2026-11-20 08:00 +01:00 in Europe/Rome." in page
        assert '<pre class="sql">{"day": "2026-11-19"}</pre>' in page
        assert "The file out/CDG-TEST-001--Rows_2026-11-20.xlsx is written. One of that" in page
        assert "The same as in this run." in page
        assert "The item's present ones" not in page
        assert SchedulingHistoryItem.objects.count() == 1

    def test_shows_what_was_changed_since(self, make_item: MakeItem, admin_client: Client) -> None:
        run = finished(make_item(sql=BY_DAY, parameters={"day": "{today-1}"}))
        Query.objects.update(sql=f"{BY_DAY} ORDER BY id")
        SchedulingItem.objects.update(parameters={"day": "{today-2}"})
        page = words(admin_client.get(self.url(run)))
        assert "The query was changed since this run, and is run as it is now" in page
        assert f'<pre class="sql">{BY_DAY} ORDER BY id</pre>' in page
        assert f'<pre class="sql">{BY_DAY}</pre>' in page
        assert 'present ones:</p> <pre class="sql">{"day": "2026-11-18"}</pre>' in page

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (
                {"sharing_mode": "kafka", "kafka_topic": "events"},
                "All rows are sent anew to the topic events, by the Kafka connection default.",
            ),
            (
                {"sharing_mode": "email", "email_to": "a@example.com|b@example.com"},
                "The mail is sent anew to a@example.com, b@example.com.",
            ),
        ],
    )
    def test_says_where_the_rows_go_once_more(
        self, make_item: MakeItem, admin_client: Client, values: dict[str, str], message: str
    ) -> None:
        run = with_run(make_item(**values), SLOT, "fail")
        assert message in words(admin_client.get(self.url(run)))

    def test_says_which_range_of_an_item_with_a_watermark_is_sent_again(
        self, make_item: MakeItem, admin_client: Client
    ) -> None:
        sql = "SELECT id FROM events WHERE id > :watermark_from AND id <= :watermark_to"
        item = make_item(sql=sql, watermark_column="id", watermark_kind="number")
        run = with_run(item, SLOT, "fail")
        assert "Rows: id" not in words(admin_client.get(self.url(run)))
        SchedulingHistoryItem.objects.update(watermark_from="120", watermark_to="180")
        page = words(admin_client.get(self.url(run)))
        assert "Rows: id above 120, up to 180, as in this run." in page

    def test_says_that_kept_rows_could_be_sent_alone(
        self, make_item: MakeItem, admin_client: Client
    ) -> None:
        run = run_that_kept(make_item(sharing_mode="kafka", kafka_topic="events"), row(1), row(2))
        page = words(admin_client.get(self.url(run)))
        assert "kept 2 undelivered rows, which can be sent alone from its page" in page

    def test_queues_a_further_attempt_and_shows_it(
        self, item: SchedulingItem, admin_client: Client
    ) -> None:
        run = finished(item)
        response = admin_client.post(self.url(run))
        new = SchedulingHistoryItem.objects.get(trigger="rerun")
        assert response.url == reverse(f"{HISTORY}_change", args=[new.pk])
        assert (new.attempt, new.retry_of, str(new.user)) == (2, run, "admin")
        assert "Attempt 2 is queued." in words(admin_client.get(response.url))

    def test_links_the_attempts_both_ways(self, item: SchedulingItem, admin_client: Client) -> None:
        run = finished(item)
        second = run_again(run, user=None)
        SchedulingHistoryItem.objects.filter(pk=second.pk).update(status="fail", error="why")
        third = run_again(run, user=None)
        link = '<a href="{}">run {}</a>'.format
        links = [
            link(reverse(f"{HISTORY}_change", args=[each.pk]), each.pk) for each in (second, third)
        ]
        assert ", ".join(links) in self.page(admin_client, run)
        back = link(reverse(f"{HISTORY}_change", args=[run.pk]), run.pk)
        assert back in self.page(admin_client, second)
        assert back in self.page(admin_client, third)

    def test_a_second_click_says_which_run_is_queued(
        self, item: SchedulingItem, admin_client: Client
    ) -> None:
        run = finished(item)
        admin_client.post(self.url(run))
        new = SchedulingHistoryItem.objects.get(trigger="rerun")
        page = words(admin_client.post(self.url(run), follow=True))
        assert f"Attempt 2 of the same slot, run {new.pk}, is queued already, asked for by" in page
        assert SchedulingHistoryItem.objects.count() == 2

    def test_offers_the_present_parameters_when_the_old_ones_do_not_fit(
        self, make_item: MakeItem, admin_client: Client
    ) -> None:
        run = finished(make_item(sql=BY_DAY, parameters={"day": "{today-1}"}))
        Query.objects.update(sql="SELECT id FROM events WHERE day = :on_day")
        SchedulingItem.objects.update(parameters={"on_day": "{today-2}"})
        told = f"The parameters of run {run.pk} do not fit the query"
        page = words(admin_client.get(self.url(run)))
        assert told in page
        assert 'name="present_parameters"' in page
        assert told in words(admin_client.post(self.url(run), follow=True))
        assert SchedulingHistoryItem.objects.count() == 1
        admin_client.post(self.url(run), {"present_parameters": "on"})
        new = SchedulingHistoryItem.objects.get(trigger="rerun")
        assert runs.execute(new.pk)
        new.refresh_from_db()
        assert new.parameters == {"on_day": "2026-11-18"}

    def test_says_that_a_run_without_a_record_takes_the_present_parameters(
        self, make_item: MakeItem, admin_client: Client
    ) -> None:
        run = finished(make_item(sql=BY_DAY, parameters={"day": "{today-1}"}))
        SchedulingHistoryItem.objects.update(given_parameters=None)
        page = words(admin_client.get(self.url(run)))
        assert "What this run was given is not recorded" in page
        assert '<pre class="sql">{"day": "2026-11-19"}</pre>' in page
        assert 'name="present_parameters"' not in page

    @pytest.mark.parametrize(
        "permissions",
        [
            ("view_schedulinghistoryitem", "change_schedulinghistoryitem"),
            ("view_schedulinghistoryitem", "replay_schedulinghistoryitem", "view_schedulingitem"),
            ("run_schedulingitem",),
        ],
    )
    def test_needs_permission_to_see_and_to_run(
        self, item: SchedulingItem, log_in: LogIn, permissions: tuple[str, ...]
    ) -> None:
        run, client = finished(item), log_in(*permissions)
        assert client.get(self.url(run)).status_code == 403
        assert client.post(self.url(run)).status_code == 403
        assert SchedulingHistoryItem.objects.count() == 1

    def test_has_no_button_for_those_who_may_not_run(
        self, item: SchedulingItem, log_in: LogIn
    ) -> None:
        run = finished(item)
        assert self.url(run) not in self.page(log_in("view_schedulinghistoryitem"), run)

    def test_is_allowed_to_those_who_may_see_and_run(
        self, item: SchedulingItem, log_in: LogIn
    ) -> None:
        run, client = finished(item), log_in("view_schedulinghistoryitem", "run_schedulingitem")
        assert self.url(run) in self.page(client, run)
        assert client.post(self.url(run)).status_code == 302
        assert SchedulingHistoryItem.objects.filter(trigger="rerun").exists()

    def test_is_refused_without_the_token_of_the_page(
        self, item: SchedulingItem, admin_user: Any
    ) -> None:
        run, client = finished(item), Client(enforce_csrf_checks=True)
        client.force_login(admin_user)
        assert client.post(self.url(run)).status_code == 403
        assert SchedulingHistoryItem.objects.count() == 1
