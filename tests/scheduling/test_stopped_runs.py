"""A run that is told to stop ends within seconds, and leaves no session and no half file."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.utils import timezone
from pytest_django import Settings

from kafka_sink.broker import EmbeddedBroker
from queryexport.errors import QueryError, RunCancelled
from queryexport.stopping import Stop
from scheduling import cancelling, progress, replays, runs, shutdown, watchdog
from scheduling.models import SchedulingHistoryItem, SchedulingItem
from scheduling.progress import RunProgress
from scheduling.watchdog import Watchdog
from tests.factories import MakeItem, make_connection
from tests.scheduling.kept_runs import row, run_that_kept
from tests.services.mariadb import MariaDB
from tests.services.postgresql import PostgreSQL

pytestmark = pytest.mark.django_db(transaction=True)

WITHIN_SEC = 10.0
NUMBERS = (
    "WITH RECURSIVE s(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM s WHERE id < {}) SELECT id"
)
ENDLESS = NUMBERS.format(10**12) + " FROM s WHERE id < 0"
ROWS_WITHOUT_END = NUMBERS.format(10**9) + ", printf('%0200d', id) AS padding FROM s"


def queued(item: SchedulingItem) -> SchedulingHistoryItem:
    return runs.run_now(item, trigger=runs.Trigger.MANUAL, user=None)


@contextmanager
def meanwhile(call: Callable[[], object], *, after_sec: float = 0.5) -> Iterator[None]:
    """Makes the call in another thread, after a while, inside the block."""

    def later() -> None:
        try:
            call()
        finally:
            connection.close()

    timer = threading.Timer(after_sec, later)
    timer.start()
    try:
        yield
    finally:
        timer.join()


def executed(run: SchedulingHistoryItem) -> SchedulingHistoryItem:
    """The row after its run, which must have ended in time."""
    started = time.monotonic()
    runs.execute(run.pk)
    assert time.monotonic() - started < 0.5 + WITHIN_SEC
    run.refresh_from_db()
    return run


@pytest.fixture
def person() -> User:
    return User.objects.create_user("paola")


def cancelled_meanwhile(item: SchedulingItem, person: User) -> SchedulingHistoryItem:
    run = queued(item)
    with meanwhile(lambda: cancelling.cancel(run, user=person)):
        return executed(run)


def assert_cancelled(run: SchedulingHistoryItem) -> None:
    assert (run.status, run.cancelled_by and run.cancelled_by.username) == ("cancelled", "paola")
    assert run.error.startswith("Cancelled by paola at ")
    assert run.cancel_requested_at and run.finished_at
    assert not run.next_attempts.exists()


@pytest.mark.parametrize("sql", [ENDLESS, ROWS_WITHOUT_END])
@pytest.mark.parametrize("mode", ["filesystem", "email"])
def test_a_cancelled_run_ends_and_leaves_nothing(
    make_item: MakeItem, person: User, export_root: Path, task_folder: Path, sql: str, mode: str
) -> None:
    run = cancelled_meanwhile(
        make_item(sql=sql, sharing_mode=mode, email_to="a@example.com"), person
    )
    assert_cancelled(run)
    assert list(export_root.rglob("*.*")) == []
    assert (run.row_count > 0) == (sql == ROWS_WITHOUT_END)


@pytest.mark.services
@pytest.mark.parametrize("engine", ["postgresql", "mysql"])
def test_the_statement_of_a_cancelled_run_is_stopped_in_the_database(
    make_item: MakeItem,
    person: User,
    request: pytest.FixtureRequest,
    task_folder: Path,
    engine: str,
) -> None:
    server: PostgreSQL | MariaDB
    server = request.getfixturevalue({"postgresql": "postgresql", "mysql": "mariadb"}[engine])
    source = make_connection(
        server.database,
        name=engine,
        engine=engine,
        host=server.host,
        port=server.port,
        username=server.user,
        password=server.password,
    )
    asleep = {"postgresql": "SELECT 1 AS id FROM pg_sleep(61)", "mysql": "SELECT SLEEP(61) AS id"}
    sessions = {
        "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%%sleep(61)%%'"
        " AND pid <> pg_backend_pid()",
        "mysql": "SELECT count(*) FROM information_schema.processlist WHERE info LIKE '%SLEEP(61)%'"
        " AND id <> CONNECTION_ID()",
    }
    run = cancelled_meanwhile(make_item(sql=asleep[engine], connection=source), person)
    assert_cancelled(run)
    with closing(server.connect(autocommit=True)) as own:
        cursor = own.cursor()
        cursor.execute(sessions[engine])
        assert cursor.fetchone()[0] == 0


@pytest.mark.parametrize("guarantee", ["at_least_once", "transaction"])
def test_a_cancelled_run_to_kafka_counts_what_arrived(
    make_item: MakeItem, person: User, broker: EmbeddedBroker, task_folder: Path, guarantee: str
) -> None:
    item = make_item(
        sql=ROWS_WITHOUT_END, sharing_mode="kafka", kafka_topic="events", kafka_guarantee=guarantee
    )
    run = cancelled_meanwhile(item, person)
    assert_cancelled(run)
    assert run.kafka_messages_sent == run.rows_delivered
    assert (run.rows_delivered > 0) == (guarantee == "at_least_once")
    assert run.rows_delivered + (run.kafka_messages_failed or 0) == run.row_count


@pytest.mark.parametrize("down_after_sec", [0, 1])
def test_a_run_whose_brokers_are_gone_is_cancelled(
    make_item: MakeItem,
    person: User,
    broker: EmbeddedBroker,
    task_folder: Path,
    down_after_sec: float,
) -> None:
    item = make_item(
        sql=ROWS_WITHOUT_END,
        sharing_mode="kafka",
        kafka_topic="events",
        kafka_dead_letter_topic="dead",
    )
    run = queued(item)
    with (
        meanwhile(broker.down, after_sec=down_after_sec),
        meanwhile(lambda: cancelling.cancel(run, user=person), after_sec=2),
    ):
        started = time.monotonic()
        runs.execute(run.pk)
        took_sec = time.monotonic() - started - 2
    run.refresh_from_db()
    assert took_sec < WITHIN_SEC
    assert_cancelled(run)
    assert run.undelivered_kept == run.kafka_messages_failed


def test_a_cancelled_run_is_not_tried_again_whatever_it_fails_with(
    make_item: MakeItem, person: User, task_folder: Path
) -> None:
    """The database goes away at the same time, which else would be an error that may pass."""
    run = queued(make_item(sql=ROWS_WITHOUT_END))

    def gone(progress: RunProgress) -> None:
        cancelling.cancel(run, user=person)
        while not progress._stop.reason:
            time.sleep(0.05)
        raise QueryError("The connection was lost.", retryable=True)

    runs.execute(run.pk, watch=gone)
    run.refresh_from_db()
    assert_cancelled(run)


@pytest.mark.parametrize(
    "where",
    [
        {"sharing_mode": "filesystem"},
        {"sharing_mode": "email", "email_to": "a@example.com"},
        {"sharing_mode": "kafka", "kafka_topic": "events", "kafka_guarantee": "transaction"},
    ],
)
def test_what_has_arrived_whole_is_a_success_though_it_was_cancelled_in_the_same_moment(
    make_item: MakeItem, broker: EmbeddedBroker, task_folder: Path, where: dict[str, str]
) -> None:
    def too_late(progress: RunProgress) -> None:
        if progress.rows_delivered:
            progress._stop.request(RunCancelled("Cancelled too late."))

    run = queued(make_item(**where))
    runs.execute(run.pk, watch=too_late)
    run.refresh_from_db()
    assert (run.status, run.rows_delivered, run.error) == ("success", 5, "")


def test_a_replay_that_is_cancelled_before_it_begins_leaves_its_rows_as_they_were(
    make_item: MakeItem, person: User, task_folder: Path
) -> None:
    item = make_item(sharing_mode="kafka", kafka_topic="events")
    again = replays.replay(run_that_kept(item, row(1), row(2)), user=None)
    assert cancelling.cancel(again, user=person)
    again.refresh_from_db()
    assert (again.status, again.error) == ("cancelled", "Cancelled by paola before it began.")
    assert runs.execute(again.pk) is None
    waiting = replays.waiting(again)
    assert (waiting.all_failed, waiting.doubtful) == (2, False)


def test_only_what_is_not_over_can_be_cancelled(
    make_item: MakeItem, person: User, task_folder: Path
) -> None:
    run = executed(queued(make_item()))
    with pytest.raises(Exception, match=rf"Run {run.pk} is over already \(success\)"):
        cancelling.cancel(run, user=person)
    run.refresh_from_db()
    assert (run.status, run.cancelled_by) == ("success", None)


def test_the_first_who_cancels_is_written_down(make_item: MakeItem, person: User) -> None:
    run = runs.queue(make_item(), timezone.now(), trigger=runs.Trigger.SCHEDULE)
    assert run and run.claim("this worker")
    assert not cancelling.cancel(run, user=person)
    assert not cancelling.cancel(run, user=User.objects.create_user("second"))
    run.refresh_from_db()
    assert run.cancelled_by == person


@pytest.fixture
def fast_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute of the item's limits passes in half a second."""

    def monotonic() -> float:
        return time.monotonic() * 120

    monkeypatch.setattr(watchdog, "monotonic", monotonic)
    monkeypatch.setattr(progress, "monotonic", monotonic)
    monkeypatch.setattr(watchdog, "LOOK_EVERY_SEC", 0.1)
    monkeypatch.setattr(watchdog, "STOP_WITHIN_SEC", 60 * 120)


@pytest.mark.usefixtures("fast_clock")
def test_a_run_past_its_time_limit_fails_and_is_tried_again(
    make_item: MakeItem, export_root: Path, task_folder: Path
) -> None:
    run = executed(queued(make_item(sql=ROWS_WITHOUT_END, time_limit_minutes=2)))
    assert run.status == "fail"
    assert run.error.startswith("The run was stopped at its time limit of 2 minutes.")
    assert run.row_count > 0
    assert run.next_attempts.get().attempt == 2
    assert list(export_root.rglob("*.*")) == []


@pytest.mark.usefixtures("fast_clock")
def test_a_run_without_progress_fails_and_is_tried_again(
    make_item: MakeItem, task_folder: Path
) -> None:
    run = executed(queued(make_item(sql=ENDLESS, no_progress_minutes=1)))
    assert run.status == "fail"
    assert "no row was read or delivered for 1 minutes" in run.error
    assert run.next_attempts.get().attempt == 2


@pytest.mark.usefixtures("fast_clock")
def test_a_run_that_makes_progress_is_not_stopped(make_item: MakeItem, task_folder: Path) -> None:
    sql = f"{NUMBERS.format(60_000)}, printf('%0200d', id) AS padding FROM s"
    run = executed(queued(make_item(sql=sql, no_progress_minutes=1, time_limit_minutes=1440)))
    assert (run.status, run.error) == ("success", "")
    assert run.duration_sec and run.duration_sec > 0.5


def test_a_run_that_is_another_process_s_stops_its_statement(
    make_item: MakeItem, export_root: Path, task_folder: Path
) -> None:
    run = queued(make_item(sql=ENDLESS))
    lost = {"status": "lost", "error": "declared lost"}
    with meanwhile(lambda: SchedulingHistoryItem.objects.update(**lost)):
        run = executed(run)
    assert (run.status, run.error) == ("lost", "declared lost")


def test_a_run_that_does_not_stop_gives_no_sign_of_life_any_more(
    make_item: MakeItem, person: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in {
        "LOOK_EVERY_SEC": 0.05,
        "SIGN_OF_LIFE_EVERY_SEC": 0.1,
        "STOP_WITHIN_SEC": 0.5,
    }.items():
        monkeypatch.setattr(watchdog, name, seconds)
    run = runs.queue(make_item(), timezone.now(), trigger=runs.Trigger.SCHEDULE)
    assert run and run.claim("this worker")
    stop = Stop()

    def sign_of_life() -> object:
        return SchedulingHistoryItem.objects.get(pk=run.pk).heartbeat_at

    with Watchdog(run, RunProgress(run, stop), stop):
        first = sign_of_life()
        time.sleep(0.4)
        assert sign_of_life() != first
        cancelling.cancel(run, user=person)
        time.sleep(1)
        last = sign_of_life()
        time.sleep(0.4)
        assert sign_of_life() == last
    assert isinstance(stop.reason, RunCancelled)


@pytest.fixture
def shut_down(settings: Settings) -> Iterator[Callable[[], None]]:
    """Tells this process that its worker shuts down, as the worker's signal does."""
    settings.SHUTDOWN_GRACE_SEC = 0.2
    yield shutdown._begin
    shutdown._told[:] = bytes(8)


def test_a_run_that_outlives_the_grace_time_is_lost_and_tried_again(
    make_item: MakeItem, task_folder: Path, shut_down: Callable[[], None]
) -> None:
    run = queued(make_item(sql=ENDLESS))
    with meanwhile(shut_down):
        run = executed(run)
    assert run.status == "lost"
    assert run.error.startswith("The worker was shut down, and the run did not end within")
    assert run.next_attempts.get().attempt == 2
