"""One run from its history row to its outcome, on a real database file and a real folder."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError
from openpyxl import load_workbook

from kafka_sink.broker import EmbeddedBroker
from kafka_sink.models import Delivery
from queryexport.rows import Receipt, Undelivered
from scheduling import outcomes, runs
from scheduling.models import SchedulingHistoryItem, SchedulingItem
from scheduling.progress import RunProgress
from tests.factories import MakeItem, make_kafka_connection

SLOT = datetime(2026, 1, 18, 8, 0, tzinfo=UTC)


def run_slot(item: SchedulingItem, **options: Any) -> SchedulingHistoryItem:
    queued = runs.queue(item, SLOT, trigger=runs.Trigger.SCHEDULE)
    assert queued
    runs.execute(queued.pk, **options)
    return SchedulingHistoryItem.objects.get(pk=queued.pk)


def rows_of(path: Path) -> list[tuple[Any, ...]]:
    return list(load_workbook(path).active.iter_rows(values_only=True))


def test_a_run_writes_its_file_and_the_whole_truth_about_it(
    make_item: MakeItem, export_root: Path
) -> None:
    item = make_item(
        sql="SELECT id, note FROM events WHERE day < :day ORDER BY id",
        parameters={"day": "{today-15}"},
        output_offset_days=-1,
        output_dir="partner/daily",
    )
    run = run_slot(item)
    path = export_root / "partner/daily" / "CDG-TEST-001--Rows_2026-01-17.xlsx"
    assert rows_of(path) == [("id", "note"), (1, "event 1"), (2, "event 2")]
    assert (run.status, run.error) == ("success", "")
    assert (run.row_count, run.rows_delivered) == (2, 2)
    assert (run.place, run.size_bytes) == (str(path), path.stat().st_size)
    assert (run.query, run.connection) == ("CDG-TEST-001--Rows.sql", "tracking")
    assert (run.sql, run.parameters) == (item.query.sql, {"day": "2026-01-03"})
    assert run.start_date and run.start_date.isoformat() == "2026-01-17"
    assert run.export_id.startswith("CDG-TEST-001--Rows.sql-20")
    assert run.started_at and run.finished_at and run.heartbeat_at
    took_sec = (run.finished_at - run.started_at).total_seconds()
    assert run.duration_sec == pytest.approx(took_sec, abs=0.5)
    assert run.kafka_messages_sent is None


def test_a_failed_run_leaves_yesterdays_file_alone(make_item: MakeItem, export_root: Path) -> None:
    item = make_item(output_filename_template="report.xlsx")
    run_slot(item)
    before = (export_root / "report.xlsx").read_bytes()
    item.query.sql = "SELECT id, json('{') FROM events"
    item.query.save()
    failed = runs.queue(item, SLOT + timedelta(days=1), trigger=runs.Trigger.SCHEDULE)
    assert failed
    runs.execute(failed.pk)
    failed.refresh_from_db()
    assert failed.status == "fail"
    assert "malformed JSON" in failed.error
    assert [path.name for path in export_root.iterdir()] == ["report.xlsx"]
    assert (export_root / "report.xlsx").read_bytes() == before


def test_a_slot_that_has_its_row_is_not_queued_again(make_item: MakeItem) -> None:
    item = make_item()
    assert runs.queue(item, SLOT, trigger=runs.Trigger.SCHEDULE)
    assert runs.queue(item, SLOT, trigger=runs.Trigger.SCHEDULE) is None
    assert SchedulingHistoryItem.objects.count() == 1


def test_a_run_that_another_worker_has_is_left_to_it(
    make_item: MakeItem, export_root: Path
) -> None:
    queued = runs.queue(make_item(), SLOT, trigger=runs.Trigger.SCHEDULE)
    assert queued
    queued.claim("the other worker")
    assert runs.execute(queued.pk) is None
    assert not export_root.exists()


def test_a_run_taken_over_while_it_works_publishes_nothing(
    make_item: MakeItem, export_root: Path
) -> None:
    def take_over(progress: RunProgress) -> None:
        SchedulingHistoryItem.objects.update(status="lost", error="declared lost")

    run = run_slot(make_item(), watch=take_over)
    assert (run.status, run.error) == ("lost", "declared lost")
    assert list(export_root.rglob("*")) == []


def test_a_fault_of_the_program_is_recorded_and_raised(make_item: MakeItem) -> None:
    def broken(progress: RunProgress) -> None:
        raise ZeroDivisionError("a fault")

    with pytest.raises(ZeroDivisionError):
        run_slot(make_item(), watch=broken)
    run = SchedulingHistoryItem.objects.get()
    assert run.status == "fail"
    assert "ZeroDivisionError: a fault" in run.error


def test_a_stopped_worker_says_so_in_the_row(make_item: MakeItem) -> None:
    def stop(progress: RunProgress) -> None:
        raise SystemExit

    with pytest.raises(SystemExit):
        run_slot(make_item(), watch=stop)
    assert "worker was shut down" in SchedulingHistoryItem.objects.get(attempt=1).error


def test_a_run_whose_item_was_deleted_fails_with_that_reason(make_item: MakeItem) -> None:
    item = make_item()
    queued = runs.queue(item, SLOT, trigger=runs.Trigger.SCHEDULE)
    assert queued
    item.delete()
    runs.execute(queued.pk)
    queued.refresh_from_db()
    assert (queued.status, "deleted" in queued.error) == ("fail", True)


def test_no_rows_is_a_success_with_a_header(make_item: MakeItem) -> None:
    run = run_slot(make_item(sql="SELECT id, note FROM events WHERE id > 99"))
    assert (run.status, run.row_count) == ("success", 0)
    assert rows_of(Path(run.place)) == [("id", "note")]


@pytest.mark.parametrize(
    ("delivered", "least", "status"),
    [
        (100, 95, "success"),
        (100, 100, "success"),
        (99, 100, "fail"),
        (96, 95, "partial"),
        (95, 95, "partial"),
        (94, 95, "fail"),
        (1, 0, "partial"),
    ],
)
def test_the_status_is_what_the_receipt_proves(delivered: int, least: int, status: str) -> None:
    lost = (Undelivered("k7", "broker said no"),)
    receipt = Receipt(delivered, "topic", failed=100 - delivered, undelivered=lost)
    outcome, error = outcomes.judge(receipt, least_percent=Decimal(least))
    assert outcome == status
    if status != "success":
        assert error.startswith(f"only {delivered} of 100 messages delivered ({delivered}.0 %)")
        assert "broker said no" in error


def test_unknown_rows_do_not_count_as_delivered() -> None:
    assert outcomes.judge(Receipt(10, "topic", unknown=10), least_percent=Decimal(95))[0] == "fail"


def test_rows_left_out_on_purpose_count_neither_way() -> None:
    least = Decimal(95)
    assert outcomes.judge(Receipt(90, "topic", skipped=10), least_percent=least)[0] == "success"
    outcome, error = outcomes.judge(
        Receipt(60, "topic", failed=4, skipped=900), least_percent=least
    )
    assert (outcome, error[:21]) == ("fail", "only 60 of 64 message")
    assert outcomes.judge(Receipt(0, "topic", skipped=10), least_percent=least)[0] == "success"


class TestDueSlot:
    """What a tick of beat stands for."""

    def item(self, make_item: MakeItem, **values: Any) -> SchedulingItem:
        item = make_item(**values)
        item.refresh_from_db()
        item.schedule_changed_at = SLOT - timedelta(days=7)
        return item

    def test_a_tick_after_the_slot_runs_the_slot(self, make_item: MakeItem) -> None:
        item = self.item(make_item)
        assert runs.due_slot(item, SLOT + timedelta(seconds=3)) == SLOT

    def test_a_tick_hours_late_runs_nothing(self, make_item: MakeItem) -> None:
        # django-celery-beat sends a missed daily tick next day, two hours early.
        item = self.item(make_item)
        assert runs.due_slot(item, SLOT + timedelta(hours=22)) is None

    def test_a_disabled_item_has_no_slot(self, make_item: MakeItem) -> None:
        item = self.item(make_item, enabled=False)
        assert runs.due_slot(item, SLOT) is None

    def test_a_slot_before_the_last_change_is_not_due(self, make_item: MakeItem) -> None:
        item = self.item(make_item)
        item.schedule_changed_at = SLOT + timedelta(seconds=1)
        assert runs.due_slot(item, SLOT + timedelta(seconds=3)) is None

    def test_an_ended_item_has_no_slot(self, make_item: MakeItem) -> None:
        item = self.item(make_item, end_date=SLOT.date() - timedelta(days=1))
        assert runs.due_slot(item, SLOT + timedelta(seconds=3)) is None


class TestKafka:
    """Runs whose rows become messages, on the embedded broker."""

    @pytest.fixture
    def broker(self, db: None) -> Iterator[EmbeddedBroker]:
        with EmbeddedBroker({"events": 1}) as broker:
            make_kafka_connection(broker.bootstrap_servers)
            yield broker

    def test_the_row_tells_what_the_cluster_acknowledged(
        self, make_item: MakeItem, broker: EmbeddedBroker
    ) -> None:
        run = run_slot(make_item(sharing_mode="kafka", kafka_topic="events"))
        assert (run.status, run.error) == ("success", "")
        assert (run.row_count, run.rows_delivered) == (5, 5)
        assert (run.kafka_topic, run.kafka_messages_sent, run.kafka_messages_failed) == (
            "events", 5, 0,
        )  # fmt: skip
        assert run.place == "events: partition 0 offsets 0–4"
        assert run.kafka_duration_sec and run.kafka_duration_sec < 30
        delivery = Delivery.objects.get()
        assert (delivery.export_id, delivery.source) == (run.export_id, "run")
        assert (delivery.handed, delivery.acked, delivery.last_error) == (5, 5, "")
        assert delivery.latency_p99_ms is not None

    def test_a_run_that_breaks_is_in_the_ledger_with_its_reason(
        self, make_item: MakeItem, broker: EmbeddedBroker
    ) -> None:
        run = run_slot(make_item(sharing_mode="kafka", kafka_topic="nowhere"))
        delivery = Delivery.objects.get()
        assert (delivery.handed, delivery.last_error) == (0, run.error)

    def test_rows_left_out_for_their_null_key_are_counted(
        self, make_item: MakeItem, broker: EmbeddedBroker
    ) -> None:
        sql = "SELECT nullif(id, 3) AS id, 9e999 AS n FROM events"
        item = make_item(sharing_mode="kafka", kafka_topic="events", sql=sql, kafka_null_key="skip")
        run = run_slot(item)
        assert (run.status, run.row_count, run.rows_skipped) == ("success", 5, 1)
        assert (run.kafka_messages_sent, run.kafka_messages_failed) == (4, 0)
        assert run.conversions == {"NaN or infinity to null": 4}

    @pytest.mark.parametrize(("least", "status"), [(50, "partial"), (95, "fail")])
    def test_the_items_own_threshold_decides(
        self, make_item: MakeItem, broker: EmbeddedBroker, least: int, status: str
    ) -> None:
        broker.refuse_next(KafkaError.INVALID_RECORD)
        item = make_item(
            sharing_mode="kafka", kafka_topic="events", kafka_batch_size=1,
            kafka_least_percent=least,
        )  # fmt: skip
        run = run_slot(item)
        assert (run.status, run.rows_delivered) == (status, 4)
        assert run.error.startswith("only 4 of 5 messages delivered (80.0 %): 1 failed, 0 unknown.")
