"""The installation of the crash matrix, its processes, and what can be found in it afterwards."""

import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import Popen
from threading import Event, Thread
from typing import Any
from uuid import uuid4

import psycopg
from psycopg.rows import dict_row

from tests.end_to_end.crash_judge import Evidence, address, committed_copies
from tests.end_to_end.crash_points import FILE, MAIL, TRANSACTION, Case
from tests.end_to_end.installation import Installation
from tests.services.kafka import KafkaBroker
from tests.services.smtp import SMTPServer

ROWS = 3000
PARTITIONS = 3
LONG_WORKERS = 2
LOOK_EVERY_SEC = 0.5
TICK_FROM_NOW = timedelta(seconds=45)
NUMBERED = f"""
CREATE TABLE numbered AS
WITH RECURSIVE numbers(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM numbers WHERE id < {ROWS})
SELECT id, lower(hex(randomblob(100))) AS padding FROM numbers
"""
HISTORY = """
SELECT id AS pk, item_name, attempt, status, scheduled_for, started_at, error
FROM scheduling_schedulinghistoryitem ORDER BY id
"""
LEDGER = """
SELECT run.id AS run, delivery.acked FROM kafka_sink_delivery AS delivery
JOIN scheduling_schedulinghistoryitem AS run ON run.export_id = delivery.export_id
"""
WATERMARKS = """
SELECT item.name, change.value, change.run_id FROM scheduling_watermarkchange AS change
JOIN scheduling_schedulingitem AS item ON item.id = change.item_id WHERE run_id IS NOT NULL
"""
SQL = "SELECT id, padding FROM numbered"
SQL_OF_WHAT_IS_NEW = f"{SQL} WHERE id > :watermark_from AND id <= :watermark_to"
MODES = {FILE: "filesystem", MAIL: "email"}
OPEN_STATUSES = {"queued", "running", "lost"}


@dataclass(frozen=True)
class Matrix:
    """The installation in which everything is killed, and what it talks to."""

    cases: Sequence[Case]
    installation: Installation
    source: Path
    kafka: KafkaBroker
    smtp: SMTPServer
    topics: Mapping[str, str] = field(
        default_factory=lambda: {
            guarantee: f"crashes.{guarantee}.{uuid4().hex}"
            for guarantee in ("at_least_once", "transaction")
        }
    )

    @property
    def crashes(self) -> Path:
        return Path(self.installation.environment["CRASH_FOLDER"])

    @property
    def litter(self) -> list[str]:
        """What is left in the folder for temporary files."""
        folder = Path(self.installation.environment["TMPDIR"])
        return sorted(path.name for path in folder.iterdir())

    def load(self) -> None:
        """Stores an item for each case; those that beat ticks for are due in a minute or two."""
        for topic in self.topics.values():
            self.kafka.create_topic(topic, PARTITIONS)
        moment = datetime.now(UTC) + TICK_FROM_NOW + timedelta(minutes=1)
        self.installation.load(list(self._rows(moment)))
        self.installation.manage("sync_beat")

    def evidence(self) -> Evidence:
        with closing(sqlite3.connect(self.source)) as database:
            expected = dict(database.execute(SQL))
        return Evidence(
            expected,
            self._select(HISTORY),
            self._select(LEDGER),
            self._select(WATERMARKS),
            (self.crashes / "started.txt").read_text().splitlines(),
            self.installation.exports,
            tuple(self.smtp.messages),
            committed_copies(self.kafka.client_config, self.topics.values(), expected),
            [json.loads(mark.read_text()) for mark in self._marks()],
            self.crashes,
        )

    def is_over(self) -> bool:
        """Whether everybody was killed who had to be, and every item has come to its end."""
        last = {run["item_name"]: run["status"] for run in self._select(HISTORY)}
        ended = last.keys() == {case.name for case in self.cases}
        killed = len(self._marks()) == sum(len(case.point.kills) for case in self.cases)
        return ended and killed and not OPEN_STATUSES & set(last.values())

    def _marks(self) -> list[Path]:
        return list(self.crashes.glob("*.json"))

    def _select(self, query: str) -> list[dict[str, Any]]:
        url = self.installation.environment["DATABASE_URL"]
        if url.startswith("sqlite:"):
            with closing(sqlite3.connect(url.removeprefix("sqlite://"), timeout=20)) as database:
                database.row_factory = sqlite3.Row
                return [dict(row) for row in database.execute(query)]
        with psycopg.connect(url, row_factory=dict_row) as connection:
            return connection.execute(query).fetchall()

    def _rows(self, moment: datetime) -> Iterator[dict[str, Any]]:
        """Connections, query and items, in the form of Django's fixtures."""
        numbers = {"name": "numbers", "engine": "sqlite", "database": str(self.source)}
        yield _row("queryexport.databaseconnection", 1, numbers)
        yield _row("queryexport.query", 1, {"name": "all.sql", "sql": SQL})
        yield _row("queryexport.query", 2, {"name": "new.sql", "sql": SQL_OF_WHAT_IS_NEW})
        servers = {"name": "default", "bootstrap_servers": self.kafka.bootstrap_servers}
        yield _row("kafka_sink.kafkaconnection", 1, servers)
        longest_first = sorted(self.cases, key=lambda case: not case.by_sweep)
        for pk, case in enumerate(longest_first, 1):
            yield _row("scheduling.schedulingitem", pk, self._item(case, moment))
            if case.has_watermark:
                yield _row("scheduling.watermarkchange", pk, {"item": pk, "value": "0"})

    def _item(self, case: Case, moment: datetime) -> dict[str, Any]:
        guarantee = "transaction" if case.sink == TRANSACTION else "at_least_once"
        return {
            "name": case.name,
            "query": 2 if case.has_watermark else 1,
            "connection": 1,
            "watermark_column": "id" if case.has_watermark else "",
            "watermark_kind": "number",
            "enabled": case.by_tick,
            "scheduling_mode": "cron",
            "cron_expression": f"{moment.minute} {moment.hour} * * *",
            "retry_delay_minutes": 0,
            "work_queue": "long" if case.whole_worker else "short",
            "sharing_mode": MODES.get(case.sink, "kafka"),
            "output_dir": case.slug,
            "output_filename_template": "rows.xlsx",
            "email_to": address(case),
            "kafka_topic": self.topics[guarantee],
            "kafka_guarantee": guarantee,
        }


def _row(model: str, pk: int, fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"model": model, "pk": pk, "fields": fields}


class Supervisor:
    """Keeps a process running inside its `with` block: when it ends, another takes its place.

    `replaced` is how often that was so.
    """

    def __init__(self, installation: Installation, log_name: str, *arguments: str) -> None:
        self.log_name = log_name
        self.replaced = 0
        self._installation = installation
        self._arguments = arguments
        self._over = Event()
        self._thread = Thread(target=self._supervise, name=log_name)

    def __enter__(self) -> "Supervisor":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    def _supervise(self) -> None:
        while not self._over.is_set():
            with _crashing(self._installation, self.log_name, *self._arguments) as process:
                try:
                    self._wait_for_the_end_of(process)
                finally:
                    _kill_the_group(process)

    def _wait_for_the_end_of(self, process: "Popen[bytes]") -> None:
        while not self._over.wait(0.1):
            if process.poll() is not None:
                self.replaced += 1
                return


@contextmanager
def all_at_work(installation: Installation) -> Iterator[list[Supervisor]]:
    """Beat, a worker for sweeps, one for short runs, and those that are killed as a whole."""
    beat = ("beat", "--pidfile=", f"--schedule={installation.folder}/beat")
    processes = {
        "beat": beat,
        "service": _worker("service", "service", concurrency=1),
        "short": _worker("short", "short", concurrency=4),
    }
    for number in range(LONG_WORKERS):
        processes[f"long-{number}"] = _worker(f"long-{number}", "long", concurrency=1)
    with ExitStack() as stack:
        yield [
            stack.enter_context(Supervisor(installation, log_name, *arguments))
            for log_name, arguments in processes.items()
        ]


def ask_for_all(installation: Installation, *, within_sec: float) -> int:
    """Asks for a run of each item that beat does not tick for; how often the asker was killed."""
    killed = 0
    while True:
        with _crashing(installation, "run-all", "run-all") as process:
            code = process.wait(within_sec)
        if code != -signal.SIGKILL:
            assert code == 0, installation.log("run-all").read_text()
            return killed
        killed += 1


def wait_until(over: Callable[[], bool], *, within_sec: float) -> None:
    """Returns when it is so or the time is over; what is missing then is in the table."""
    deadline = time.monotonic() + within_sec
    while not over() and time.monotonic() < deadline:
        time.sleep(LOOK_EVERY_SEC)


def _worker(name: str, queue: str, *, concurrency: int) -> tuple[str, ...]:
    return ("worker", "-Q", queue, f"--concurrency={concurrency}", "-n", f"{name}@%h")


def _crashing(installation: Installation, log_name: str, *arguments: str) -> Any:
    return installation.process(log_name, "tests.end_to_end.crashing_worker", *arguments)


def _kill_the_group(process: "Popen[bytes]") -> None:
    """Asked to end, a worker that lost children takes long."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
