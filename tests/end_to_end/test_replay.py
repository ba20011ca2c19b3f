"""Undelivered rows sent again by several people at once, with a worker, on two databases."""

import json
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest

from kafka_sink.broker import EmbeddedBroker
from tests.end_to_end.installation import REPOSITORY, Installation, install
from tests.end_to_end.test_embedded import ended, rows
from tests.scheduling.kept_runs import keys_in
from tests.services.postgresql import PostgreSQL

pytestmark = pytest.mark.slow

ROWS = 3000
PEOPLE = 4
KEEP = """
from scheduling.models import SchedulingItem
from tests.scheduling.kept_runs import row, run_that_kept
run_that_kept(SchedulingItem.objects.get(), *(row(number) for number in range({rows})))
"""
BEGIN = """
from scheduling import replays, runs
from scheduling.models import SchedulingHistoryItem
runs.execute(replays.replay(SchedulingHistoryItem.objects.get(), user=None).pk)
"""
DECLARE_LOST = """
from scheduling.models import SchedulingHistoryItem
SchedulingHistoryItem.objects.filter(trigger="replay").update(status="lost", error="killed")
"""
FINISH = """
from scheduling import replays, runs
from scheduling.models import SchedulingHistoryItem
killed = SchedulingHistoryItem.objects.get(trigger="replay")
runs.execute(replays.replay(killed, user=None, include_unknown=True).pk)
"""
CLICK = """
import json, time
from scheduling import replays
from scheduling.models import SchedulingHistoryItem
run = SchedulingHistoryItem.objects.get(trigger="schedule")
time.sleep(max(0, {moment} - time.time()))
try:
    print(json.dumps(replays.replay(run, user=None).row_count))
except replays.NothingToSend as error:
    print(json.dumps(error.message))
"""


@pytest.fixture(params=["SQLite", pytest.param("PostgreSQL", marks=pytest.mark.services)])
def installation(request: pytest.FixtureRequest, tmp_path: Path) -> Installation:
    if request.param == "SQLite":
        return install(tmp_path / "installation")
    server: PostgreSQL = request.getfixturevalue("postgresql")
    name = f"query_export_{uuid4().hex[:8]}"
    with closing(server.connect(autocommit=True)) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    url = f"{server.url.rpartition('/')[0]}/{name}"
    return install(tmp_path / "installation", DATABASE_URL=url)


def test_of_several_people_at_once_one_sends_the_rows_and_each_arrives_once(
    installation: Installation, tmp_path: Path
) -> None:
    with EmbeddedBroker({"events": 3}) as broker:
        _load(installation, broker, tmp_path / "unused.sqlite3")
        installation.manage("shell", "-c", KEEP.format(rows=ROWS))
        click = CLICK.format(moment=time.time() + 8)
        with ThreadPoolExecutor(PEOPLE) as people:
            printed = people.map(
                lambda _: installation.manage("shell", "-v0", "-c", click), range(PEOPLE)
            )
            answers = [json.loads(answer) for answer in printed]
        assert answers.count(ROWS) == 1
        again = installation.history()[-1]
        told = f"Nothing of run {again['replay_of']} is left to send: its rows were taken by run"
        assert sum(str(answer).startswith(told) for answer in answers) == PEOPLE - 1
        with installation.celery("worker", "--concurrency=2"):
            history = ended(installation, within_sec=60)
        assert [(run["trigger"], run["status"]) for run in history] == [
            ("schedule", "fail"), ("replay", "success"),
        ]  # fmt: skip
        found = keys_in(broker.bootstrap_servers, "events")
        assert found == {str(number): 1 for number in range(ROWS)}


def test_a_worker_killed_while_it_sends_again_loses_no_row(tmp_path: Path) -> None:
    installation = install(tmp_path / "installation")
    with EmbeddedBroker({"events": 3}) as broker:
        _load(installation, broker, tmp_path / "unused.sqlite3")
        installation.manage("shell", "-c", KEEP.format(rows=ROWS))
        broker.answer_after(20)  # So that there is time to kill it.
        command = [sys.executable, "manage.py", "shell", "-c", BEGIN]
        with subprocess.Popen(command, cwd=REPOSITORY, env=installation.environment) as worker:
            while not _delivered(installation):
                time.sleep(0.1)
                assert worker.poll() is None, "it ended before it could be killed"
            worker.kill()
        broker.answer_after(0)
        assert len(keys_in(broker.bootstrap_servers, "events")) < ROWS
        installation.manage("shell", "-c", DECLARE_LOST)
        installation.manage("shell", "-c", FINISH)
        last = installation.history()[-1]
        assert (last["status"], last["rows_delivered"]) == ("success", ROWS)
        assert len(keys_in(broker.bootstrap_servers, "events")) == ROWS


def _delivered(installation: Installation) -> int:
    """What the history says that a replay has delivered so far."""
    with closing(sqlite3.connect(installation.folder / "queryexport.sqlite3")) as database:
        sql = "SELECT rows_delivered FROM scheduling_schedulinghistoryitem WHERE trigger = 'replay'"
        found = database.execute(sql).fetchone()
    return found[0] if found else 0


def _load(installation: Installation, broker: EmbeddedBroker, database: Path) -> None:
    kafka = {"name": "default", "bootstrap_servers": broker.bootstrap_servers}
    installation.load(
        [
            *rows(database, sharing_mode="kafka", kafka_topic="events"),
            {"model": "kafka_sink.kafkaconnection", "pk": 1, "fields": kafka},
        ]
    )
