"""The main job on real data: all flights leave PostgreSQL as a file, an e-mail and messages."""

import io
import json
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from openpyxl import load_workbook

from tests.end_to_end.installation import Installation, install
from tests.flights import COLUMNS, ROW_COUNT
from tests.services.kafka import KafkaBroker
from tests.services.postgresql import PostgreSQL
from tests.services.redis_server import RedisServer
from tests.services.smtp import ReceivedMessage
from tests.services.smtp import running as smtp_running

pytestmark = [pytest.mark.services, pytest.mark.slow]

TOPIC = "flights"
PARTITIONS = 3
QUERY = "NYC-FLIGHTS-001--Flights.sql"
SQL = "SELECT row_number() OVER (ORDER BY f.ctid) AS id, f.* FROM flights AS f ORDER BY 1"
MODES = ("filesystem", "email", "kafka")
MOST_MEMORY_MB = 250
RUNS_WITHIN_SEC = 600


@dataclass(frozen=True)
class Exported:
    """What one firing of the three items left behind."""

    installation: Installation
    history: Mapping[str, Mapping[str, Any]]
    peak_memory_mb: Mapping[str, float]
    mails: tuple[ReceivedMessage, ...]
    ticks: int


@pytest.fixture(scope="module")
def exported(
    flights_postgresql: PostgreSQL,
    redis_server: RedisServer,
    kafka: KafkaBroker,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Exported]:
    """Three items, fired once by beat and run by a worker, each a process of its own."""
    kafka.create_topic(TOPIC, PARTITIONS)
    _create_database(flights_postgresql, "query_export_flights")
    with smtp_running() as smtp:
        installation = install(
            tmp_path_factory.mktemp("installation"),
            DATABASE_URL=f"{flights_postgresql.url.rpartition('/')[0]}/query_export_flights",
            CELERY_BROKER_URL=redis_server.url,
            EMAIL_URL=f"smtp://{smtp.host}:{smtp.port}",
            EMAIL_MOST_BYTES="0",
            FLIGHTS_PASSWORD=flights_postgresql.password,
        )
        installation.load(_rows(flights_postgresql, kafka, _soon()))
        installation.manage("sync_beat")
        with (
            installation.celery("worker", "--concurrency=3", "--loglevel=INFO"),
            installation.celery("beat", "--pidfile=", f"--schedule={installation.folder}/beat"),
        ):
            history = _wait_for_history(installation)
            memory = {mode: _peak_memory_mb(row["worker"]) for mode, row in history.items()}
        yield Exported(installation, history, memory, tuple(smtp.messages), len(history))


def test_each_item_ran_once_and_its_history_says_so(exported: Exported) -> None:
    assert sorted(row["export_mode"] for row in exported.installation.history()) == sorted(MODES)
    for mode in MODES:
        row = exported.history[mode]
        assert (row["status"], row["error"]) == ("success", "")
        assert (row["row_count"], row["rows_delivered"]) == (ROW_COUNT, ROW_COUNT)
        assert (row["trigger"], row["attempt"]) == ("schedule", 1)
        assert row["sql"] == SQL
        assert row["scheduled_for"].endswith(":00Z")


def test_every_cell_of_the_file_equals_the_database(
    exported: Exported, flights_postgresql: PostgreSQL
) -> None:
    [path] = exported.installation.exports.rglob("*.xlsx")
    assert exported.history["filesystem"]["place"] == str(path)
    assert exported.history["filesystem"]["size_bytes"] == path.stat().st_size
    workbook = load_workbook(path, read_only=True)
    with closing(workbook):
        cells = workbook["data"].iter_rows(values_only=True)
        assert list(next(cells)) == ["id", *(column.name for column in COLUMNS)]
        count = 0
        for cell_row, row in zip(cells, _flights(flights_postgresql), strict=True):
            count += 1
            # A workbook knows no zones: the time is that of the item's zone, UTC.
            assert cell_row == (*row[:-1], row[-1].astimezone(UTC).replace(tzinfo=None))
        assert count == ROW_COUNT


def test_the_mail_carries_the_same_sheet(exported: Exported) -> None:
    [mail] = exported.mails
    assert set(mail.rcpt_tos) == {"a@example.com", "b@example.com", "c@example.com"}
    message = mail.parsed()
    assert message["Subject"] == "Flights NYC-FLIGHTS-001--Flights"
    [attachment] = message.iter_attachments()
    content = attachment.get_payload(decode=True)
    assert isinstance(content, bytes)
    assert len(content) == exported.history["email"]["size_bytes"]
    [path] = exported.installation.exports.rglob("*.xlsx")
    assert attachment.get_filename() == path.name
    assert _sheet(io.BytesIO(content)) == _sheet(path)


def test_every_row_is_in_the_topic_once_with_its_key(
    exported: Exported, kafka: KafkaBroker, flights_postgresql: PostgreSQL
) -> None:
    row = exported.history["kafka"]
    found: dict[int, dict[str, Any]] = {}
    for key, value in _consume(kafka):
        record = json.loads(value)
        assert key == str(record["id"]).encode()
        assert record["id"] not in found, "a row is in the topic twice"
        metadata = record.pop("_metadata")
        assert metadata.pop("export_timestamp")[:10] == row["started_at"][:10]
        assert metadata == {
            "source_query": QUERY,
            "source_connection": "flights",
            "export_id": row["export_id"],
        }
        found[record["id"]] = record
    assert len(found) == ROW_COUNT == row["kafka_messages_sent"]
    assert row["kafka_messages_failed"] == 0
    names = ["id", *(column.name for column in COLUMNS)]
    for flight in _flights(flights_postgresql):
        expected = dict(zip(names, flight, strict=True))
        expected["time_hour"] = expected["time_hour"].isoformat()
        actual = found[flight[0]]
        actual["time_hour"] = (
            datetime.fromisoformat(actual["time_hour"]).astimezone(UTC).isoformat()
        )
        assert actual == expected


def test_memory_stays_small_in_all_three(
    exported: Exported, record_testsuite_property: Any
) -> None:
    print({mode: round(peak) for mode, peak in exported.peak_memory_mb.items()})
    for mode, peak in exported.peak_memory_mb.items():
        record_testsuite_property(f"peak_memory_mb_{mode}", peak)
        assert peak < MOST_MEMORY_MB, mode


def test_no_password_is_in_any_log_or_history(
    exported: Exported, flights_postgresql: PostgreSQL, redis_server: RedisServer
) -> None:
    texts = [exported.installation.log(name).read_text() for name in ("worker", "beat")]
    texts.append(json.dumps(exported.installation.history()))
    for secret in (flights_postgresql.password, redis_server.password):
        assert not any(secret in text for text in texts)


def _rows(database: PostgreSQL, kafka: KafkaBroker, moment: datetime) -> list[dict[str, Any]]:
    connection = {
        "name": "flights",
        "engine": "postgresql",
        "host": database.host,
        "port": database.port,
        "database": database.database,
        "username": database.user,
        "password": "${FLIGHTS_PASSWORD}",
    }
    item = {
        "query": 1,
        "connection": 1,
        "scheduling_mode": "cron",
        "cron_expression": f"{moment.minute} {moment.hour} * * *",
        "timezone": "UTC",
        "email_to": "a@example.com|b@example.com",
        "email_cc": "c@example.com",
        "email_subject": "Flights {query_name}",
        "kafka_topic": TOPIC,
        "kafka_batch_size": 10_000,
    }
    return [
        {"model": "queryexport.databaseconnection", "pk": 1, "fields": connection},
        {"model": "queryexport.query", "pk": 1, "fields": {"name": QUERY, "sql": SQL}},
        {
            "model": "kafka_sink.kafkaconnection",
            "pk": 1,
            "fields": {"name": "default", "bootstrap_servers": kafka.bootstrap_servers},
        },
        *(
            {
                "model": "scheduling.schedulingitem",
                "pk": number,
                "fields": {**item, "name": f"Flights by {mode}", "sharing_mode": mode},
            }
            for number, mode in enumerate(MODES, start=1)
        ),
    ]


def _soon() -> datetime:
    """The start of a minute that leaves worker and beat time to come up."""
    return (datetime.now(UTC) + timedelta(seconds=75)).replace(second=0, microsecond=0)


def _wait_for_history(installation: Installation) -> dict[str, dict[str, Any]]:
    deadline = time.monotonic() + RUNS_WITHIN_SEC
    while time.monotonic() < deadline:
        rows = {row["export_mode"]: row for row in installation.history()}
        if len(rows) == len(MODES) and all(row["finished_at"] for row in rows.values()):
            return rows
        time.sleep(2)
    logs = "\n".join(installation.log(name).read_text()[-4000:] for name in ("worker", "beat"))
    raise AssertionError(f"The runs did not end in {RUNS_WITHIN_SEC} s: {rows}\n{logs}")


def _peak_memory_mb(worker: str) -> float:
    """The most memory that the worker's process has held at once, by the kernel's own account."""
    pid = int(worker.rpartition(":")[2])
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return int(status["VmHWM"].split()[0]) / 1024


def _create_database(server: PostgreSQL, name: str) -> None:
    with closing(server.connect(autocommit=True)) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        connection.execute(f"CREATE DATABASE {name}")


def _flights(database: PostgreSQL) -> Iterator[tuple[Any, ...]]:
    with database.connect() as connection, connection.cursor(name="flights") as cursor:
        cursor.itersize = 10_000
        cursor.execute(SQL)
        for row in cursor:
            yield (*row[:-1], row[-1].astimezone(UTC))


def _sheet(file: Any) -> bytes:
    with zipfile.ZipFile(file) as archive:
        return archive.read("xl/worksheets/sheet1.xml")


def _consume(kafka: KafkaBroker) -> Iterator[tuple[bytes, bytes]]:
    """Every message of the topic, by its offsets and not by waiting for silence."""
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": "test"})
    with closing(consumer):
        ends = {}
        for partition in range(PARTITIONS):
            place = TopicPartition(TOPIC, partition, 0)
            ends[partition] = consumer.get_watermark_offsets(place, timeout=10)[1]
        consumer.assign([TopicPartition(TOPIC, partition, 0) for partition in ends])
        left = sum(ends.values())
        while left:
            for message in consumer.consume(10_000, timeout=30):
                assert message.error() is None
                yield message.key(), message.value()
                left -= 1
