"""A small tracking database, and items over it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from pytest_django import Settings

from kafka_sink.broker import EmbeddedBroker
from queryexport.models import Query
from scheduling.models import SchedulingItem
from tests.factories import (
    MakeItem,
    make_connection,
    make_database,
    make_kafka_connection,
    make_query,
)

ROWS = 5
LogIn = Callable[..., Client]


@pytest.fixture
def tracking(tmp_path: Path) -> Path:
    """A SQLite file with the table `events`: id 1 to 5, day 2026-01-01 to 2026-01-05, text."""
    rows = (f"INSERT INTO events VALUES ({n}, '2026-01-0{n}', 'event {n}')" for n in range(1, 6))
    return make_database(
        tmp_path / "tracking.sqlite3",
        "CREATE TABLE events (id INTEGER, day TEXT, note TEXT)",
        *rows,
    )


@pytest.fixture
def undelivered_root(tmp_path: Path, settings: Settings) -> Path:
    """An empty folder of this test's own for undelivered rows."""
    settings.UNDELIVERED_ROOT = tmp_path / "undelivered"
    return settings.UNDELIVERED_ROOT


@pytest.fixture
def make_item(db: None, tracking: Path, export_root: Path, undelivered_root: Path) -> MakeItem:
    """Creates an item that runs daily at 08:00 UTC; the keywords are its fields, and `sql`."""

    def make(*, sql: str = "SELECT id, day, note FROM events", **values: Any) -> SchedulingItem:
        number = SchedulingItem.objects.count() + 1
        query = Query.objects.filter(sql=sql).first()
        defaults = {
            "name": f"Item {number}",
            "query": query or make_query(sql, name=f"CDG-TEST-{number:03d}--Rows.sql"),
            "scheduling_mode": "cron",
            "cron_expression": "0 8 * * *",
            "timezone": "UTC",
        }
        if "connection" not in values:
            values["connection"] = getattr(make, "connection", None) or make_connection(tracking)
            make.connection = values["connection"]  # type: ignore[attr-defined]
        return SchedulingItem.objects.create(**(defaults | values))

    return make


@pytest.fixture
def log_in(db: None) -> LogIn:
    """A browser of somebody with these permissions, named by their codes, and no others."""

    def log_in(*permissions: str) -> Client:
        user = User.objects.create_user("staff", is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
        client = Client()
        client.force_login(user)
        return client

    return log_in


@pytest.fixture
def broker(db: None) -> Iterator[EmbeddedBroker]:
    """A broker with the topics `events` and `dead`, and the Kafka connection that leads to it."""
    with EmbeddedBroker({"events": 1, "dead": 1}) as broker:
        make_kafka_connection(broker.bootstrap_servers)
        yield broker


@pytest.fixture
def task_folder(settings: Settings) -> Iterator[Path]:
    """The folder that Celery's messages go to in these tests, without any of them after it."""
    folder = Path(settings.CELERY_BROKER_TRANSPORT_OPTIONS["data_folder_in"])
    folder.mkdir(parents=True, exist_ok=True)
    before = set(folder.iterdir())
    yield folder
    for message in set(folder.iterdir()) - before:
        message.unlink()
