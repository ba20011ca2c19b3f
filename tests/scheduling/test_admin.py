"""The admin of items and history: who may do what, and what the pages say."""

from datetime import UTC, datetime
from typing import Any

import pytest
import time_machine
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django_celery_beat.models import PeriodicTask
from pytest_django import DjangoAssertNumQueries

from scheduling import runs
from scheduling.models import SchedulingHistoryItem, SchedulingItem
from tests.factories import MakeItem, make_kafka_connection
from tests.scheduling.conftest import LogIn

HISTORY = "admin:scheduling_schedulinghistoryitem"
ITEM = "admin:scheduling_schedulingitem"


def finished_run(item: SchedulingItem) -> SchedulingHistoryItem:
    run = runs.queue(item, timezone.now(), trigger=runs.Trigger.MANUAL)
    assert run
    runs.execute(run.pk)
    return SchedulingHistoryItem.objects.get(pk=run.pk)


def form_data(item: SchedulingItem, **changes: Any) -> dict[str, Any]:
    data = {
        "name": item.name, "query": item.query_id, "connection": item.connection_id,
        "parameters": "{}", "enabled": "on", "scheduling_mode": "cron", "hour": 8, "minute": 0,
        "most_attempts": 3, "retry_delay_minutes": 30, "work_queue": "short",
        "no_progress_minutes": 60, "time_limit_minutes": 360, "watermark_kind": "time",
        "watermark_lag_sec": 0, "catch_up": "latest", "catch_up_minutes": 60,
        "overlap": "skip",
        "cron_expression": "0 8 * * *", "timezone": "UTC", "sharing_mode": "filesystem",
        "output_filename_template": "{query_name}.xlsx", "output_date_format": "%Y-%m-%d",
        "output_offset_days": 0, "kafka_batch_size": 100, "kafka_key_field": "id",
        "kafka_connection": "default", "kafka_null_key": "fail", "kafka_headers": "{}",
        "kafka_guarantee": "at_least_once", "kafka_least_percent": "95",
        "output_format": "xlsx", "output_on_existing": "replace", "output_keep_versions": 5,
        "csv_delimiter": ",", "csv_encoding": "utf-8", "email_too_large": "fail",
        "email_no_rows": "send", "destinations-TOTAL_FORMS": 0, "destinations-INITIAL_FORMS": 0,
    }  # fmt: skip
    return data | changes


def test_run_now_queues_a_run_and_shows_it(
    make_item: MakeItem, admin_client: Client, django_capture_on_commit_callbacks: Any
) -> None:
    item = make_item()
    with django_capture_on_commit_callbacks(execute=False) as callbacks:
        response = admin_client.post(reverse(f"{ITEM}_run", args=[item.pk]))
    run = SchedulingHistoryItem.objects.get()
    assert response.url == reverse(f"{HISTORY}_change", args=[run.pk])
    assert (run.status, run.trigger) == ("queued", "manual")
    assert run.user and run.user.username == "admin"
    assert len(callbacks) == 1


def test_run_now_does_nothing_on_get(make_item: MakeItem, admin_client: Client) -> None:
    response = admin_client.get(reverse(f"{ITEM}_run", args=[make_item().pk]))
    assert response.status_code == 405
    assert not SchedulingHistoryItem.objects.exists()


def test_run_now_needs_its_own_permission(make_item: MakeItem, log_in: LogIn) -> None:
    item = make_item()
    client = log_in("view_schedulingitem", "change_schedulingitem")
    assert client.post(reverse(f"{ITEM}_run", args=[item.pk])).status_code == 403
    page = client.get(reverse(f"{ITEM}_change", args=[item.pk])).content.decode()
    assert reverse(f"{ITEM}_run", args=[item.pk]) not in page
    listed = client.get(reverse(f"{ITEM}_changelist")).content.decode()
    assert "run_selected" not in listed
    assert not SchedulingHistoryItem.objects.exists()


def test_run_selected_queues_each_item(make_item: MakeItem, admin_client: Client) -> None:
    items = [make_item(), make_item()]
    data = {"action": "run_selected", "_selected_action": [item.pk for item in items]}
    response = admin_client.post(reverse(f"{ITEM}_changelist"), data, follow=True)
    assert "2 runs queued" in response.content.decode()
    assert SchedulingHistoryItem.objects.count() == 2


def test_saving_the_form_stores_the_item_and_its_task(
    make_item: MakeItem, admin_client: Client
) -> None:
    item = make_item()
    data = form_data(item, cron_expression="0 */10 * * * *", enabled="on")
    response = admin_client.post(reverse(f"{ITEM}_change", args=[item.pk]), data)
    assert response.status_code == 302, response.context["adminform"].errors
    item.refresh_from_db()
    assert item.cron_expression == "*/10 * * * *"
    assert PeriodicTask.objects.get().crontab.hour == "*"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kafka_batch_size": 10001}, "less than or equal to 10000"),
        ({"sharing_mode": "kafka", "kafka_topic": ""}, "Kafka needs a topic"),
        ({"kafka_connection": "nowhere"}, "nowhere is not one of the available choices"),
        ({"cron_expression": "* * * * 9"}, "bad day-of-week"),
        ({"output_dir": ".."}, "outside the export folder"),
        ({"scheduling_mode": "classic"}, "at least one day"),
    ],
)
def test_the_form_says_what_to_do(
    make_item: MakeItem, admin_client: Client, changes: dict[str, Any], message: str
) -> None:
    item = make_item()
    make_kafka_connection("127.0.0.1:9092")
    response = admin_client.post(
        reverse(f"{ITEM}_change", args=[item.pk]), form_data(item, **changes)
    )
    assert response.status_code == 200
    assert message in response.content.decode()


def test_days_of_the_week_are_ticked_and_kept(make_item: MakeItem, admin_client: Client) -> None:
    item = make_item()
    data = form_data(item, scheduling_mode="classic", days_of_week=["0", "6"])
    admin_client.post(reverse(f"{ITEM}_change", args=[item.pk]), data)
    item.refresh_from_db()
    assert item.days_of_week == [0, 6]
    page = admin_client.get(reverse(f"{ITEM}_change", args=[item.pk])).content.decode()
    assert page.count('name="days_of_week"') == 7
    assert page.count("checked") >= 2


def test_history_cannot_be_added_changed_or_deleted(
    make_item: MakeItem, admin_client: Client
) -> None:
    run = finished_run(make_item())
    change = reverse(f"{HISTORY}_change", args=[run.pk])
    assert admin_client.get(reverse(f"{HISTORY}_add")).status_code == 403
    assert admin_client.post(change, {"status": "fail"}).status_code == 403
    assert admin_client.post(reverse(f"{HISTORY}_delete", args=[run.pk])).status_code == 403
    run.refresh_from_db()
    assert run.status == "success"


@pytest.mark.parametrize(
    "query", ["export_mode__exact=filesystem", "status__exact=success", "q=Item"]
)
def test_history_can_be_filtered(make_item: MakeItem, admin_client: Client, query: str) -> None:
    finished_run(make_item(name="Item of files"))
    response = admin_client.get(f"{reverse(f'{HISTORY}_changelist')}?{query}")
    assert "Item of files" in response.content.decode()
    assert response.context["cl"].result_count == 1


def test_history_filters_leave_the_others_out(make_item: MakeItem, admin_client: Client) -> None:
    finished_run(make_item())
    for query in ("export_mode__exact=kafka", "status__exact=fail"):
        response = admin_client.get(f"{reverse(f'{HISTORY}_changelist')}?{query}")
        assert response.context["cl"].result_count == 0


def test_the_history_page_shows_the_error(make_item: MakeItem, admin_client: Client) -> None:
    run = finished_run(make_item(sql="SELECT * FROM nowhere"))
    page = admin_client.get(reverse(f"{HISTORY}_change", args=[run.pk])).content.decode()
    assert "no such table: nowhere" in page
    assert "SELECT * FROM nowhere" in page


def test_the_history_list_takes_a_fixed_number_of_queries(
    make_item: MakeItem, admin_client: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    for _ in range(3):
        finished_run(make_item())
    url = reverse(f"{HISTORY}_changelist")
    admin_client.get(url)
    with django_assert_num_queries(8):
        admin_client.get(url)
    for _ in range(5):
        finished_run(SchedulingItem.objects.all()[0])
    with django_assert_num_queries(8):
        admin_client.get(url)


def test_the_list_of_items_takes_a_fixed_number_of_queries(
    make_item: MakeItem, admin_client: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    url = reverse(f"{ITEM}_changelist")
    finished_run(make_item())
    with django_assert_num_queries(6):
        page = admin_client.get(url).content.decode()
    assert "Success" in page
    for _ in range(5):
        make_item()
    with django_assert_num_queries(6):
        page = admin_client.get(url).content.decode()
    assert "never run" in page


def test_sending_rows_again_is_not_the_items_last_run(
    make_item: MakeItem, admin_client: Client
) -> None:
    item = make_item()
    finished_run(item)
    again = runs.queue(item, timezone.now(), trigger=runs.Trigger.REPLAY)
    page = admin_client.get(reverse(f"{ITEM}_changelist")).content.decode()
    assert again and reverse(f"{HISTORY}_change", args=[again.pk]) not in page
    assert "Success" in page


def test_beats_own_tables_cannot_be_edited(admin_client: Client) -> None:
    assert admin_client.get("/admin/django_celery_beat/periodictask/").status_code == 404


def test_the_form_shows_the_next_ten_runs_in_the_items_zone(
    make_item: MakeItem, admin_client: Client
) -> None:
    item = make_item(cron_expression="30 2 * * *", timezone="Europe/Rome")
    with time_machine.travel(datetime(2026, 3, 27, 12, tzinfo=UTC), tick=False):
        page = admin_client.get(f"/admin/scheduling/schedulingitem/{item.pk}/change/")
    shown = page.content.decode()
    assert shown.count(" UTC)</div>") == 10
    assert "Sat 2026-03-28 02:30 CET (01:30 UTC)" in shown
    assert "Sun 2026-03-29 03:00 CEST (01:00 UTC)" in shown  # 02:30 does not exist on that day.
