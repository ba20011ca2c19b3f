"""What runs keep of the rows that did not arrive, and copy to a dead-letter topic."""

import pytest
from confluent_kafka import KafkaError
from pytest_django import Settings

from kafka_sink.broker import EmbeddedBroker
from kafka_sink.models import Delivery
from scheduling import replays
from scheduling.models import SchedulingHistoryItem, UndeliveredMessage
from scheduling.progress import RunProgress
from scheduling.replays import NothingToSend, Waiting
from tests.factories import MakeItem
from tests.scheduling.kept_runs import in_topic, keys_in, run_slot

KAFKA = {"sharing_mode": "kafka", "kafka_topic": "events", "kafka_batch_size": 1}
REFUSED = KafkaError.INVALID_RECORD


class TestARunKeeps:
    """What an ordinary run leaves when not all of its rows arrive."""

    def test_refused_rows_as_they_were_sent(
        self, make_item: MakeItem, broker: EmbeddedBroker
    ) -> None:
        broker.refuse_next(0, REFUSED)
        run = run_slot(make_item(**KAFKA, kafka_headers={"source": "tracking"}))
        kept = run.undelivered.get()
        assert (bytes(kept.key), kept.unknown, kept.attempts) == (b"2", False, 1)
        assert b'"note":"event 2"' in bytes(kept.value)
        assert dict(kept.row.message.headers)["source"] == b"tracking"
        assert "INVALID_RECORD" in kept.reason
        assert (run.status, run.undelivered_kept, run.broke_off) == ("fail", 1, False)
        assert run.error.endswith("1 undelivered row is kept to be sent again.")

    def test_nothing_when_all_arrived(self, make_item: MakeItem, broker: EmbeddedBroker) -> None:
        run = run_slot(make_item(**KAFKA))
        assert (run.undelivered_kept, run.undelivered.count()) == (0, 0)

    def test_nothing_when_it_is_all_or_nothing(
        self, make_item: MakeItem, broker: EmbeddedBroker
    ) -> None:
        broker.refuse_next(0, REFUSED)
        run = run_slot(make_item(**KAFKA, kafka_guarantee="transaction"))
        assert (run.status, run.undelivered_kept) == ("fail", 0)
        with pytest.raises(NothingToSend, match="kept no undelivered rows"):
            replays.replay(run, user=None)

    def test_nothing_when_it_was_taken_over(
        self, make_item: MakeItem, broker: EmbeddedBroker
    ) -> None:
        def take_over(progress: RunProgress) -> None:
            SchedulingHistoryItem.objects.update(status="lost", error="declared lost")

        broker.refuse_next(REFUSED)
        run = run_slot(make_item(**KAFKA), watch=take_over)
        assert (run.status, run.error) == ("lost", "declared lost")
        assert not UndeliveredMessage.objects.exists()

    def test_rows_whose_answer_never_came_as_unknown(
        self, make_item: MakeItem, broker: EmbeddedBroker
    ) -> None:
        def stop_while_waiting(progress: RunProgress) -> None:
            calls.append(progress.rows_read)
            broker.answer_after(5000)
            if len(calls) > 2:
                raise SystemExit

        calls: list[int] = []
        item = make_item(**KAFKA)
        with pytest.raises(SystemExit):
            run_slot(item, watch=stop_while_waiting)
        broker.answer_after(0)
        run = item.history.get(attempt=1)
        assert (run.status, run.broke_off, run.undelivered_kept) == ("lost", True, 5)
        assert replays.waiting(run) == Waiting(unknown=5)
        in_doubt = run.undelivered.first()
        assert in_doubt and "stopped before its acknowledgement" in in_doubt.reason

    def test_and_says_how_many_rows_found_no_room(
        self, make_item: MakeItem, broker: EmbeddedBroker, settings: Settings
    ) -> None:
        settings.UNDELIVERED_IN_DATABASE = 1
        settings.UNDELIVERED_ROOT.write_text("in the way")
        broker.refuse_next(REFUSED, REFUSED, REFUSED)
        run = run_slot(make_item(**KAFKA))
        assert (run.status, run.rows_delivered, run.undelivered_kept) == ("fail", 2, 1)
        assert "1 undelivered row is kept" in run.error
        assert f"2 could not be kept: File exists in {settings.UNDELIVERED_ROOT}" in run.error

    def test_what_it_had_read_when_it_broke_off(
        self, make_item: MakeItem, broker: EmbeddedBroker
    ) -> None:
        sql = "SELECT id, CASE WHEN id < 4 THEN id ELSE json('{') END AS n FROM events"
        broker.refuse_next(REFUSED)
        run = run_slot(make_item(**KAFKA, sql=sql))
        assert (run.status, run.broke_off) == ("fail", True)
        assert run.undelivered_kept == run.row_count - run.rows_delivered


class TestDeadLetters:
    """Copies of what was not delivered, in a topic of their own."""

    def test_carry_the_reason_in_their_headers(
        self, make_item: MakeItem, broker: EmbeddedBroker
    ) -> None:
        broker.refuse_next(0, REFUSED)
        item = make_item(**KAFKA, kafka_dead_letter_topic="dead", kafka_headers={"source": "t"})
        run = run_slot(item)
        assert (run.dead_letters, run.undelivered_kept) == (1, 1)
        letter = in_topic(broker.bootstrap_servers, "dead")[0]
        kept = run.undelivered.get()
        assert (letter.key(), letter.value()) == (kept.key, kept.value)
        headers = dict(letter.headers() or ())
        assert headers["source"] == b"t"
        assert headers["query_export.run"] == str(run.pk).encode()
        assert headers["query_export.error"] == kept.reason.encode()
        assert headers["query_export.topic"] == b"events"
        assert headers["query_export.outcome"] == b"failed"
        assert headers["query_export.attempts"] == b"1"
        topics = Delivery.objects.order_by("pk").values_list("topic", "acked")
        assert list(topics) == [("events", 4), ("dead", 1)]

    def test_include_those_that_are_in_files(
        self, make_item: MakeItem, broker: EmbeddedBroker, settings: Settings
    ) -> None:
        settings.UNDELIVERED_IN_DATABASE = 1
        broker.refuse_next(REFUSED, REFUSED, REFUSED)
        run = run_slot(make_item(**KAFKA, kafka_dead_letter_topic="dead"))
        assert run.dead_letters == 3
        assert sum(keys_in(broker.bootstrap_servers, "dead").values()) == 3

    def test_that_cannot_be_written_are_in_the_error_and_kept_all_the_same(
        self, make_item: MakeItem, broker: EmbeddedBroker
    ) -> None:
        broker.refuse_next(REFUSED)
        run = run_slot(make_item(**KAFKA, kafka_dead_letter_topic="nowhere"))
        assert (run.dead_letters, run.undelivered_kept) == (0, 1)
        assert "1 of 1 dead letters were not written: The topic nowhere does not exist" in run.error

    def test_that_are_refused_are_counted(
        self, make_item: MakeItem, broker: EmbeddedBroker
    ) -> None:
        broker.refuse_next(REFUSED, REFUSED, 0, 0, 0, REFUSED)
        run = run_slot(make_item(**KAFKA, kafka_dead_letter_topic="dead"))
        assert (run.dead_letters, run.undelivered_kept) == (1, 2)
        assert "1 of 2 dead letters were not written: INVALID_RECORD" in run.error

    def test_are_not_written_when_all_arrived(
        self, make_item: MakeItem, broker: EmbeddedBroker
    ) -> None:
        run = run_slot(make_item(**KAFKA, kafka_dead_letter_topic="nowhere"))
        assert (run.status, run.dead_letters) == ("success", 0)
