"""Each message in the folder is read whole, by one reader, the oldest first."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from kombu import Connection

from queryexport.folder_transport import Channel, Transport

QUEUE = "celery"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "messages"
    folder.mkdir()
    return folder


@contextmanager
def channel_in(folder: Path) -> Iterator[Channel]:
    """A channel of a connection of its own, as every process has."""
    options = {name: str(folder) for name in ("data_folder_in", "data_folder_out")}
    options["control_folder"] = str(folder)
    with Connection(transport=Transport, transport_options=options) as connection:
        channel = connection.channel()
        assert isinstance(channel, Channel)
        yield channel


def put(channel: Channel, number: int, queue: str = QUEUE, size: int = 0) -> None:
    channel._put(queue, {"body": "x" * size, "number": number, "properties": {}})


def drained(channel: Channel, queue: str = QUEUE) -> list[int]:
    numbers = []
    while True:
        try:
            numbers.append(channel._get(queue)["number"])
        except Empty:
            return numbers


def test_messages_come_back_oldest_first(folder: Path) -> None:
    with channel_in(folder) as channel:
        for number in range(50):
            put(channel, number)
        assert drained(channel) == list(range(50))


def test_a_read_message_leaves_nothing_in_the_folder(folder: Path) -> None:
    with channel_in(folder) as channel:
        put(channel, 1)
        drained(channel)
    assert [path.name for path in folder.iterdir() if not path.is_dir()] == []


def test_an_empty_folder_is_empty(folder: Path) -> None:
    with channel_in(folder) as channel, pytest.raises(Empty):
        channel._get(QUEUE)


def test_another_process_reads_what_one_wrote(folder: Path) -> None:
    with channel_in(folder) as writer, channel_in(folder) as reader:
        put(writer, 7)
        assert drained(reader) == [7]
        assert drained(writer) == []


@pytest.mark.parametrize("other", ["other", "celery.high", "xcelery", "celery.celery"])
def test_a_reader_gets_the_messages_of_its_queue_only(folder: Path, other: str) -> None:
    with channel_in(folder) as channel:
        put(channel, 1, queue=other)
        put(channel, 2)
        assert drained(channel) == [2]
        assert drained(channel, queue=other) == [1]


def test_waiting_messages_are_counted_and_purged(folder: Path) -> None:
    with channel_in(folder) as channel:
        put(channel, 1)
        put(channel, 2)
        assert channel._size(QUEUE) == 2
        channel._purge(QUEUE)
        assert channel._size(QUEUE) == 0
        assert drained(channel) == []


def test_a_message_is_never_seen_half_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stops the writer in the middle of its message, as a busy machine might."""
    seen: list[list[int]] = []

    def write_half_then_look(path: Path, text: str, *args: Any, **kwargs: Any) -> int:
        half = len(text) // 2
        with path.open("w") as file:
            file.write(text[:half])
            file.flush()
            with channel_in(folder) as reader:
                seen.append(drained(reader))
            return file.write(text[half:])

    with channel_in(folder) as writer:
        monkeypatch.setattr(Path, "write_text", write_half_then_look)
        put(writer, 1, size=10_000)
        monkeypatch.undo()
        assert seen == [[]]
        assert drained(writer) == [1]


def test_a_message_left_half_written_by_a_crash_is_never_read(folder: Path) -> None:
    with channel_in(folder) as channel:
        put(channel, 1)
        (message,) = folder.glob("*.msg")
        message.with_name(f".{message.name}").write_text('{"numb')
        assert drained(channel) == [1]
        assert drained(channel) == []


def test_no_message_is_read_twice_or_lost_by_four_readers(folder: Path) -> None:
    with channel_in(folder) as writer:
        for number in range(500):
            put(writer, number)
    start = threading.Barrier(4)
    got: list[list[int]] = [[] for _ in range(4)]

    def read(reader: int) -> None:
        with channel_in(folder) as channel:
            start.wait()
            got[reader] = drained(channel)

    run_threads(read, 4)
    assert Counter(chain.from_iterable(got)) == Counter(range(500))


def test_readers_and_writers_at_once_lose_and_double_nothing(folder: Path) -> None:
    written = threading.Event()
    got: list[list[int]] = [[] for _ in range(3)]

    def work(number: int) -> None:
        with channel_in(folder) as channel:
            if number == 0:
                for each in range(300):
                    put(channel, each, size=20_000)
                written.set()
                return
            last_look = False
            while not last_look:
                last_look = written.is_set()
                got[number].extend(drained(channel))

    run_threads(work, 3)
    assert sorted(got[1] + got[2]) == list(range(300))
    assert got[1] == sorted(got[1])


def run_threads(work: Any, count: int) -> None:
    threads = [
        threading.Thread(target=work, args=(number,), daemon=True) for number in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


def test_a_task_of_celery_arrives_with_its_arguments(folder: Path) -> None:
    with channel_in(folder) as channel:
        connection = channel.connection.client
        with connection.SimpleQueue("tasks") as queue:
            queue.put({"item": 5})
            message = queue.get(timeout=5)
            message.ack()
            assert message.payload == {"item": 5}
