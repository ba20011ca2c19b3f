"""Turns an item's sharing mode into the sink that its rows go to."""

from functools import partial
from pathlib import Path
from typing import assert_never

from django.conf import settings

from kafka_sink import deliveries
from kafka_sink.builder import MessageOptions, NullKey
from kafka_sink.messages import Envelope
from kafka_sink.models import KafkaConnection
from kafka_sink.reports import Keep
from kafka_sink.sink import KafkaSink
from queryexport.errors import ConfigurationError
from queryexport.sinks import Sink
from queryexport.sinks.file import FileSink, OnExisting
from queryexport.sinks.store import StoreSink
from scheduling.file_contents import contents_of
from scheduling.letters import email_sink
from scheduling.models import (
    KafkaGuarantee,
    Output,
    SchedulingHistoryItem,
    SchedulingItem,
    SharingMode,
)
from scheduling.rules import HEADER_PREFIX


def sink_for(
    output: Output,
    run: SchedulingHistoryItem,
    *,
    keep: Keep | None = None,
    only: frozenset[str] | None = None,
) -> Sink:
    """The sink of one destination of a run; raises `ConfigurationError` when it cannot work.

    Kafka rows that are not delivered go to `keep`, unless the run is all or nothing: a part of it
    must not be sent alone. A message goes `only` to those of its recipients, unless None.
    """
    mode = SharingMode(output.sharing_mode)
    match mode:
        case SharingMode.FILESYSTEM:
            return file_sink(output, run)
        case SharingMode.EMAIL:
            return email_sink(output, run, only=only)
        case SharingMode.KAFKA:
            return _kafka(output, run, keep)
        case _:
            assert_never(mode)


def file_sink(output: Output, run: SchedulingHistoryItem) -> Sink:
    contents, name = contents_of(output), output.file_name(run.scheduled_for, run_id=run.pk)
    on_existing = OnExisting(output.output_on_existing)
    if output.output_url:
        return StoreSink(output.output_url, name, contents, on_existing=on_existing)
    return FileSink(
        output.folder() / name,
        contents,
        root=Path(settings.EXPORT_ROOT),
        on_existing=on_existing,
        keep_versions=output.output_keep_versions,
    )


def kafka_output(item: SchedulingItem) -> Output | None:
    """Where the item's messages go, if they go to Kafka: itself, or one of its destinations."""
    return next((output for output in item.outputs if output.topic()), None)


def messages_sink(output: Output, run: SchedulingHistoryItem, *, topic: str) -> KafkaSink:
    """For rows that are messages already, sent as they are to any topic of the item's cluster.

    Each goes in a request of its own: where a batch is too large, all of its rows are refused.
    """
    return KafkaSink(
        _connection(output).settings(),
        topic=topic,
        key_field="",
        batch_size=1,
        envelope=None,
        zone=output.source.timezone,
        resend_unknown=output.kafka_allow_duplicates,
        record=partial(deliveries.record, source="run", export_id=run.export_id),
        ready=True,
    )


def _connection(output: Output) -> KafkaConnection:
    connection = KafkaConnection.objects.filter(name=output.kafka_connection).first()
    if connection is None:
        raise ConfigurationError(
            f"The item names the Kafka connection “{output.kafka_connection}”, which does not "
            "exist. Create it, or choose another one in the item."
        )
    return connection


def _kafka(output: Output, run: SchedulingHistoryItem, keep: Keep | None) -> KafkaSink:
    connection = _connection(output)
    assert run.started_at
    envelope = Envelope(
        source_query=run.query,
        source_connection=run.connection,
        export_timestamp=run.started_at.astimezone(output.source.timezone),
        export_id=run.export_id,
    )
    return KafkaSink(
        connection.settings(),
        topic=output.kafka_topic,
        key_field=output.kafka_key_field,
        batch_size=output.kafka_batch_size,
        envelope=envelope if output.kafka_include_metadata else None,
        zone=output.source.timezone,
        options=MessageOptions(
            null_key=NullKey(output.kafka_null_key),
            decimals_as_numbers=output.kafka_decimals_as_numbers,
            headers=_headers(output, run),
            timestamp_field=output.kafka_timestamp_field,
        ),
        resend_unknown=output.kafka_allow_duplicates,
        transactional_id=_transactional_id(output),
        keep=None if _transactional_id(output) else keep,
        record=partial(deliveries.record, source="run", export_id=run.export_id),
    )


def _headers(output: Output, run: SchedulingHistoryItem) -> tuple[tuple[str, bytes], ...]:
    """The item's own headers, then which run, attempt and slot the message comes from."""
    own = {
        f"{HEADER_PREFIX}run": str(run.pk),
        f"{HEADER_PREFIX}attempt": str(run.attempt),
        f"{HEADER_PREFIX}slot": run.scheduled_for.astimezone(output.source.timezone).isoformat(),
    }
    return tuple((name, text.encode()) for name, text in (output.kafka_headers | own).items())


def _transactional_id(output: Output) -> str:
    """The same for all runs of the item, so that a new one ends what an old one left open."""
    is_transaction = output.kafka_guarantee == KafkaGuarantee.TRANSACTION
    return f"query-export-item-{output.source.pk}" if is_transaction else ""
