"""What cannot work ends as a failed row that names the thing, the cause and the next step."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kafka_sink.broker import EmbeddedBroker
from scheduling import runs
from scheduling.models import SchedulingHistoryItem, SchedulingItem
from tests.factories import MakeItem, make_connection, make_kafka_connection
from tests.services.postgresql import PostgreSQL

SLOT = datetime(2026, 1, 18, 8, 0, tzinfo=UTC)
SECRET = "correct horse battery staple"


def failed(item: SchedulingItem, **values: Any) -> SchedulingHistoryItem:
    """Runs the item with values that its form would have refused, and expects it to fail."""
    SchedulingItem.objects.filter(pk=item.pk).update(**values)
    item.refresh_from_db()
    queued = runs.queue(item, SLOT, trigger=runs.Trigger.SCHEDULE)
    assert queued
    runs.execute(queued.pk)
    queued.refresh_from_db()
    assert queued.status == "fail"
    assert SECRET not in queued.error
    assert queued.rows_delivered == 0
    return queued


@pytest.fixture
def embedded_broker(db: None) -> Any:
    with EmbeddedBroker(topics={"events": 1}) as broker:
        make_kafka_connection(broker.bootstrap_servers)
        yield broker


KAFKA = {"sharing_mode": "kafka", "kafka_topic": "events"}


@pytest.mark.services
def test_a_wrong_password(make_item: MakeItem, postgresql: PostgreSQL) -> None:
    connection = make_connection(
        postgresql.database, engine="postgresql", host=postgresql.host, port=postgresql.port,
        username=postgresql.user, password=SECRET,
    )  # fmt: skip
    error = failed(make_item(sql="SELECT 1 AS id", connection=connection)).error
    assert "Cannot connect to “tracking”" in error
    assert "password authentication failed" in error
    assert "Check host, port, database, user and password" in error


def test_an_unknown_host(make_item: MakeItem) -> None:
    connection = make_connection(
        "d", engine="postgresql", host="no-such-host.invalid", port=5432, password=SECRET
    )
    error = failed(make_item(sql="SELECT 1 AS id", connection=connection)).error
    assert "no-such-host.invalid:5432" in error
    assert "Check host" in error


def test_an_unset_variable_in_a_secret(make_item: MakeItem, tracking: Path) -> None:
    connection = make_connection(tracking, password="${NOT_SET_ANYWHERE}")
    error = failed(make_item(connection=connection)).error
    assert "NOT_SET_ANYWHERE is not set" in error


def test_a_missing_table(make_item: MakeItem, export_root: Path) -> None:
    error = failed(make_item(sql="SELECT * FROM no_such_table")).error
    assert "no such table: no_such_table" in error
    assert "“tracking”" in error
    assert "Correct the query" in error
    assert list(export_root.rglob("*")) == []


def test_a_missing_parameter(make_item: MakeItem) -> None:
    error = failed(make_item(sql="SELECT * FROM events WHERE day = :day")).error
    assert "uses :day but the item gives no value. Add it" in error


def test_a_missing_topic(make_item: MakeItem, embedded_broker: EmbeddedBroker) -> None:
    run = failed(make_item(**KAFKA), kafka_topic="no-such-topic")
    assert "no-such-topic" in run.error
    assert "does not exist" in run.error


def test_a_missing_kafka_connection(make_item: MakeItem) -> None:
    error = failed(make_item(**KAFKA, kafka_connection="nowhere")).error
    assert "Kafka connection “nowhere”, which does not exist. Create it" in error


@pytest.mark.django_db(transaction=True)  # Its watchdog, in a thread, has to see the row.
def test_a_dead_kafka_cluster(make_item: MakeItem) -> None:
    make_kafka_connection("127.0.0.1:1")
    run = failed(make_item(**KAFKA))
    assert "127.0.0.1:1" in run.error
    assert run.duration_sec is not None
    assert run.duration_sec < 15


def test_a_key_field_that_the_query_does_not_return(
    make_item: MakeItem, embedded_broker: EmbeddedBroker
) -> None:
    run = failed(make_item(**KAFKA, kafka_key_field="codice"))
    assert "codice" in run.error
    assert "id, day, note" in run.error
    assert run.kafka_messages_sent == 0


def test_an_unknown_token_in_a_template(make_item: MakeItem, export_root: Path) -> None:
    error = failed(make_item(), output_filename_template="{nome}.xlsx").error
    assert "unknown token {nome}. Known are {query_name}" in error
    assert list(export_root.rglob("*")) == []


@pytest.mark.parametrize("folder", ["../outside", "/etc"])
def test_a_path_outside_the_export_folder(
    make_item: MakeItem, export_root: Path, folder: str
) -> None:
    error = failed(make_item(), output_dir=folder).error
    assert f"“{folder}” lies outside the export folder" in error
    assert list(export_root.parent.glob("outside*")) == []


def test_a_file_that_is_not_to_be_replaced(make_item: MakeItem, export_root: Path) -> None:
    export_root.mkdir()
    (export_root / "rows.xlsx").write_text("of somebody else")
    item = make_item(output_filename_template="rows.xlsx", output_on_existing="refuse")
    error = failed(item).error
    assert f"{export_root / 'rows.xlsx'} exists already" in error
    assert "Move it away" in error
    assert (export_root / "rows.xlsx").read_text() == "of somebody else"


def test_a_row_that_a_message_cannot_hold(
    make_item: MakeItem, embedded_broker: EmbeddedBroker
) -> None:
    sql = "SELECT CASE WHEN id < 3 THEN id END AS id FROM events ORDER BY events.id"
    item = make_item(**KAFKA, sql=sql)
    queued = runs.queue(item, SLOT, trigger=runs.Trigger.SCHEDULE)
    assert queued
    runs.execute(queued.pk)
    queued.refresh_from_db()
    assert queued.status == "fail"
    assert "row 3" in queued.error.lower()
    assert queued.kafka_messages_sent is not None
    assert queued.kafka_messages_sent <= 2
