"""Installations on PostgreSQL with Redis and with RabbitMQ: two beats, three workers, accidents.

Both installations live through the same minutes at once, and each test asks what came of it.
"""

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end import observed
from tests.end_to_end.impatient_worker import PATIENCE_SEC
from tests.end_to_end.installation import (
    Installation,
    install,
    new_database,
    sleeping_items,
)
from tests.end_to_end.observed import Run
from tests.services.postgresql import PostgreSQL
from tests.services.processes import ServerProcess

pytestmark = [pytest.mark.services, pytest.mark.slow]

BROKERS = ("redis_server", "rabbitmq")
MINUTE = timedelta(minutes=1)
MINUTE_ITEMS = ("minute-1", "minute-2", "minute-3", "minute-4")
SLOTS = 3
LONG_SEC = 40
QUERIES_SEC = {"long": LONG_SEC, "copied": 0, "many": 1, "restart": 1, "after": 0}
# One more than the processes that take them.
LONG_RUNS = {"redis": 4, "rabbitmq": 2}
MANY_RUNS = 50
RUNS_AT_RESTART = 30
RUNS_AFTER_RESTART = 5
BROKER_AWAY_SEC = 10
COPIES = 5
SWEEP_EVERY = timedelta(seconds=30)
QUICK = ("--queues=service,short", "--concurrency=2")
SLOW = ("--queues=long", "--concurrency=1")
ALL = ("--concurrency=2",)
# With RabbitMQ a worker reserves a message for each of its processes, also while a long run keeps
# all of them busy. So none may take both kinds there (see docs/operating.md).
WORKERS = {
    "redis": {"quick": QUICK, "slow": SLOW, "third": ALL},
    "rabbitmq": {"quick": QUICK, "slow": SLOW, "third": QUICK},
}
# A long-lived process that asks for runs, as a web process does: "<item> <runs> <copies>" a line.
ASKING = """
import sys
from celery import current_app
from scheduling import runs
from scheduling.models import SchedulingItem
print("ready", flush=True)
for line in sys.stdin:
    name, wanted, copies = line.split()
    item = SchedulingItem.objects.get(name=name)
    for _ in range(int(wanted)):
        run = runs.run_now(item, trigger=runs.Trigger.COMMAND, user=None)
        sent = [
            current_app.send_task(runs.EXECUTE_TASK, [run.pk], queue=item.work_queue).id
            for _ in range(int(copies))
        ]
    print("asked", *sent, flush=True)
"""
# How long a message may go unacknowledged, and when beat's message for a sweep expires.
LIMITS = """
from celery import current_app
from django_celery_beat.models import PeriodicTask
channel = current_app.connection_for_read().default_channel
print(getattr(getattr(channel, "qos", None), "visibility_timeout", None))
print(PeriodicTask.objects.get(task="scheduling.sweep").expires_)
"""


@dataclass(frozen=True)
class Campaign:
    """What an installation lived through, and its history at the end."""

    broker: str
    installation: Installation
    limits: list[str]
    copies: list[str]  # The ids of the messages that came again.
    runs: list[Run]
    slots_from: datetime  # The first slot of the minutes' items, and the last one.
    slots_to: datetime
    killed_at: datetime
    away_from: datetime
    away_to: datetime

    def of(self, item_name: str, *, first: bool = False) -> list[Run]:
        """The item's rows; `first` leaves out further attempts."""
        found = [run for run in self.runs if run.item_name == item_name]
        return [run for run in found if run.attempt == 1] if first else found


@pytest.fixture(scope="module")
def campaigns(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, "Future[Campaign]"]]:
    """What came of each broker that there is; those that are missing are left out."""
    server: PostgreSQL = request.getfixturevalue("postgresql")
    with ThreadPoolExecutor() as together:
        found = {}
        for name in BROKERS:
            try:
                broker = request.getfixturevalue(name)
            except pytest.skip.Exception:
                continue
            if broker.process:  # Only a broker of our own may be stopped.
                folder = tmp_path_factory.mktemp(name) / "installation"
                # Other tests use Redis's first database.
                url = broker.database_url(2) if name == "redis_server" else broker.url
                found[name] = together.submit(_campaign, folder, server, broker.process, url)
        yield found


@pytest.fixture(params=BROKERS)
def campaign(request: pytest.FixtureRequest, campaigns: dict[str, "Future[Campaign]"]) -> Campaign:
    if request.param not in campaigns:
        pytest.skip(f"{request.param} is not there, or is not a server of our own")
    return campaigns[request.param].result()


def _campaign(folder: Path, server: PostgreSQL, broker: ServerProcess, broker_url: str) -> Campaign:
    installation = install(
        folder,
        DATABASE_URL=new_database(server),
        CELERY_BROKER_URL=broker_url,
        SOURCE_PASSWORD=server.password,
    )
    installation.load(sleeping_items(server, _items()))
    installation.manage("sync_beat")
    with ExitStack() as processes:
        workers = {
            worker: processes.enter_context(_worker(installation, worker, *options))
            for worker, options in WORKERS[broker.name].items()
        }
        for number in (1, 2):
            processes.enter_context(_beat(installation, number))
        ask = processes.enter_context(_asking(installation))
        _until_ready(installation, workers)
        slots_from = _minute(datetime.now(UTC)) + MINUTE
        ask("long", LONG_RUNS[broker.name])
        copies = ask("copied", 1, COPIES)
        _sleep_until(slots_from + timedelta(seconds=65))
        ask("many", MANY_RUNS)
        observed.until(installation, _all_busy(workers["quick"]), "many", within_sec=30)
        killed_at = datetime.now(UTC)
        os.killpg(workers["quick"].pid, signal.SIGKILL)
        observed.until(installation, _all_started, "many", within_sec=120)
        ask("restart", RUNS_AT_RESTART)
        time.sleep(3)
        away_from = datetime.now(UTC)
        _crash(broker)
        away_to = datetime.now(UTC)
        ask("after", RUNS_AFTER_RESTART)
        _sleep_until(slots_from + (SLOTS - 1) * MINUTE + timedelta(seconds=45))
        runs = observed.until(installation, _settled(datetime.now(UTC)), within_sec=200)
        slots_to = _minute(datetime.now(UTC) - timedelta(seconds=40))
        limits = installation.manage("shell", "-v0", "-c", LIMITS).split()
    return Campaign(
        broker.name, installation, limits, copies, runs, slots_from, slots_to, killed_at, away_from,
        away_to,
    )  # fmt: skip


def _items() -> dict[str, dict[str, Any]]:
    """Each run leaves a mail with its slot in the subject, which nobody overwrites."""
    common = {
        "sharing_mode": "email",
        "email_to": "ops@example.com",
        "email_subject": "{query_name} {timestamp}",
        "catch_up": "all",
        "overlap": "allow",
    }
    items = {name: {**common, "sleep_sec": seconds} for name, seconds in QUERIES_SEC.items()}
    items["long"]["work_queue"] = "long"
    minutes = {name: {**common, "cron_expression": "* * * * *"} for name in MINUTE_ITEMS}
    return {**items, **minutes}


def _worker(
    installation: Installation, name: str, *options: str
) -> AbstractContextManager[subprocess.Popen[bytes]]:
    module = "tests.end_to_end.impatient_worker"
    command = (module, "-A", "queryexport", "worker", f"--hostname={name}@%h", "--loglevel=INFO")
    return installation.process(name, *command, *options)


def _beat(
    installation: Installation, number: int
) -> AbstractContextManager[subprocess.Popen[bytes]]:
    name = f"beat-{number}"
    options = (f"--schedule={installation.folder}/{name}", "--pidfile=", "--loglevel=INFO")
    return installation.process(name, "celery", "-A", "queryexport", "beat", *options)


@contextmanager
def _asking(installation: Installation) -> Iterator[Callable[..., list[str]]]:
    """A function that asks for runs of an item.

    With copies, the message of the last run comes so often more; their ids are returned.
    """
    with installation.talking("asking", ASKING) as process:

        def ask(name: str, runs: int, copies: int = 0) -> list[str]:
            print(name, runs, copies, file=process.stdin, flush=True)
            asked, *sent = installation.heard("asking", process).split()
            assert asked == "asked"
            return sent

        yield ask


def _until_ready(installation: Installation, workers: Iterable[str]) -> None:
    deadline = time.monotonic() + 90
    waited = {installation.log(name): " ready." for name in workers}
    waited |= {installation.log(f"beat-{number}"): "beat: Starting" for number in (1, 2)}
    while not all(words in log.read_text(errors="replace") for log, words in waited.items()):
        assert time.monotonic() < deadline, f"not all processes started: {installation.folder}"
        time.sleep(0.5)


def _crash(broker: ServerProcess) -> None:
    """The broker is killed, and started again some time later."""
    try:
        broker.kill()
        time.sleep(BROKER_AWAY_SEC)
    finally:
        broker.start()


def _all_busy(worker: subprocess.Popen[bytes]) -> Callable[[list[Run]], bool]:
    """Whether both processes of the worker carry out one of the runs."""

    def reached(runs: list[Run]) -> bool:
        pids = [int(run.worker.rpartition(":")[2]) for run in runs if run.status == "running"]
        return sum(os.getpgid(pid) == worker.pid for pid in pids) == 2

    return reached


def _all_started(runs: list[Run]) -> bool:
    return all(run.started_at for run in runs)


def _settled(before: datetime) -> Callable[[list[Run]], bool]:
    """Whether every slot before that moment has worked out, at whatever attempt."""

    def reached(runs: list[Run]) -> bool:
        slots = {(run.item_name, run.scheduled_for) for run in runs if run.scheduled_for < before}
        done = {(run.item_name, run.scheduled_for) for run in runs if run.status == "success"}
        return slots <= done

    return reached


def _minute(moment: datetime) -> datetime:
    return moment.replace(second=0, microsecond=0)


def _sleep_until(moment: datetime) -> None:
    time.sleep(max(0, (moment - datetime.now(UTC)).total_seconds()))


def test_every_slot_runs_once_though_two_beats_tick_and_three_workers_compete(
    campaign: Campaign, record_property: Callable[[str, object], None]
) -> None:
    minutes = (campaign.slots_to - campaign.slots_from) // MINUTE + 1
    slots = {campaign.slots_from + number * MINUTE for number in range(minutes)}
    before_the_accidents = []
    for name in MINUTE_ITEMS:
        first = [run for run in campaign.of(name, first=True) if run.scheduled_for in slots]
        assert sorted(run.scheduled_for for run in first) == sorted(slots)
        before_the_accidents += [
            run for run in first if run.scheduled_for < campaign.killed_at - timedelta(seconds=30)
        ]
        for slot in slots:
            of_the_slot = [run for run in campaign.of(name) if run.scheduled_for == slot]
            _delivered_once(campaign, of_the_slot, f"{name} {slot:%Y%m%d%H%M%S}")
    late = max(run.late_sec for run in before_the_accidents)
    record_property("slots", len(slots) * len(MINUTE_ITEMS))
    record_property("latest_start_sec", round(late, 1))
    print(f"\n{len(slots)} slots of {len(MINUTE_ITEMS)} items, none later than {late:.1f} s")
    assert len(slots) >= SLOTS
    assert late < 20


def test_long_runs_delay_neither_short_runs_nor_the_sweep(
    campaign: Campaign, record_property: Callable[[str, object], None]
) -> None:
    long = campaign.of("long")
    assert [run.status for run in long] == ["success"] * LONG_RUNS[campaign.broker]
    begun = min(run.started_at for run in long if run.started_at)
    over = max(run.finished_at for run in long if run.finished_at)
    workers = {run.worker for run in long}
    short = [
        run
        for run in campaign.runs
        if run.item_name in MINUTE_ITEMS and begun < run.scheduled_for < over
    ]
    late = max(run.late_sec for run in short)
    swept = sorted([begun, *observed.sweeps(campaign.installation), over])
    swept = [moment for moment in swept if begun <= moment <= over]
    gap = max(after - before for before, after in pairwise(swept))
    record_property("short_late_sec", round(late, 1))
    record_property("sweep_gap_sec", gap.total_seconds())
    print(
        f"\n{(over - begun).total_seconds():.0f} s of long runs in {len(workers)} process(es): "
        f"{len(short)} short runs, none later than {late:.1f} s; "
        f"{len(swept) - 2} sweeps, none more than {gap.total_seconds():.0f} s apart"
    )
    assert short
    assert late < 20
    assert gap < SWEEP_EVERY + timedelta(seconds=10)


def test_a_killed_worker_loses_none_of_the_queued_runs(
    campaign: Campaign, record_property: Callable[[str, object], None]
) -> None:
    first = campaign.of("many", first=True)
    assert len(first) == MANY_RUNS
    by_slot = {run.scheduled_for: [] for run in first}
    for run in campaign.of("many"):
        by_slot[run.scheduled_for].append(run)
    for attempts in by_slot.values():
        assert [run.attempt for run in attempts] == list(range(1, len(attempts) + 1))
        assert [run.status for run in attempts[:-1]] == ["lost"] * (len(attempts) - 1)
        assert attempts[-1].status == "success"
    lost = [run for run in campaign.of("many") if run.status == "lost"]
    assert lost
    sent = sum(n for subject, n in _mails(campaign) if subject.startswith("many "))
    found = max((run.finished_at or run.timestamp) for run in lost) - campaign.killed_at
    over = max(run.finished_at for run in campaign.of("many") if run.finished_at)
    record_property("lost", len(lost))
    record_property("lost_found_sec", round(found.total_seconds()))
    print(
        f"\n{MANY_RUNS} runs, {len(lost)} of them lost with the worker and found "
        f"{found.total_seconds():.0f} s later; all delivered "
        f"{(over - campaign.killed_at).total_seconds():.0f} s after the kill, in {sent} mails"
    )
    assert found < timedelta(seconds=90)
    # A killed run may have sent its mail and not lived to say so; none is sent twice otherwise.
    assert MANY_RUNS <= sent <= MANY_RUNS + len(lost)


def test_what_a_broker_forgets_when_it_restarts_is_handed_over_again(
    campaign: Campaign, record_property: Callable[[str, object], None]
) -> None:
    runs = campaign.of("restart", first=True)
    assert len(runs) == RUNS_AT_RESTART
    assert Counter(run.status for run in campaign.of("restart")) == {"success": RUNS_AT_RESTART}
    sent = sum(n for subject, n in _mails(campaign) if subject.startswith("restart "))
    waited = [run for run in runs if run.started_at and run.started_at > campaign.away_from]
    after = max(run.started_at for run in runs if run.started_at) - campaign.away_to
    record_property("started_after_sec", round(after.total_seconds()))
    print(
        f"\nof {RUNS_AT_RESTART} runs {len(waited)} began after the broker was killed; the last "
        f"one {after.total_seconds():.0f} s after it was back, by a sweep that takes a message for "
        f"gone after {PATIENCE_SEC} s"
    )
    assert sent == RUNS_AT_RESTART
    assert [run for run in runs if run.started_at and run.started_at > campaign.away_to]
    assert after < timedelta(seconds=PATIENCE_SEC + 2 * 30 + 10)


def test_what_is_asked_for_after_the_restart_is_not_lost_on_an_old_connection(
    campaign: Campaign, record_property: Callable[[str, object], None]
) -> None:
    runs = campaign.of("after")
    assert [run.status for run in runs] == ["success"] * RUNS_AFTER_RESTART
    waited = max(run.waited_sec for run in runs)
    record_property("waited_sec", round(waited, 1))
    print(f"\nasked for by a process that was there before: begun within {waited:.1f} s")
    for run in runs:
        assert run.dispatched_at
        # No sweep had to hand it over again.
        assert run.dispatched_at - run.timestamp < timedelta(seconds=10)


def test_a_message_that_comes_again_runs_nothing_again(campaign: Campaign) -> None:
    assert len(campaign.copies) == COPIES
    logs = [log.read_text(errors="replace") for log in campaign.installation.folder.glob("*.log")]
    for copy in campaign.copies:
        ended = f"Task scheduling.execute[{copy}] succeeded"
        assert any(ended in log for log in logs), f"the copy {copy} never came to a worker"
    assert [(run.attempt, run.status) for run in campaign.of("copied")] == [(1, "success")]
    assert [n for subject, n in _mails(campaign) if subject.startswith("copied ")] == [1]


def test_redis_keeps_a_message_that_is_not_acknowledged_for_longer_than_any_run(
    campaign: Campaign,
) -> None:
    visibility_timeout, _expires = campaign.limits
    if campaign.broker == "rabbitmq":
        assert visibility_timeout == "None"  # It knows by the connection whether a worker lives.
    else:
        assert int(visibility_timeout) > 24 * 60 * 60


def test_a_sweep_that_nobody_ran_expires(campaign: Campaign) -> None:
    _visibility_timeout, expires = campaign.limits
    assert int(expires) < 10 * 60


def _mails(campaign: Campaign) -> list[tuple[str, int]]:
    return list(observed.mails(campaign.installation).items())


def _delivered_once(campaign: Campaign, attempts: list[Run], subject: str) -> None:
    """The last attempt worked, those before it are lost, and no attempt sent two mails."""
    statuses = [run.status for run in sorted(attempts, key=lambda run: run.attempt)]
    assert statuses == ["lost"] * (len(attempts) - 1) + ["success"], attempts
    sent = observed.mails(campaign.installation)[subject]
    assert 1 <= sent <= len(attempts), (subject, sent)
