"""smtplib's client, which waits for the server in short turns, so that a run can end meanwhile."""

import smtplib
import socket
import ssl
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import partial
from math import inf
from threading import Thread
from time import monotonic
from typing import Any, TypeVar

from queryexport.rows import Progress

TURN_SEC = 0.5
FAREWELL_SEC = 2.0
PIECE_BYTES = 1 << 16
T = TypeVar("T")


class ServerSilent(Exception):
    """The server did not do its part in time; the message says what it let pass."""


class Patience:
    """How long a server is waited for: `step_sec` for each answer and each block of bytes that it
    takes, and `total_sec` for the whole dialogue. Meanwhile `progress` may end it.
    """

    def __init__(self, progress: Progress | None, *, step_sec: float, total_sec: float) -> None:
        self._progress = progress
        self._step_sec = step_sec
        self._total_sec = total_sec
        self._began = self._stepped = self._told = monotonic()

    def step(self) -> None:
        """The server did its part, or now has to."""
        self._stepped = monotonic()

    def turn(self) -> None:
        """Called again and again in waiting; raises `ServerSilent`, or what `progress` raises."""
        now = monotonic()
        if now - self._stepped > self._step_sec:
            raise ServerSilent(f"it did not answer for {self._step_sec:g} s")
        if now - self._began > self._total_sec:
            raise ServerSilent(f"it took more than {self._total_sec:g} s in all")
        if self._progress and now - self._told >= TURN_SEC:
            self._told = now
            self._progress.delivered(0)

    def grant(self, more_sec: float) -> None:
        """Lets the whole dialogue take longer."""
        self._total_sec += more_sec

    def await_the_end(self, step_sec: float) -> None:
        """From now on only the last answer is waited for, however long all else took."""
        self._step_sec, self._total_sec = step_sec, inf
        self._stepped = self._told = monotonic()

    def say_farewell(self) -> None:
        """From now on nothing matters any more, and nobody is asked."""
        self._progress = None
        self.await_the_end(FAREWELL_SEC)


class PatientSocket:
    """What smtplib uses of a socket. One whose patience has ended is closed."""

    def __init__(self, connected: socket.socket, patience: Patience) -> None:
        self._socket = connected
        self._socket.settimeout(TURN_SEC)
        self._patience = patience
        self._read = bytearray()

    def sendall(self, data: bytes) -> None:
        left = memoryview(data)
        self._patience.step()
        while left:
            left = left[self._in_turns(partial(self._socket.send, left[:PIECE_BYTES])) :]
            self._patience.step()
            if left:
                self._turn()

    def makefile(self, mode: str) -> "PatientSocket":
        """Itself, since smtplib reads nothing but lines."""
        return self

    def readline(self, limit: int) -> bytes:
        """Up to the line feed, so many bytes, or the end; a server must not drip for ever."""
        self._turn()
        while b"\n" not in self._read and len(self._read) < limit:
            piece = self._in_turns(partial(self._socket.recv, PIECE_BYTES))
            if not piece:
                break
            self._read += piece
            if b"\n" not in piece:
                self._turn()
        end = self._read.find(b"\n") + 1 or len(self._read)
        line = bytes(self._read[: min(end, limit)])
        del self._read[: len(line)]
        return line

    def secured(self, context: ssl.SSLContext, server_hostname: str) -> "PatientSocket":
        """The same connection inside TLS. What came before the handshake is forgotten."""
        tls = context.wrap_socket(
            self._socket, server_hostname=server_hostname, do_handshake_on_connect=False
        )
        secured = PatientSocket(tls, self._patience)
        self._patience.step()
        try:
            secured._in_turns(tls.do_handshake)
        except OSError:
            secured.close()
            raise
        return secured

    def close(self) -> None:
        self._socket.close()

    def _in_turns(self, call: Callable[[], T]) -> T:
        while True:
            with suppress(TimeoutError):
                return call()
            self._turn()

    def _turn(self) -> None:
        try:
            self._patience.turn()
        except BaseException:
            self.close()
            raise


class PatientContext:
    """A TLS context for patient sockets, as far as smtplib uses one."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context

    def wrap_socket(self, plain: PatientSocket, *, server_hostname: str) -> PatientSocket:
        return plain.secured(self._context, server_hostname)


class PatientSMTP(smtplib.SMTP):
    """Raises `ServerSilent`, and what the progress raises, beside the errors of smtplib."""

    def __init__(self, host: str, port: int, *, patience: Patience, **options: Any) -> None:
        self.patience = patience
        super().__init__(host, port, **options)

    def _get_socket(self, host: str, port: int, timeout: float) -> Any:
        return PatientSocket(_connected(host, port, timeout, self.patience), self.patience)


class PatientSMTPS(smtplib.SMTP_SSL, PatientSMTP):
    """The same inside TLS from the first byte. Its `context` must be a `PatientContext`."""

    def __init__(self, host: str, port: int, *, patience: Patience, **options: Any) -> None:
        self.patience = patience
        smtplib.SMTP_SSL.__init__(self, host, port, **options)


def _connected(host: str, port: int, timeout: float, patience: Patience) -> socket.socket:
    """A thread connects, because looking up a name cannot be interrupted."""
    opened: Future[socket.socket] = Future()
    patience.step()
    Thread(
        target=_connect, args=(opened, host, port, timeout), name="connecting", daemon=True
    ).start()
    try:
        while not wait([opened], TURN_SEC).done:
            patience.turn()
    except BaseException:
        opened.add_done_callback(_close)
        raise
    patience.step()
    return opened.result()


def _connect(opened: "Future[socket.socket]", host: str, port: int, timeout: float) -> None:
    try:
        opened.set_result(socket.create_connection((host, port), timeout))
    except Exception as error:
        opened.set_exception(error)


def _close(opened: "Future[socket.socket]") -> None:
    if not opened.exception():
        opened.result().close()
