"""Makes the rows that tests need, with sensible values for all that a test does not name."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from kafka_sink.models import KafkaConnection
from queryexport.models import DatabaseConnection, Query
from scheduling.models import SchedulingItem

MakeItem = Callable[..., SchedulingItem]


def make_database(path: Path, *statements: str) -> Path:
    """A SQLite file in which these statements have been run."""
    with closing(sqlite3.connect(path)) as database, database:
        for statement in statements:
            database.execute(statement)
    return path


def make_connection(database: Path | str, **values: Any) -> DatabaseConnection:
    defaults = {"name": "tracking", "engine": "sqlite", "database": str(database)}
    return DatabaseConnection.objects.create(**(defaults | values))


def make_query(sql: str, **values: Any) -> Query:
    return Query.objects.create(**({"name": "CDG-TEST-001--Rows.sql", "sql": sql} | values))


def make_kafka_connection(bootstrap_servers: str, **values: Any) -> KafkaConnection:
    defaults = {"name": "default", "bootstrap_servers": bootstrap_servers}
    return KafkaConnection.objects.create(**(defaults | values))
