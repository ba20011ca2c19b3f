"""What every sink promises, whatever it delivers to: one contract, each sink in turn."""

import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from confluent_kafka import Consumer, TopicPartition
from django.core import mail
from openpyxl import Workbook
from openpyxl.workbook.defined_name import DefinedName

from kafka_sink.broker import EmbeddedBroker
from kafka_sink.config import KafkaSettings
from kafka_sink.sink import KafkaSink
from queryexport.contents import Contents, EncryptedZip, Gzip
from queryexport.errors import DeliveryError, QueryError, RunSuperseded
from queryexport.filenames import Tokens
from queryexport.formats.csv import Csv
from queryexport.formats.jsonl import JsonLines
from queryexport.formats.parquet import Parquet
from queryexport.formats.template import TemplateWorkbook
from queryexport.formats.xlsx import Xlsx
from queryexport.rows import Column, Result
from queryexport.sinks import Sink
from queryexport.sinks.email import EmailSink, Letter
from queryexport.sinks.file import FileSink
from queryexport.sinks.store import StoreSink
from tests.fakes import RecordedProgress, result_of
from tests.services.s3 import S3Server
from tests.services.samba import SambaServer
from tests.services.sftp import SftpServer

ROME = ZoneInfo("Europe/Rome")
TOPIC = "rows"
# Neither a cell of a workbook nor a message can hold it.
UNSERIALISABLE = object()


@dataclass(frozen=True)
class Place:
    """A sink, and what can be seen at its destination: how many files, mails or messages."""

    sink: Sink
    arrived: Callable[[], int]
    whole_or_nothing: bool = True
    # Whether a run can be stopped while the complete file is being sent.
    stops_while_sending: bool = False


class StopsAtDelivered(RecordedProgress):
    """A progress whose run is taken over while rows are arriving."""

    def delivered(self, rows: int) -> None:
        super().delivered(rows)
        raise RunSuperseded("Another worker has taken over.")


SERVICES = [pytest.param(name, marks=pytest.mark.services) for name in ("sftp", "s3", "smb")]
FILES = ["template workbook", "csv", "json lines", "parquet", "encrypted zip"]


@pytest.fixture(params=["file", "compressed file", *FILES, "e-mail", "kafka", *SERVICES])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    match request.param:
        case "file":
            return file_place(tmp_path / "exports" / "rows.xlsx", compress=False)
        case "compressed file":
            return file_place(tmp_path / "exports" / "rows.xlsx.gz", compress=True)
        case "template workbook":
            contents = Contents(TemplateWorkbook(template(), "data", ROME))
            return contents_place(tmp_path / "exports" / "rows.xlsx", contents)
        case "csv":
            return contents_place(tmp_path / "exports" / "rows.csv", Contents(Csv(ROME)))
        case "json lines":
            return contents_place(tmp_path / "exports" / "rows.jsonl", Contents(JsonLines(ROME)))
        case "parquet":
            return contents_place(tmp_path / "exports" / "rows.parquet", Contents(Parquet(ROME)))
        case "encrypted zip":
            contents = Contents(Csv(ROME), EncryptedZip("secret"))
            return contents_place(tmp_path / "exports" / "rows.csv.zip", contents)
        case "e-mail":
            return email_place()
        case "sftp":
            return sftp_place(request.getfixturevalue("sftp_server"), tmp_path)
        case "s3":
            return s3_place(request.getfixturevalue("s3_server"), request)
        case "smb":
            return smb_place(request.getfixturevalue("samba"), request)
        case _:
            return kafka_place(request.getfixturevalue("broker"))


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker({TOPIC: 2}) as broker:
        yield broker


def file_place(path: Path, *, compress: bool) -> Place:
    return contents_place(path, Contents(Xlsx(ROME), Gzip() if compress else None))


def template() -> bytes:
    workbook, file = Workbook(), io.BytesIO()
    workbook.defined_names["data"] = DefinedName("data", attr_text="Sheet!$A$1")
    workbook.save(file)
    return file.getvalue()


def contents_place(path: Path, contents: Contents) -> Place:
    def arrived() -> int:
        return len(list(path.parent.glob("*"))) if path.parent.exists() else 0

    return Place(FileSink(path, contents), arrived)


def email_place() -> Place:
    moment = datetime(2026, 1, 18, 8, 0, tzinfo=ROME)
    tokens = Tokens("Rows", moment.date(), moment)
    letter = Letter(["anna@example.com"], [], "Rows", "", tokens)
    sink = EmailSink(letter, "rows.xlsx", Contents(Xlsx(ROME)))
    return Place(sink, lambda: len(mail.outbox))


def store_place(url: str, arrived: Callable[[], int]) -> Place:
    sink = StoreSink(url, "rows.xlsx", Contents(Xlsx(ROME)))
    return Place(sink, arrived, stops_while_sending=True)


def sftp_place(server: SftpServer, folder: Path) -> Place:
    return store_place(server.url(folder), lambda: len(list(folder.iterdir())))


def s3_place(server: S3Server, request: pytest.FixtureRequest) -> Place:
    request.getfixturevalue("monkeypatch").setenv("S3_SECRET", "secret")
    bucket = server.bucket()
    return store_place(server.url(bucket), lambda: len(server.keys(bucket)))


def smb_place(server: SambaServer, request: pytest.FixtureRequest) -> Place:
    request.getfixturevalue("monkeypatch").setenv("SMB_PASSWORD", server.password)
    folder = server.new_folder()
    return store_place(server.url(f"/{folder.name}"), lambda: len(list(folder.iterdir())))


def kafka_place(broker: EmbeddedBroker) -> Place:
    settings = KafkaSettings("test", broker.bootstrap_servers)
    sink = KafkaSink(settings, TOPIC, key_field="n", batch_size=10, envelope=None, zone=ROME)
    return Place(sink, lambda: messages_in(broker), whole_or_nothing=False)


def messages_in(broker: EmbeddedBroker) -> int:
    consumer = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": "contract"})
    try:
        ends = [consumer.get_watermark_offsets(TopicPartition(TOPIC, number)) for number in (0, 1)]
        return sum(high for _, high in ends)
    finally:
        consumer.close()


def numbered(count: int) -> Result:
    return result_of(["n", "text"], [[number, f"row {number}"] for number in range(count)])


def broken_after(rows: int, error: BaseException) -> Result:
    def batches() -> Iterator[Sequence[Sequence[Any]]]:
        for number in range(rows):
            yield [[number, "fine"]]
        raise error

    return Result((Column("n"), Column("text")), batches())


@pytest.mark.parametrize("count", [1, 7, 2500])
def test_every_row_is_delivered_and_the_receipt_says_so(place: Place, count: int) -> None:
    progress = RecordedProgress()
    receipt = place.sink.deliver(numbered(count), progress)
    assert (receipt.rows, receipt.handed) == (count, count)
    assert (receipt.failed, receipt.unknown, receipt.undelivered) == (0, 0, ())
    assert place.arrived() == (1 if place.whole_or_nothing else count)


def test_no_rows_are_delivered_without_complaint(place: Place) -> None:
    receipt = place.sink.deliver(numbered(0), RecordedProgress())
    assert (receipt.rows, receipt.handed) == (0, 0)
    assert place.arrived() == (1 if place.whole_or_nothing else 0)


@pytest.mark.parametrize("count", [0, 1, 2500])
def test_the_progress_adds_up_to_the_receipt(place: Place, count: int) -> None:
    progress = RecordedProgress()
    receipt = place.sink.deliver(numbered(count), progress)
    assert progress.reported == receipt.rows


def test_the_receipt_names_the_place_and_its_size(place: Place) -> None:
    receipt = place.sink.deliver(numbered(3), RecordedProgress())
    assert receipt.place
    assert receipt.size_bytes is not None
    assert receipt.size_bytes > 0
    assert receipt.duration_sec > 0


def test_a_sink_can_be_used_again(place: Place) -> None:
    receipts = [place.sink.deliver(numbered(2), RecordedProgress()) for _ in range(2)]
    assert [receipt.rows for receipt in receipts] == [2, 2]


@pytest.mark.parametrize("rows", [0, 1, 1500])
def test_a_broken_stream_raises_its_own_error(place: Place, rows: int) -> None:
    progress, error = RecordedProgress(), QueryError("The connection was lost.")
    with pytest.raises(QueryError) as caught:
        place.sink.deliver(broken_after(rows, error), progress)
    assert caught.value is error
    assert_claims_only_what_arrived(place, progress, rows)


def test_a_bug_in_the_stream_keeps_its_type(place: Place) -> None:
    with pytest.raises(ZeroDivisionError):
        place.sink.deliver(broken_after(3, ZeroDivisionError()), RecordedProgress())
    if place.whole_or_nothing:
        assert place.arrived() == 0


def test_an_unserialisable_value_is_named_by_row_and_column(place: Place) -> None:
    rows = [[number, "fine"] for number in range(4)] + [[4, UNSERIALISABLE]]
    progress = RecordedProgress()
    with pytest.raises(DeliveryError, match=r"[Rr]ow 5\b") as caught:
        place.sink.deliver(result_of(["n", "text"], rows), progress)
    assert re.search(r"column “?text\b", caught.value.message)
    assert not caught.value.retryable
    assert_claims_only_what_arrived(place, progress, 4)


@pytest.mark.parametrize("value", ["half\ud83d"])
def test_text_that_is_no_unicode_is_counted_or_named_by_row_and_column(
    place: Place, value: str
) -> None:
    try:
        receipt = place.sink.deliver(result_of(["n", "text"], [[1, value]]), RecordedProgress())
    except DeliveryError as error:
        assert re.search(r"[Rr]ow 1\b.*column “?text\b", error.message)  # noqa: PT017
        assert place.arrived() == 0
    else:
        assert (receipt.rows, sum(receipt.conversions.values())) == (1, 1)


def test_a_superseded_run_publishes_nothing_more(place: Place) -> None:
    stop = RunSuperseded("Another worker has taken over.")
    progress = RecordedProgress(stop=stop)
    with pytest.raises(RunSuperseded):
        place.sink.deliver(numbered(2500), progress)
    assert progress.reported == 0
    if place.whole_or_nothing:
        assert place.arrived() == 0


def test_a_run_is_stopped_while_rows_arrive_and_not_when_they_have(place: Place) -> None:
    progress = StopsAtDelivered()
    if place.stops_while_sending:
        with pytest.raises(RunSuperseded):
            place.sink.deliver(numbered(2500), progress)
        assert place.arrived() == 0
        return
    if place.whole_or_nothing:
        assert place.sink.deliver(numbered(2500), progress).rows == 2500
        return
    with pytest.raises(RunSuperseded):
        place.sink.deliver(numbered(2500), progress)
    assert len(progress.calls) == 1


def test_the_old_file_survives_a_broken_stream(tmp_path: Path) -> None:
    path = tmp_path / "rows.xlsx"
    path.write_bytes(b"old")
    place = file_place(path, compress=False)
    with pytest.raises(QueryError):
        place.sink.deliver(broken_after(3, QueryError("lost")), RecordedProgress())
    assert path.read_bytes() == b"old"


def assert_claims_only_what_arrived(place: Place, progress: RecordedProgress, most: int) -> None:
    if place.whole_or_nothing:
        assert (progress.reported, place.arrived()) == (0, 0)
    else:
        assert progress.reported <= place.arrived() <= most
