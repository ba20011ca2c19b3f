"""The two sides of `make bench-kafka` in Python, each run as a process: `loop` and `product`."""

import json
import os
import sqlite3
import sys
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, date, datetime
from typing import Any

import psycopg
import pymysql
from confluent_kafka import Producer

from kafka_sink.config import KafkaSettings
from kafka_sink.sink import KafkaSink
from queryexport.engines import ConnectionSettings
from queryexport.source import open_query

QUERY = "SELECT id, codice, data_evento, ora_evento, stato, ufficio, note FROM events ORDER BY id"


def _loop() -> int:
    """What one writes first."""
    producer = Producer(
        {
            "bootstrap.servers": os.environ["BENCH_BOOTSTRAP"],
            "enable.idempotence": True,
            "compression.type": "lz4",
            "partitioner": "murmur2_random",
        }
    )
    with closing(connect(json.loads(os.environ["BENCH_SOURCE"]))) as connection:
        cursor = connection.cursor()
        cursor.execute(QUERY)
        names = [column[0] for column in cursor.description or ()]
        for number, row in enumerate(cursor.fetchall(), start=1):
            record = dict(zip(names, row, strict=True))
            value = json.dumps(record, default=_text, separators=(",", ":"), ensure_ascii=False)
            producer.produce("bench-b", value, record["codice"])
            if number % 100 == 0:
                producer.flush()
        producer.flush()
    return 0


def _text(value: object) -> str:
    assert isinstance(value, date)
    if isinstance(value, datetime) and value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    return value.isoformat()


def _product() -> int:
    """The product's own road: `open_query` into `KafkaSink`."""
    source = ConnectionSettings(name="bench", **json.loads(os.environ["BENCH_SOURCE"]))
    kafka = KafkaSettings(name="bench", bootstrap_servers=os.environ["BENCH_BOOTSTRAP"])
    sink = KafkaSink(
        kafka, topic="bench-c", key_field="codice", batch_size=10_000, envelope=None, zone=UTC
    )
    with open_query(source, QUERY) as result:
        receipt = sink.deliver(result, NoProgress())
    print(f"   acknowledged {receipt.rows:,} of {receipt.handed:,}")
    return 0 if receipt.rows == receipt.handed else 1


class NoProgress:
    """Nobody watches."""

    def delivered(self, rows: int) -> None:
        """Not written anywhere."""

    def arrived(self, rows: int) -> None:
        """Not written anywhere."""

    def check(self) -> None:
        """Never taken over."""


SIDES = {"loop": _loop, "product": _product}


def connect(connection: Mapping[str, Any]) -> Any:
    """A connection as one opens it first, by the driver's defaults."""
    where = {name: connection.get(name) for name in ("host", "port", "password")}
    user, database = connection.get("username"), connection["database"]
    match connection["engine"]:
        case "postgresql":
            return psycopg.connect(user=user, dbname=database, **where)
        case "mysql":
            return pymysql.connect(user=user, database=database, **where)
    return sqlite3.connect(database)


if __name__ == "__main__":
    sys.exit(SIDES[sys.argv[1]]())
