"""What delivery reports prove of each row: arrived and where, refused, or nobody knows."""

from bisect import bisect_left
from collections import deque
from enum import Enum, auto
from typing import NamedTuple, TypeAlias, cast

import confluent_kafka
from confluent_kafka import KafkaError

from kafka_sink.messages import Message
from queryexport.rows import Undelivered

SAMPLE_ROWS = 100
SMALLEST_MS = 0.05
UPPER_EDGES_MS = tuple(SMALLEST_MS * 1.15**number for number in range(128))  # To 42 minutes.


class Verdict(Enum):
    """What one report says of its row."""

    ACKED = auto()
    REFUSED = auto()
    REFUSED_FOR_NOW = auto()
    UNKNOWN = auto()


# Refusals of a single attempt that pass by themselves and that the client does not retry.
REFUSED_FOR_NOW = frozenset({KafkaError.THROTTLING_QUOTA_EXCEEDED})

# Broker codes that end several attempts of the client, any of which may have been stored: a leader
# that loses its followers answers NOT_ENOUGH_REPLICAS_AFTER_APPEND to the first attempt, which is
# in its log, and NOT_ENOUGH_REPLICAS to the client's repeat. The client repeats these itself under
# the same sequence number; a new message from us would get a new number and could be a second copy.
REPEATED_BY_CLIENT = frozenset(
    {
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.INVALID_MSG,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
        KafkaError.DUPLICATE_SEQUENCE_NUMBER,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.UNKNOWN_PRODUCER_ID,
    }
)

# Refusals by the client itself, before anything is sent.
REFUSED_BY_CLIENT = frozenset(
    {KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION, KafkaError._INVALID_ARG}
)

# Refusals that every other row would meet as well: the run ends with the first.
REFUSED_FOR_ALL = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.UNSUPPORTED_COMPRESSION_TYPE,
        KafkaError._UNKNOWN_TOPIC,
    }
)

# What the client says of rows that it gives up because we told it to.
PURGED = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})

ADVICE = {
    KafkaError.MSG_SIZE_TOO_LARGE: "The message, or the batch it travelled in, is over the limit: "
    "compare the topic's max.message.bytes with the connection's batch bytes and request size.",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "Allow the connection's user to write to the topic.",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "Allow the connection's user IdempotentWrite.",
    KafkaError._MSG_TIMED_OUT: "No acknowledgement came in time: the brokers were out of reach, "
    "slow, or short of in-sync replicas.",
    KafkaError._PURGE_QUEUE: "The run stopped before its acknowledgement came.",
    KafkaError._PURGE_INFLIGHT: "The run stopped before its acknowledgement came.",
}


def verdict(code: int) -> Verdict:
    """What an error code of librdkafka proves of a row; 0 is none.

    Broker codes above 0 are a refusal unless the client repeats them itself. Codes below 0 are the
    client's own and leave open whether the brokers stored the row. That includes `_PURGE_QUEUE`:
    a row that was sent, lost its connection and went back to the queue is purged with that code,
    though it is in the log (tests/kafka_sink/test_producer.py shows it).
    """
    if code == KafkaError.NO_ERROR:
        return Verdict.ACKED
    if code in REFUSED_FOR_NOW:
        return Verdict.REFUSED_FOR_NOW
    if code in REFUSED_BY_CLIENT or (code > 0 and code not in REPEATED_BY_CLIENT):
        return Verdict.REFUSED
    return Verdict.UNKNOWN


def reason(error: KafkaError) -> str:
    """The code, librdkafka's words, and what to do where that is known."""
    return f"{error.name()}: {error.str()}. {ADVICE.get(error.code(), '')}".rstrip()


# What a delivery report says of its message.
Report: TypeAlias = "confluent_kafka.Message[bytes, bytes]"


class Waiting(NamedTuple):
    """A row that is kept to be sent again, and what it counts as if that does not help."""

    message: Message
    why: str
    unknown: bool


class Latencies:
    """How long acknowledgements took, in buckets each 1.15 times as wide as the one before.

    So any number of rows fits into a few numbers, at the price of up to 15 % too much.
    """

    def __init__(self) -> None:
        self.count = 0
        self._sum_ms = 0.0
        self._buckets = [0] * (len(UPPER_EDGES_MS) + 1)

    def add(self, seconds: float) -> None:
        milliseconds = seconds * 1000
        self.count += 1
        self._sum_ms += milliseconds
        self._buckets[bisect_left(UPPER_EDGES_MS, milliseconds)] += 1

    def average_ms(self) -> float | None:
        return self._sum_ms / self.count if self.count else None

    def percentile_ms(self, percent: float) -> float | None:
        """The upper edge of the bucket that the percentile falls into."""
        if not self.count:
            return None
        wanted, seen = self.count * percent / 100, 0
        for number, rows in enumerate(self._buckets):
            seen += rows
            if seen >= wanted:
                return UPPER_EDGES_MS[min(number, len(UPPER_EDGES_MS) - 1)]
        return None


class Ledger:
    """Counts the rows of one delivery by their reports, and by nothing else.

    At any time handed = acked + failed + unknown + waiting + outstanding: `waiting` rows are kept
    to be sent again, `outstanding` rows have no report yet.
    """

    def __init__(self, *, resend_unknown: bool = False) -> None:
        """`resend_unknown` puts rows of which nothing is known among the waiting ones, too."""
        self.handed = 0
        self.acked = 0
        self.failed = 0
        self.unknown = 0
        self.size_bytes = 0
        self.offsets: dict[int, tuple[int, int]] = {}
        self.waiting: deque[Waiting] = deque()
        self.latencies = Latencies()
        self._resend_unknown = resend_unknown
        self.undelivered: list[Undelivered] = []
        self.refusal_for_all: KafkaError | None = None

    @property
    def outstanding(self) -> int:
        return self.handed - self.acked - self.failed - self.unknown - len(self.waiting)

    @property
    def answered(self) -> int:
        """How many rows a broker has said something about."""
        return self.acked + self.failed + len(self.waiting)

    def report(self, error: KafkaError | None, message: Report, *, timestamp_ms: int = 0) -> None:
        """The delivery callback: one call for every message that the client accepted.

        A message's own time is not in the report of its failure, so it comes with the callback.
        """
        if error is None:
            self.acked += 1
            self.latencies.add(message.latency() or 0.0)
            self.size_bytes += len(message) + len(message.key() or b"")
            self._place(message.partition() or 0, message.offset())
        else:
            self._undelivered(error, sent(message, timestamp_ms))

    def refuse(self, message: Message, error: KafkaError) -> None:
        """A message that the client did not even accept."""
        self.handed += 1
        self.failed += 1
        self._note(message, error)

    def never_sent(self, rows: int) -> None:
        """Rows that were read and not handed to the client, because the run broke off before."""
        self.handed += rows
        self.failed += rows

    def sent_again(self) -> None:
        """The first waiting row was handed to the client once more: it is one row still."""
        self.waiting.popleft()
        self.handed -= 1

    def give_up(self) -> None:
        """No more tries: the waiting rows failed, or stay unknown."""
        for row in self.waiting:
            self._sample(row.message, row.why)
            self.unknown += row.unknown
            self.failed += not row.unknown
        self.waiting.clear()

    def revoke(self) -> None:
        """The transaction was aborted: what was acknowledged inside it has not arrived."""
        self.failed += self.acked
        self._forget_acked()

    def doubt(self) -> None:
        """Nobody knows whether the transaction was committed."""
        self.unknown += self.acked
        self._forget_acked()

    def _forget_acked(self) -> None:
        self.acked = 0
        self.size_bytes = 0
        self.offsets.clear()

    def write_off(self) -> None:
        """No more reports can come: rows without one are unknown."""
        self.unknown += self.outstanding

    def _undelivered(self, error: KafkaError, message: Message) -> None:
        match verdict(error.code()):
            case Verdict.REFUSED_FOR_NOW:
                self.waiting.append(Waiting(message, reason(error), unknown=False))
            case Verdict.REFUSED:
                self.failed += 1
                self._note(message, error)
            case Verdict.UNKNOWN if self._resend_unknown and error.code() not in PURGED:
                self.waiting.append(Waiting(message, reason(error), unknown=True))
            case _:
                self.unknown += 1
                self._note(message, error)

    def _place(self, partition: int, offset: int | None) -> None:
        if offset is None or offset < 0:
            return  # Acknowledged as a repeat of what is stored already: no offset is told.
        first, last = self.offsets.get(partition, (offset, offset))
        self.offsets[partition] = (min(first, offset), max(last, offset))

    def _note(self, message: Message, error: KafkaError) -> None:
        if error.code() in REFUSED_FOR_ALL and self.refusal_for_all is None:
            self.refusal_for_all = error
        self._sample(message, reason(error))

    def _sample(self, message: Message, why: str) -> None:
        if len(self.undelivered) < SAMPLE_ROWS:
            self.undelivered.append(Undelivered((message.key or b"").decode(errors="replace"), why))


def sent(message: Report, timestamp_ms: int = 0) -> Message:
    """The message that a report is about, as it was sent."""
    headers = cast(tuple[tuple[str, bytes], ...], tuple(message.headers() or ()))
    return Message(message.key(), message.value() or b"", headers, timestamp_ms)
