"""Each sharing mode leads to its sink, with what the item says."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kafka_sink.builder import MessageOptions, NullKey
from kafka_sink.sink import KafkaSink
from queryexport.contents import Gzip
from queryexport.errors import ConfigurationError
from queryexport.filenames import fill
from queryexport.sinks.email import EmailSink
from queryexport.sinks.file import FileSink
from scheduling import runs
from scheduling.destinations import sink_for
from scheduling.models import SchedulingItem
from tests.factories import MakeItem, make_kafka_connection

SLOT = datetime(2026, 1, 18, 8, 0, tzinfo=UTC)
KAFKA = {"sharing_mode": "kafka", "kafka_topic": "events"}


def sink_of(item: SchedulingItem) -> Any:
    item.refresh_from_db()
    run = runs.queue(item, SLOT, trigger=runs.Trigger.SCHEDULE)
    assert run
    run.claim("this worker")
    return sink_for(item, run)


def test_a_file_goes_below_the_export_folder(make_item: MakeItem, export_root: Path) -> None:
    sink = sink_of(make_item(output_dir="a/b", output_compress_gz=True))
    assert isinstance(sink, FileSink)
    assert sink.path == export_root / "a/b/CDG-TEST-001--Rows_2026-01-18.xlsx.gz"
    assert isinstance(sink.contents.packing, Gzip)


def test_a_mail_takes_its_words_from_the_slot(make_item: MakeItem) -> None:
    sink = sink_of(
        make_item(
            sharing_mode="email", email_to="a@example.com| b@example.com |",
            email_cc="c@example.com", email_subject="Rows of {date-1}", email_body="{query_name}",
        )
    )  # fmt: skip
    assert isinstance(sink, EmailSink)
    letter = sink.letter
    assert (letter.to, letter.cc) == (["a@example.com", "b@example.com"], ["c@example.com"])
    assert fill(letter.subject, letter.tokens) == "Rows of 2026-01-17"
    assert fill(letter.text, letter.tokens) == "CDG-TEST-001--Rows"
    assert sink.attachment_name == "CDG-TEST-001--Rows_2026-01-18.xlsx"


def test_messages_carry_metadata_only_when_the_item_says_so(make_item: MakeItem) -> None:
    make_kafka_connection("127.0.0.1:9092")
    with_metadata = sink_of(make_item(**KAFKA, timezone="Europe/Rome"))
    assert isinstance(with_metadata, KafkaSink)
    assert with_metadata.envelope
    assert with_metadata.envelope.source_connection == "tracking"
    assert with_metadata.envelope.export_timestamp.utcoffset() is not None
    assert sink_of(make_item(**KAFKA, kafka_include_metadata=False)).envelope is None


def test_a_kafka_connection_is_found_by_its_name(make_item: MakeItem) -> None:
    make_kafka_connection("127.0.0.1:9092")
    make_kafka_connection("127.0.0.1:9093", name="second")
    sink = sink_of(make_item(**KAFKA, kafka_connection="second", kafka_batch_size=500))
    assert sink.settings.bootstrap_servers == "127.0.0.1:9093"
    assert sink.batch_size == 500


def test_an_unknown_kafka_connection_is_named(make_item: MakeItem) -> None:
    with pytest.raises(ConfigurationError, match="“nowhere”, which does not exist"):
        sink_of(make_item(**KAFKA, kafka_connection="nowhere"))


def test_the_items_choices_reach_the_messages(make_item: MakeItem) -> None:
    make_kafka_connection("127.0.0.1:9092")
    item = make_item(
        **KAFKA, kafka_null_key="skip", kafka_decimals_as_numbers=True,
        kafka_timestamp_field="day", kafka_headers={"source": "tracking"},
        kafka_allow_duplicates=True,
    )  # fmt: skip
    sink = sink_of(item)
    run = item.history.get()
    assert sink.options == MessageOptions(
        null_key=NullKey.SKIP,
        decimals_as_numbers=True,
        timestamp_field="day",
        headers=(
            ("source", b"tracking"),
            ("query_export.run", str(run.pk).encode()),
            ("query_export.attempt", b"1"),
            ("query_export.slot", b"2026-01-18T08:00:00+00:00"),
        ),
    )
    assert sink.resend_unknown
    assert sink.transactional_id == ""


def test_all_or_nothing_has_the_same_transactional_id_in_every_run(make_item: MakeItem) -> None:
    make_kafka_connection("127.0.0.1:9092")
    item = make_item(**KAFKA, kafka_guarantee="transaction")
    other = make_item(**KAFKA, kafka_guarantee="transaction")
    first = sink_of(item).transactional_id
    item.history.all().delete()
    assert first == sink_of(item).transactional_id != sink_of(other).transactional_id
