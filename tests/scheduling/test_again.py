"""A slot is run once more: for the same days, by the query as it is now, and once."""

import json
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from openpyxl import load_workbook

from queryexport.errors import ConfigurationError
from queryexport.models import Query
from scheduling import again, attempts, replays, runs
from scheduling.again import ParametersDoNotFit, run_again
from scheduling.models import SchedulingHistoryItem, SchedulingItem
from tests.end_to_end.installation import Installation, install
from tests.end_to_end.test_embedded import rows
from tests.factories import MakeItem, make_connection
from tests.scheduling.kept_runs import row, run_that_kept
from tests.services.postgresql import PostgreSQL

SLOT = datetime(2026, 1, 18, 8, 0, tzinfo=UTC)
BY_DAY = "SELECT id, note FROM events WHERE day = :day"
PEOPLE = 6
CLICK = """
import json
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from django.db import connection
from queryexport.errors import ConfigurationError
from scheduling.again import run_again
from scheduling.models import SchedulingHistoryItem
run = SchedulingHistoryItem.objects.get()
together = Barrier({people})
def click(number):
    try:
        connection.ensure_connection()
        together.wait(60)
        return run_again(run, user=None).attempt
    except ConfigurationError as error:
        return error.message
    finally:
        connection.close()
with ThreadPoolExecutor({people}) as people:
    print(json.dumps(list(people.map(click, range({people})))))
"""
START_TOGETHER = """
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from django.db import connection
from scheduling import backfill
from scheduling.models import SchedulingItem
item = SchedulingItem.objects.get()
first = datetime(2026, 1, 18, 8, 1, tzinfo=UTC)
slots = [first + timedelta(minutes=minute) for minute in range(50)]
together = Barrier({people})
def click(number):
    try:
        connection.ensure_connection()
        together.wait(60)
        started = backfill.start(item, slots, user=None)
        return [len(started.runs), len(started.left_out)]
    finally:
        connection.close()
with ThreadPoolExecutor({people}) as people:
    print(json.dumps(list(people.map(click, range({people})))))
"""
RUN_ONCE = """
from datetime import UTC, datetime
from scheduling import runs
from scheduling.models import SchedulingItem
slot = datetime(2026, 1, 18, 8, 0, tzinfo=UTC)
runs.execute(runs.queue(SchedulingItem.objects.get(), slot, trigger=runs.Trigger.SCHEDULE).pk)
"""


def run_slot(item: SchedulingItem, slot: datetime = SLOT) -> SchedulingHistoryItem:
    queued = runs.queue(item, slot, trigger=runs.Trigger.SCHEDULE)
    assert queued
    return executed(queued)


def executed(run: SchedulingHistoryItem) -> SchedulingHistoryItem:
    assert runs.execute(run.pk)
    return SchedulingHistoryItem.objects.get(pk=run.pk)


def rows_of(run: SchedulingHistoryItem) -> list[tuple[Any, ...]]:
    return list(load_workbook(run.place).active.iter_rows(min_row=2, values_only=True))


class TestTheNewRun:
    def test_is_a_further_attempt_of_the_slot_linked_to_the_old_one(
        self, make_item: MakeItem, admin_user: User
    ) -> None:
        first = run_slot(make_item())
        new = run_again(first, user=admin_user)
        assert (new.item, new.scheduled_for, new.attempt) == (first.item, SLOT, 2)
        assert (new.retry_of, new.trigger, new.user) == (first, "rerun", admin_user)
        assert (new.status, new.not_before) == ("queued", None)
        assert executed(new).status == "success"

    def test_comes_after_the_greatest_attempt_whichever_is_repeated(
        self, make_item: MakeItem
    ) -> None:
        first = run_slot(make_item())
        second = executed(run_again(first, user=None))
        third = run_again(first, user=None)
        assert (third.attempt, third.retry_of) == (3, first)
        assert list(first.next_attempts.order_by("pk")) == [second, third]

    def test_leaves_the_runs_of_other_slots_and_items_alone(self, make_item: MakeItem) -> None:
        item = make_item()
        first = run_slot(item)
        runs.queue(item, SLOT + timedelta(days=1), trigger=runs.Trigger.SCHEDULE, attempt=7)
        runs.queue(make_item(), SLOT, trigger=runs.Trigger.SCHEDULE, attempt=7)
        assert run_again(first, user=None).attempt == 2

    @pytest.mark.parametrize("status", ["missed", "skipped", "cancelled", "lost", "fail"])
    def test_can_follow_whatever_the_old_one_ended_as(
        self, make_item: MakeItem, status: str
    ) -> None:
        queued = runs.queue(make_item(), SLOT, trigger=runs.Trigger.SCHEDULE)
        SchedulingHistoryItem.objects.update(status=status, error="why")
        assert queued
        new = run_again(queued, user=None)
        assert executed(new).status == "success"

    @pytest.mark.usefixtures("task_folder")
    def test_is_handed_to_the_workers_once_it_is_committed(
        self, make_item: MakeItem, django_capture_on_commit_callbacks: Any
    ) -> None:
        first = run_slot(make_item())
        with django_capture_on_commit_callbacks(execute=True):
            new = run_again(first, user=None)
            assert new.dispatched_at is None
        new.refresh_from_db()
        assert (new.status, new.dispatched_at is not None) == ("queued", True)

    def test_waits_while_another_run_of_the_item_goes_on(self, make_item: MakeItem) -> None:
        item = make_item(overlap="skip")
        first = run_slot(item)
        new = run_again(first, user=None)
        other = runs.queue(item, SLOT + timedelta(days=1), trigger=runs.Trigger.SCHEDULE)
        assert other and other.claim("a worker that takes its time")
        assert runs.execute(new.pk) is None
        new.refresh_from_db()
        assert new.status == "queued"
        other.finish(runs.Status.SUCCESS)
        assert executed(new).status == "success"


class TestItsParameters:
    def test_are_the_old_ones_for_the_same_days_after_the_item_was_edited(
        self, make_item: MakeItem
    ) -> None:
        item = make_item(sql=BY_DAY, parameters={"day": "{today-15}"})
        first = run_slot(item)
        assert first.given_parameters == {"day": "{today-15}"}
        item.parameters = {"day": "{today-14}"}
        item.save()
        new = executed(run_again(first, user=None))
        assert (new.given_parameters, new.parameters) == ({"day": "{today-15}"}, first.parameters)
        assert rows_of(new) == [(3, "event 3")]

    def test_are_dates_where_they_were_dates(self, make_item: MakeItem) -> None:
        sql = "SELECT id FROM events WHERE day IN (:days) AND note != :text"
        parameters = {"days": ["{today}", "{today-16}"], "text": "2026-01-02"}
        first = run_slot(make_item(sql=sql, parameters=parameters))
        given = again.check(first)
        assert first.item and first.item.bound_parameters(SLOT, given) == {
            "days": [date(2026, 1, 18), date(2026, 1, 2)],
            "text": "2026-01-02",
        }
        assert rows_of(executed(run_again(first, user=None))) == [(2,)]

    @pytest.mark.services
    def test_are_dates_to_postgresql_too(self, make_item: MakeItem, postgresql: PostgreSQL) -> None:
        connection = make_connection(
            postgresql.database, name="pg", engine="postgresql", host=postgresql.host,
            port=postgresql.port, username=postgresql.user, password=postgresql.password,
        )  # fmt: skip
        sql = "SELECT CAST(pg_typeof(:day) AS text) AS kind, :day - 1 AS before"
        item = make_item(sql=sql, connection=connection, parameters={"day": "{today-1}"})
        first = run_slot(item)
        assert first.error == ""
        item.parameters = {"day": "{today-9}"}
        item.save()
        new = executed(run_again(first, user=None))
        assert (new.status, new.parameters) == ("success", {"day": "2026-01-17"})
        assert rows_of(new) == [("date", datetime(2026, 1, 16))]

    def test_are_kept_by_its_own_further_attempts(self, make_item: MakeItem) -> None:
        item = make_item(sql=BY_DAY, parameters={"day": "{today-15}"})
        first = run_slot(item)
        SchedulingItem.objects.update(parameters={"day": "{today-14}"})
        second = run_again(first, user=None)
        with pytest.raises(SystemExit):
            runs.execute(second.pk, watch=shut_down)
        third = second.next_attempts.get()
        assert (third.attempt, third.trigger) == (3, "rerun")
        assert executed(third).parameters == {"day": "2026-01-03"}

    def test_are_not_kept_by_further_attempts_of_other_runs(self, make_item: MakeItem) -> None:
        item = make_item(sql=BY_DAY, parameters={"day": "{today-15}"})
        first = run_slot(item)
        third = attempts.try_again(first, now=SLOT)
        assert third and third.given_parameters is None

    def test_may_be_the_items_present_ones(self, make_item: MakeItem) -> None:
        item = make_item(sql=BY_DAY, parameters={"day": "{today-15}"})
        first = run_slot(item)
        SchedulingItem.objects.update(parameters={"day": "{today-14}"})
        new = executed(run_again(first, user=None, present_parameters=True))
        assert new.given_parameters == {"day": "{today-14}"}
        assert rows_of(new) == [(4, "event 4")]

    def test_are_the_present_ones_where_none_are_recorded(self, make_item: MakeItem) -> None:
        item = make_item(sql=BY_DAY, parameters={"day": "{today-15}"})
        first = run_slot(item)
        SchedulingHistoryItem.objects.update(given_parameters=None)
        SchedulingItem.objects.update(parameters={"day": "{today-14}"})
        assert again.check(SchedulingHistoryItem.objects.get()) is None
        assert executed(run_again(first, user=None)).parameters == {"day": "2026-01-04"}

    def test_are_refused_when_they_no_longer_fit_the_query(self, make_item: MakeItem) -> None:
        item = make_item(sql=BY_DAY, parameters={"day": "{today-15}"})
        first = run_slot(item)
        Query.objects.update(sql="SELECT id FROM events WHERE day = :on_day")
        SchedulingItem.objects.update(parameters={"on_day": "{today-14}"})
        with pytest.raises(ParametersDoNotFit, match="do not fit") as error:
            run_again(first, user=None)
        assert error.value.message == (
            f"The parameters of run {first.pk} do not fit the query CDG-TEST-001--Rows.sql as it "
            "is now. It uses :on_day, which they do not have. It does not use their day. Choose "
            "“with the item's present parameters”, or run the item now."
        )
        new = executed(run_again(first, user=None, present_parameters=True))
        assert (new.sql, new.status) == ("SELECT id FROM events WHERE day = :on_day", "success")

    def test_are_refused_when_a_new_zone_would_make_them_other_days(
        self, make_item: MakeItem
    ) -> None:
        item = make_item(sql=BY_DAY, parameters={"day": "{today-15}"})
        first = run_slot(item, SLOT + timedelta(hours=12))  # 20:00 UTC, tomorrow in Tokyo.
        SchedulingItem.objects.update(timezone="Asia/Tokyo")
        with pytest.raises(ParametersDoNotFit, match=r"day was 2026-01-03. It would be 2026-01-04"):
            run_again(first, user=None)
        assert run_again(first, user=None, present_parameters=True).attempt == 2

    def test_that_are_refused_of_the_item_itself_name_the_item(self, make_item: MakeItem) -> None:
        first = run_slot(make_item(sql=BY_DAY, parameters={"day": "{today}"}))
        SchedulingItem.objects.update(parameters={})
        with pytest.raises(ConfigurationError, match="Add it to the item's parameters"):
            run_again(first, user=None, present_parameters=True)
        assert SchedulingHistoryItem.objects.count() == 1


class TestAtTheDoor:
    """What cannot be run again, and what to do instead. Nothing is queued then."""

    def refused(self, run: SchedulingHistoryItem) -> str:
        count = SchedulingHistoryItem.objects.count()
        with pytest.raises(ConfigurationError) as error:
            run_again(run, user=None)
        assert SchedulingHistoryItem.objects.count() == count
        return error.value.message

    def test_a_run_of_a_deleted_item(self, make_item: MakeItem) -> None:
        item = make_item(name="Traces")
        first = run_slot(item)
        item.delete()
        assert "“Traces”, was deleted. Create an item" in self.refused(first)

    @pytest.mark.parametrize("status", ["queued", "running"])
    def test_a_run_that_is_not_over(self, make_item: MakeItem, status: str) -> None:
        queued = runs.queue(make_item(), SLOT, trigger=runs.Trigger.SCHEDULE)
        SchedulingHistoryItem.objects.update(status=status)
        assert queued
        told = self.refused(queued)
        assert f"Run {queued.pk} is {status} and not over yet. Wait until it is, or" in told

    def test_a_run_that_sent_rows_again(self, make_item: MakeItem) -> None:
        kept = run_that_kept(make_item(sharing_mode="kafka", kafka_topic="events"), row(1))
        again = replays.replay(kept, user=None)
        SchedulingHistoryItem.objects.filter(pk=again.pk).update(status="fail", error="why")
        assert "“Send undelivered rows again” on its page" in self.refused(again)

    @pytest.mark.parametrize("status", ["queued", "running"])
    def test_a_slot_with_an_attempt_that_is_not_over(
        self, make_item: MakeItem, admin_user: User, status: str
    ) -> None:
        first = run_slot(make_item())
        second = run_again(first, user=admin_user)
        SchedulingHistoryItem.objects.filter(pk=second.pk).update(status=status)
        told = self.refused(first)
        assert f"run {second.pk}, is {status} already, asked for by admin. Wait until" in told


@pytest.fixture(params=["SQLite", pytest.param("PostgreSQL", marks=pytest.mark.services)])
def installation(request: pytest.FixtureRequest, tmp_path: Path, tracking: Path) -> Installation:
    """An installation with an item that runs every minute."""
    settings = {}
    if request.param == "PostgreSQL":
        server: PostgreSQL = request.getfixturevalue("postgresql")
        name = f"query_export_{uuid4().hex[:8]}"
        with closing(server.connect(autocommit=True)) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        settings = {"DATABASE_URL": f"{server.url.rpartition('/')[0]}/{name}"}
    installed = install(tmp_path / "installation", **settings)
    installed.load(rows(tracking, cron_expression="* * * * *"))
    return installed


@pytest.mark.slow
def test_of_several_people_at_once_one_gets_a_run_and_the_others_are_told_which(
    installation: Installation,
) -> None:
    installation.manage("shell", "-c", RUN_ONCE)
    printed = installation.manage("shell", "-v0", "-c", CLICK.format(people=PEOPLE))
    answers = json.loads(printed)
    assert answers.count(2) == 1
    first, second = installation.history()
    told = f"Attempt 2 of the same slot, run {second['pk']}, is queued already."
    assert sum(str(answer).startswith(told) for answer in answers) == PEOPLE - 1
    assert (second["retry_of"], second["trigger"]) == (first["pk"], "rerun")


@pytest.mark.slow
def test_of_several_backfills_at_once_each_slot_is_in_one(installation: Installation) -> None:
    printed = installation.manage("shell", "-v0", "-c", START_TOGETHER.format(people=PEOPLE))
    assert sorted(json.loads(printed)) == [[0, 50]] * (PEOPLE - 1) + [[50, 0]]
    history = installation.history()
    assert [run["attempt"] for run in history] == [1] * 50
    assert len({run["scheduled_for"] for run in history}) == 50


def shut_down(progress: object) -> None:
    raise SystemExit
