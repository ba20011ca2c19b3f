"""The points of the crash matrix that only runs to one kind of destination pass."""

import smtplib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import IO, Any

from kafka_sink import deliveries
from kafka_sink.producer import CountingProducer
from kafka_sink.sink import KafkaSink
from queryexport.sinks import file as files
from queryexport.sinks import prepared
from queryexport.sinks.email import EmailSink
from queryexport.sinks.file import FileSink
from tests.end_to_end.crash_hooks import Around, kill_after, kill_before, reach, wrap

HALF_A_FILE = 150_000


def arm() -> None:
    """Wraps them; to be called once, before any process is forked."""
    _arm_files()
    _arm_mail()
    _arm_kafka()
    for sink in (FileSink, EmailSink, KafkaSink):
        kill_after(sink, "deliver", "delivered, row not ended")


class _HalfWritten:
    """A file that kills once it was given so many bytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._written = 0

    def write(self, data: bytes) -> int:
        self._written += len(data)
        if self._written > HALF_A_FILE:
            self._file.flush()
            reach("in the middle of the file")
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _arm_files() -> None:
    @contextmanager
    def part_in(real: Around, *arguments: Any) -> Iterator[Any]:
        with real(*arguments) as part:
            reach("temporary file made")
            yield replace(part, file=_HalfWritten(part.file))

    @contextmanager
    def nameless_file(real: Around, *arguments: Any) -> Iterator[Any]:
        with real(*arguments) as file:
            reach("temporary file made")
            yield _HalfWritten(file)

    wrap(files, "part_in", part_in)
    kill_before(FileSink, "_published", "file complete and synced")
    kill_before(files, "_sync_folder", "file renamed, folder not synced")
    # What a mail carries.
    wrap(prepared, "nameless_file", nameless_file)
    kill_after(prepared, "prepare", "file complete and synced")


def _arm_mail() -> None:
    def docmd(real: Around, server: Any, command: str, *arguments: Any) -> Any:
        answer = real(server, command, *arguments)
        if command == "DATA":
            server.pieces_sent = 0
        return answer

    def send(real: Around, server: Any, data: bytes | str) -> None:
        real(server, data)
        if not hasattr(server, "pieces_sent"):
            return
        server.pieces_sent += 1
        if data == b".\r\n":
            server.has_ended = True
            reach("DATA ended, no answer read")
        elif server.pieces_sent == 2:
            reach("in the middle of DATA")

    def getreply(real: Around, server: Any) -> Any:
        answer = real(server)
        if hasattr(server, "has_ended"):
            reach("mail accepted")
        return answer

    kill_after(smtplib.SMTP, "connect", "mail server connected")
    kill_after(smtplib.SMTP, "rcpt", "recipient accepted")
    wrap(smtplib.SMTP, "docmd", docmd)
    wrap(smtplib.SMTP, "send", send)
    wrap(smtplib.SMTP, "getreply", getreply)


def _arm_kafka() -> None:
    def send(real: Around, producer: Any, batch: Any) -> None:
        real(producer, batch)
        producer.sent_so_often = getattr(producer, "sent_so_often", 0) + 1
        if producer.sent_so_often == 2:
            reach("in the middle of the messages")

    kill_after(CountingProducer, "require_topic", "topic looked up, nothing sent")
    kill_after(CountingProducer, "begin", "transaction begun")
    wrap(CountingProducer, "send", send)
    kill_after(CountingProducer, "settle", "last message acknowledged")
    kill_before(CountingProducer, "commit", "transaction not committed")
    kill_after(CountingProducer, "commit", "transaction committed")
    kill_after(deliveries, "record", "delivery in the ledger")
