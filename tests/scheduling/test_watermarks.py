"""Runs by a watermark: which rows they get, and when the watermark moves."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
import time_machine
from confluent_kafka import KafkaError
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError

from kafka_sink.broker import EmbeddedBroker
from queryexport.errors import ConfigurationError, RunCancelled
from scheduling import again, attempts, runs, watermarks
from scheduling.models import SchedulingHistoryItem, SchedulingItem
from tests.factories import MakeItem, make_connection, make_database
from tests.queryexport.statements import rows_of as statement_rows
from tests.scheduling.test_runs import rows_of

SLOT = datetime(2026, 1, 18, 8, 0, tzinfo=UTC)
WHERE = "{0} > :watermark_from AND {0} <= :watermark_to"
BY_ID = f"SELECT id, note FROM events WHERE {WHERE.format('id')} ORDER BY id"
BY_DAY = f"SELECT id, day FROM events WHERE {WHERE.format('day')} ORDER BY id"

pytestmark = pytest.mark.django_db


def set_mark(item: SchedulingItem, value: str) -> None:
    latest = watermarks.current(item)
    seen = latest.pk if latest else None
    watermarks.set_by_hand(item, value, user=None, reason="A test.", seen=seen)


def mark(item: SchedulingItem) -> str | None:
    latest = watermarks.current(item)
    return latest.value if latest else None


def carry_out(run: SchedulingHistoryItem | None, **options: Any) -> SchedulingHistoryItem:
    assert run
    runs.execute(run.pk, **options)
    return SchedulingHistoryItem.objects.get(pk=run.pk)


def run_next(item: SchedulingItem, **options: Any) -> SchedulingHistoryItem:
    """A run of the slot of the next day, which writes a file of its own."""
    slot = SLOT + timedelta(days=item.history.count())
    return carry_out(runs.queue(item, slot, trigger=runs.Trigger.SCHEDULE), **options)


def ids(run: SchedulingHistoryItem) -> list[Any]:
    assert run.status == "success", run.error
    return [row[0] for row in rows_of(Path(run.place))[1:]]


@pytest.fixture
def item(make_item: MakeItem) -> SchedulingItem:
    """Sends the events above the id that it has come to, and has come to 2."""
    item = make_item(sql=BY_ID, watermark_column="id", watermark_kind="number")
    set_mark(item, "2")
    return item


@pytest.fixture
def insert(tracking: Path) -> Callable[..., None]:
    """Adds events with these ids."""

    def insert(*numbers: int) -> None:
        make_database(
            tracking,
            *(f"INSERT INTO events VALUES ({n}, '2026-01-{n:02d}', 'new')" for n in numbers),
        )

    return insert


class TestARun:
    def test_gets_what_is_new_and_moves_the_mark(
        self, item: SchedulingItem, insert: Callable[..., None]
    ) -> None:
        first = run_next(item)
        assert (ids(first), mark(item)) == ([3, 4, 5], "5")
        assert (first.watermark_from, first.watermark_to, first.watermark_moved) == ("2", "5", True)
        insert(6, 7)
        second = run_next(item)
        assert (ids(second), mark(item)) == ([6, 7], "7")
        moved = watermarks.current(item)
        assert moved and (moved.run, moved.user) == (second, None)

    def test_keeps_its_bounds_among_the_parameters(self, make_item: MakeItem) -> None:
        item = make_item(
            sql=BY_ID.replace("ORDER", "AND note <> :note ORDER"),
            parameters={"note": "event 4"}, watermark_column="id", watermark_kind="number",
        )  # fmt: skip
        set_mark(item, "2")
        run = run_next(item)
        assert ids(run) == [3, 5]
        assert run.parameters == {"note": "event 4", "watermark_from": "2", "watermark_to": "5"}

    def test_leaves_what_comes_between_its_start_and_its_query_to_the_next(
        self, item: SchedulingItem, insert: Callable[..., None]
    ) -> None:
        item.refresh_from_db()
        run = runs.queue(item, SLOT, trigger=runs.Trigger.SCHEDULE)
        assert run
        run.claim("this process")
        covered = watermarks.range_of(item, run, {})
        assert covered
        insert(6)
        assert statement_rows(item.connection.settings(), BY_ID, **covered.bound)[-1][0] == 5

    def test_without_anything_new_is_a_success_that_moves_nothing(
        self, item: SchedulingItem
    ) -> None:
        set_mark(item, "5")
        run = run_next(item)
        assert (ids(run), mark(item)) == ([], "5")
        assert (run.watermark_from, run.watermark_to, run.watermark_moved) == ("5", "5", False)

    def test_reads_times_as_text_exactly_as_they_are(self, make_item: MakeItem) -> None:
        item = make_item(sql=BY_DAY, watermark_column="day", watermark_kind="text")
        set_mark(item, "2026-01-03")
        assert (ids(run_next(item)), mark(item)) == ([4, 5], "2026-01-05")

    @pytest.mark.parametrize("ending", [";", " -- the newest", " ; -- done\n", "\n;\n"])
    def test_may_end_in_a_semicolon_or_a_comment(self, make_item: MakeItem, ending: str) -> None:
        item = make_item(sql=BY_ID + ending, watermark_column="id", watermark_kind="number")
        set_mark(item, "3")
        assert ids(run_next(item)) == [4, 5]

    def test_quotes_a_column_whose_name_is_a_word_of_sql(self, make_item: MakeItem) -> None:
        sql = f'SELECT id AS "order" FROM events WHERE {WHERE.format("id")}'
        item = make_item(sql=sql, watermark_column="order", watermark_kind="number")
        set_mark(item, "4")
        assert ids(run_next(item)) == [5]

    def test_of_an_item_without_a_column_sends_all_and_keeps_no_bounds(
        self, make_item: MakeItem
    ) -> None:
        run = run_next(make_item())
        assert (run.row_count, run.watermark_from, run.watermark_to) == (5, "", "")


class TestAMarkThatIsNotSet:
    @pytest.mark.parametrize("emptied", [False, True])
    def test_fails_the_run_with_the_way_to_set_it_and_is_not_tried_again(
        self, make_item: MakeItem, emptied: bool
    ) -> None:
        item = make_item(sql=BY_ID, watermark_column="id", watermark_kind="number")
        if emptied:
            set_mark(item, "2")
            set_mark(item, "")
        run = run_next(item)
        assert run.status == "fail"
        assert f"The watermark of “{item}” is not set" in run.error
        assert "section “Watermark”" in run.error
        assert not run.next_attempts.exists()


class TestTheMarkStays:
    """Whatever is not a success of the run that began with it moves nothing."""

    def test_when_the_run_fails_half_way_and_the_next_covers_its_rows(
        self, item: SchedulingItem
    ) -> None:
        def broken(progress: object) -> None:
            raise ConfigurationError("Broken half way.")

        failed = run_next(item, watch=broken)
        assert (failed.status, failed.watermark_to, failed.watermark_moved) == ("fail", "5", False)
        assert mark(item) == "2"
        assert ids(run_next(item)) == [3, 4, 5]

    def test_when_the_worker_is_shut_down(self, item: SchedulingItem) -> None:
        def stop(progress: object) -> None:
            raise SystemExit

        with pytest.raises(SystemExit):
            run_next(item, watch=stop)
        assert (item.history.get(attempt=1).status, mark(item)) == ("lost", "2")

    def test_when_the_run_was_declared_lost_meanwhile(self, item: SchedulingItem) -> None:
        def take_over(progress: object) -> None:
            SchedulingHistoryItem.objects.update(status="lost", error="declared lost")

        assert (run_next(item, watch=take_over).status, mark(item)) == ("lost", "2")

    def test_when_a_person_cancels_it(self, item: SchedulingItem) -> None:
        def cancel(progress: object) -> None:
            raise RunCancelled("Cancelled by ops.")

        assert (run_next(item, watch=cancel).status, mark(item)) == ("cancelled", "2")

    @pytest.mark.parametrize(("least", "status"), [(50, "partial"), (95, "fail")])
    def test_when_a_message_was_not_delivered(
        self, make_item: MakeItem, broker: EmbeddedBroker, least: int, status: str
    ) -> None:
        item = make_item(
            sql=BY_ID, watermark_column="id", watermark_kind="number", sharing_mode="kafka",
            kafka_topic="events", kafka_batch_size=1, kafka_least_percent=least,
        )  # fmt: skip
        set_mark(item, "0")
        broker.refuse_next(KafkaError.INVALID_RECORD)
        run = run_next(item)
        assert (run.status, run.rows_delivered, run.watermark_to) == (status, 4, "5")
        assert (run.watermark_moved, mark(item)) == (False, "0")
        whole = run_next(item)
        assert (whole.status, whole.rows_delivered, mark(item)) == ("success", 5, "5")

    @pytest.mark.parametrize("value", ["0", "", "2"])
    def test_as_a_person_set_it_during_the_run(self, item: SchedulingItem, value: str) -> None:
        """Also the same value, set anew: it is the person's word then."""

        def set_it(progress: object) -> None:
            set_mark(item, value)

        run = run_next(item, watch=set_it)
        assert (run.status, run.watermark_moved, mark(item)) == ("success", False, value)

    def test_after_the_item_was_deleted(self, item: SchedulingItem) -> None:
        def delete(progress: object) -> None:
            SchedulingItem.objects.filter(pk=item.pk).delete()

        run = run_next(item, watch=delete)
        assert (run.status, run.watermark_moved) == ("success", False)


class TestAnotherAttempt:
    def test_by_itself_takes_the_mark_anew(
        self, item: SchedulingItem, insert: Callable[..., None]
    ) -> None:
        def stop(progress: object) -> None:
            raise SystemExit

        with pytest.raises(SystemExit):
            run_next(item, watch=stop)
        second = item.history.get(attempt=2)
        insert(6)
        assert ids(carry_out(second)) == [3, 4, 5, 6]
        assert mark(item) == "6"

    def failed(self, item: SchedulingItem) -> SchedulingHistoryItem:
        def broken(progress: object) -> None:
            raise ConfigurationError("Broken half way.")

        return run_next(item, watch=broken)

    def test_that_a_person_asks_for_repeats_the_range_and_moves_the_mark(
        self, item: SchedulingItem, insert: Callable[..., None]
    ) -> None:
        old = self.failed(item)
        insert(6)
        run = carry_out(again.run_again(old, user=None))
        assert (ids(run), mark(item), run.watermark_moved) == ([3, 4, 5], "5", True)
        assert ids(run_next(item)) == [6]

    def test_of_a_range_that_was_delivered_since_moves_nothing(
        self, item: SchedulingItem, insert: Callable[..., None]
    ) -> None:
        old = self.failed(item)
        insert(6)
        assert ids(run_next(item)) == [3, 4, 5, 6]
        run = carry_out(again.run_again(old, user=None))
        assert (ids(run), mark(item), run.watermark_moved) == ([3, 4, 5], "6", False)

    def test_of_a_success_sends_the_same_rows_and_moves_nothing(
        self, item: SchedulingItem, insert: Callable[..., None]
    ) -> None:
        old = run_next(item)
        insert(6)
        run = carry_out(again.run_again(old, user=None))
        assert (ids(run), run.watermark_from, run.watermark_to) == ([3, 4, 5], "2", "5")
        assert mark(item) == "5"

    def test_moves_the_mark_that_stands_there_again(self, item: SchedulingItem) -> None:
        """A person has rewound it to where the old run began."""
        old = run_next(item)
        set_mark(item, "2")
        assert carry_out(again.run_again(old, user=None)).watermark_moved
        assert mark(item) == "5"

    def test_of_a_run_that_had_no_range_yet_takes_the_mark(self, item: SchedulingItem) -> None:
        set_mark(item, "")
        old = run_next(item)
        set_mark(item, "4")
        assert (old.status, old.watermark_from) == ("fail", "")
        run = carry_out(again.run_again(old, user=None))
        assert (ids(run), mark(item)) == ([5], "5")

    def test_after_one_that_a_person_asked_for_repeats_the_same_range(
        self, item: SchedulingItem, insert: Callable[..., None]
    ) -> None:
        """Also when the one between died before it had a range of its own."""
        old = self.failed(item)
        insert(6)
        died = again.run_again(old, user=None)
        SchedulingHistoryItem.objects.filter(pk=died.pk).update(status="lost", error="killed")
        died.refresh_from_db()
        third = attempts.try_again(died, now=SLOT)
        assert third and third.trigger == "rerun"
        assert (ids(carry_out(third)), mark(item)) == ([3, 4, 5], "5")

    def test_with_the_marks_kind_changed_since_says_so(self, item: SchedulingItem) -> None:
        old = self.failed(item)
        SchedulingItem.objects.update(watermark_kind="time")
        connection = item.connection
        connection.engine = "duckdb"
        connection.save()
        run = carry_out(again.run_again(old, user=None))
        assert (run.status, "“2” cannot be a watermark" in run.error) == ("fail", True)


class TestBackfill:
    def test_is_refused_for_an_item_with_a_watermark(self, item: SchedulingItem) -> None:
        with pytest.raises(ConfigurationError, match="a past slot has no rows of its own"):
            watermarks.refuse_backfill(item)

    def test_is_no_matter_for_others(self, make_item: MakeItem) -> None:
        watermarks.refuse_backfill(make_item())

    def test_that_was_queued_before_fails(self, item: SchedulingItem) -> None:
        run = carry_out(runs.queue(item, SLOT, trigger=runs.Trigger.BACKFILL))
        assert (run.status, mark(item)) == ("fail", "2")
        assert "a past slot has no rows of its own" in run.error


class TestTimes:
    """On DuckDB, which has real times and needs no server."""

    @pytest.fixture
    def database(self, tmp_path: Path) -> Path:
        path = tmp_path / "times.duckdb"
        with duckdb.connect(str(path)) as connection:
            connection.execute("CREATE TABLE parts (id INTEGER, stamp TIMESTAMP, day DATE)")
        return path

    def add(self, database: Path, number: int, at: str) -> None:
        with duckdb.connect(str(database)) as connection:
            connection.execute("INSERT INTO parts VALUES (?, ?, ?)", [number, at, at[:10]])

    @pytest.fixture
    def timed(self, make_item: MakeItem, database: Path) -> SchedulingItem:
        """Leaves the rows of the last 60 seconds to a later run; its zone is an hour ahead."""
        item = make_item(
            connection=make_connection(database, engine="duckdb"), timezone="Europe/Rome",
            sql=f"SELECT id, stamp FROM parts WHERE {WHERE.format('stamp')} ORDER BY id",
            watermark_column="stamp", watermark_lag_sec=60,
        )  # fmt: skip
        set_mark(item, "2026-01-18 08:59:00")
        return item

    @pytest.fixture(autouse=True)
    def clock(self) -> Iterator[time_machine.Traveller]:
        with time_machine.travel(SLOT, tick=False) as traveller:  # 09:00 in Rome.
            yield traveller

    def test_rows_younger_than_the_lag_wait_and_none_is_lost(
        self, timed: SchedulingItem, database: Path, clock: time_machine.Traveller
    ) -> None:
        clock.shift(60)
        self.add(database, 1, "2026-01-18 08:59:30.000001")
        self.add(database, 2, "2026-01-18 09:00:20")
        first = run_next(timed)
        assert (ids(first), mark(timed)) == ([1], "2026-01-18T09:00:00")
        self.add(database, 3, "2026-01-18 09:00:10")  # Committed after a younger one.
        clock.shift(60)
        assert ids(run_next(timed)) == [2, 3]
        assert mark(timed) == "2026-01-18T09:00:20"

    def test_the_mark_never_goes_back_for_the_lag(
        self, timed: SchedulingItem, database: Path
    ) -> None:
        set_mark(timed, "2026-01-18T08:59:45")
        self.add(database, 1, "2026-01-18 08:59:50")
        run = run_next(timed)
        assert (ids(run), run.watermark_moved, mark(timed)) == ([], False, "2026-01-18T08:59:45")

    def test_microseconds_decide(self, timed: SchedulingItem, database: Path) -> None:
        set_mark(timed, "2026-01-18T08:00:00.123456")
        for number, digits in enumerate(("123455", "123456", "123457", "123458"), start=1):
            self.add(database, number, f"2026-01-18 08:00:00.{digits}")
        assert (ids(run_next(timed)), mark(timed)) == ([3, 4], "2026-01-18T08:00:00.123458")

    def test_a_date_with_a_lag_of_a_day_leaves_today_to_tomorrow(
        self, make_item: MakeItem, database: Path, clock: time_machine.Traveller
    ) -> None:
        item = make_item(
            connection=make_connection(database, engine="duckdb"), watermark_column="day",
            sql=f"SELECT id, day FROM parts WHERE {WHERE.format('day')} ORDER BY id",
            watermark_lag_sec=86_400,
        )  # fmt: skip
        set_mark(item, "2026-01-15")
        self.add(database, 1, "2026-01-17 10:00:00")
        self.add(database, 2, "2026-01-18 07:00:00")
        assert (ids(run_next(item)), mark(item)) == ([1], "2026-01-17")
        self.add(database, 3, "2026-01-18 23:00:00")
        clock.shift(timedelta(days=1))
        assert (ids(run_next(item)), mark(item)) == ([2, 3], "2026-01-18")

    def test_a_mark_with_an_offset_does_not_fit_a_column_without(
        self, timed: SchedulingItem, database: Path
    ) -> None:
        set_mark(timed, "2026-01-18T07:00:00+00:00")
        self.add(database, 1, "2026-01-18 08:30:00")
        run = run_next(timed)
        assert (run.status, "Set the watermark again, without an offset" in run.error) == (
            "fail",
            True,
        )


class TestMisfits:
    def test_a_column_of_another_kind_fails_the_run_and_names_the_kind(
        self, make_item: MakeItem
    ) -> None:
        item = make_item(sql=BY_DAY, watermark_column="day", watermark_kind="number")
        set_mark(item, "0")
        run = run_next(item)
        assert run.status == "fail"
        assert "The column day holds text such as" in run.error

    def test_a_query_that_compares_another_column_fails_the_run(self, make_item: MakeItem) -> None:
        sql = f"SELECT id, -id AS minus FROM events WHERE {WHERE.format('id')}"
        item = make_item(sql=sql, watermark_column="minus", watermark_kind="number")
        set_mark(item, "1")
        assert "must compare the column minus itself" in run_next(item).error

    def test_a_column_that_the_query_does_not_give_fails_the_run(self, make_item: MakeItem) -> None:
        item = make_item(sql=BY_ID, watermark_column="nothing", watermark_kind="number")
        set_mark(item, "1")
        assert "no such column" in run_next(item).error

    def test_a_query_that_lost_its_condition_fails_the_run(self, item: SchedulingItem) -> None:
        item.query.sql = "SELECT id FROM events"
        item.query.save()
        run = run_next(item)
        assert (run.status, mark(item)) == ("fail", "2")
        assert "it uses neither. Change the query" in run.error


class TestTheDoor:
    @pytest.mark.parametrize(
        ("values", "field", "words"),
        [
            ({"sql": BY_ID}, "watermark_column", "the item has no watermark column"),
            ({"watermark_column": "id"}, "watermark_column", "but it uses neither"),
            (
                {"watermark_column": "id", "sql": "SELECT 1 AS id WHERE 1 > :watermark_from"},
                "watermark_column", "but it uses only :watermark_from",
            ),
            ({"sql": BY_ID, "watermark_column": "id; --"}, "watermark_column", "no plain column"),
            ({"sql": BY_ID, "watermark_column": "q.id"}, "watermark_column", "no plain column"),
            (
                {"sql": BY_ID, "watermark_column": "id", "watermark_kind": "time"},
                "watermark_column", "SQLite keeps times as text",
            ),
            (
                {"sql": BY_ID, "watermark_column": "id", "parameters": {"watermark_to": 9}},
                "parameters", "watermark_to cannot be given here",
            ),
            (
                {"sql": BY_ID, "watermark_column": "id", "watermark_lag_sec": 5},
                "__all__", "Only a watermark that is a time can have a lag",
            ),
            (
                {"sql": BY_ID, "watermark_column": "id", "overlap": "allow"},
                "__all__", "cannot overlap",
            ),
        ],
    )  # fmt: skip
    def test_refuses_what_does_not_fit(
        self, make_item: MakeItem, values: dict[str, Any], field: str, words: str
    ) -> None:
        changed = {
            name: values[name] for name in ("watermark_lag_sec", "overlap") if name in values
        }
        stored = {name: value for name, value in values.items() if name not in changed}
        item = make_item(**({"watermark_kind": "number"} | stored))
        for name, value in changed.items():
            setattr(item, name, value)
        with pytest.raises(ValidationError) as refused:
            item.full_clean()
        assert list(refused.value.message_dict) == [field]
        assert words in " ".join(refused.value.message_dict[field])

    def test_lets_in_what_fits(self, item: SchedulingItem) -> None:
        item.full_clean()

    def test_of_parameters_that_are_no_object_stays_shut(self, item: SchedulingItem) -> None:
        item.parameters = 7
        with pytest.raises(ValidationError, match="Enter an object"):
            item.full_clean()


class TestByHand:
    def test_a_change_keeps_who_and_why(self, item: SchedulingItem) -> None:
        user = User.objects.create_user("ops")
        latest = watermarks.current(item)
        assert latest
        change = watermarks.set_by_hand(item, "+1", user=user, reason="Lost.", seen=latest.pk)
        assert (change.value, change.user, change.reason, change.run) == ("1", user, "Lost.", None)

    def test_of_a_mark_that_has_moved_meanwhile_is_refused(self, item: SchedulingItem) -> None:
        seen = watermarks.current(item)
        run = run_next(item)
        assert seen
        with pytest.raises(watermarks.WatermarkMoved, match=f"has become 5 .* by run {run.pk}"):
            watermarks.set_by_hand(item, "1", user=None, reason="Lost.", seen=seen.pk)
        assert mark(item) == "5"

    def test_of_a_first_mark_that_somebody_else_has_set_is_refused(
        self, item: SchedulingItem
    ) -> None:
        with pytest.raises(watermarks.WatermarkMoved):
            watermarks.set_by_hand(item, "1", user=None, reason="First.", seen=None)

    @pytest.mark.parametrize(("keep", "value"), [(True, "2"), (False, "")])
    def test_to_keep_or_to_empty_is_a_change_of_its_own(
        self, item: SchedulingItem, keep: bool, value: str
    ) -> None:
        before = watermarks.current(item)
        change = watermarks.keep_or_empty(item, keep=keep, user=None, reason="The query changed.")
        assert change and before and change.pk > before.pk
        assert (change.value, mark(item)) == (value, value)

    def test_without_a_mark_there_is_nothing_to_keep(self, make_item: MakeItem) -> None:
        assert watermarks.keep_or_empty(make_item(), keep=True, user=None, reason="x") is None
