"""A Kafka broker inside this process, for the demo and for tests: librdkafka's mock cluster."""

import ctypes
import ctypes.util
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Self

import confluent_kafka

from queryexport.errors import ConfigurationError

PRODUCER = 0
PRODUCE_REQUEST = 0
TEXT_BYTES = 512

_pointer, _int, _text, _size = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t
SIGNATURES: Mapping[str, tuple[object, tuple[object, ...]]] = {
    "rd_kafka_conf_new": (_pointer, ()),
    "rd_kafka_conf_set": (_int, (_pointer, _text, _text, _text, _size)),
    "rd_kafka_new": (_pointer, (_int, _pointer, _text, _size)),
    "rd_kafka_destroy": (None, (_pointer,)),
    "rd_kafka_mock_cluster_new": (_pointer, (_pointer, _int)),
    "rd_kafka_mock_cluster_destroy": (None, (_pointer,)),
    "rd_kafka_mock_cluster_bootstraps": (_text, (_pointer,)),
    "rd_kafka_mock_topic_create": (_int, (_pointer, _text, _int, _int)),
    "rd_kafka_mock_topic_set_error": (None, (_pointer, _text, _int)),
    "rd_kafka_mock_push_request_errors_array": (
        None,
        (_pointer, ctypes.c_int16, _size, ctypes.POINTER(_int)),
    ),
    "rd_kafka_mock_broker_set_down": (_int, (_pointer, ctypes.c_int32)),
    "rd_kafka_mock_broker_set_up": (_int, (_pointer, ctypes.c_int32)),
    "rd_kafka_mock_broker_set_rtt": (_int, (_pointer, ctypes.c_int32, _int)),
}


class EmbeddedBroker:
    """One broker on a free port of this machine, alive inside its `with` block.

    Other processes may use it. It keeps the last 5 MB of each partition in memory and forgets
    everything at the end; it does not recognise repeats, and shows aborted transactions.
    """

    NODE = 1

    def __init__(self, topics: Mapping[str, int] | None = None) -> None:
        """`topics` maps the name of each topic to its number of partitions."""
        self._topics = dict(topics or {})
        self._library = _library()
        self._client: int | None = None
        self._cluster: int | None = None

    def __enter__(self) -> Self:
        self._client = _client(self._library)
        self._cluster = self._library.rd_kafka_mock_cluster_new(self._client, 1)
        for name, partitions in self._topics.items():
            self.create_topic(name, partitions)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._client)
        self._cluster = self._client = None

    @property
    def bootstrap_servers(self) -> str:
        return str(self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode())

    def create_topic(self, name: str, partitions: int = 1) -> None:
        self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1)

    def refuse_next(self, *codes: int) -> None:
        """Answers the next produce requests with these error codes, one each; 0 is success."""
        array = (_int * len(codes))(*codes)
        self._library.rd_kafka_mock_push_request_errors_array(
            self._cluster, PRODUCE_REQUEST, len(codes), array
        )

    def refuse_topic(self, name: str, code: int) -> None:
        """Answers every question about the topic with this error code; 0 ends that."""
        self._library.rd_kafka_mock_topic_set_error(self._cluster, name.encode(), code)

    def down(self) -> None:
        """Drops every connection and takes no new one."""
        self._library.rd_kafka_mock_broker_set_down(self._cluster, self.NODE)

    def up(self) -> None:
        self._library.rd_kafka_mock_broker_set_up(self._cluster, self.NODE)

    def answer_after(self, milliseconds: int) -> None:
        """Delays every answer; what was asked is done at once."""
        self._library.rd_kafka_mock_broker_set_rtt(self._cluster, self.NODE, milliseconds)


@lru_cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(_library_path())
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _library_path() -> str:
    """The library that the Kafka client itself has loaded, or the system's."""
    package = Path(confluent_kafka.__file__).parent
    for pattern in ("../confluent_kafka.libs/librdkafka*.so*", ".dylibs/librdkafka*.dylib"):
        for path in package.glob(pattern):
            return str(path.resolve())
    if name := ctypes.util.find_library("rdkafka"):
        return name
    raise ConfigurationError(
        "The embedded Kafka broker needs librdkafka, which was not found beside the Kafka client. "
        "Install confluent-kafka as a wheel."
    )


def _client(library: ctypes.CDLL) -> int:
    """The bare client that carries the cluster; it connects to nobody and logs nothing."""
    text = ctypes.create_string_buffer(TEXT_BYTES)
    config = library.rd_kafka_conf_new()
    for key, value in {"bootstrap.servers": "localhost:1", "log_level": "0"}.items():
        library.rd_kafka_conf_set(config, key.encode(), value.encode(), text, TEXT_BYTES)
    client = library.rd_kafka_new(PRODUCER, config, text, TEXT_BYTES)
    if client is None:
        raise ConfigurationError(f"The embedded Kafka broker cannot start: {text.value.decode()}.")
    return int(client)
