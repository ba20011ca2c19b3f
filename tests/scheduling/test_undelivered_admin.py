"""The pages of undelivered rows: what they say, who may send rows again, and only by POST."""

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from pytest_django import DjangoAssertNumQueries, Settings

from kafka_sink.messages import Message
from kafka_sink.models import Delivery
from scheduling import attempts, replays
from scheduling.models import SchedulingHistoryItem, UndeliveredMessage
from scheduling.undelivered.rows import UndeliveredRow
from tests.factories import MakeItem
from tests.scheduling.conftest import LogIn
from tests.scheduling.kept_runs import row, run_that_kept

HISTORY = "admin:scheduling_schedulinghistoryitem"
ROWS = "admin:scheduling_undeliveredmessage"
KAFKA = {"sharing_mode": "kafka", "kafka_topic": "shipments.events"}
MAY_SEE = ("view_schedulinghistoryitem", "view_undeliveredmessage")


@pytest.fixture
def run(make_item: MakeItem) -> SchedulingHistoryItem:
    """A run that kept three failed rows and two unknown ones."""
    rows = [row(number, unknown=number > 3) for number in range(1, 6)]
    return run_that_kept(make_item(**KAFKA), *rows)


def words(client: Client, name: str, *args: Any, query: str = "") -> str:
    response = client.get(reverse(name, args=args) + query)
    assert response.status_code == 200
    return " ".join(response.content.decode().split())


class TestThePageOfARun:
    def test_tells_what_was_kept_and_what_can_be_sent(
        self, run: SchedulingHistoryItem, admin_client: Client
    ) -> None:
        page = words(admin_client, f"{HISTORY}_change", run.pk)
        assert "Kept by this run</th><td>5" in page
        assert "Failed, can be sent again</th><td>3" in page
        assert "Unknown, may be in the topic</th><td>2" in page
        assert f"{reverse(f'{ROWS}_changelist')}?run__id__exact={run.pk}" in page
        assert reverse(f"{HISTORY}_replay", args=[run.pk]) in page

    def test_links_the_runs_that_took_rows_both_ways(
        self, run: SchedulingHistoryItem, admin_client: Client
    ) -> None:
        again = replays.replay(run, user=None)
        page = words(admin_client, f"{HISTORY}_change", run.pk)
        link = f'<a href="{reverse(f"{HISTORY}_change", args=[again.pk])}">run {again.pk}</a>'
        assert f"Already taken</th><td>3 by {link}" in page
        assert f"Sent again by</th><td>{link}" in page
        back = words(admin_client, f"{HISTORY}_change", again.pk)
        assert f'{reverse(f"{HISTORY}_change", args=[run.pk])}">run {run.pk}</a>' in back

    def test_says_how_many_rows_are_in_a_file(
        self, make_item: MakeItem, admin_client: Client, settings: Settings
    ) -> None:
        settings.UNDELIVERED_IN_DATABASE = 1
        run = run_that_kept(make_item(**KAFKA), row(1), row(2), row(3))
        assert "<td>3, of which 2 in a file" in words(admin_client, f"{HISTORY}_change", run.pk)

    def test_shows_its_deliveries_with_latency_and_offsets(
        self, run: SchedulingHistoryItem, admin_client: Client
    ) -> None:
        delivery = Delivery.objects.create(
            connection="default", topic="shipments.events", source="run", duration_sec=1,
            export_id=run.export_id, started_at=run.timestamp, handed=7, acked=7,
            latency_average_ms=2.5, latency_p90_ms=4, latency_p99_ms=9.5,
            offsets={"0": [10, 14], "1": [3, 4]},
        )  # fmt: skip
        page = words(admin_client, f"{HISTORY}_change", run.pk)
        assert "2.5, 4.0, 9.5 ms" in page
        assert "0: 10–14, 1: 3–4" in page
        assert reverse("admin:kafka_sink_delivery_change", args=[delivery.pk]) in page

    def test_recommends_the_whole_item_where_rows_were_never_read(
        self, run: SchedulingHistoryItem, admin_client: Client
    ) -> None:
        SchedulingHistoryItem.objects.update(broke_off=True)
        for name in ("change", "replay"):
            page = words(admin_client, f"{HISTORY}_{name}", run.pk)
            assert "Rather run the item again than send only the kept rows" in page

    def test_says_that_a_further_attempt_sends_all_rows_anew(
        self, run: SchedulingHistoryItem, admin_client: Client
    ) -> None:
        assert attempts.try_again(run, now=run.timestamp)
        for name in ("change", "replay"):
            page = words(admin_client, f"{HISTORY}_{name}", run.pk)
            assert "Attempt 2 (queued) sends all rows of this slot anew." in page

    def test_says_why_an_all_or_nothing_run_keeps_nothing(
        self, make_item: MakeItem, admin_client: Client
    ) -> None:
        run = run_that_kept(make_item(**KAFKA))
        SchedulingHistoryItem.objects.update(kafka_messages_failed=5)
        page = words(admin_client, f"{HISTORY}_change", run.pk)
        assert "An all-or-nothing run keeps none" in page
        assert reverse(f"{HISTORY}_replay", args=[run.pk]) not in page

    def test_says_that_rows_of_a_lost_run_may_have_arrived(
        self, run: SchedulingHistoryItem, admin_client: Client
    ) -> None:
        lost = replays.replay(run, user=None)
        lost.claim("a worker that dies")
        SchedulingHistoryItem.objects.filter(pk=lost.pk).update(status="lost", error="killed")
        page = words(admin_client, f"{HISTORY}_change", lost.pk)
        assert "ended without a word about them. Some may have arrived." in page
        assert "Unknown, may be in the topic</th><td>3" in page

    def test_of_a_file_export_has_no_such_section(
        self, make_item: MakeItem, admin_client: Client
    ) -> None:
        run = run_that_kept(make_item())
        assert 'id="undelivered"' not in words(admin_client, f"{HISTORY}_change", run.pk)

    def test_takes_a_fixed_number_of_queries(
        self,
        run: SchedulingHistoryItem,
        admin_client: Client,
        django_assert_num_queries: DjangoAssertNumQueries,
    ) -> None:
        url = reverse(f"{HISTORY}_change", args=[run.pk])
        admin_client.get(url)
        with django_assert_num_queries(14):
            admin_client.get(url)
        for message in run.undelivered.filter(unknown=False):
            replays.replay(run, user=None, messages=[message.pk])
        with django_assert_num_queries(14):
            admin_client.get(url)


class TestSendingAllAgain:
    def test_asks_first_and_changes_nothing_on_get(
        self, run: SchedulingHistoryItem, admin_client: Client
    ) -> None:
        page = words(admin_client, f"{HISTORY}_replay", run.pk)
        assert "3 failed: they are not in the topic." in page
        assert "2 unknown: they may be in the topic already" in page
        assert "(may arrive twice)" in page
        assert SchedulingHistoryItem.objects.count() == 1

    @pytest.mark.parametrize(("ticked", "rows"), [({}, 3), ({"include_unknown": "on"}, 5)])
    def test_queues_a_run_and_shows_it(
        self, run: SchedulingHistoryItem, admin_client: Client, ticked: dict[str, str], rows: int
    ) -> None:
        response = admin_client.post(reverse(f"{HISTORY}_replay", args=[run.pk]), ticked)
        again = SchedulingHistoryItem.objects.get(replay_of=run)
        assert response.url == reverse(f"{HISTORY}_change", args=[again.pk])
        assert (again.row_count, again.status, str(again.user)) == (rows, "queued", "admin")

    def test_a_second_click_says_which_run_has_the_rows(
        self, run: SchedulingHistoryItem, admin_client: Client
    ) -> None:
        url = reverse(f"{HISTORY}_replay", args=[run.pk])
        admin_client.post(url, {"include_unknown": "on"})
        again = SchedulingHistoryItem.objects.get(replay_of=run)
        page = admin_client.post(url, {"include_unknown": "on"}, follow=True).content.decode()
        assert f"its rows were taken by run {again.pk}." in page
        assert SchedulingHistoryItem.objects.count() == 2

    def test_needs_its_own_permission(self, run: SchedulingHistoryItem, log_in: LogIn) -> None:
        client = log_in(*MAY_SEE, "change_schedulinghistoryitem", "run_schedulingitem")
        url = reverse(f"{HISTORY}_replay", args=[run.pk])
        assert client.get(url).status_code == client.post(url).status_code == 403
        assert url not in words(client, f"{HISTORY}_change", run.pk)
        assert SchedulingHistoryItem.objects.count() == 1

    def test_is_allowed_to_those_who_may_see_and_send(
        self, run: SchedulingHistoryItem, log_in: LogIn
    ) -> None:
        client = log_in(*MAY_SEE, "replay_schedulinghistoryitem")
        assert client.post(reverse(f"{HISTORY}_replay", args=[run.pk])).status_code == 302
        assert SchedulingHistoryItem.objects.filter(replay_of=run).exists()

    def test_is_refused_without_the_token_of_the_page(
        self, run: SchedulingHistoryItem, admin_user: Any
    ) -> None:
        client = Client(enforce_csrf_checks=True)
        client.force_login(admin_user)
        assert client.post(reverse(f"{HISTORY}_replay", args=[run.pk])).status_code == 403


class TestTheListOfRows:
    def test_shows_key_topic_reason_attempts_and_outcome(
        self, run: SchedulingHistoryItem, admin_client: Client
    ) -> None:
        page = words(admin_client, f"{ROWS}_changelist")
        for text in ("shipments.events", "INVALID_RECORD: refused", "failed", "unknown"):
            assert text in page
        assert "&quot;id&quot;" not in page  # The payload is on the page of the row.

    @pytest.mark.parametrize(
        ("query", "rows"),
        [("outcome=unknown", 2), ("outcome=failed", 3), ("state=waiting", 4), ("state=taken", 1),
         ("outcome=failed&state=waiting", 2), ("q=INVALID", 5), ("q=nothing", 0)],
    )  # fmt: skip
    def test_can_be_filtered_and_searched(
        self, run: SchedulingHistoryItem, admin_client: Client, query: str, rows: int
    ) -> None:
        replays.replay(run, user=None, messages=[run.undelivered.first().pk])
        response = admin_client.get(f"{reverse(f'{ROWS}_changelist')}?{query}")
        assert response.context["cl"].result_count == rows

    def test_of_one_run_leaves_the_others_out(
        self, run: SchedulingHistoryItem, admin_client: Client
    ) -> None:
        assert run.item
        other = run_that_kept(run.item, row(9))
        url = f"{reverse(f'{ROWS}_changelist')}?run__id__exact={other.pk}"
        assert admin_client.get(url).context["cl"].result_count == 1

    def test_has_the_latest_run_first(
        self, run: SchedulingHistoryItem, admin_client: Client
    ) -> None:
        assert run.item
        later = run_that_kept(run.item, row(9))
        response = admin_client.get(reverse(f"{ROWS}_changelist"))
        listed = [(each.run_id, each.number) for each in response.context["cl"].result_list]
        assert listed == [(later.pk, 1), *((run.pk, number) for number in range(1, 6))]

    def test_takes_a_fixed_number_of_queries(
        self,
        run: SchedulingHistoryItem,
        admin_client: Client,
        django_assert_num_queries: DjangoAssertNumQueries,
    ) -> None:
        url = reverse(f"{ROWS}_changelist")
        with django_assert_num_queries(5):
            admin_client.get(url)
        assert run.item
        run_that_kept(run.item, *(row(number) for number in range(20)))
        with django_assert_num_queries(5):
            admin_client.get(url)

    def test_the_page_of_a_row_has_its_whole_message_folded(
        self, make_item: MakeItem, admin_client: Client
    ) -> None:
        message = Message(b"\xff", b'{"note": "<b>"}', (("source", b"tracking"),))
        run = run_that_kept(make_item(**KAFKA), UndeliveredRow(message, "too large", False, 4))
        page = words(admin_client, f"{ROWS}_change", run.undelivered.get().pk)
        assert "<details><summary>15 bytes</summary>" in page
        assert "{&quot;note&quot;: &quot;&lt;b&gt;&quot;}" in page
        assert "base64: /w==" in page
        assert "[[&quot;source&quot;, &quot;tracking&quot;]]" in page

    def test_rows_cannot_be_added_changed_or_deleted(
        self, run: SchedulingHistoryItem, admin_client: Client
    ) -> None:
        pk = run.undelivered.first().pk
        assert admin_client.get(reverse(f"{ROWS}_add")).status_code == 403
        for name in ("change", "delete"):
            url = reverse(f"{ROWS}_{name}", args=[pk])
            assert admin_client.post(url, {"post": "yes"}).status_code == 403
        assert UndeliveredMessage.objects.count() == 5


class TestSendingSomeAgain:
    def post(self, client: Client, run: SchedulingHistoryItem, **data: Any) -> Any:
        chosen = run.undelivered.filter(number__in=[1, 4]).values_list("pk", flat=True)
        data = {"action": "send_again", "_selected_action": list(chosen), **data}
        return client.post(reverse(f"{ROWS}_changelist"), data, follow=True)

    def test_asks_first(self, run: SchedulingHistoryItem, admin_client: Client) -> None:
        page = " ".join(self.post(admin_client, run).content.decode().split())
        assert "1 failed" in page and "1 unknown" in page
        assert page.count('name="_selected_action"') == 2
        assert SchedulingHistoryItem.objects.count() == 1

    def test_queues_them_once_confirmed(
        self, run: SchedulingHistoryItem, admin_client: Client
    ) -> None:
        page = self.post(admin_client, run, confirmed="yes", include_unknown="on").content.decode()
        again = SchedulingHistoryItem.objects.get(replay_of=run)
        assert "2 rows are queued as" in page and f"run {again.pk}</a>" in page
        assert list(again.taken.values_list("number", flat=True)) == [1, 4]
        page = self.post(admin_client, run, confirmed="yes").content.decode()
        assert f"No such row of run {run.pk} is left" in page

    def test_all_rows_of_the_list_can_be_meant(
        self, run: SchedulingHistoryItem, admin_client: Client
    ) -> None:
        page = self.post(admin_client, run, select_across="1").content.decode()
        assert page.count('name="_selected_action"') == 1
        self.post(admin_client, run, select_across="1", confirmed="yes")
        assert SchedulingHistoryItem.objects.get(replay_of=run).row_count == 3

    def test_needs_its_own_permission(self, run: SchedulingHistoryItem, log_in: LogIn) -> None:
        client = log_in(*MAY_SEE)
        assert "send_again" not in words(client, f"{ROWS}_changelist")
        self.post(client, run, confirmed="yes")
        assert SchedulingHistoryItem.objects.count() == 1
