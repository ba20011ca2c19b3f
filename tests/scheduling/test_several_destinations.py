"""One query for several destinations: each has its own outcome, and what failed is repeated."""

import smtplib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import openpyxl
import pytest
from confluent_kafka import KafkaError
from django.core import mail
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

from kafka_sink.broker import EmbeddedBroker
from queryexport.errors import ConfigurationError, RunCancelled
from scheduling import again, replays, runs, spools, sweep, watermarks
from scheduling.models import (
    Destination,
    SchedulingHistoryItem,
    SchedulingItem,
)
from tests.factories import MakeItem, make_database
from tests.scheduling.conftest import LogIn
from tests.services.smtp import SMTPServer

pytestmark = pytest.mark.django_db

SLOT = datetime(2026, 1, 18, 8, 0, tzinfo=UTC)
# Every run of the query gives other numbers, so equal files come from one run of it.
SQL = "SELECT id, random() AS chance FROM events ORDER BY id"


@pytest.fixture(autouse=True)
def spool_root(tmp_path: Path, settings: Settings) -> Path:
    settings.SPOOL_ROOT = tmp_path / "spool"
    return settings.SPOOL_ROOT


@pytest.fixture
def smtp(smtp_server: SMTPServer, settings: Settings) -> SMTPServer:
    settings.EMAIL_BACKEND = "queryexport.mail.SMTPBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = smtp_server.host, smtp_server.port
    settings.EMAIL_HOST_USER = settings.EMAIL_HOST_PASSWORD = ""
    settings.EMAIL_USE_TLS = settings.EMAIL_USE_SSL = False
    return smtp_server


@pytest.fixture
def item(make_item: MakeItem) -> SchedulingItem:
    """Writes a workbook, and has no further destination yet."""
    return make_item(sql=SQL, output_filename_template="own.xlsx", retry_delay_minutes=0)


def add(item: SchedulingItem, name: str, **values: Any) -> Destination:
    destination = Destination(item=item, name=name, **values)
    destination.full_clean()
    destination.save()
    return destination


def add_csv(item: SchedulingItem, name: str = "copy", **values: Any) -> Destination:
    defaults = {"output_format": "csv", "output_filename_template": f"{name}.csv"}
    return add(item, name, **(defaults | values))


def add_mail(item: SchedulingItem, to: str = "a@example.com", **values: Any) -> Destination:
    values |= {"output_format": "csv", "output_filename_template": "rows.csv"}
    return add(item, "mail", sharing_mode="email", email_to=to, **values)


def run_slot(item: SchedulingItem, **options: Any) -> SchedulingHistoryItem:
    run = runs.queue(item, SLOT, trigger=runs.Trigger.SCHEDULE)
    assert run
    return carry_out(run, **options)


def carry_out(run: SchedulingHistoryItem, **options: Any) -> SchedulingHistoryItem:
    runs.execute(run.pk, **options)
    return SchedulingHistoryItem.objects.get(pk=run.pk)


def next_attempt(run: SchedulingHistoryItem) -> SchedulingHistoryItem:
    return carry_out(run.next_attempts.get())


def outcomes(run: SchedulingHistoryItem) -> dict[str, str]:
    return dict(run.destinations.values_list("name", "status"))


def in_workbook(path: Path) -> list[list[str]]:
    rows = openpyxl.load_workbook(path).active.iter_rows(values_only=True)
    return [[str(value) for value in row] for row in rows]


def in_csv(path: Path) -> list[list[str]]:
    return [line.split(",") for line in path.read_text().splitlines()]


@pytest.fixture
def blocked(smtp: SMTPServer) -> dict[str, str]:
    """Answers of the mail server by which it takes nothing for now."""
    smtp.answers["MAIL"] = "450 4.3.2 Come back later"
    return smtp.answers


def attached_csv(smtp: SMTPServer) -> list[list[str]]:
    [message] = smtp.messages
    [attachment] = message.parsed().iter_attachments()
    content = attachment.get_payload(decode=True)
    assert isinstance(content, bytes)
    return [line.split(",") for line in content.decode().splitlines()]


def test_all_destinations_get_the_rows_of_one_query(
    item: SchedulingItem, export_root: Path, spool_root: Path
) -> None:
    add_csv(item)
    add_mail(item)
    run = run_slot(item)
    assert (run.status, run.error, run.row_count, run.rows_delivered) == ("success", "", 5, 5)
    assert outcomes(run) == {"File": "success", "copy": "success", "mail": "success"}
    assert in_workbook(export_root / "own.xlsx") == in_csv(export_root / "copy.csv")
    assert len(mail.outbox) == 1
    assert list(spool_root.iterdir()) == []


def test_each_destination_has_its_facts(item: SchedulingItem, export_root: Path) -> None:
    add_csv(item)
    run = run_slot(item)
    own, copy = run.destinations.order_by("pk")
    assert (own.is_own, own.path) == (True, str(export_root / "own.xlsx"))
    assert (copy.is_own, copy.path) == (False, str(export_root / "copy.csv"))
    assert copy.size_bytes == (export_root / "copy.csv").stat().st_size
    assert len(copy.sha256) == 64 and copy.rows_delivered == 5
    assert run.place == f"{own.path}; {copy.path}"


def test_a_run_with_one_destination_has_one_outcome(item: SchedulingItem) -> None:
    run = run_slot(item)
    [own] = run.destinations.all()
    assert (own.is_own, own.status, own.place, own.size_bytes) == (
        True, "success", run.place, run.size_bytes,
    )  # fmt: skip


def test_only_the_one_that_failed_is_tried_again_from_the_same_rows(
    item: SchedulingItem, export_root: Path, smtp: SMTPServer, blocked: dict[str, str],
    spool_root: Path,
) -> None:  # fmt: skip
    add_mail(item)
    first = run_slot(item)
    assert (first.status, first.rows_delivered) == ("partial", 0)
    assert first.error.startswith("1 of 2 destinations did not get all. “mail”: ")
    assert outcomes(first) == {"File": "success", "mail": "fail"}
    written = (export_root / "own.xlsx").stat()
    blocked.clear()
    second = next_attempt(first)
    assert (second.status, second.error, second.rows_delivered) == ("success", "", 5)
    assert outcomes(second) == {"mail": "success"}
    assert attached_csv(smtp) == in_workbook(export_root / "own.xlsx")
    after = (export_root / "own.xlsx").stat()
    assert (after.st_ino, after.st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    assert list(spool_root.iterdir()) == []


def test_the_history_has_the_statement_that_the_rows_come_from(
    item: SchedulingItem, blocked: dict[str, str]
) -> None:
    add_mail(item)
    first = run_slot(item)
    item.query.sql = "SELECT 1 AS other"
    item.query.save()
    blocked.clear()
    assert next_attempt(first).sql == SQL


def test_the_rows_stay_spooled_only_while_an_attempt_is_left(
    item: SchedulingItem, blocked: dict[str, str], spool_root: Path
) -> None:
    item.most_attempts = 2
    item.save()
    add_mail(item)
    first = run_slot(item)
    assert [path.name for path in spool_root.iterdir()] == [first.spool]
    second = next_attempt(first)
    assert (second.status, second.rows_delivered) == ("partial", 0)
    assert not second.next_attempts.exists()
    assert list(spool_root.iterdir()) == []


def test_all_of_them_failing_is_a_failure(
    item: SchedulingItem, blocked: dict[str, str], export_root: Path
) -> None:
    add_mail(item)
    (export_root / "own.xlsx").mkdir(parents=True)
    run = run_slot(item)
    assert (run.status, run.rows_delivered) == ("fail", 0)
    assert run.error.startswith("2 of 2 destinations")


def test_a_failed_query_reaches_no_destination(item: SchedulingItem, export_root: Path) -> None:
    add_csv(item)
    item.query.sql = "SELECT nothing FROM nowhere"
    item.query.save()
    run = run_slot(item)
    assert run.status == "fail"
    assert not run.destinations.exists()
    assert not export_root.exists() or list(export_root.iterdir()) == []


def test_what_cannot_pass_is_not_tried_again_and_not_forgotten(
    item: SchedulingItem, export_root: Path, blocked: dict[str, str]
) -> None:
    add_csv(item, "kept", output_on_existing="refuse")
    export_root.mkdir()
    (export_root / "kept.csv").write_text("of somebody else")
    add_mail(item)
    first = run_slot(item)
    assert outcomes(first) == {"File": "success", "kept": "fail", "mail": "fail"}
    blocked.clear()
    second = next_attempt(first)
    assert outcomes(second) == {"mail": "success"}
    assert (second.status, second.rows_delivered) == ("partial", 0)
    assert f"(since run {first.pk}, and not tried again)" in second.error
    assert not second.next_attempts.exists()
    assert (export_root / "kept.csv").read_text() == "of somebody else"


def test_nothing_that_may_pass_means_no_further_attempt(
    item: SchedulingItem, export_root: Path, spool_root: Path
) -> None:
    add_csv(item, "kept", output_on_existing="refuse")
    export_root.mkdir()
    (export_root / "kept.csv").write_text("of somebody else")
    run = run_slot(item)
    assert run.status == "partial"
    assert not run.next_attempts.exists()
    assert list(spool_root.iterdir()) == []


def test_disabled_destinations_get_nothing(item: SchedulingItem, export_root: Path) -> None:
    add_csv(item, enabled=False)
    assert outcomes(run_slot(item)) == {"File": "success"}
    assert [path.name for path in export_root.iterdir()] == ["own.xlsx"]


def test_without_the_destination_that_failed_all_others_have_their_rows(
    item: SchedulingItem, blocked: dict[str, str], spool_root: Path
) -> None:
    destination = add_mail(item)
    first = run_slot(item)
    destination.delete()
    second = next_attempt(first)
    assert (second.status, second.error) == ("success", "")
    assert (second.row_count, second.rows_delivered) == (5, 5)
    assert not second.destinations.exists()
    assert list(spool_root.iterdir()) == []


def test_without_the_spool_the_query_runs_once_more_for_the_one_that_failed(
    item: SchedulingItem, export_root: Path, smtp: SMTPServer, blocked: dict[str, str]
) -> None:
    add_mail(item)
    first = run_slot(item)
    spools.spool(first.spool).delete()
    blocked.clear()
    second = next_attempt(first)
    assert (second.status, second.row_count) == ("success", 5)
    assert outcomes(second) == {"mail": "success"}
    assert attached_csv(smtp) != in_workbook(export_root / "own.xlsx")


def test_running_again_by_hand_delivers_to_all(item: SchedulingItem, task_folder: Path) -> None:
    add_csv(item)
    first = run_slot(item)
    rerun = carry_out(again.run_again(first, user=None))
    assert outcomes(rerun) == {"File": "success", "copy": "success"}


class TestStopped:
    @pytest.fixture
    def stop_at_mail(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], None]:
        """Lets something happen when the message is about to be sent."""

        def stop(error: Exception) -> None:
            def fail(*args: Any, **kwargs: Any) -> None:
                raise error

            monkeypatch.setattr("django.core.mail.backends.locmem.EmailBackend.send_messages", fail)

        return stop

    def test_a_run_that_is_cancelled_in_between_keeps_what_was_delivered(
        self, item: SchedulingItem, stop_at_mail: Callable[[Exception], None], spool_root: Path
    ) -> None:
        add_mail(item)
        stop_at_mail(RunCancelled("Cancelled by paola."))
        run = run_slot(item)
        assert (run.status, run.error, run.rows_delivered) == (
            "cancelled",
            "Cancelled by paola.",
            0,
        )
        assert outcomes(run) == {"File": "success"}
        assert not run.next_attempts.exists()
        assert list(spool_root.iterdir()) == []

    def test_a_fault_of_the_program_keeps_what_was_delivered(
        self, item: SchedulingItem, monkeypatch: pytest.MonkeyPatch, spool_root: Path
    ) -> None:
        add_mail(item, email_subject="{date}")
        monkeypatch.setattr(Destination, "tokens", lambda *args, **kwargs: 1 / 0)
        run = runs.queue(item, SLOT, trigger=runs.Trigger.SCHEDULE)
        assert run
        with pytest.raises(ZeroDivisionError):
            runs.execute(run.pk)
        run.refresh_from_db()
        assert (run.status, outcomes(run)) == ("fail", {"File": "success"})
        assert list(spool_root.iterdir()) == []

    def test_a_worker_that_is_lost_in_between_repeats_only_the_rest(
        self, item: SchedulingItem, export_root: Path, spool_root: Path, smtp: SMTPServer
    ) -> None:
        add_mail(item)
        run = runs.queue(item, SLOT, trigger=runs.Trigger.SCHEDULE)
        assert run

        class Killed(BaseException):
            """As if nothing of the process were left."""

        def kill(*args: Any, **kwargs: Any) -> None:
            SchedulingHistoryItem.objects.filter(pk=run.pk).update(claim_token=uuid4())
            raise Killed

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(smtplib.SMTP, "mail", kill)
            with pytest.raises(Killed):
                runs.execute(run.pk)
        later = timezone.now() + 2 * sweep.LOST_AFTER
        assert sweep.sweep(later).lost == 1
        written = (export_root / "own.xlsx").stat().st_ino
        second = next_attempt(run)
        assert (second.status, outcomes(second)) == ("success", {"mail": "success"})
        assert attached_csv(smtp) == in_workbook(export_root / "own.xlsx")
        assert (export_root / "own.xlsx").stat().st_ino == written
        assert list(spool_root.iterdir()) == []


class TestMail:
    def test_a_message_refused_for_now_to_one_of_two_goes_to_that_one_alone(
        self, item: SchedulingItem, smtp: SMTPServer, export_root: Path
    ) -> None:
        add_mail(item, to="a@example.com|b@example.com")
        smtp.answers["RCPT b@example.com"] = "450 4.2.1 Mailbox is busy"
        first = run_slot(item)
        assert first.status == "partial"
        assert "b@example.com: 450 4.2.1 Mailbox is busy" in first.error
        row = first.destinations.get(is_own=False)
        assert row.recipients == {
            "a@example.com": "", "b@example.com": "450 4.2.1 Mailbox is busy",
        }  # fmt: skip
        del smtp.answers["RCPT b@example.com"]
        second = next_attempt(first)
        assert second.status == "success"
        assert [message.rcpt_tos for message in smtp.messages] == [
            ("a@example.com",), ("b@example.com",),
        ]  # fmt: skip
        one, other = (message.parsed() for message in smtp.messages)
        assert one["Message-ID"] == other["Message-ID"]
        assert one["To"] == other["To"] == "a@example.com, b@example.com"

    def test_the_same_holds_for_an_item_that_only_mails(
        self, make_item: MakeItem, smtp: SMTPServer
    ) -> None:
        item = make_item(
            sql=SQL, sharing_mode="email", email_to="a@example.com|b@example.com",
            retry_delay_minutes=0,
        )  # fmt: skip
        smtp.answers["RCPT b@example.com"] = "450 4.2.1 Mailbox is busy"
        first = run_slot(item)
        assert (first.status, first.rows_delivered, first.row_count) == ("partial", 5, 5)
        del smtp.answers["RCPT b@example.com"]
        assert next_attempt(first).status == "success"
        assert [message.rcpt_tos for message in smtp.messages] == [
            ("a@example.com",), ("b@example.com",),
        ]  # fmt: skip

    def test_who_was_refused_for_good_is_not_forgotten_by_the_next_attempt(
        self, item: SchedulingItem, smtp: SMTPServer
    ) -> None:
        add_mail(item, to="a@example.com|b@example.com|d@example.com")
        smtp.answers["RCPT b@example.com"] = "450 4.2.1 Mailbox is busy"
        smtp.refused_recipients.add("d@example.com")
        first = run_slot(item)
        del smtp.answers["RCPT b@example.com"]
        second = next_attempt(first)
        assert second.status == "partial"
        assert "2 of 3 recipients got the message. Refused were: d@example.com" in second.error
        assert [message.rcpt_tos for message in smtp.messages] == [
            ("a@example.com",), ("b@example.com",),
        ]  # fmt: skip
        assert not second.next_attempts.exists()

    def test_a_message_refused_for_good_to_one_of_two_is_partial_and_final(
        self, make_item: MakeItem, smtp: SMTPServer
    ) -> None:
        item = make_item(sql=SQL, sharing_mode="email", email_to="a@example.com|b@example.com")
        smtp.refused_recipients.add("b@example.com")
        run = run_slot(item)
        assert run.status == "partial"
        assert run.error.startswith("1 of 2 recipients got the message.")
        assert not run.next_attempts.exists()

    def test_all_refused_is_a_failure(self, make_item: MakeItem, smtp: SMTPServer) -> None:
        item = make_item(sql=SQL, sharing_mode="email", email_to="b@example.com")
        smtp.refused_recipients.add("b@example.com")
        run = run_slot(item)
        assert (run.status, run.rows_delivered) == ("fail", 0)

    def test_no_rows_and_nothing_sent_is_skipped(
        self, make_item: MakeItem, smtp: SMTPServer
    ) -> None:
        item = make_item(
            sql="SELECT id FROM events WHERE id < 0", sharing_mode="email",
            email_to="a@example.com", email_no_rows="skip",
        )  # fmt: skip
        run = run_slot(item)
        assert (run.status, run.error) == ("skipped", "No mail was sent: the query gave no rows.")
        assert smtp.messages == []

    def test_a_message_that_is_too_large_says_where_the_file_is(
        self, make_item: MakeItem, smtp: SMTPServer, settings: Settings, export_root: Path
    ) -> None:
        settings.EMAIL_MOST_BYTES, settings.SITE_URL = 2000, "https://exports.example.com"
        item = make_item(
            sql=SQL, sharing_mode="email", email_to="a@example.com", email_too_large="link",
            output_filename_template="large.xlsx",
        )  # fmt: skip
        run = run_slot(item)
        assert run.status == "success", run.error
        row = run.destinations.get()
        assert row.path == str(export_root / "large.xlsx")
        assert len(in_workbook(Path(row.path))) == 6
        text = smtp.messages[0].parsed().get_content()
        assert (
            f"https://exports.example.com/admin/scheduling/schedulinghistoryitem/{run.pk}" in text
        )

    def test_tokens_are_those_of_the_run(self, make_item: MakeItem, smtp: SMTPServer) -> None:
        item = make_item(
            sql=SQL, sharing_mode="email", email_to="a@example.com",
            email_subject="{item}: {row_count} rows of {date-1}", name="Traces",
            email_body="{file_name} {run_id} {run_url}", output_filename_template="{run_id}.xlsx",
        )  # fmt: skip
        run = run_slot(item)
        message = smtp.messages[0].parsed()
        assert message["Subject"] == "Traces: 5 rows of 2026-01-17"
        body = message.get_body(("plain",))
        assert body
        assert body.get_content().startswith(f"{run.pk}.xlsx {run.pk} ")


class TestKafka:
    def test_messages_and_a_file_are_counted_each_for_itself(
        self, item: SchedulingItem, broker: EmbeddedBroker, export_root: Path
    ) -> None:
        add(item, "topic", sharing_mode="kafka", kafka_topic="events", kafka_key_field="id")
        run = run_slot(item)
        assert (run.status, run.rows_delivered) == ("success", 5)
        assert (run.kafka_topic, run.kafka_messages_sent, run.kafka_messages_failed) == (
            "events", 5, 0,
        )  # fmt: skip
        assert outcomes(run) == {"File": "success", "topic": "success"}

    def test_undelivered_messages_are_kept_and_sent_again_by_hand(
        self, item: SchedulingItem, broker: EmbeddedBroker, export_root: Path, task_folder: Path
    ) -> None:
        add(item, "topic", sharing_mode="kafka", kafka_topic="events", kafka_key_field="id",
            kafka_batch_size=1, kafka_least_percent=10)  # fmt: skip
        broker.refuse_next(0, KafkaError.INVALID_RECORD, 0, KafkaError.INVALID_RECORD)
        run = run_slot(item)
        assert outcomes(run)["File"] == "success"
        assert run.status == "partial"
        assert (run.kafka_messages_sent, run.kafka_messages_failed) == (3, 2)
        assert run.undelivered_kept == 2
        assert not run.next_attempts.exists()
        replay = carry_out(replays.replay(run, user=None))
        assert (replay.status, replay.rows_delivered) == ("success", 2)
        assert outcomes(replay) == {"topic": "success"}

    def test_an_item_goes_to_one_topic(self, make_item: MakeItem) -> None:
        item = make_item(sharing_mode="kafka", kafka_topic="events", kafka_key_field="id")
        with pytest.raises(ValidationError, match="one Kafka topic"):
            add(item, "topic", sharing_mode="kafka", kafka_topic="other", kafka_key_field="id")

    def test_the_database_refuses_a_second_topic(self, item: SchedulingItem) -> None:
        values = {"sharing_mode": "kafka", "kafka_topic": "events", "kafka_key_field": "id"}
        Destination.objects.create(item=item, name="one", **values)
        with pytest.raises(IntegrityError), transaction.atomic():
            Destination.objects.create(item=item, name="two", **values)


def test_an_attempt_from_the_spool_moves_the_watermark_of_its_rows(
    make_item: MakeItem, blocked: dict[str, str], tracking: Path
) -> None:
    item = make_item(
        sql="SELECT id FROM events WHERE id > :watermark_from AND id <= :watermark_to",
        watermark_column="id", watermark_kind="number", output_filename_template="own.xlsx",
        retry_delay_minutes=0,
    )  # fmt: skip
    watermarks.set_by_hand(item, "2", user=None, reason="A test.", seen=None)
    add_mail(item)
    first = run_slot(item)
    assert (first.watermark_to, first.watermark_moved) == ("5", False)
    make_database(tracking, "INSERT INTO events VALUES (6, '2026-01-06', 'later')")
    blocked.clear()
    second = next_attempt(first)
    assert (second.status, second.watermark_to, second.row_count) == ("success", "5", 3)
    latest = watermarks.current(item)
    assert latest and latest.value == "5"


class TestClear:
    @pytest.fixture
    def old_file(self, spool_root: Path) -> Path:
        spool_root.mkdir()
        path = spool_root / "run-7-abc.rows"
        path.write_bytes(b"x")
        return path

    def test_what_no_run_needs_is_deleted(self, old_file: Path) -> None:
        assert spools.clear(timezone.now() + timedelta(hours=2)) == 1
        assert not old_file.exists()

    def test_what_is_young_stays(self, old_file: Path) -> None:
        assert spools.clear(timezone.now()) == 0
        assert old_file.exists()

    def test_what_a_running_run_is_writing_stays(
        self, item: SchedulingItem, spool_root: Path
    ) -> None:
        run = runs.queue(item, SLOT, trigger=runs.Trigger.SCHEDULE)
        assert run and run.claim("a worker")
        spool_root.mkdir()
        part = spool_root / f".{spools.new_name(run)}.part"
        part.write_bytes(b"x")
        later = timezone.now() + timedelta(hours=2)
        assert spools.clear(later) == 0
        run.finish(runs.Status.FAIL, error="It broke.")
        assert spools.clear(later) == 1

    def test_what_an_unfinished_run_needs_stays(self, item: SchedulingItem, old_file: Path) -> None:
        run = runs.queue(item, SLOT, trigger=runs.Trigger.SCHEDULE)
        assert run
        SchedulingHistoryItem.objects.filter(pk=run.pk).update(spool=old_file.name)
        assert spools.clear(timezone.now() + timedelta(hours=2)) == 0
        assert old_file.exists()


class TestByHand:
    """A person sends the rows to what did not get all."""

    @pytest.fixture
    def refused(self, item: SchedulingItem, export_root: Path) -> SchedulingHistoryItem:
        """A run of which a further destination got nothing, for a reason that cannot pass."""
        add_csv(item, output_on_existing="refuse")
        export_root.mkdir()
        (export_root / "copy.csv").write_text("of somebody else")
        return run_slot(item)

    def test_only_what_is_missing_is_delivered(
        self, item: SchedulingItem, refused: SchedulingHistoryItem, export_root: Path,
        task_folder: Path,
    ) -> None:  # fmt: skip
        assert again.missing(refused) == ["copy"]
        (export_root / "copy.csv").unlink()
        written = (export_root / "own.xlsx").stat().st_ino
        rerun = carry_out(again.run_again(refused, user=None, missing_only=True))
        assert (rerun.status, outcomes(rerun)) == ("success", {"copy": "success"})
        assert (export_root / "own.xlsx").stat().st_ino == written
        assert again.missing(rerun) == []

    def test_nothing_missing_is_said(self, item: SchedulingItem, task_folder: Path) -> None:
        add_csv(item)
        run = run_slot(item)
        with pytest.raises(ConfigurationError, match="Each destination of run"):
            again.run_again(run, user=None, missing_only=True)

    def test_recipients_refused_for_good_are_tried_when_asked(
        self, item: SchedulingItem, smtp: SMTPServer, task_folder: Path
    ) -> None:
        add_mail(item, to="a@example.com|b@example.com")
        smtp.refused_recipients.add("b@example.com")
        run = run_slot(item)
        smtp.refused_recipients.clear()
        rerun = carry_out(again.run_again(run, user=None, missing_only=True))
        assert rerun.status == "success"
        assert [message.rcpt_tos for message in smtp.messages] == [
            ("a@example.com",), ("b@example.com",),
        ]  # fmt: skip

    def test_the_page_offers_it_and_does_it(
        self, refused: SchedulingHistoryItem, log_in: LogIn, export_root: Path, task_folder: Path
    ) -> None:
        browser = log_in("view_schedulinghistoryitem", "run_schedulingitem")
        url = reverse("admin:scheduling_schedulinghistoryitem_again", args=[refused.pk])
        page = browser.get(url).content.decode()
        assert "Only to what did not get all: “copy”" in page
        assert "The file own.xlsx is written. One of that name is replaced." in page
        assert "The file copy.csv is written. If there is one of that name, the run fails." in page
        browser.post(url, {"missing_only": "on"})
        [queued] = refused.next_attempts.all()
        assert queued.carries_on


def test_what_a_lost_worker_was_writing_is_removed(item: SchedulingItem, export_root: Path) -> None:
    run = runs.queue(item, SLOT, trigger=runs.Trigger.SCHEDULE)
    assert run and run.claim("a worker that is gone")
    export_root.mkdir()
    part = export_root / f".query-export-{uuid4().hex}.part"
    part.write_bytes(b"half of it")
    (export_root / "own.xlsx").write_bytes(b"of yesterday")
    assert sweep.sweep(timezone.now() + 2 * sweep.LOST_AFTER).lost == 1
    assert [path.name for path in export_root.iterdir()] == ["own.xlsx"]
