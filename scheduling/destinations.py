"""Turns an item's sharing mode into the sink that its rows go to."""

from datetime import datetime
from functools import partial
from typing import assert_never

from kafka_sink import deliveries
from kafka_sink.builder import MessageOptions, NullKey
from kafka_sink.messages import Envelope
from kafka_sink.models import KafkaConnection
from kafka_sink.reports import Keep
from kafka_sink.sink import KafkaSink
from queryexport.contents import Contents, Gzip
from queryexport.errors import ConfigurationError
from queryexport.filenames import fill
from queryexport.formats.xlsx import Xlsx
from queryexport.sinks import Sink
from queryexport.sinks.email import EmailSink
from queryexport.sinks.file import FileSink
from scheduling.models import (
    KafkaGuarantee,
    SchedulingHistoryItem,
    SchedulingItem,
    SharingMode,
)
from scheduling.rules import HEADER_PREFIX


def sink_for(item: SchedulingItem, run: SchedulingHistoryItem, *, keep: Keep | None = None) -> Sink:
    """The sink of one run; raises `ConfigurationError` when the item cannot work as it is.

    Kafka rows that are not delivered go to `keep`, unless the run is all or nothing: a part of it
    must not be sent alone.
    """
    mode = SharingMode(item.sharing_mode)
    slot = run.scheduled_for
    match mode:
        case SharingMode.FILESYSTEM:
            path = item.folder() / item.file_name(slot)
            return FileSink(path, _contents(item))
        case SharingMode.EMAIL:
            return _email(item, slot)
        case SharingMode.KAFKA:
            return _kafka(item, run, keep)
        case _:
            assert_never(mode)


def _email(item: SchedulingItem, slot: datetime) -> EmailSink:
    tokens = item.tokens(slot)
    return EmailSink(
        to=item.to,
        cc=item.cc,
        subject=fill(item.email_subject, tokens),
        body=fill(item.email_body, tokens),
        attachment_name=item.file_name(slot),
        contents=_contents(item),
    )


def _contents(item: SchedulingItem) -> Contents:
    return Contents(Xlsx(item.timezone), Gzip() if item.output_compress_gz else None)


def messages_sink(item: SchedulingItem, run: SchedulingHistoryItem, *, topic: str) -> KafkaSink:
    """For rows that are messages already, sent as they are to any topic of the item's cluster.

    Each goes in a request of its own: where a batch is too large, all of its rows are refused.
    """
    return KafkaSink(
        _connection(item).settings(),
        topic=topic,
        key_field="",
        batch_size=1,
        envelope=None,
        zone=item.timezone,
        resend_unknown=item.kafka_allow_duplicates,
        record=partial(deliveries.record, source="run", export_id=run.export_id),
        ready=True,
    )


def _connection(item: SchedulingItem) -> KafkaConnection:
    connection = KafkaConnection.objects.filter(name=item.kafka_connection).first()
    if connection is None:
        raise ConfigurationError(
            f"The item names the Kafka connection “{item.kafka_connection}”, which does not exist. "
            "Create it, or choose another one in the item."
        )
    return connection


def _kafka(item: SchedulingItem, run: SchedulingHistoryItem, keep: Keep | None) -> KafkaSink:
    connection = _connection(item)
    assert run.started_at
    envelope = Envelope(
        source_query=run.query,
        source_connection=run.connection,
        export_timestamp=run.started_at.astimezone(item.timezone),
        export_id=run.export_id,
    )
    return KafkaSink(
        connection.settings(),
        topic=item.kafka_topic,
        key_field=item.kafka_key_field,
        batch_size=item.kafka_batch_size,
        envelope=envelope if item.kafka_include_metadata else None,
        zone=item.timezone,
        options=MessageOptions(
            null_key=NullKey(item.kafka_null_key),
            decimals_as_numbers=item.kafka_decimals_as_numbers,
            headers=_headers(item, run),
            timestamp_field=item.kafka_timestamp_field,
        ),
        resend_unknown=item.kafka_allow_duplicates,
        transactional_id=_transactional_id(item),
        keep=None if _transactional_id(item) else keep,
        record=partial(deliveries.record, source="run", export_id=run.export_id),
    )


def _headers(item: SchedulingItem, run: SchedulingHistoryItem) -> tuple[tuple[str, bytes], ...]:
    """The item's own headers, then which run, attempt and slot the message comes from."""
    own = {
        f"{HEADER_PREFIX}run": str(run.pk),
        f"{HEADER_PREFIX}attempt": str(run.attempt),
        f"{HEADER_PREFIX}slot": run.scheduled_for.astimezone(item.timezone).isoformat(),
    }
    return tuple((name, text.encode()) for name, text in (item.kafka_headers | own).items())


def _transactional_id(item: SchedulingItem) -> str:
    """The same for all runs of the item, so that a new one ends what an old one left open."""
    is_transaction = item.kafka_guarantee == KafkaGuarantee.TRANSACTION
    return f"query-export-item-{item.pk}" if is_transaction else ""
