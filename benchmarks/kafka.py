"""`make bench-kafka`: rows from PostgreSQL to a topic, by the C tools, a plain loop, and us.

The three send the same key and value bytes to the same broker, each as processes of its own, whose
time and memory the kernel accounts for:

(a) `psql COPY … TO STDOUT` piped into `kcat -P`, all of it C;
(b) what one writes first: fetchall, json.dumps, produce, flush after each 100 rows;
(c) this product: its query and sink, every acknowledgement counted; no metadata, no headers.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import psycopg
from confluent_kafka import Consumer, Producer, TopicPartition
from rich.console import Console
from rich.table import Table

from kafka_sink.broker import EmbeddedBroker
from kafka_sink.config import KafkaSettings
from kafka_sink.sink import KafkaSink
from queryexport.engines import ConnectionSettings
from queryexport.source import open_query
from tests.services import kafka as kafka_service
from tests.services import postgresql as postgresql_service
from tests.services.postgresql import PostgreSQL

ROOT = Path(__file__).resolve().parent.parent
PARTITIONS = 4
COLUMNS = "id, codice, data_evento, ora_evento, stato, ufficio, note"
QUERY = f"SELECT {COLUMNS} FROM events ORDER BY id"
COPY = (
    "COPY (SELECT codice || '|' || row_to_json(e)::text FROM "
    f"(SELECT {COLUMNS} FROM events ORDER BY id) AS e) TO STDOUT"
)
CREATE = """
CREATE TABLE events AS
SELECT n AS id,
       'RR' || lpad(n::text, 9, '0') || 'IT' AS codice,
       date '2026-01-01' + (n % 28)::int AS data_evento,
       timestamptz '2026-01-18 00:00:00+00' + n * interval '1 second' AS ora_evento,
       (ARRAY['ACCETTATO', 'IN TRANSITO', 'IN CONSEGNA', 'CONSEGNATO'])[1 + n % 4] AS stato,
       'Centro ' || n % 97 AS ufficio,
       CASE WHEN n % 3 = 0 THEN 'Consegna effettuata' END AS note
FROM generate_series(1, {rows}) AS n
"""


@dataclass(frozen=True)
class Measured:
    """One side: wall and CPU seconds of its processes together, and the largest one's memory."""

    name: str
    rows: int
    wall_sec: float
    cpu_sec: float
    peak_mb: float

    @property
    def rows_per_sec(self) -> float:
        return self.rows / self.wall_sec


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-kafka", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--side", choices=("loop", "product"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        return SIDES[arguments.side]()
    for tool in ("psql", "kcat"):
        if not shutil.which(tool):
            print(f"{tool} is needed for the side in C; on Debian: apt-get install {tool}")
            return 1
    with postgresql_service.running() as database:
        with psycopg.connect(database.url) as connection:
            connection.execute(CREATE.format(rows=arguments.rows))
        connection.close()
        for cluster, bootstrap_servers in _clusters():
            _compare(cluster, bootstrap_servers, database, arguments.rows)
    return 0


def _clusters() -> Iterator[tuple[str, str]]:
    with kafka_service.running() as kafka:
        for side in ("a", "b", "c"):
            kafka.create_topic(f"bench-{side}", PARTITIONS)
        yield f"Apache Kafka {kafka.version}", kafka.bootstrap_servers
    with EmbeddedBroker({f"bench-{side}": PARTITIONS for side in "abc"}) as broker:
        yield "librdkafka's mock cluster", broker.bootstrap_servers


def _compare(cluster: str, bootstrap_servers: str, database: PostgreSQL, rows: int) -> None:
    environment = {
        **os.environ,
        "PGPASSWORD": database.password,
        "BENCH_BOOTSTRAP": bootstrap_servers,
        "BENCH_DATABASE": json.dumps(
            {"host": database.host, "port": database.port, "user": database.user,
             "dbname": database.database}
        ),
    }  # fmt: skip
    psql = (
        "psql", "-X", "-q", "-h", database.host, "-p", str(database.port), "-U", database.user,
        "-d", database.database, "-c", COPY,
    )  # fmt: skip
    kcat = (
        "kcat", "-P", "-b", bootstrap_servers, "-t", "bench-a", "-K", "|", "-z", "lz4",
        "-X", "enable.idempotence=true", "-X", "partitioner=murmur2_random", "-X", "linger.ms=20",
    )  # fmt: skip
    ours = (sys.executable, "-m", "benchmarks.kafka", "--side")
    sides = [
        _run("a: psql COPY | kcat", rows, [psql, kcat], environment),
        _run("b: plain loop", rows, [(*ours, "loop")], environment),
        _run("c: Query Export", rows, [(*ours, "product")], environment),
    ]
    if cluster.startswith("Apache"):  # The mock cluster keeps only the last 5 MB of a partition.
        _check_same_messages(bootstrap_servers, rows)
    _print(cluster, sides)


def _run(
    name: str, rows: int, pipeline: Sequence[Sequence[str]], environment: dict[str, str]
) -> Measured:
    started = time.monotonic()
    processes: list[subprocess.Popen[bytes]] = []
    for command in pipeline:
        source = processes[-1].stdout if processes else subprocess.DEVNULL
        last = command is pipeline[-1]
        processes.append(
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=source,
                stdout=None if last else subprocess.PIPE,
            )
        )
        if source not in (None, subprocess.DEVNULL):
            source.close()  # The next process alone holds the pipe now.
    with _memory_watched(processes) as peak_kb:
        cpu_sec = sum(_waited_for(process, name) for process in processes)
        wall_sec = time.monotonic() - started
    return Measured(name, rows, wall_sec, cpu_sec, max(peak_kb.values()) / 1024)


def _waited_for(process: subprocess.Popen[bytes], name: str) -> float:
    """The CPU seconds of the process, once it has ended well."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{name}: {process.args} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


@contextmanager
def _memory_watched(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[dict[int, int]]:
    """The most memory of each process so far, in kB.

    `ru_maxrss` would do, but a new process inherits there what its parent had.
    """
    peak_kb = {process.pid: 0 for process in processes}
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            for pid in peak_kb:
                with suppress(OSError, StopIteration):
                    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                    peak = next(line for line in lines if line.startswith("VmHWM"))
                    peak_kb[pid] = int(peak.split()[1])

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield peak_kb
    over.set()
    watcher.join()


def _loop() -> int:
    """What one writes first."""
    where = json.loads(os.environ["BENCH_DATABASE"])
    producer = Producer(
        {
            "bootstrap.servers": os.environ["BENCH_BOOTSTRAP"],
            "enable.idempotence": True,
            "compression.type": "lz4",
            "partitioner": "murmur2_random",
        }
    )
    with psycopg.connect(**where, password=os.environ["PGPASSWORD"]) as connection:
        cursor = connection.execute(QUERY)
        names = [column.name for column in cursor.description or ()]
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
    return value.isoformat()


def _product() -> int:
    """The product's own road: `open_query` into `KafkaSink`."""
    where = json.loads(os.environ["BENCH_DATABASE"])
    source = ConnectionSettings(
        name="bench",
        engine="postgresql",
        host=where["host"],
        port=where["port"],
        database=where["dbname"],
        username=where["user"],
        password=os.environ["PGPASSWORD"],
    )
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

    def check(self) -> None:
        """Never taken over."""


SIDES = {"loop": _loop, "product": _product}


def _check_same_messages(bootstrap_servers: str, rows: int) -> None:
    """All three topics must hold the same messages, else the comparison says nothing."""
    sums = {side: _checksum(bootstrap_servers, f"bench-{side}") for side in "abc"}
    counts = {count for count, _ in sums.values()}
    if counts != {rows} or len({total for _, total in sums.values()}) != 1:
        raise SystemExit(f"The sides did not send the same messages: {sums}")


def _checksum(bootstrap_servers: str, topic: str) -> tuple[int, int]:
    """How many messages the topic holds, and a sum over them that does not depend on order."""
    with _consumer(bootstrap_servers) as consumer:
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
def _consumer(bootstrap_servers: str) -> Iterator[Consumer]:
    with ExitStack() as stack:
        consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": "bench"})
        stack.callback(consumer.close)
        yield consumer


def _print(cluster: str, sides: Sequence[Measured]) -> None:
    table = Table(
        title=f"{sides[0].rows:,} rows to {cluster}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        title_justify="left",
    )
    table.add_column("side")
    for title in ("rows/s", "÷ a", "÷ b", "wall s", "CPU s", "peak MB"):
        table.add_column(title, justify="right")
    fastest, slowest = sides[0].rows_per_sec, sides[1].rows_per_sec
    for side in sides:
        table.add_row(
            side.name,
            f"{side.rows_per_sec:,.0f}",
            f"{side.rows_per_sec / fastest:.2f}",
            f"{side.rows_per_sec / slowest:.2f}",
            f"{side.wall_sec:.1f}",
            f"{side.cpu_sec:.1f}",
            f"{side.peak_mb:.0f}",
        )
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
