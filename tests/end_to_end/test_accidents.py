"""The broker, beat, the clock and the order of things go wrong, each in an installation of its own.

All of them live through their accidents at once, and each test asks what came of one.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end import observed
from tests.end_to_end.installation import Installation, install, new_database, sleeping_items
from tests.end_to_end.moved_clock import set_clock
from tests.end_to_end.observed import Run
from tests.services.postgresql import PostgreSQL
from tests.services.redis_server import RedisServer

pytestmark = [pytest.mark.services, pytest.mark.slow]

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
RECOVERED_WITHIN = timedelta(minutes=2)
# A day of the installation's clock, later than any real one of these tests.
THE_DAY = datetime(2099, 3, 10, tzinfo=UTC)
# So long one looks at the hour that comes again.
REPEATED_SEC = 95
SIGNS_OF_LIFE_EVERY_SEC = 10
ROUNDS = 20
RUN_SEC = 0.3

RUN_NOW = """
from scheduling import runs
from scheduling.models import SchedulingItem
for name in {names}:
    item = SchedulingItem.objects.get(name=name)
    runs.run_now(item, trigger=runs.Trigger.COMMAND, user=None)
"""
# Beat's own message for each item, at a moment that beat would not choose.
TICK = """
from celery import current_app
from scheduling.beat import TICK_TASK
from scheduling.models import SchedulingItem
for pk in SchedulingItem.objects.values_list("pk", flat=True):
    current_app.send_task(TICK_TASK, [pk])
"""
# Two rows for each of the items; the ids are printed.
PAIRS = """
from datetime import timedelta
from django.utils import timezone
from scheduling import runs
from scheduling.models import SchedulingItem
for name in {names}:
    item = SchedulingItem.objects.get(name=name)
    slots = (timezone.now(), timezone.now() + timedelta(microseconds=1))
    print(*(runs.queue(item, slot, trigger=runs.Trigger.COMMAND).pk for slot in slots))
"""
# Begins a run as soon as its id is said.
BEGIN = """
import sys
from scheduling import runs
print("ready", flush=True)
for line in sys.stdin:
    runs.execute(int(line))
    print("done", flush=True)
"""


@pytest.fixture(scope="module")
def accidents(
    postgresql: PostgreSQL, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, "Future[Any]"]]:
    folder = tmp_path_factory.mktemp("accidents")
    with ThreadPoolExecutor() as together:
        yield {
            "broker": together.submit(_broker_away, folder / "1", postgresql, redis_server),
            "beat": together.submit(_beat_away, folder / "2", postgresql),
            "clock": together.submit(_clock_set_back, folder / "3", postgresql),
            "SQLite": together.submit(_two_at_once, folder / "4", postgresql),
            "PostgreSQL": together.submit(
                _two_at_once, folder / "5", postgresql, DATABASE_URL=new_database(postgresql)
            ),
        }


@dataclass(frozen=True)
class Outage:
    """A broker that was away over a slot."""

    runs: list[Run]
    slot: datetime
    back_at: datetime


def _broker_away(folder: Path, server: PostgreSQL, redis: RedisServer) -> Outage:
    if not redis.process:
        pytest.skip("only a Redis of our own may be stopped")
    installation = _installation(folder, server, CELERY_BROKER_URL=redis.database_url(3))
    # Punctual slots run whatever is chosen for late ones.
    every_minute = {"cron_expression": "* * * * *", "catch_up": "skip"}
    installation.load(sleeping_items(server, {"minute": every_minute}))
    installation.manage("sync_beat")
    with ExitStack() as processes:
        _start(processes, installation, "worker", "beat")
        before = observed.until(installation, _has_success, within_sec=120)
        slot = max(run.scheduled_for for run in before) + MINUTE
        _sleep_until(slot - timedelta(seconds=20))
        redis.process.stop()
        try:
            _sleep_until(slot + timedelta(seconds=20))
        finally:
            redis.process.start()
        back_at = datetime.now(UTC)
        runs = observed.until(
            installation, lambda found: _worked(found, [slot, slot + MINUTE]), within_sec=240
        )
    return Outage(runs, slot, back_at)


def test_a_slot_of_a_broker_that_was_away_runs_within_two_minutes_of_its_return(
    accidents: dict[str, "Future[Any]"], record_property: Callable[[str, object], None]
) -> None:
    outage: Outage = accidents["broker"].result()
    [late] = [run for run in outage.runs if run.scheduled_for == outage.slot]
    assert late.started_at
    after = late.started_at - outage.back_at
    record_property("after_return_sec", round(after.total_seconds(), 1))
    print(
        f"\nRedis was away over the slot; it began {after.total_seconds():.0f} s after its return"
    )
    assert timedelta(0) < after < RECOVERED_WITHIN
    _one_run_a_minute(outage.runs)


@dataclass(frozen=True)
class Days:
    """Daily slots: one over which beat was away, and the next."""

    runs: list[Run]
    at_six: list[Run]  # The rows after ticks at 06:00 of the second day.


def _beat_away(folder: Path, server: PostgreSQL) -> Days:
    installation, clock = _with_clock(_installation(folder, server))
    daily = {"cron_expression": "0 8 * * *", "catch_up": "latest"}
    items = {
        "in time": {**daily, "catch_up_minutes": 240},
        "too late": {**daily, "catch_up_minutes": 15},
        "not wanted": {**daily, "catch_up": "skip"},
    }
    installation.load(sleeping_items(server, items))
    installation.manage("sync_beat")
    next_day = THE_DAY + timedelta(days=1)
    with ExitStack() as processes:
        _set(clock, THE_DAY + timedelta(hours=7, minutes=55))
        _start(processes, installation, "worker")
        with ExitStack() as first:
            _start(first, installation, "beat")
            _until(lambda: observed.sweeps(installation), within_sec=90)
        _set(clock, THE_DAY + timedelta(hours=11, minutes=30))
        _start(processes, installation, "beat")
        observed.until(installation, lambda found: _ended(found, len(items)), within_sec=90)
        _set(clock, next_day + timedelta(hours=6))
        _shell(installation, TICK)
        _until(lambda: _ticks(installation) >= len(items), within_sec=60)
        at_six = observed.history(installation)
        _set(clock, next_day + timedelta(hours=7, minutes=59, seconds=50))
        runs = observed.until(
            installation, lambda found: _ended(found, 2 * len(items)), within_sec=90
        )
    return Days(runs, at_six)


def test_a_daily_slot_without_a_beat_runs_late_once_or_is_missed_and_never_at_another_hour(
    accidents: dict[str, "Future[Any]"], record_property: Callable[[str, object], None]
) -> None:
    days: Days = accidents["beat"].result()
    first, second = THE_DAY + timedelta(hours=8), THE_DAY + timedelta(days=1, hours=8)
    assert {(run.item_name, run.scheduled_for): run.status for run in days.runs} == {
        ("in time", first): "success",
        ("too late", first): "missed",
        ("not wanted", first): "missed",
        ("in time", second): "success",
        ("too late", second): "success",
        ("not wanted", second): "success",
    }
    assert len(days.runs) == 6
    assert {run.scheduled_for for run in days.at_six} == {first}
    late, *punctual = sorted((run for run in days.runs if run.started_at), key=_begun_or_ended)
    back_at = first + timedelta(hours=3, minutes=30)
    after = _begun_or_ended(late) - back_at
    record_property("after_return_sec", round(after.total_seconds(), 1))
    record_property("latest_start_sec", round(max(run.late_sec for run in punctual), 1))
    print(
        f"\nthe run of 08:00 began {after.total_seconds():.0f} s after beat's return at 11:30; "
        f"those of the next day at most {max(run.late_sec for run in punctual):.1f} s after 08:00"
    )
    assert timedelta(0) < after < RECOVERED_WITHIN
    assert max(run.late_sec for run in punctual) < 60


@dataclass(frozen=True)
class SetBack:
    """A clock that was set back by an hour, and passed the last slot once more."""

    runs: list[Run]
    again: list[Run]  # The rows after the last slot's minute had come again, with a tick.
    last_slot: datetime
    lost_after_sec: float  # From the kill of a process in the repeated hour until it was found.


def _clock_set_back(folder: Path, server: PostgreSQL) -> SetBack:
    installation, clock = _with_clock(
        _installation(folder, server, DATABASE_URL=new_database(server))
    )
    items = {
        "minute": {"cron_expression": "* * * * *", "catch_up": "all", "overlap": "allow"},
        "silent": {"sleep_sec": 150},
        "killed": {"sleep_sec": 300, "most_attempts": 1},
        "asked": {},
    }
    installation.load(sleeping_items(server, items))
    installation.manage("sync_beat")
    with ExitStack() as processes:
        _start(processes, installation, "worker", "beat", concurrency=4)
        observed.until(installation, _has_success, within_sec=120)
        _shell(installation, RUN_NOW.format(names=("silent", "killed")))
        observed.until(installation, _all_begun, within_sec=30)
        time.sleep((20 - datetime.now(UTC).second) % 60)
        last_slot = datetime.now(UTC).replace(second=0, microsecond=0)
        observed.until(installation, lambda found: _worked(found, [last_slot]), within_sec=20)
        set_clock(clock, -HOUR.total_seconds())
        time.sleep(SIGNS_OF_LIFE_EVERY_SEC + 5)
        [killed] = observed.history(installation, "killed")
        os.kill(int(killed.worker.rpartition(":")[2]), signal.SIGKILL)
        struck = time.monotonic()
        _shell(installation, RUN_NOW.format(names=("asked",)))
        lost_after_sec = _lost_after_sec(installation, struck)
        # Most of the hour is left out here, which to a run that goes on looks like a long silence.
        observed.until(installation, _all_ended, "silent", within_sec=180)
        _set(clock, last_slot - timedelta(seconds=5))
        time.sleep(7)
        ticks = _ticks(installation)
        _shell(installation, TICK)
        _until(lambda: _ticks(installation) >= ticks + len(items), within_sec=60)
        again = observed.history(installation)
        runs = observed.until(
            installation,
            lambda found: _worked(found, [last_slot + MINUTE]) and _all_ended(found),
            within_sec=240,
        )
    return SetBack(runs, again, last_slot, lost_after_sec)


def test_a_clock_that_is_set_back_by_an_hour_runs_no_slot_twice_and_skips_none(
    accidents: dict[str, "Future[Any]"], record_property: Callable[[str, object], None]
) -> None:
    clock: SetBack = accidents["clock"].result()
    minutes = [run for run in clock.runs if run.item_name == "minute"]
    _one_run_a_minute(minutes)
    late = max(run.late_sec for run in minutes if run.scheduled_for > clock.last_slot)
    record_property("late_after_sec", round(late, 1))
    print(f"\nthe first slot that is new after the repeated hour begins {late:.1f} s late")
    assert {run.scheduled_for for run in clock.again if run.item_name == "minute"} <= {
        run.scheduled_for for run in minutes if run.scheduled_for <= clock.last_slot
    }
    assert late < 60
    # A silent run goes on, a killed one is lost, and what a person asks for runs at once.
    others = {run.item_name: run.status for run in clock.runs if run.item_name != "minute"}
    assert others == {"silent": "success", "killed": "lost", "asked": "success"}
    assert len(clock.runs) == len(minutes) + 3


def test_a_worker_killed_in_the_repeated_hour_is_lost_within_90_seconds(
    accidents: dict[str, "Future[Any]"], record_property: Callable[[str, object], None]
) -> None:
    clock: SetBack = accidents["clock"].result()
    record_property("lost_after_sec", clock.lost_after_sec)
    print(f"\nlost {clock.lost_after_sec:.0f} s after the kill")
    assert clock.lost_after_sec < 90


@dataclass(frozen=True)
class AtOnce:
    """Pairs of runs of one item that two processes began at once."""

    skipping: list[tuple[Run, ...]]
    queueing: list[tuple[Run, ...]]


def _two_at_once(folder: Path, server: PostgreSQL, **settings: str) -> AtOnce:
    installation = _installation(folder, server, **settings)
    brief = {"sleep_sec": RUN_SEC}
    names = [f"queue-{number}" for number in range(ROUNDS)]
    items = {"skip": {**brief, "overlap": "skip"}}
    items |= {name: {**brief, "overlap": "queue"} for name in names}
    installation.load(sleeping_items(server, items))
    alternating = [name for pair in zip(["skip"] * ROUNDS, names, strict=True) for name in pair]
    printed = installation.manage("shell", "-v0", "-c", PAIRS.format(names=alternating))
    pairs = [tuple(map(int, line.split())) for line in printed.splitlines()]
    with (
        installation.talking("one", BEGIN) as one,
        installation.talking("other", BEGIN) as other,
    ):
        for pair in pairs:
            for process, pk in zip((one, other), pair, strict=True):
                print(pk, file=process.stdin, flush=True)
            assert installation.heard("one", one) == "done"
            assert installation.heard("other", other) == "done"
    with ExitStack() as processes:
        _start(processes, installation, "worker", "beat")
        runs = observed.until(installation, _all_ended, within_sec=150)
    by_pk = {run.id: run for run in runs}
    found = [tuple(by_pk[pk] for pk in pair) for pair in pairs]
    return AtOnce(found[::2], found[1::2])


@pytest.mark.parametrize("database", ["SQLite", "PostgreSQL"])
def test_of_two_runs_that_begin_at_once_one_runs_and_the_other_is_skipped_or_waits(
    accidents: dict[str, "Future[Any]"],
    database: str,
    record_property: Callable[[str, object], None],
) -> None:
    pairs: AtOnce = accidents[database].result()
    apart_sec = []
    for pair in pairs.skipping:
        ran, skipped = sorted(pair, key=lambda run: run.status == "skipped")
        assert [ran.status, skipped.status] == ["success", "skipped"]
        assert skipped.error.startswith(f"Run {ran.id} of the same item was still going on")
        assert ran.started_at
        assert skipped.finished_at
        apart_sec.append(abs(skipped.finished_at - ran.started_at).total_seconds())
    waited_sec = []
    for pair in pairs.queueing:
        ran, waited = sorted(pair, key=_begun_or_ended)
        assert [ran.status, waited.status] == ["success", "success"]
        assert ran.finished_at
        waited_sec.append((_begun_or_ended(waited) - ran.finished_at).total_seconds())
    record_property("apart_ms", round(max(apart_sec) * 1000))
    record_property("waited_sec", round(max(waited_sec)))
    print(
        f"\n{len(pairs.skipping)} pairs that skip, at most {max(apart_sec) * 1000:.0f} ms apart; "
        f"{len(pairs.queueing)} that wait, from {min(waited_sec):.0f} to {max(waited_sec):.0f} s"
    )
    assert len(pairs.skipping) == len(pairs.queueing) == ROUNDS
    assert max(apart_sec) < RUN_SEC  # Both wanted to run at the same time.
    assert min(waited_sec) > 0


def _installation(folder: Path, server: PostgreSQL, **settings: str) -> Installation:
    return install(folder, SOURCE_PASSWORD=server.password, **settings)


def _with_clock(installation: Installation) -> tuple[Installation, Path]:
    """The installation with a clock of its own, and the file that moves it."""
    clock = installation.folder / "clock"
    set_clock(clock, 0)
    environment = {**installation.environment, "CLOCK_FILE": str(clock)}
    return replace(installation, environment=environment), clock


def _set(clock: Path, moment: datetime) -> None:
    set_clock(clock, (moment - datetime.now(UTC)).total_seconds())


def _start(
    processes: ExitStack, installation: Installation, *names: str, concurrency: int = 2
) -> None:
    options = {
        "worker": (f"--concurrency={concurrency}", "--loglevel=INFO"),
        "beat": (f"--schedule={installation.folder}/beat", "--pidfile=", "--loglevel=INFO"),
    }
    moved = ("tests.end_to_end.moved_clock",) if "CLOCK_FILE" in installation.environment else ()
    for name in names:
        command = (*moved, "celery", "-A", "queryexport", name, *options[name])
        processes.enter_context(installation.process(name, *command))


def _shell(installation: Installation, script: str) -> None:
    """Runs the script by the installation's own clock."""
    command = ("tests.end_to_end.moved_clock", "manage", "shell", "-v0", "-c", script)
    with installation.process("shell", *command) as process:
        assert process.wait(60) == 0, installation.log("shell").read_text()


def _lost_after_sec(installation: Installation, struck: float) -> float:
    """The seconds from that moment until a run is lost; infinity when it takes too long."""
    while not any(run.status == "lost" for run in observed.history(installation)):
        if time.monotonic() > struck + REPEATED_SEC:
            return float("inf")
        time.sleep(0.5)
    return time.monotonic() - struck


def _ticks(installation: Installation) -> int:
    """How many of beat's messages for an item's slot the worker has dealt with."""
    lines = installation.log("worker").read_text(errors="replace").splitlines()
    return sum("Task scheduling.run_item[" in line and "succeeded" in line for line in lines)


def _until(reached: Callable[[], object], *, within_sec: float) -> None:
    deadline = time.monotonic() + within_sec
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def _sleep_until(moment: datetime) -> None:
    time.sleep(max(0, (moment - datetime.now(UTC)).total_seconds()))


def _has_success(runs: Sequence[Run]) -> bool:
    return any(run.status == "success" for run in runs)


def _all_begun(runs: Sequence[Run]) -> bool:
    return all(run.started_at for run in runs)


def _all_ended(runs: Sequence[Run]) -> bool:
    return all(run.finished_at for run in runs)


def _ended(runs: Sequence[Run], number: int) -> bool:
    return sum(run.finished_at is not None for run in runs) >= number


def _worked(runs: Sequence[Run], slots: Sequence[datetime]) -> bool:
    return set(slots) <= {run.scheduled_for for run in runs if run.status == "success"}


def _begun_or_ended(run: Run) -> datetime:
    moment = run.started_at or run.finished_at
    assert moment
    return moment


def _one_run_a_minute(runs: Sequence[Run]) -> None:
    """Each minute from the first to the last one has one run, which worked."""
    slots = sorted(run.scheduled_for for run in runs)
    assert all(after - before == MINUTE for before, after in pairwise(slots)), slots
    assert {(run.attempt, run.status) for run in runs} == {(1, "success")}
