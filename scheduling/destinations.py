"""Turns an item's sharing mode into the sink that its rows go to."""

from datetime import datetime
from typing import assert_never

from kafka_sink.messages import Envelope
from kafka_sink.models import KafkaConnection
from kafka_sink.sink import KafkaSink
from queryexport.errors import ConfigurationError
from queryexport.filenames import fill
from queryexport.formats.xlsx import Xlsx
from queryexport.sinks import EmailSink, FileSink, Sink
from scheduling.models import SchedulingHistoryItem, SchedulingItem, SharingMode


def sink_for(item: SchedulingItem, run: SchedulingHistoryItem) -> Sink:
    """The sink of one run; raises `ConfigurationError` when the item cannot work as it is."""
    mode = SharingMode(item.sharing_mode)
    slot = run.scheduled_for
    match mode:
        case SharingMode.FILESYSTEM:
            path = item.folder() / item.file_name(slot)
            return FileSink(path, Xlsx(item.timezone), compress=item.output_compress_gz)
        case SharingMode.EMAIL:
            return _email(item, slot)
        case SharingMode.KAFKA:
            return _kafka(item, run)
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
        format=Xlsx(item.timezone),
        compress=item.output_compress_gz,
    )


def _kafka(item: SchedulingItem, run: SchedulingHistoryItem) -> KafkaSink:
    connection = KafkaConnection.objects.filter(name=item.kafka_connection).first()
    if connection is None:
        raise ConfigurationError(
            f"The item names the Kafka connection “{item.kafka_connection}”, which does not exist. "
            "Create it, or choose another one in the item."
        )
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
    )
