"""Sends messages and counts what the brokers acknowledge. The only module that produces."""

import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic
from types import TracebackType
from typing import Any, Self, cast

from confluent_kafka import KafkaError, KafkaException

from kafka_sink.client import open_producer
from kafka_sink.config import QUEUE_KBYTES, QUEUE_MESSAGES, KafkaSettings, producer_config
from kafka_sink.errors import UnknownTopic
from kafka_sink.messages import Batch, Headers, Message
from kafka_sink.reports import Keep, Ledger, reason
from queryexport.errors import DeliveryError
from queryexport.rows import Progress

REACH_LIMIT_SEC = 8.0
OUTAGE_LIMIT_SEC = 30.0
REPORT_GRACE_SEC = 10.0
PURGE_LIMIT_SEC = 5.0
COMMIT_LIMIT_SEC = 60.0
TURN_SEC = 0.2
HEARTBEAT_SEC = 1.0
MOST_WAITING = 10_000
TRIES_AGAIN_AFTER = (1, 2, 4)  # times retry_backoff_ms: 100, 200, 400 ms
NEVER_RIGHT_LATER = frozenset({KafkaError._AUTHENTICATION, KafkaError._FATAL, KafkaError._FENCED})
WRONG_FROM_THE_START = frozenset({KafkaError._SSL})  # Later, it may be a connection that broke.


class CountingProducer:
    """One delivery to one topic: every row that is sent ends as acked, failed or unknown.

    Made inside the worker process, used there, and over with its `with` block, which leaves no
    row without a verdict: what has no report by then is purged and counted. `progress` hears of
    newly acknowledged rows once per batch, and at least once a second while the client waits;
    whatever it raises ends the delivery.

    With a `transactional_id` nothing counts as delivered until `commit`; what has not been
    committed is aborted at the end of the `with` block, and no `read_committed` consumer sees it.

    Raises `ConfigurationError` for settings that the client refuses, `DeliveryError` when the
    brokers refuse the run as a whole or stay out of reach for `outage_limit_sec`.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        *,
        batch_messages: int,
        progress: Progress,
        outage_limit_sec: float = OUTAGE_LIMIT_SEC,
        resend_unknown: bool = False,
        transactional_id: str = "",
        headers: Headers = (),
        keep: Keep | None = None,
    ) -> None:
        """`headers` are those of messages without their own; `keep` gets what did not arrive."""
        self.ledger = Ledger(resend_unknown=resend_unknown, keep=keep, headers=headers)
        self._headers = headers
        self._transactional = bool(transactional_id)
        self._settings = settings
        self._topic = topic
        self._progress = progress
        self._outage_limit_sec = outage_limit_sec
        self._report_limit_sec = settings.message_timeout_ms / 1000 + REPORT_GRACE_SEC
        self._told_rows = 0
        self._told_at = self._heard_at = monotonic()
        self._answered = 0
        self._reached = False
        self._down_since: float | None = None
        self._trouble: KafkaError | None = None
        self._final: KafkaError | None = None
        self._pid = os.getpid()
        config = producer_config(
            settings, batch_messages=batch_messages, transactional_id=transactional_id
        )
        self._producer = open_producer(settings, config, on_error=self._on_error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing of the client is left: without this it would live on, held by its callbacks, and
        might even carry out a commit that was given up.
        """
        self.abandon()
        del self._producer

    def require_topic(self, limit_sec: float = REACH_LIMIT_SEC) -> None:
        """Raises `UnknownTopic` when the topic does not exist, and `DeliveryError` when the brokers
        cannot be asked within `limit_sec`; at once when they refuse the log-in.
        """
        # All topics are listed, because asking for one by name can create it.
        topics = self._topics(monotonic() + limit_sec)
        if self._topic not in topics:
            raise UnknownTopic(
                f"The topic {self._topic} does not exist on {self._settings}, or its user may not "
                "see it. Create it, or correct the name."
            )

    def send(self, batch: Batch) -> None:
        """Hands messages to the client, which sends them in the background; waits for room."""
        assert os.getpid() == self._pid, "a producer does not survive a fork"
        if not self.ledger.outstanding:
            self._heard_at = monotonic()  # Nobody was asked while the query took its time.
        before = self.ledger.handed
        try:
            self._produce_all(batch)
        finally:
            handed = self.ledger.handed - before
            self.ledger.hand_over(batch if handed == len(batch) else batch.first(handed))
        self._serve(0)
        if len(self.ledger.waiting) >= MOST_WAITING:
            self.settle()

    def settle(self) -> None:
        """Waits until every row has its verdict; rows refused for now get three more tries."""
        self._drain()
        for factor in TRIES_AGAIN_AFTER:
            if not self.ledger.waiting:
                return
            self._pause(self._settings.retry_backoff_ms * factor / 1000)
            self._send_again()
        self.ledger.give_up()

    def drain(self, limit_sec: float) -> None:
        """Waits so long for what is on its way, without telling anybody of its progress."""
        deadline = monotonic() + limit_sec
        while self.ledger.outstanding and monotonic() < deadline:
            self._poll(TURN_SEC, flush=True)

    def abandon(self) -> None:
        """Stops sending now. Rows without an acknowledgement are counted, never claimed."""
        if self.ledger.outstanding:
            self._producer.purge()
            deadline = monotonic() + PURGE_LIMIT_SEC
            while self.ledger.outstanding and monotonic() < deadline:
                self._poll(TURN_SEC)
        self.ledger.give_up()
        self.ledger.write_off()
        if self._transactional:
            self._abort()

    def _topics(self, deadline: float) -> set[str]:
        while True:
            try:
                topics = set(self._producer.list_topics(timeout=1).topics)
            except KafkaException as error:
                self._trouble = self._trouble or error.args[0]
                self._serve(0)  # The error callback knows the real reason.
                if monotonic() > deadline:
                    raise self._unreachable() from error
            else:
                self._down_since, self._reached = None, True
                return topics

    def begin(self) -> None:
        """Starts the transaction, and ends one that an earlier process of this item left open."""
        if self._transactional:
            self._in_transaction("begin", self._producer.init_transactions, REACH_LIMIT_SEC)
            self._producer.begin_transaction()

    def commit(self) -> None:
        """Makes the rows visible, all of them; raises `DeliveryError` when that is not certain.

        Without a transaction there is nothing to do.
        """
        if not self._transactional:
            return
        self._stop_if_hopeless()
        try:
            self._in_transaction("commit", self._producer.commit_transaction, COMMIT_LIMIT_SEC)
        except DeliveryError:
            self.ledger.doubt()
            self._transactional = False  # Neither committed nor to be aborted, as far as we know.
            raise
        self._transactional = False
        self._progress.arrived(self.ledger.acked)

    def _abort(self) -> None:
        self._transactional = False
        self.ledger.revoke()
        with suppress(KafkaException):  # The cluster aborts it by itself when its time is over.
            self._producer.abort_transaction(PURGE_LIMIT_SEC)

    def _in_transaction(self, step: str, call: Callable[[float], None], limit_sec: float) -> None:
        try:
            call(limit_sec)
        except KafkaException as error:
            self._poll(0)
            self._stop_if_hopeless()
            raise DeliveryError(
                f"The brokers of {self._settings} did not {step} the transaction of this run: "
                f"{self._words(error.args[0])}. Check that they run and allow transactions.",
                retryable=True,
            ) from error

    def _produce_all(self, batch: Batch) -> None:
        if batch.headers or batch.timestamps_ms:
            self._produce_different(batch)
        elif self._may_go_together(batch):
            self._produce_together(batch)
        else:
            self._produce_alike(batch)

    def _may_go_together(self, batch: Batch) -> bool:
        """Whether the client takes them in one call, and has room for all.

        It knows no headers there, and where a large message finds no room a smaller one after it
        still would, which changed their order.
        """
        if self._headers or len(batch) > QUEUE_MESSAGES:
            return False
        largest = max(batch.largest_bytes, self.ledger.largest_bytes)
        return QUEUE_MESSAGES * largest <= QUEUE_KBYTES * 1024

    def _produce_together(self, batch: Batch) -> None:
        while self.ledger.outstanding + len(batch) > QUEUE_MESSAGES:
            self._serve(TURN_SEC)
        parts = zip(batch.keys, batch.values, strict=True)
        handed = [{"key": key, "value": value} for key, value in parts]
        accepted = self._producer.produce_batch(self._topic, handed, on_delivery=self.ledger.report)
        self.ledger.handed += accepted
        if accepted < len(batch):
            for message, told in zip(batch.messages(()), handed, strict=True):
                if error := told.get("_error"):
                    self.ledger.refuse(message, cast(KafkaError, error))

    def _produce_alike(self, batch: Batch) -> None:
        """One by one, all with the headers of this delivery."""
        produce, topic, ledger = self._producer.produce, self._topic, self.ledger
        report, headers = ledger.report, cast(Any, list(self._headers))
        for key, value in zip(batch.keys, batch.values, strict=True):
            try:
                produce(topic, value, key, on_delivery=report, headers=headers)
                ledger.handed += 1
            except BufferError:
                self._send_when_there_is_room(Message(key, value, self._headers))
            except KafkaException as error:
                ledger.refuse(Message(key, value, self._headers), error.args[0])

    def _produce_different(self, batch: Batch) -> None:
        """One by one, each with its own headers or time."""
        for message in batch.messages(self._headers):
            self._send_when_there_is_room(message)

    def _produce(self, message: Message, *, attempts: int = 1) -> None:
        key, value, headers, timestamp_ms = message
        self._producer.produce(
            self._topic,
            value,
            key,
            on_delivery=partial(
                self.ledger.report, headers=headers, timestamp_ms=timestamp_ms, attempts=attempts
            ),
            headers=list(headers),
            timestamp=timestamp_ms,
        )

    def _send_again(self) -> None:
        for _ in range(len(self.ledger.waiting)):
            row = self.ledger.waiting[0]
            self._send_when_there_is_room(row.message, attempts=row.attempts + 1)
            self.ledger.sent_again()
        self._drain()

    def _send_when_there_is_room(self, message: Message, *, attempts: int = 1) -> None:
        while True:
            try:
                self._produce(message, attempts=attempts)
                self.ledger.handed += 1
                return
            except BufferError:
                self._serve(TURN_SEC)
            except KafkaException as error:
                self.ledger.refuse(message, error.args[0])
                return

    def _drain(self) -> None:
        while self.ledger.outstanding:
            self._poll(TURN_SEC, flush=True)
            self._serve(0)

    def _pause(self, seconds: float) -> None:
        until = monotonic() + seconds
        while (left := until - monotonic()) > 0:
            self._serve(left)

    def _poll(self, timeout_sec: float, *, flush: bool = False) -> None:
        """Lets the client work. A flush, unlike a poll, does not wait for linger.ms.

        A fatal error does not go to the error callback: the client raises it from here.
        """
        try:
            self._producer.flush(timeout_sec) if flush else self._producer.poll(timeout_sec)
        except KafkaException as error:
            self._final = self._final or error.args[0]

    def _serve(self, timeout_sec: float) -> None:
        """One turn of the client's events, then of ours."""
        self._poll(timeout_sec)
        now = monotonic()
        if self.ledger.answered != self._answered:
            self._answered, self._heard_at, self._down_since = self.ledger.answered, now, None
        self._tell_progress(now)
        self._stop_if_hopeless(now)

    def _tell_progress(self, now: float) -> None:
        # Inside a transaction nothing has arrived before the commit.
        new_rows = 0 if self._transactional else self.ledger.acked - self._told_rows
        if new_rows or now - self._told_at > HEARTBEAT_SEC:
            self._told_rows, self._told_at = self._told_rows + new_rows, now
            self._progress.delivered(new_rows)

    def _on_error(self, error: KafkaError) -> None:
        """The client's own view of its connections; called from `poll`, so it never raises."""
        code = error.code()
        never = NEVER_RIGHT_LATER if self._reached else NEVER_RIGHT_LATER | WRONG_FROM_THE_START
        if error.fatal() or code in never:
            self._final = self._final or error
        elif code == KafkaError._ALL_BROKERS_DOWN:
            self._down_since = self._down_since or monotonic()
        else:
            self._trouble = error

    def _stop_if_hopeless(self, now: float | None = None) -> None:
        if self._final:
            raise DeliveryError(
                f"The brokers of {self._settings} and this client do not come together: "
                f"{self._words(self._final)}. Check protocol, user, password and certificates "
                "of the Kafka connection."
            )
        if refusal := self.ledger.refusal_for_all:
            raise DeliveryError(
                f"The brokers of {self._settings} refuse the topic {self._topic}: "
                f"{self._settings.without_secrets(reason(refusal))}"
            )
        if self._transactional and (self.ledger.failed or self.ledger.unknown):
            # The client sends nothing more in such a transaction, and it can only be aborted.
            first = self.ledger.undelivered[0]
            raise DeliveryError(
                "One row was not delivered, so the transaction was taken back and no row of this "
                f"run is visible: {first.reason} Its key is “{first.key}”."
            )
        if now and self.ledger.outstanding and self._silent(now):
            raise self._unreachable()

    def _silent(self, now: float) -> bool:
        """Whether no broker has answered for longer than any answer may take."""
        if (
            self._down_since
            and now - max(self._down_since, self._heard_at) > self._outage_limit_sec
        ):
            return True
        return now - self._heard_at > self._report_limit_sec

    def _unreachable(self) -> DeliveryError:
        words = self._words(self._trouble) if self._trouble else "no answer"
        return DeliveryError(
            f"The brokers of {self._settings} cannot be reached: {words}. Check the servers' "
            "addresses, that they run, that the network lets this worker through, and that the "
            f"protocol {self._settings.security_protocol} is that of the listener.",
            retryable=True,
        )

    def _words(self, error: KafkaError) -> str:
        return self._settings.without_secrets(error.str()).rstrip(".")
