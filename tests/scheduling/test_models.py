"""The rules of items and history rows: by the form, and by the database when the form is passed."""

import re
from datetime import UTC, date, datetime
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import F
from django.utils import timezone

from queryexport.errors import RunSuperseded
from scheduling.models import SchedulingHistoryItem, SchedulingItem
from tests.factories import MakeItem

SLOT = datetime(2026, 1, 18, 7, 0, tzinfo=UTC)
KAFKA = {"sharing_mode": "kafka", "kafka_topic": "t"}


def make_run(item: SchedulingItem, **values: Any) -> SchedulingHistoryItem:
    defaults = {
        "item": item,
        "item_name": item.name,
        "query": item.query.name,
        "connection": item.connection.name,
        "scheduled_for": SLOT,
        "trigger": "schedule",
        "export_mode": item.sharing_mode,
    }
    return SchedulingHistoryItem.objects.create(**(defaults | values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scheduling_mode": "weekly"}, "not a valid choice"),
        ({"sharing_mode": "fax"}, "not a valid choice"),
        ({"scheduling_mode": "cron", "cron_expression": ""}, "Enter a cron expression"),
        ({"scheduling_mode": "classic", "days_of_week": []}, "at least one day"),
        ({"hour": 24}, "less than or equal to 23"),
        ({"minute": 60}, "less than or equal to 59"),
        ({"output_filename_template": ""}, "cannot be blank"),
        ({"output_date_format": ""}, "cannot be blank"),
        ({"output_offset_days": 4000}, "less than or equal to 3660"),
        ({"sharing_mode": "email", "email_to": ""}, "at least one address"),
        ({"sharing_mode": "kafka", "kafka_topic": ""}, "Kafka needs a topic"),
        (KAFKA | {"kafka_key_field": ""}, "Kafka needs a topic, a key field"),
        (KAFKA | {"kafka_connection": ""}, "Kafka needs a topic, a key field and a connection"),
        ({"kafka_null_key": "random"}, "not a valid choice"),
        ({"kafka_guarantee": "exactly_once"}, "not a valid choice"),
        ({"kafka_least_percent": 101}, "less than or equal to 100"),
        ({"kafka_least_percent": -1}, "greater than or equal to 0"),
        (KAFKA | {"kafka_batch_size": 0}, "greater than or equal to 1"),
        (KAFKA | {"kafka_batch_size": 10_001}, "less than or equal to 10000"),
        (KAFKA | {"kafka_dead_letter_topic": "t"}, "other than the topic itself"),
        (
            KAFKA | {"kafka_dead_letter_topic": "dead", "kafka_guarantee": "transaction"},
            "All or nothing has no dead letters",
        ),
    ],
)
def test_the_form_explains_what_the_database_refuses(
    make_item: MakeItem, values: dict[str, Any], message: str
) -> None:
    item = make_item()
    for name, value in values.items():
        setattr(item, name, value)
    with pytest.raises(ValidationError) as refused:
        item.full_clean()
    assert message in " ".join(refused.value.messages)
    with pytest.raises(IntegrityError), transaction.atomic():
        SchedulingItem.objects.filter(pk=item.pk).update(**values)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("cron_expression", "61 * * * *", "is no cron expression: bad minute"),
        ("parameters", ["x"], "Enter an object"),
        ("parameters", {"day": 1}, "a value for day, which the query does not use"),
        ("output_filename_template", "{nome}.xlsx", "unknown token {nome}"),
        ("output_filename_template", "../x.xlsx", "contains a folder"),
        ("output_dir", "../outside", "outside the export folder"),
        ("output_dir", "/etc", "outside the export folder"),
        ("email_to", "ops@example.com|nobody", "“nobody” is no plain mail address"),
        ("email_subject", "two\nlines", "one line"),
        ("email_body", "{boss}", "unknown token {boss}"),
        ("kafka_headers", ["x"], "Enter an object"),
        ("kafka_headers", {"source": 1}, "The header source must be text"),
        ("kafka_headers", {"query_export.run": "1"}, "are added by themselves"),
        ("kafka_dead_letter_topic", "dead letters", "is no topic name"),
        ("kafka_dead_letter_topic", "..", "is no topic name"),
    ],
)
def test_what_could_not_run_is_refused_at_the_field(
    make_item: MakeItem, field: str, value: Any, message: str
) -> None:
    item = make_item()
    setattr(item, field, value)
    with pytest.raises(ValidationError) as refused:
        item.full_clean()
    assert re.search(re.escape(message), " ".join(refused.value.message_dict[field]))


@pytest.mark.parametrize("days", [[7], [-1], ["0"], "0", [True]])
def test_days_that_are_no_days_are_refused(make_item: MakeItem, days: Any) -> None:
    item = make_item(scheduling_mode="classic", days_of_week=[0])
    item.days_of_week = days
    with pytest.raises(ValidationError, match=r"from 0 \(Monday\) to 6"):
        item.full_clean()


def test_a_missing_parameter_is_refused(make_item: MakeItem) -> None:
    item = make_item(sql="SELECT * FROM events WHERE day = :day")
    with pytest.raises(ValidationError, match=":day but the item gives no value"):
        item.full_clean()


def test_the_seconds_field_of_a_cron_expression_is_dropped(make_item: MakeItem) -> None:
    item = make_item(cron_expression="0 */5 * * * *")
    item.full_clean()
    assert item.cron_expression == "*/5 * * * *"


def test_an_item_without_a_name_gets_one_that_is_free(make_item: MakeItem) -> None:
    names = [make_item(name="").name for _ in range(3)]
    assert names == [f"CDG-TEST-001--Rows.sql (File){suffix}" for suffix in ("", " 2", " 3")]


def test_names_come_from_the_slot_in_the_items_zone(make_item: MakeItem) -> None:
    item = make_item(
        timezone="Pacific/Auckland",
        output_filename_template="{query_name}_{date}_{date-1}_{timestamp}.xlsx",
        output_date_format="%Y%m%d",
        output_offset_days=-1,
        output_compress_gz=True,
    )
    item.refresh_from_db()
    evening = datetime(2026, 1, 18, 20, 0, tzinfo=UTC)  # The 19th in Auckland.
    assert item.file_name(evening) == (
        "CDG-TEST-001--Rows_20260118_20260117_20260119090000.xlsx.gz"
    )


def test_relative_dates_come_from_the_slot_in_the_items_zone(make_item: MakeItem) -> None:
    item = make_item(timezone="Pacific/Auckland", parameters={"day": "{today-1}", "n": 3})
    item.refresh_from_db()
    evening = datetime(2026, 1, 18, 20, 0, tzinfo=UTC)
    assert item.bound_parameters(evening) == {"day": date(2026, 1, 18), "n": 3}


@pytest.mark.parametrize(
    ("change", "moves"),
    [({"cron_expression": "0 9 * * *"}, True), ({"enabled": False}, True),
     ({"timezone": "Asia/Tokyo"}, True), ({"description": "x"}, False)],
)  # fmt: skip
def test_slots_begin_when_the_schedule_was_last_changed(
    make_item: MakeItem, change: dict[str, Any], moves: bool
) -> None:
    item = make_item()
    item.refresh_from_db()
    before = item.schedule_changed_at
    for name, value in change.items():
        setattr(item, name, value)
    item.save()
    item.refresh_from_db()
    assert (item.schedule_changed_at > before) is moves


def test_a_slot_and_attempt_can_have_one_row_only(make_item: MakeItem) -> None:
    item = make_item()
    make_run(item)
    make_run(item, attempt=2)
    with pytest.raises(IntegrityError), transaction.atomic():
        make_run(item)


def test_of_two_claims_one_wins(make_item: MakeItem) -> None:
    run = make_run(make_item())
    same = SchedulingHistoryItem.objects.get(pk=run.pk)
    assert run.claim("one") is True
    assert same.claim("two") is False
    run.refresh_from_db()
    assert (run.status, run.worker) == ("running", "one")


def test_a_run_that_was_taken_over_cannot_be_written_to(make_item: MakeItem) -> None:
    run = make_run(make_item())
    run.claim("one")
    SchedulingHistoryItem.objects.update(status="lost", error="no heartbeat")
    with pytest.raises(RunSuperseded):
        run.finish(SchedulingHistoryItem.Status.SUCCESS)
    run.refresh_from_db()
    assert (run.status, run.error) == ("lost", "no heartbeat")


@pytest.mark.parametrize(
    "untrue",
    [
        {"status": "success", "row_count": 5, "rows_delivered": 4},
        {"status": "success", "error": "but"},
        {"status": "success", "row_count": 5, "rows_delivered": 4, "rows_skipped": 2},
        {"status": "fail", "error": ""},
        {"status": "partial", "error": ""},
        {"row_count": 1, "rows_delivered": 2},
        {"status": "done"},
        {"export_mode": "fax"},
        {"dead_letters": 1},
        {"trigger": "manual", "replay_of": F("pk")},
    ],
)
def test_the_database_refuses_an_untrue_outcome(
    make_item: MakeItem, untrue: dict[str, Any]
) -> None:
    run = make_run(make_item())
    with pytest.raises(IntegrityError), transaction.atomic():
        SchedulingHistoryItem.objects.filter(pk=run.pk).update(**untrue)


def test_history_outlives_its_item(make_item: MakeItem) -> None:
    item = make_item(name="Gone soon")
    run = make_run(item)
    item.delete()
    run.refresh_from_db()
    assert (run.item, run.item_name) == (None, "Gone soon")


def test_a_run_is_named_by_its_item_and_slot(make_item: MakeItem) -> None:
    run = make_run(make_item(name="Traces"))
    assert str(run) == "Traces, 2026-01-18 07:00:00 UTC"
    assert run.timestamp <= timezone.now()


def test_a_query_of_two_statements_is_refused_at_the_item_too(make_item: MakeItem) -> None:
    item = make_item(sql="SELECT 1 AS id; SELECT 2")
    with pytest.raises(ValidationError, match="more than one statement"):
        item.full_clean()
    with pytest.raises(ValidationError, match="more than one statement"):
        item.query.full_clean()


def test_saving_an_item_unchanged_keeps_its_slots(make_item: MakeItem) -> None:
    item = make_item(timezone="Europe/Rome", end_date="2099-12-31")
    before = item.schedule_changed_at
    item.save()
    assert item.schedule_changed_at == before


def test_a_success_may_leave_out_what_the_item_says(make_item: MakeItem) -> None:
    run = make_run(make_item(), status="success", row_count=5, rows_delivered=3, rows_skipped=2)
    assert run.pk
