"""`make bench-kafka`: rows of a database to a topic, by the C tools, a plain loop, and us.

The three send the same key and value bytes to the same broker, each as processes of its own, whose
time and memory the kernel accounts for:

(a) the database's own client printing the messages, piped into `kcat -P`: all of it C;
(b) what one writes first: fetchall, json.dumps, produce, flush after each 100 rows;
(c) this product: its query and sink, every acknowledgement counted; no metadata, no headers.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime

from confluent_kafka import Consumer, TopicPartition

from benchmarks.kafka_sources import SOURCES, Source
from benchmarks.measure import Measured, measured, print_table
from kafka_sink.broker import EmbeddedBroker
from tests.services import kafka as kafka_service

PARTITIONS = 4
TOPICS = ("bench-a", "bench-b", "bench-c")
TOOLS = {"postgresql": "psql", "mariadb": "mariadb", "sqlite": "sqlite3"}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-kafka", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--database", choices=SOURCES, action="append")
    parser.add_argument("--only", choices=("product",), help="measure side (c) alone")
    arguments = parser.parse_args()
    databases = arguments.database or list(SOURCES)
    for tool in ("kcat", *(TOOLS[database] for database in databases)):
        if not shutil.which(tool):
            print(f"{tool} is needed for the side in C; on Debian: apt-get install {tool}")
            return 1
    for database in databases:
        with SOURCES[database](arguments.rows) as source:
            _compare_on_each_cluster(database, source, arguments)
    return 0


def _compare_on_each_cluster(database: str, source: Source, arguments: argparse.Namespace) -> None:
    for cluster, servers in _clusters():
        sides = _sides(source, servers, arguments)
        # The mock cluster keeps only the last 5 MB of a partition.
        if cluster.startswith("Apache") and len(sides) == len(TOPICS):
            _check_same_messages(servers, arguments.rows)
        moment = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        print_table(f"{database} to {cluster}, {moment}", sides)


def _clusters() -> Iterator[tuple[str, str]]:
    """Each cluster by name and address; new topics every time."""
    with kafka_service.running() as kafka:
        for topic in TOPICS:
            kafka.create_topic(topic, PARTITIONS)
        yield f"Apache Kafka {kafka.version}", kafka.bootstrap_servers
    with EmbeddedBroker(dict.fromkeys(TOPICS, PARTITIONS)) as broker:
        yield "librdkafka's mock cluster", broker.bootstrap_servers


def _sides(source: Source, servers: str, arguments: argparse.Namespace) -> list[Measured]:
    environment = {
        **os.environ,
        **source.environment,
        "BENCH_BOOTSTRAP": servers,
        "BENCH_SOURCE": json.dumps(dict(source.connection)),
    }
    kcat = (
        "kcat", "-P", "-b", servers, "-t", "bench-a", "-K", "|", "-z", "lz4",
        "-X", "enable.idempotence=true", "-X", "partitioner=murmur2_random", "-X", "linger.ms=20",
    )  # fmt: skip
    ours = (sys.executable, "-m", "benchmarks.kafka_sides")
    product = ("c: Query Export", [(*ours, "product")])
    sides = [
        (f"a: {source.command[0]} | kcat", [source.command, kcat]),
        ("b: plain loop", [(*ours, "loop")]),
        product,
    ]
    chosen = [product] if arguments.only else sides
    return [measured(name, arguments.rows, pipeline, environment) for name, pipeline in chosen]


def _check_same_messages(servers: str, rows: int) -> None:
    """All three topics must hold the same messages, else the comparison says nothing."""
    sums = {topic: _checksum(servers, topic) for topic in TOPICS}
    counts = {count for count, _ in sums.values()}
    if counts != {rows} or len({total for _, total in sums.values()}) != 1:
        raise SystemExit(f"The sides did not send the same messages: {sums}")


def _checksum(servers: str, topic: str) -> tuple[int, int]:
    """How many messages the topic holds, and a sum over them that does not depend on order."""
    with _consumer(servers) as consumer:
        places = [TopicPartition(topic, number, 0) for number in range(PARTITIONS)]
        left = sum(consumer.get_watermark_offsets(place, timeout=10)[1] for place in places)
        consumer.assign(places)
        count = total = 0
        while count < left:
            for message in consumer.consume(10_000, timeout=10):
                count += 1
                total += hash((message.partition(), message.key(), message.value()))
    return count, total


@contextmanager
def _consumer(servers: str) -> Iterator[Consumer]:
    with closing(Consumer({"bootstrap.servers": servers, "group.id": "bench"})) as consumer:
        yield consumer


if __name__ == "__main__":
    sys.exit(main())
