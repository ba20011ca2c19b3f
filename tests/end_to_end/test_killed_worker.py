"""A worker that is killed in mid-run leaves no row twice, and claims none that is not there."""

import os
import signal
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any, TypeAlias
from uuid import uuid4

import pytest

from tests.end_to_end.installation import Installation, install
from tests.factories import make_database
from tests.kafka_sink import oracle
from tests.services.kafka import KafkaBroker

pytestmark = [pytest.mark.services, pytest.mark.slow]

ROWS = 200_000
BEFORE_THE_KILL = 20_000
PARTITIONS = 3
WITHIN_SEC = 90
NUMBERS = f"""
CREATE TABLE numbered AS
WITH RECURSIVE numbers(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM numbers WHERE id < {ROWS})
SELECT id, printf('row %0200d', id) AS padding FROM numbers
"""
RUN_NOW = """
from scheduling import runs
from scheduling.models import SchedulingItem
runs.run_now(SchedulingItem.objects.get(), trigger=runs.Trigger.COMMAND, user=None)
"""

Run: TypeAlias = Mapping[str, Any]
Worker: TypeAlias = "Popen[bytes]"
Reached: TypeAlias = Callable[[Run], bool]
Kill: TypeAlias = Callable[[Worker, Run], None]


@dataclass(frozen=True)
class Job:
    """An installation with one item, which sends the numbered rows to a topic of its own."""

    installation: Installation
    kafka: KafkaBroker
    topic: str

    def queue(self) -> int:
        """Asks for a run, and returns the number of its history row."""
        self.installation.manage("shell", "-c", RUN_NOW)
        return max(run["id"] for run in self._select("scheduling_schedulinghistoryitem"))

    def wait_for(self, number: int, reached: Reached) -> Run:
        """The history row of the run, as soon as it has come that far."""
        deadline = time.monotonic() + WITHIN_SEC
        while not reached(run := self.run(number)):
            assert not run["finished_at"], f"the run was over before: {run}"
            assert time.monotonic() < deadline, (run, self.installation.log("worker").read_text())
            time.sleep(0.02)
        return run

    def run(self, number: int) -> Run:
        [run] = self._select("scheduling_schedulinghistoryitem", f"WHERE id = {number}")
        return run

    def deliveries(self, run: Run) -> list[Run]:
        """What the ledger has of the run."""
        return self._select("kafka_sink_delivery", f"WHERE export_id = '{run['export_id']}'")

    def copies(self, isolation: str = "read_committed") -> Mapping[int, Counter[int]]:
        """How often the topic has each row of each run, for readers of that isolation level."""
        found: defaultdict[int, Counter[int]] = defaultdict(Counter)
        messages = oracle.messages(self.kafka.client_config, self.topic, isolation=isolation)
        for message in messages:
            headers = dict(message.headers() or ())
            found[int(headers["query_export.run"])][int(message.key())] += 1
        return found

    def _select(self, table: str, condition: str = "") -> list[Run]:
        path = self.installation.folder / "queryexport.sqlite3"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute(f"SELECT * FROM {table} {condition}")]


@pytest.fixture
def make_job(tmp_path: Path, kafka: KafkaBroker) -> Callable[..., Job]:
    def make(**item: Any) -> Job:
        topic = f"killed.{uuid4().hex}"
        kafka.create_topic(topic, PARTITIONS)
        source = make_database(tmp_path / "numbered.sqlite3", NUMBERS)
        job = Job(install(tmp_path / "installation"), kafka, topic)
        job.installation.load(list(rows(source, kafka, {"kafka_topic": topic, **item})))
        return job

    return make


def rows(source: Path, kafka: KafkaBroker, item: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Connections, query and item, in the form of Django's fixtures."""
    fields: dict[str, Mapping[str, Any]] = {
        "queryexport.databaseconnection": {
            "name": "numbers",
            "engine": "sqlite",
            "database": str(source),
        },
        "queryexport.query": {"name": "Q.sql", "sql": "SELECT id, padding FROM numbered"},
        "kafka_sink.kafkaconnection": {
            "name": "default",
            "bootstrap_servers": kafka.bootstrap_servers,
        },
        "scheduling.schedulingitem": {
            "name": "Numbers",
            "query": 1,
            "connection": 1,
            "scheduling_mode": "cron",
            "cron_expression": "0 8 * * *",
            "sharing_mode": "kafka",
            "kafka_key_field": "id",
            "kafka_batch_size": 25,  # Slow enough to be killed on the way.
            "overlap": "allow",  # Nobody declares the killed run lost here: there is no beat.
            **item,
        },
    }
    for model, values in fields.items():
        yield {"model": model, "pk": 1, "fields": values}


def kill_the_process_that_runs_it(worker: Worker, run: Run) -> None:
    child = int(run["worker"].rpartition(":")[2])
    assert child != worker.pid
    os.kill(child, signal.SIGKILL)


def kill_the_whole_worker(worker: Worker, run: Run) -> None:
    """With its children: it leads its own session."""
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait(WITHIN_SEC)


@contextmanager
def working(job: Job) -> Iterator[Worker]:
    """A worker, which ends by a kill: asked to end, it takes 7 s, and 13 s once it lost a child."""
    with job.installation.celery("worker", "--concurrency=1") as worker:
        try:
            yield worker
        finally:
            kill_the_whole_worker(worker, {})


def killed_in_mid_run(job: Job, worker: Worker, kill: Kill, far_enough: Reached) -> Run:
    """The history row of a run whose process was killed when it had come far enough."""
    number = job.queue()
    kill(worker, job.wait_for(number, far_enough))
    return job.run(number)


def run_to_the_end(job: Job) -> Run:
    return job.wait_for(job.queue(), lambda run: bool(run["finished_at"]))


def assert_it_is_a_success_and_all_there(job: Job, run: Run, copies: Counter[int]) -> None:
    assert (run["status"], run["error"]) == ("success", "")
    assert run["rows_delivered"] == run["kafka_messages_sent"] == ROWS
    assert copies == Counter(range(1, ROWS + 1))
    [delivery] = job.deliveries(run)
    assert (delivery["handed"], delivery["acked"]) == (ROWS, ROWS)


@pytest.mark.parametrize("kill", [kill_the_process_that_runs_it, kill_the_whole_worker])
def test_a_killed_run_claims_no_row_that_is_not_there_and_the_next_one_is_whole(
    make_job: Callable[..., Job], kill: Kill, record_property: Callable[[str, object], None]
) -> None:
    job = make_job()
    with working(job) as worker:
        killed = killed_in_mid_run(
            job, worker, kill, lambda run: run["rows_delivered"] > BEFORE_THE_KILL
        )
    with working(job):
        again = run_to_the_end(job)
    copies, killed = job.copies(), job.run(killed["id"])
    found = copies[killed["id"]]
    told = f"{killed['rows_delivered']} rows claimed, {len(found)} of {ROWS} in the topic"
    record_property(kill.__name__, told)
    print(f"\n{kill.__name__}: {told}, {found.total() - len(found)} duplicates")
    assert killed["status"] != "success"
    assert (killed["kafka_messages_sent"], job.deliveries(killed)) == (None, [])
    assert BEFORE_THE_KILL < killed["rows_delivered"] <= len(found) < ROWS
    assert set(found.values()) == {1}
    assert_it_is_a_success_and_all_there(job, again, copies[again["id"]])


def test_a_transaction_that_is_killed_half_way_is_never_seen_and_the_next_one_is_whole(
    make_job: Callable[..., Job], record_property: Callable[[str, object], None]
) -> None:
    job = make_job(kafka_guarantee="transaction")
    with working(job) as worker:
        killed = killed_in_mid_run(
            job,
            worker,
            kill_the_process_that_runs_it,
            lambda run: run["row_count"] > BEFORE_THE_KILL,
        )
        in_the_log = len(job.copies("read_uncommitted")[killed["id"]])
        assert in_the_log > 0 and job.copies() == {}
        again = run_to_the_end(job)  # By the same worker, whose child it was that died.
    copies = job.copies()
    told = f"{in_the_log} rows in the log, {len(copies[killed['id']])} of them committed"
    record_property("transaction killed half way", told)
    print(f"\ntransaction killed half way: {told}")
    assert killed["status"] != "success" and killed["rows_delivered"] == 0
    assert_it_is_a_success_and_all_there(job, again, copies.pop(again["id"]))
    assert not any(copies.values())
