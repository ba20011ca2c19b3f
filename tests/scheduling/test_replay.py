"""Undelivered rows are sent again: once, by a run of their own, and what fails stays kept."""

from collections import Counter
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import KafkaError
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from django.contrib.auth.models import User
from pytest_django import Settings

from kafka_sink.broker import EmbeddedBroker
from kafka_sink.models import Delivery, KafkaConnection
from queryexport.errors import ConfigurationError
from scheduling import replays, runs
from scheduling.models import SchedulingHistoryItem, UndeliveredFile, UndeliveredMessage
from scheduling.progress import RunProgress
from scheduling.replays import NothingToSend, Waiting
from scheduling.undelivered.store import kept_rows, store
from tests.factories import MakeItem, make_kafka_connection
from tests.scheduling.kept_runs import in_topic, keys_in, row, run_slot, run_that_kept, send_again
from tests.services.kafka import KafkaBroker

KAFKA = {"sharing_mode": "kafka", "kafka_topic": "events", "kafka_batch_size": 1}
REFUSED = KafkaError.INVALID_RECORD
ALL = {str(number): 1 for number in range(1, 6)}


class TestSendingAgain:
    """From the kept rows of one run to the topic."""

    def test_delivers_the_rows_by_a_run_that_is_linked(
        self, make_item: MakeItem, broker: EmbeddedBroker, admin_user: User
    ) -> None:
        broker.refuse_next(0, REFUSED, 0, REFUSED)
        first = run_slot(make_item(**KAFKA))
        queued = replays.replay(first, user=admin_user)
        assert (queued.status, queued.row_count, queued.user) == ("queued", 2, admin_user)
        runs.execute(queued.pk)
        again = SchedulingHistoryItem.objects.get(pk=queued.pk)
        assert keys_in(broker.bootstrap_servers, "events") == ALL
        assert (again.status, again.error) == ("success", "")
        assert (again.row_count, again.rows_delivered, again.sql) == (2, 2, "")
        assert (again.trigger, again.replay_of, again.kafka_topic) == ("replay", first, "events")
        assert (again.query, again.connection) == (first.query, first.connection)
        assert again.taken_settled
        assert set(first.undelivered.values_list("taken_by", flat=True)) == {again.pk}

    def test_leaves_every_byte_as_it_was(self, make_item: MakeItem, broker: EmbeddedBroker) -> None:
        kept = row(1)
        send_again(run_that_kept(make_item(**KAFKA), kept))
        message = in_topic(broker.bootstrap_servers, "events")[0]
        assert (message.key(), message.value()) == (kept.message.key, kept.message.value)
        assert message.headers() == [("source", b"tracking")]
        assert message.timestamp()[1] == kept.message.timestamp_ms

    def test_is_in_the_ledger_under_the_id_that_the_messages_carry(
        self, make_item: MakeItem, broker: EmbeddedBroker
    ) -> None:
        broker.refuse_next(REFUSED)
        first = run_slot(make_item(**KAFKA))
        again = send_again(first)
        assert again.export_id == first.export_id
        counts = Delivery.objects.order_by("pk").values_list("export_id", "handed", "acked")
        assert list(counts) == [(first.export_id, 5, 4), (first.export_id, 1, 1)]

    def test_a_second_time_sends_nothing_and_says_who_did(
        self, make_item: MakeItem, broker: EmbeddedBroker
    ) -> None:
        first = run_that_kept(make_item(**KAFKA), row(1), row(2))
        again = send_again(first)
        with pytest.raises(NothingToSend, match=f"its rows were taken by run {again.pk}"):
            replays.replay(first, user=None)
        assert SchedulingHistoryItem.objects.count() == 2
        assert keys_in(broker.bootstrap_servers, "events") == {"1": 1, "2": 1}

    def test_one_row_leaves_the_others(self, make_item: MakeItem, broker: EmbeddedBroker) -> None:
        first = run_that_kept(make_item(**KAFKA), row(1), row(2), row(3))
        chosen = first.undelivered.get(number=2)
        send_again(first, messages=[chosen.pk])
        assert keys_in(broker.bootstrap_servers, "events") == {"2": 1}
        assert replays.waiting(first) == Waiting(failed=2)
        with pytest.raises(NothingToSend, match="No such row"):
            replays.replay(first, user=None, messages=[chosen.pk])
        assert send_again(first).row_count == 2

    def test_rows_of_which_nothing_is_known_need_a_word_of_their_own(
        self, make_item: MakeItem, broker: EmbeddedBroker
    ) -> None:
        first = run_that_kept(make_item(**KAFKA), row(1), row(2, unknown=True))
        assert send_again(first).row_count == 1
        with pytest.raises(NothingToSend, match="of 1 nothing is known"):
            replays.replay(first, user=None)
        assert send_again(first, include_unknown=True).row_count == 1
        assert keys_in(broker.bootstrap_servers, "events") == {"1": 1, "2": 1}

    def test_what_fails_again_is_kept_under_the_new_run(
        self, make_item: MakeItem, broker: EmbeddedBroker
    ) -> None:
        first = run_that_kept(make_item(**KAFKA), row(1, attempts=4), row(2, unknown=True), row(3))
        broker.refuse_next(REFUSED, REFUSED)
        again = send_again(first, include_unknown=True)
        assert (again.status, again.rows_delivered, again.undelivered_kept) == ("fail", 1, 2)
        assert again.taken_settled
        known = again.undelivered.values_list("attempts", "unknown")
        assert list(known.order_by("number")) == [(5, False), (2, True)]
        assert replays.waiting(again) == Waiting(failed=1, unknown=1)
        last = send_again(again, include_unknown=True)
        assert (last.status, last.replay_of) == ("success", again)
        assert keys_in(broker.bootstrap_servers, "events") == {"1": 1, "2": 1, "3": 1}

    def test_past_the_limit_rows_go_through_files_and_back(
        self, make_item: MakeItem, broker: EmbeddedBroker, settings: Settings
    ) -> None:
        settings.UNDELIVERED_IN_DATABASE = 1
        rows = [row(number, unknown=number % 2 == 0) for number in range(1, 8)]
        first = run_that_kept(make_item(**KAFKA), *rows)
        assert replays.waiting(first) == Waiting(1, 3, 0, 3)
        broker.refuse_next(REFUSED, 0, REFUSED)
        again = send_again(first)
        assert (again.row_count, again.rows_delivered, again.undelivered_kept) == (4, 2, 2)
        assert replays.waiting(again) == Waiting(failed=1, failed_in_files=1)
        assert replays.waiting(first) == Waiting(unknown_in_files=3)
        assert send_again(again).status == "success"
        assert send_again(first, include_unknown=True).status == "success"
        wanted = {str(number): 1 for number in range(1, 8)}
        assert keys_in(broker.bootstrap_servers, "events") == wanted

    def test_goes_to_the_old_topic_by_the_items_connection_of_now(
        self, make_item: MakeItem, broker: EmbeddedBroker
    ) -> None:
        item = make_item(**KAFKA)
        first = run_that_kept(item, row(1))
        KafkaConnection.objects.update(name="moved")
        item.kafka_topic, item.kafka_connection = "elsewhere", "moved"
        item.save()
        assert send_again(first).status == "success"
        assert keys_in(broker.bootstrap_servers, "events") == {"1": 1}

    def test_rows_of_several_runs_get_a_run_each(
        self, make_item: MakeItem, broker: EmbeddedBroker
    ) -> None:
        item = make_item(**KAFKA)
        one, two = run_that_kept(item, row(1), row(2)), run_that_kept(item, row(3))
        empty = run_that_kept(item, row(4))
        send_again(empty)
        queued, refused = replays.replay_selected(UndeliveredMessage.objects.all(), user=None)
        assert [(again.replay_of, again.row_count) for again in queued] == [(one, 2), (two, 1)]
        assert [f"Nothing of run {empty.pk} is left" in reason for reason in refused] == [True]


class TestWhenItCannot:
    """Sending again fails, and no row is lost or sent twice for it."""

    def test_a_deleted_item_is_said_before_a_row_is_taken(self, make_item: MakeItem) -> None:
        item = make_item(**KAFKA)
        first = run_that_kept(item, row(1))
        item.delete()
        with pytest.raises(ConfigurationError, match="was deleted, and with it the name"):
            replays.replay(first, user=None)
        assert first.undelivered.get().taken_by is None

    def test_a_run_that_is_not_over_keeps_its_rows(self, make_item: MakeItem) -> None:
        first = run_that_kept(make_item(**KAFKA), row(1))
        SchedulingHistoryItem.objects.update(status="running")
        with pytest.raises(ConfigurationError, match="is not over yet"):
            replays.replay(first, user=None)

    @pytest.mark.parametrize("trouble", ["no connection", "no topic"])
    def test_rows_that_it_never_came_to_wait_under_the_new_run(
        self, make_item: MakeItem, broker: EmbeddedBroker, settings: Settings, trouble: str
    ) -> None:
        settings.UNDELIVERED_IN_DATABASE = 2
        rows = [row(number, unknown=number == 3, attempts=number) for number in range(1, 5)]
        first = run_that_kept(make_item(**KAFKA), *rows)
        if trouble == "no connection":
            KafkaConnection.objects.update(name="gone")
        else:
            SchedulingHistoryItem.objects.update(kafka_topic="nowhere")
        again = send_again(first, include_unknown=True)
        assert (again.status, again.row_count, again.rows_delivered) == ("fail", 4, 0)
        assert (again.undelivered_kept, again.broke_off, again.taken_settled) == (4, False, True)
        assert again.error.endswith("4 undelivered rows are kept to be sent again.")
        assert replays.waiting(again) == Waiting(2, 1, 0, 1)
        assert list(again.undelivered.values_list("attempts", flat=True)) == [1, 2]
        KafkaConnection.objects.update(name="default")
        SchedulingHistoryItem.objects.update(kafka_topic="events")
        assert send_again(again, include_unknown=True).status == "success"
        assert sum(keys_in(broker.bootstrap_servers, "events").values()) == 4

    def test_a_stopped_worker_leaves_each_row_delivered_or_kept(
        self, make_item: MakeItem, broker: EmbeddedBroker
    ) -> None:
        def stop(progress: RunProgress) -> None:
            if progress.rows_read > 100:
                raise SystemExit

        first = run_that_kept(make_item(**KAFKA), *(row(number) for number in range(300)))
        again = replays.replay(first, user=None)
        with pytest.raises(SystemExit):
            runs.execute(again.pk, watch=stop)
        again.refresh_from_db()
        assert (again.status, again.row_count, again.taken_settled) == ("lost", 300, True)
        assert "worker was shut down" in again.error
        unknown = 100 - again.rows_delivered  # Of the first batch, which was on its way.
        assert replays.waiting(again) == Waiting(failed=200, unknown=unknown)
        assert send_again(again).rows_delivered == 200
        found = keys_in(broker.bootstrap_servers, "events")
        assert max(found.values()) == 1
        assert len(found) >= 300 - unknown

    def test_a_file_that_is_gone_is_said_before_a_row_is_sent(
        self, make_item: MakeItem, broker: EmbeddedBroker, settings: Settings
    ) -> None:
        settings.UNDELIVERED_IN_DATABASE = 1
        first = run_that_kept(make_item(**KAFKA), row(1), row(2))
        path = settings.UNDELIVERED_ROOT / UndeliveredFile.objects.get().name
        moved = path.rename(path.with_name("moved"))
        again = send_again(first)
        assert (again.status, again.undelivered_kept) == ("fail", 0)
        assert "is not there, so nothing was sent" in again.error
        assert not keys_in(broker.bootstrap_servers, "events")
        moved.rename(path)
        assert replays.waiting(again) == Waiting(0, 0, 1, 1, doubtful=True)
        assert send_again(again, include_unknown=True).status == "success"

    def test_rows_of_a_killed_run_may_have_arrived(
        self, make_item: MakeItem, broker: EmbeddedBroker
    ) -> None:
        first = run_that_kept(make_item(**KAFKA), row(1), row(2))
        killed = replays.replay(first, user=None)
        killed.claim("a worker that dies")
        SchedulingHistoryItem.objects.filter(pk=killed.pk).update(status="lost", error="killed")
        with pytest.raises(NothingToSend, match="To send the latter too, tick"):
            replays.replay(killed, user=None)
        again = send_again(killed, include_unknown=True)
        assert (again.status, again.row_count) == ("success", 2)
        assert list(first.undelivered.values_list("unknown", flat=True)) == [True, True]
        with pytest.raises(NothingToSend, match=f"taken by run {again.pk}"):
            replays.replay(killed, user=None, include_unknown=True)

    def test_a_run_killed_after_it_kept_its_rows_has_accounted_for_them(
        self, make_item: MakeItem
    ) -> None:
        first = run_that_kept(make_item(**KAFKA), row(1), row(2))
        killed = replays.replay(first, user=None)
        killed.claim("a worker that dies")
        kept = kept_rows(killed)
        kept.add(row(2, attempts=2))
        store(killed, kept, settled=True)
        SchedulingHistoryItem.objects.filter(pk=killed.pk).update(status="lost", error="killed")
        killed.refresh_from_db()
        assert replays.waiting(killed) == Waiting(failed=1)
        assert replays.replay(killed, user=None).taken.get().run == killed

    def test_rows_of_a_run_that_never_began_are_as_they_were(
        self, make_item: MakeItem, broker: EmbeddedBroker
    ) -> None:
        first = run_that_kept(make_item(**KAFKA), row(1), row(2, unknown=True))
        never = replays.replay(first, user=None, include_unknown=True)
        SchedulingHistoryItem.objects.filter(pk=never.pk).update(status="fail", error="no workers")
        assert replays.waiting(SchedulingHistoryItem.objects.get(pk=never.pk)) == Waiting(
            failed=1, unknown=1
        )
        assert send_again(never).row_count == 1

    def test_without_room_to_keep_them_again_the_rows_stay_where_they_were(
        self, make_item: MakeItem, broker: EmbeddedBroker, settings: Settings
    ) -> None:
        first = run_that_kept(make_item(**KAFKA), row(1), row(2), row(3))
        settings.UNDELIVERED_IN_DATABASE = 0
        settings.UNDELIVERED_ROOT.write_text("in the way")
        broker.refuse_next(REFUSED, REFUSED)
        again = send_again(first)
        assert (again.status, again.undelivered_kept, again.taken_settled) == ("fail", 0, False)
        assert "File exists" in again.error and "They stay kept where they were" in again.error
        assert replays.waiting(again) == Waiting(unknown=3, doubtful=True)


@pytest.mark.services
def test_too_large_rows_arrive_once_the_topic_takes_them(
    make_item: MakeItem, kafka: KafkaBroker
) -> None:
    topic, dead = f"events-{uuid4().hex[:8]}", f"dead-{uuid4().hex[:8]}"
    kafka.create_topic(topic, 2, {"max.message.bytes": "2000"})
    kafka.create_topic(dead)
    make_kafka_connection(kafka.bootstrap_servers)
    sql = "SELECT id, CASE WHEN id % 2 THEN hex(randomblob(4000)) ELSE note END AS note FROM events"
    item = make_item(
        **KAFKA | {"kafka_topic": topic}, sql=sql, kafka_least_percent=40,
        kafka_dead_letter_topic=dead,
    )  # fmt: skip
    first = run_slot(item)
    assert (first.status, first.rows_delivered, first.undelivered_kept) == ("partial", 2, 3)
    assert keys_in(kafka.bootstrap_servers, dead) == {"1": 1, "3": 1, "5": 1}
    assert first.dead_letters == 3

    assert send_again(first).undelivered_kept == 3  # The topic still refuses them.
    second = SchedulingHistoryItem.objects.get(replay_of=first)
    take_messages_of(kafka, topic, "1000000")
    again = send_again(second)
    assert (again.status, again.row_count) == ("success", 3)
    for run in (first, second):
        with pytest.raises(NothingToSend):
            replays.replay(run, user=None)
    assert keys_in(kafka.bootstrap_servers, topic) == Counter(ALL)


def take_messages_of(kafka: KafkaBroker, topic: str, size_bytes: str) -> None:
    entry = ConfigEntry(
        "max.message.bytes", size_bytes, incremental_operation=AlterConfigOpType.SET
    )
    resource: Any = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = kafka.admin()
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(10)
