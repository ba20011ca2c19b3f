"""The pages of watermarks: what they say, who may set one, and what is asked on editing."""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from kafka_sink.models import KafkaConnection
from queryexport.errors import ConfigurationError
from scheduling import again, runs, watermarks
from scheduling.models import SchedulingHistoryItem, SchedulingItem, WatermarkChange
from tests.factories import MakeItem, make_connection, make_kafka_connection, make_query
from tests.scheduling.conftest import LogIn
from tests.scheduling.test_admin import form_data
from tests.scheduling.test_watermarks import BY_ID, mark, run_next, set_mark

ITEM = "admin:scheduling_schedulingitem"
HISTORY = "admin:scheduling_schedulinghistoryitem"
QUERY = "admin:queryexport_query"
WATERMARK = {"watermark_column": "id", "watermark_kind": "number"}


@pytest.fixture
def item(make_item: MakeItem) -> SchedulingItem:
    """Sends the events above the id that it has come to, and has come to 2."""
    item = make_item(name="Traces", sql=BY_ID, **WATERMARK)
    set_mark(item, "2")
    return item


@pytest.fixture
def url(item: SchedulingItem) -> str:
    return reverse(f"{ITEM}_watermark", args=[item.pk])


def words(response: Any) -> str:
    assert response.status_code == 200
    return " ".join(response.content.decode().split())


def seen(item: SchedulingItem) -> int | str:
    latest = watermarks.current(item)
    return latest.pk if latest else ""


def answer(item: SchedulingItem, value: str, **changes: Any) -> dict[str, Any]:
    """What the page's form sends."""
    return {"value": value, "reason": "Lost.", "seen": seen(item)} | changes


class TestThePage:
    def test_shows_the_mark_who_moved_it_and_all_changes(
        self, item: SchedulingItem, url: str, admin_client: Client
    ) -> None:
        run = run_next(item)
        page = words(admin_client.get(url))
        link = f'<a href="{reverse(f"{HISTORY}_change", args=[run.pk])}">run {run.pk}</a>'
        assert "<strong>5</strong>, since" in page
        assert f"by {link}" in page
        assert page.index(f"<td>5</td><td>{link}</td><td>—</td>") < page.index(
            "<td>2</td><td>a person</td><td>A test.</td>"
        )

    def test_without_a_mark_says_that_the_runs_fail(
        self, make_item: MakeItem, admin_client: Client
    ) -> None:
        item = make_item(sql=BY_ID, **WATERMARK)
        page = words(admin_client.get(reverse(f"{ITEM}_watermark", args=[item.pk])))
        assert "None.</strong> The item's runs fail until one is set." in page

    def test_of_an_item_without_a_column_offers_nothing(
        self, make_item: MakeItem, admin_client: Client
    ) -> None:
        item = make_item()
        address = reverse(f"{ITEM}_watermark", args=[item.pk])
        page = words(admin_client.get(address))
        assert "This item has no watermark column" in page
        assert 'name="value"' not in page
        admin_client.post(address, answer(item, "1"))
        assert mark(item) is None

    def test_shows_at_most_a_hundred_changes_in_a_fixed_number_of_queries(
        self,
        item: SchedulingItem,
        url: str,
        admin_client: Client,
        django_assert_num_queries: DjangoAssertNumQueries,
    ) -> None:
        admin_client.get(url)
        with django_assert_num_queries(6):
            assert "Only the last" not in words(admin_client.get(url))
        user = User.objects.get()
        WatermarkChange.objects.bulk_create(
            [WatermarkChange(item=item, value=str(n), user=user) for n in range(100, 201)]
        )
        with django_assert_num_queries(6):
            page = words(admin_client.get(url))
        assert "Only the last 100 changes are shown." in page
        assert page.count("<td>admin</td>") == 100
        assert "<td>100</td>" not in page

    def test_warns_of_runs_that_are_going_on_or_wait(
        self, item: SchedulingItem, url: str, admin_client: Client
    ) -> None:
        running = runs.queue(item, timezone.now(), trigger=runs.Trigger.MANUAL)
        queued = runs.queue(item, timezone.now(), trigger=runs.Trigger.MANUAL)
        assert running and queued and running.claim("a worker")
        page = words(admin_client.get(url))
        assert f"run {running.pk}</a> is <span" in page
        assert "that run does not move it: what you set stays" in page
        assert "If you change the watermark before it begins, it begins there." in page

    def test_of_an_item_that_does_not_exist_is_not_found(self, admin_client: Client) -> None:
        page = "/admin/scheduling/schedulingitem/999999/watermark/"
        assert admin_client.get(page).status_code == 404


class TestSetting:
    @pytest.mark.parametrize(("value", "kept"), [("0", "0"), (" 17.50 ", "17.50"), ("", "")])
    def test_writes_a_change_with_the_person_and_the_reason(
        self, item: SchedulingItem, url: str, admin_client: Client, value: str, kept: str
    ) -> None:
        response = admin_client.post(url, answer(item, value, reason="The files were lost."))
        assert response.url == url
        change = watermarks.current(item)
        assert change and (change.value, change.run) == (kept, None)
        assert (str(change.user), change.reason) == ("admin", "The files were lost.")

    def test_does_nothing_on_get(
        self, item: SchedulingItem, url: str, admin_client: Client
    ) -> None:
        admin_client.get(url, answer(item, "0"))
        assert mark(item) == "2"

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"value": "2026-01-01"}, "cannot be a watermark of the kind “A number”"),
            ({"value": "9" * 300}, "at most 200 characters"),
            ({"reason": ""}, "This field is required"),
        ],
    )
    def test_refuses_what_does_not_fit(
        self, item: SchedulingItem, url: str, admin_client: Client,
        changes: dict[str, str], message: str,
    ) -> None:  # fmt: skip
        page = words(admin_client.post(url, answer(item, "1") | changes))
        assert "Nothing was changed." in page
        assert message in page
        assert mark(item) == "2"

    def test_from_a_page_that_is_out_of_date_is_refused_and_says_what_it_is_now(
        self, item: SchedulingItem, url: str, admin_client: Client
    ) -> None:
        old = answer(item, "0")
        run = run_next(item)
        page = words(admin_client.post(url, old))
        assert f"has become 5 since this page was shown, by run {run.pk}." in page
        assert mark(item) == "5"
        # What is shown then is what is now: saved once more, it counts.
        assert f'name="seen" value="{seen(item)}"' in page
        assert admin_client.post(url, answer(item, "0")).status_code == 302
        assert mark(item) == "0"

    @pytest.mark.parametrize("forged", ["", "x", "-1", "999999", "²"])
    def test_without_the_number_of_the_change_that_was_seen_is_refused(
        self, item: SchedulingItem, url: str, admin_client: Client, forged: str
    ) -> None:
        assert "since this page was shown" in words(
            admin_client.post(url, answer(item, "0", seen=forged))
        )
        assert mark(item) == "2"

    def test_is_refused_without_the_token_of_the_page(
        self, item: SchedulingItem, url: str, admin_user: User
    ) -> None:
        client = Client(enforce_csrf_checks=True)
        client.force_login(admin_user)
        assert client.post(url, answer(item, "0")).status_code == 403
        assert mark(item) == "2"


class TestPermissions:
    def test_anonymous_is_sent_to_the_login(self, item: SchedulingItem, url: str) -> None:
        for response in (Client().get(url), Client().post(url, answer(item, "0"))):
            assert (response.status_code, "/login/" in response.url) == (302, True)
        assert mark(item) == "2"

    @pytest.mark.parametrize(
        ("permissions", "get", "post"),
        [
            ((), 403, 403),
            (("set_watermark",), 403, 403),
            (("view_schedulingitem",), 200, 403),
            (("change_schedulingitem", "run_schedulingitem"), 200, 403),
            (("view_schedulingitem", "set_watermark"), 200, 302),
        ],
    )
    def test_looking_and_setting_need_one_permission_each(
        self, item: SchedulingItem, url: str, log_in: LogIn,
        permissions: tuple[str, ...], get: int, post: int,
    ) -> None:  # fmt: skip
        client = log_in(*permissions)
        assert client.get(url).status_code == get
        assert client.post(url, answer(item, "0")).status_code == post
        assert mark(item) == ("0" if post == 302 else "2")

    def test_who_may_only_look_gets_no_form(self, url: str, log_in: LogIn) -> None:
        assert 'name="value"' not in words(log_in("view_schedulingitem").get(url))


class TestTheItemsForm:
    def test_shows_the_mark_and_leads_to_its_page(
        self, item: SchedulingItem, url: str, log_in: LogIn
    ) -> None:
        client = log_in("view_schedulingitem")
        page = words(client.get(reverse(f"{ITEM}_change", args=[item.pk])))
        assert "2, by a person at" in page
        assert f'<a href="{url}">' in page
        assert 'name="marks"' not in page

    def test_of_a_new_item_has_no_mark_yet(
        self, item: SchedulingItem, admin_client: Client
    ) -> None:
        page = words(admin_client.get(reverse(f"{ITEM}_add")))
        assert "Set on its own page once the item is saved." in page
        assert 'name="marks"' not in page

    def save(self, client: Client, item: SchedulingItem, **changes: Any) -> Any:
        if not KafkaConnection.objects.exists():
            make_kafka_connection("127.0.0.1:9092")
        data = form_data(item, **(WATERMARK | changes))
        return client.post(reverse(f"{ITEM}_change", args=[item.pk]), data)

    def test_asks_nothing_when_the_rows_stay_the_same(
        self, item: SchedulingItem, admin_client: Client
    ) -> None:
        response = self.save(admin_client, item, description="For the partner")
        assert response.status_code == 302, response.context["adminform"].errors
        assert WatermarkChange.objects.count() == 1

    def test_asks_nothing_while_no_mark_is_set(
        self, item: SchedulingItem, admin_client: Client
    ) -> None:
        set_mark(item, "")
        assert self.save(admin_client, item, watermark_kind="text").status_code == 302

    @pytest.fixture
    def changes(self, item: SchedulingItem, tracking: Any) -> Callable[[str], dict[str, Any]]:
        """What is sent when that field is changed, with everything that must go with it."""

        def changes(field: str) -> dict[str, Any]:
            match field:
                case "query":
                    return {"query": make_query(BY_ID, name="Another").pk}
                case "connection":
                    return {"connection": make_connection(tracking, name="other").pk}
                case "watermark_column":
                    return {"watermark_column": "number"}
                case _:
                    return {"watermark_kind": "text"}

        return changes

    FIELDS = ("query", "connection", "watermark_column", "watermark_kind")

    @pytest.mark.parametrize("field", FIELDS)
    def test_asks_what_becomes_of_the_mark(
        self, item: SchedulingItem, admin_client: Client, field: str,
        changes: Callable[[str], dict[str, Any]],
    ) -> None:  # fmt: skip
        page = words(self.save(admin_client, item, **changes(field)))
        assert "these have come to a watermark: “Traces” (at 2)" in page
        assert 'name="marks"' in page
        before = (item.query_id, item.connection_id, "id", "number")
        assert SchedulingItem.objects.values_list(*self.FIELDS).get() == before

    @pytest.mark.parametrize("field", FIELDS)
    @pytest.mark.parametrize(("decision", "value"), [("keep", "2"), ("empty", "")])
    def test_writes_the_answer_down(
        self, item: SchedulingItem, admin_client: Client, field: str, decision: str, value: str,
        changes: Callable[[str], dict[str, Any]],
    ) -> None:  # fmt: skip
        response = self.save(admin_client, item, marks=decision, **changes(field))
        assert response.status_code == 302, response.context["adminform"].errors
        change = watermarks.current(item)
        assert change and (change.value, str(change.user)) == (value, "admin")
        assert change.reason.endswith("when the item itself was changed.")
        assert WatermarkChange.objects.count() == 2

    def test_keeps_no_mark_that_is_not_of_the_new_kind(
        self, item: SchedulingItem, admin_client: Client, tracking: Any
    ) -> None:
        item.connection.engine = "duckdb"
        item.connection.save()
        response = self.save(admin_client, item, watermark_kind="time", marks="keep")
        assert "The watermark 2 is not of the new kind. Empty it." in words(response)
        assert mark(item) == "2"

    def test_says_what_is_wrong_between_query_and_column(
        self, item: SchedulingItem, admin_client: Client
    ) -> None:
        page = words(self.save(admin_client, item, watermark_column="", marks="keep"))
        assert "but the item has no watermark column." in page

    def test_an_emptied_mark_stops_a_run_that_goes_on_from_moving_it(
        self, item: SchedulingItem, admin_client: Client
    ) -> None:
        run = run_next(
            item, watch=lambda progress: self.save(
                admin_client, item, watermark_kind="text", marks="keep"
            ),
        )  # fmt: skip
        assert (run.status, run.watermark_moved, mark(item)) == ("success", False, "2")


class TestTheQuerysForm:
    def save(self, client: Client, item: SchedulingItem, sql: str, **values: str) -> Any:
        data = {"name": item.query.name, "description": "", "sql": sql} | values
        return client.post(reverse(f"{QUERY}_change", args=[item.query_id]), data)

    NEW = BY_ID.replace("ORDER BY id", "AND note <> '' ORDER BY id")

    def test_asks_what_becomes_of_the_marks_and_names_the_items(
        self, item: SchedulingItem, make_item: MakeItem, admin_client: Client
    ) -> None:
        second = make_item(name="Copies", sql=BY_ID, **WATERMARK)
        set_mark(second, "4")
        make_item(name="Not begun", sql=BY_ID, **WATERMARK)
        page = words(self.save(admin_client, item, self.NEW))
        assert "You change the SQL" in page
        assert "“Copies” (at 4), “Traces” (at 2)" in page
        assert "Not begun" not in page
        item.query.refresh_from_db()
        assert item.query.sql == BY_ID

    @pytest.mark.parametrize(
        ("decision", "values", "reason"),
        [("keep", ("2", "4"), "Kept when"), ("empty", ("", ""), "Emptied when")],
    )
    def test_writes_the_answer_down_for_each_item(
        self, item: SchedulingItem, make_item: MakeItem, admin_client: Client,
        decision: str, values: tuple[str, str], reason: str,
    ) -> None:  # fmt: skip
        second = make_item(name="Copies", sql=BY_ID, **WATERMARK)
        set_mark(second, "4")
        assert self.save(admin_client, item, self.NEW, marks=decision).status_code == 302
        assert (mark(item), mark(second)) == values
        for each in (item, second):
            change = watermarks.current(each)
            assert change and str(change.user) == "admin"
            assert change.reason.startswith(reason) and item.query.name in change.reason

    @pytest.mark.parametrize(
        "values", [{"description": "Another"}, {"name": "CDG-TEST-002--Renamed.sql"}]
    )
    def test_asks_nothing_when_the_sql_stays_the_same(
        self, item: SchedulingItem, admin_client: Client, values: dict[str, str]
    ) -> None:
        assert self.save(admin_client, item, BY_ID, **values).status_code == 302
        assert WatermarkChange.objects.count() == 1

    def test_takes_a_browsers_ends_of_lines_for_what_they_are(
        self, item: SchedulingItem, admin_client: Client
    ) -> None:
        item.query.sql = BY_ID.replace(" ORDER", "\nORDER") + "\n"
        item.query.save()
        sent = BY_ID.replace(" ORDER", "\r\nORDER")
        assert self.save(admin_client, item, sent).status_code == 302
        assert WatermarkChange.objects.count() == 1

    def test_asks_nothing_for_a_query_without_such_items(
        self, make_item: MakeItem, admin_client: Client
    ) -> None:
        item = make_item()
        page = words(admin_client.get(reverse(f"{QUERY}_change", args=[item.query_id])))
        assert 'name="marks"' not in page
        assert self.save(admin_client, item, "SELECT 1 AS id").status_code == 302

    def test_can_add_a_query(self, db: None, admin_client: Client) -> None:
        data = {"name": "New", "description": "", "sql": "SELECT 1 AS id"}
        assert admin_client.post(reverse(f"{QUERY}_add"), data).status_code == 302


class TestThePageOfARun:
    def page(self, client: Client, run: SchedulingHistoryItem) -> str:
        return words(client.get(reverse(f"{HISTORY}_change", args=[run.pk])))

    def test_shows_the_bounds_and_that_the_mark_was_moved(
        self, item: SchedulingItem, admin_client: Client
    ) -> None:
        page = self.page(admin_client, run_next(item))
        assert '<div class="readonly">2</div>' in page
        assert '<div class="readonly">5</div>' in page
        assert "Moved to the upper bound, because everything was delivered." in page

    def test_of_an_item_without_a_watermark_says_nothing_of_it(
        self, make_item: MakeItem, admin_client: Client
    ) -> None:
        assert "lower bound" not in self.page(admin_client, run_next(make_item()))

    def test_says_that_nothing_was_new(self, item: SchedulingItem, admin_client: Client) -> None:
        set_mark(item, "5")
        assert "Not moved: there was nothing new." in self.page(admin_client, run_next(item))

    def test_says_that_a_failed_run_is_covered_by_the_next(
        self, item: SchedulingItem, admin_client: Client
    ) -> None:
        def broken(progress: object) -> None:
            raise ConfigurationError("Broken half way.")

        page = self.page(admin_client, run_next(item, watch=broken))
        assert (
            "Not moved: not everything was delivered. The next run gets these rows again." in page
        )

    def test_says_who_set_the_mark_while_it_ran(
        self, item: SchedulingItem, url: str, admin_client: Client
    ) -> None:
        def set_it(progress: object) -> None:
            if mark(item) == "2":
                assert admin_client.post(url, answer(item, "1")).status_code == 302

        page = self.page(admin_client, run_next(item, watch=set_it))
        assert "Not moved: it was set while this run went on (1, by admin at" in page
        assert "stays as it was set. The next run begins there." in page

    def test_says_why_a_repeated_range_moved_nothing(
        self, item: SchedulingItem, admin_client: Client
    ) -> None:
        repeated = again.run_again(run_next(item), user=None)
        runs.execute(repeated.pk)
        repeated.refresh_from_db()
        page = self.page(admin_client, repeated)
        assert "Not moved: it was not at the lower bound of this run when that began." in page
