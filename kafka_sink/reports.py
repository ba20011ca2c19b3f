"""What delivery reports prove of each row: arrived and where, refused, or nobody knows."""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from enum import Enum, auto
from typing import NamedTuple, Protocol, TypeAlias

import confluent_kafka
from confluent_kafka import KafkaError

from kafka_sink.messages import Batch, Headers, Message
from queryexport.rows import Undelivered

SAMPLE_ROWS = 100
LATENCY_OF_EVERY = 16
NEVER_SENT = "The run stopped before this row was sent."
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


class Keep(Protocol):
    """Where a delivery puts the rows that failed, and those of which nothing is known."""

    def __call__(self, message: Message, *, reason: str, unknown: bool, attempts: int) -> None:
        """Takes one row, for good; `attempts` is how often it was sent.

        Called from within the client's callbacks, so it must be quick and raise nothing.
        """


class Waiting(NamedTuple):
    """A row that is kept to be sent again, and what it counts as if that does not help."""

    message: Message
    why: str
    unknown: bool
    attempts: int


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

    def __init__(
        self,
        *,
        resend_unknown: bool = False,
        keep: Keep | None = None,
        headers: Headers = (),
    ) -> None:
        """`resend_unknown` puts rows of which nothing is known among the waiting ones, too.

        `headers` are those of a message whose report is not told others: the client forgets them.
        """
        self.handed = 0
        self.acked = 0
        self.failed = 0
        self.unknown = 0
        self._handed_bytes = self._undelivered_bytes = 0
        self.largest_bytes = 0
        self._spans: dict[int | None, list[int]] = {}
        self.waiting: deque[Waiting] = deque()
        self.latencies = Latencies()
        self._resend_unknown = resend_unknown
        self._keep = keep
        self._headers = headers
        self.undelivered: list[Undelivered] = []
        self.refusal_for_all: KafkaError | None = None

    @property
    def size_bytes(self) -> int:
        """Keys and values of the rows that arrived; less, if the client did not account for all."""
        return max(0, self._handed_bytes - self._undelivered_bytes)

    @property
    def offsets(self) -> dict[int, tuple[int, int]]:
        """First and last offset of each partition."""
        return {number or 0: (first, last) for number, (first, last) in self._spans.items()}

    @property
    def outstanding(self) -> int:
        return self.handed - self.acked - self.failed - self.unknown - len(self.waiting)

    @property
    def answered(self) -> int:
        """How many rows a broker has said something about."""
        return self.acked + self.failed + len(self.waiting)

    def report(
        self,
        error: KafkaError | None,
        message: Report,
        *,
        headers: Headers | None = None,
        timestamp_ms: int = 0,
        attempts: int = 1,
    ) -> None:
        """The delivery callback: one call for every message that the client accepted.

        Headers and a time of its own are not in the report of a failure: they come with the call.
        """
        if error is not None:
            if headers is None:
                headers = self._headers
            sent = Message(message.key(), message.value() or b"", headers, timestamp_ms)
            self._undelivered(error, sent, attempts)
            return
        if not self.acked % LATENCY_OF_EVERY:
            self.latencies.add(message.latency() or 0.0)
        self.acked += 1
        partition, offset = message.partition(), message.offset()
        try:
            span = self._spans[partition]
        except KeyError:
            span = None
        if span and offset == span[1] + 1:
            span[1] = offset
        else:
            self._place(partition, offset)

    def hand_over(self, batch: Batch) -> None:
        """Notes the sizes of messages that were handed to the client, or refused by it."""
        self._handed_bytes += batch.size_bytes()
        self.largest_bytes = max(self.largest_bytes, batch.largest_bytes)

    def refuse(self, message: Message, error: KafkaError) -> None:
        """A message that the client did not even accept."""
        self.handed += 1
        self._failed(message, error, attempts=1)

    def never_sent(self, rows: int) -> None:
        """Rows that were read and not handed to the client, because the run broke off before."""
        self.handed += rows
        self.failed += rows

    def never_sent_messages(self, messages: Iterable[Message]) -> None:
        """The same for rows that were messages already, which are kept."""
        for message in messages:
            self.never_sent(1)
            if self._keep:
                self._keep(message, reason=NEVER_SENT, unknown=False, attempts=0)

    def sent_again(self) -> None:
        """The first waiting row was handed to the client once more: it is one row still."""
        self.waiting.popleft()
        self.handed -= 1

    def give_up(self) -> None:
        """No more tries: the waiting rows failed, or stay unknown."""
        for message, why, unknown, attempts in self.waiting:
            self.unknown += unknown
            self.failed += not unknown
            self._note(message, why, unknown=unknown, attempts=attempts)
        self.waiting.clear()

    def revoke(self) -> None:
        """The transaction was aborted: nothing in it has arrived, acknowledged or not."""
        self.failed += self.acked + self.unknown
        self.unknown = 0
        self._forget_acked()

    def doubt(self) -> None:
        """Nobody knows whether the transaction was committed."""
        self.unknown += self.acked
        self._forget_acked()

    def _forget_acked(self) -> None:
        self.acked = 0
        self._handed_bytes = 0
        self._spans.clear()

    def write_off(self) -> None:
        """No more reports can come: rows without one are unknown, and so are their sizes."""
        self._undelivered_bytes += self.outstanding * self.largest_bytes
        self.unknown += self.outstanding

    def _undelivered(self, error: KafkaError, message: Message, attempts: int) -> None:
        match verdict(error.code()):
            case Verdict.REFUSED_FOR_NOW:
                self.waiting.append(Waiting(message, reason(error), False, attempts))
            case Verdict.REFUSED:
                self._failed(message, error, attempts)
            case Verdict.UNKNOWN if self._resend_unknown and error.code() not in PURGED:
                self.waiting.append(Waiting(message, reason(error), True, attempts))
            case _:
                self.unknown += 1
                self._note(message, reason(error), unknown=True, attempts=attempts)

    def _failed(self, message: Message, error: KafkaError, attempts: int) -> None:
        self.failed += 1
        if error.code() in REFUSED_FOR_ALL and self.refusal_for_all is None:
            self.refusal_for_all = error
        self._note(message, reason(error), unknown=False, attempts=attempts)

    def _note(self, message: Message, why: str, *, unknown: bool, attempts: int) -> None:
        self._undelivered_bytes += len(message.value) + len(message.key or b"")
        if len(self.undelivered) < SAMPLE_ROWS:
            self.undelivered.append(Undelivered((message.key or b"").decode(errors="replace"), why))
        if self._keep:
            self._keep(message, reason=why, unknown=unknown, attempts=attempts)

    def _place(self, partition: int | None, offset: int | None) -> None:
        if offset is None or offset < 0:
            return  # Acknowledged as a repeat of what is stored already: no offset is told.
        first, last = self._spans.get(partition, (offset, offset))
        self._spans[partition] = [min(first, offset), max(last, offset)]
