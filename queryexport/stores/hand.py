"""Does what may block in a thread of its own, so that a run can end while a server is silent."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Thread
from time import monotonic
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")

LOOK_EVERY_SEC = 0.5
GRACE_SEC = 3.0
CLOSE_SEC = 1.0


class Connection(Protocol):
    """What a hand works with. `connect` and `close` block; `sever` is called from any thread."""

    def connect(self) -> None: ...

    def close(self) -> None: ...

    def sever(self) -> None:
        """Cuts the connection, so that what is under way fails."""


class Overdue(TimeoutError):
    """The server did not answer in time, and the connection to it was cut."""


class Hand:
    """Makes one call after the other, all in one thread, and looks on from the one that waits.

    `alive` is called again and again meanwhile, and may raise why to stop; then the call under way
    has a few seconds to end. Whatever does not end in time is cut off by `sever`, which is called
    from this thread and must make it fail.
    """

    def __init__(
        self, sever: Callable[[], None], alive: Callable[[], None], *, limit_sec: float
    ) -> None:
        self.cut_off = False
        self._sever = sever
        self._alive = alive
        self._limit_sec = limit_sec
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name="store", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._calls.put(None)
        self._thread.join(CLOSE_SEC)

    def do(
        self, call: Callable[..., T], *args: Any, stoppable: bool = True, limit_sec: float = 0
    ) -> T:
        """What `call` returns or raises; `Overdue` after `limit_sec`; what `alive` raises, unless
        the call is not `stoppable`.
        """
        if stoppable:
            self._alive()
        answer: Future[T] = Future()
        self._calls.put(lambda: _answer(answer, call, *args))
        reason = self._watch(answer, stoppable, limit_sec or self._limit_sec)
        if reason:
            raise reason
        return answer.result()

    def _watch(self, answer: Future[T], stoppable: bool, limit_sec: float) -> Exception | None:
        reason: Exception | None = None
        end = monotonic() + limit_sec
        while not wait([answer], timeout=LOOK_EVERY_SEC).done:
            if stoppable and reason is None:
                reason = self._reason_to_stop()
                end = min(end, monotonic() + GRACE_SEC) if reason else end
            if monotonic() > end:
                self.cut_off = True
                self._sever()
                return reason or Overdue(f"no answer within {limit_sec:g} s")
        return reason

    def _reason_to_stop(self) -> Exception | None:
        try:
            self._alive()
        except Exception as error:
            return error
        return None

    def _work(self) -> None:
        while call := self._calls.get():
            call()


def _answer(answer: Future[T], call: Callable[..., T], *args: Any) -> None:
    try:
        answer.set_result(call(*args))
    except BaseException as error:
        answer.set_exception(error)


@contextmanager
def connected(
    connection: Connection, alive: Callable[[], None], *, limit_sec: float
) -> Iterator[Hand]:
    """The hand that works with the connection, which is there until the block ends."""
    with Hand(connection.sever, alive, limit_sec=limit_sec) as hand:
        try:
            hand.do(connection.connect)
            yield hand
        finally:
            _close(connection, hand)


def _close(connection: Connection, hand: Hand) -> None:
    try:
        hand.do(connection.close, stoppable=False, limit_sec=CLOSE_SEC)
    except Exception as error:
        logger.info("A connection was not closed in order: %r", error)
