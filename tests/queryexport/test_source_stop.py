"""A run that is told to stop ends at once, wherever it is, and leaves nothing behind."""

import gc
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from queryexport.engines import ConnectionSettings
from queryexport.errors import QueryError, RunCancelled
from queryexport.source import open_query, probe
from queryexport.stopping import Stop
from tests.queryexport.conftest import MakeSettings, OurSessions
from tests.queryexport.statements import ENDLESS, WIDE
from tests.services import tcp_proxy
from tests.services.processes import LOOPBACK, free_port

CANCELLED = RunCancelled("Cancelled by a test.")
PROMPT_SEC = 3.0
WITHOUT_NETWORK_SEC = 10.0


@contextmanager
def after(seconds: float, call: Callable[[], None]) -> Iterator[None]:
    timer = threading.Timer(seconds, call)
    timer.start()
    try:
        yield
    finally:
        timer.join()


@contextmanager
def stopped_within(seconds: float) -> Iterator[Stop]:
    """A stop that is requested after half a second, and must have ended the block soon after."""
    stop = Stop()
    started = time.monotonic()
    with after(0.5, lambda: stop.request(CANCELLED)), pytest.raises(RunCancelled):
        yield stop
    assert time.monotonic() - started < 0.5 + seconds


def read_all(settings: ConnectionSettings, sql: str, stop: Stop) -> None:
    with open_query(settings, sql, stop=stop) as result:
        for _ in result.batches:
            """Nothing is done with it."""


def gone(sessions: OurSessions, settings: ConnectionSettings) -> bool:
    deadline = time.monotonic() + PROMPT_SEC
    while (found := sessions(settings)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not found


def test_a_running_statement_is_stopped(make_settings: MakeSettings) -> None:
    settings = make_settings()
    with stopped_within(PROMPT_SEC) as stop:
        read_all(settings, ENDLESS[settings.engine], stop)


@pytest.mark.services
def test_a_running_statement_is_stopped_in_the_database(
    make_server: MakeSettings, sessions: OurSessions
) -> None:
    settings = make_server()
    with stopped_within(PROMPT_SEC) as stop:
        read_all(settings, ENDLESS[settings.engine], stop)
    assert gone(sessions, settings)


@pytest.mark.services
def test_while_rows_are_read_the_statement_is_stopped_in_the_database(
    make_server: MakeSettings, sessions: OurSessions
) -> None:
    settings = make_server()
    with stopped_within(PROMPT_SEC) as stop:
        read_all(settings, WIDE[settings.engine].format(50_000_000), stop)
    assert gone(sessions, settings)


def test_what_is_stopped_before_it_begins_does_not_begin(make_settings: MakeSettings) -> None:
    stop = Stop()
    stop.request(CANCELLED)
    with pytest.raises(RunCancelled):
        read_all(make_settings(), "this is no SQL", stop)


def test_a_stop_between_two_batches_is_seen_by_the_next(make_settings: MakeSettings) -> None:
    settings, stop = make_settings(), Stop()
    with open_query(settings, WIDE[settings.engine].format(100_000), stop=stop) as result:
        next(result.batches)
        stop.request(CANCELLED)
        with pytest.raises(RunCancelled):
            next(result.batches)


@pytest.fixture
def deaf() -> Iterator[int]:
    """The port of a server that takes connections and says nothing."""
    with socket.create_server((LOOPBACK, 0)) as listening:
        yield listening.getsockname()[1]
    for thread in threading.enumerate():
        if thread.name == "connecting":
            thread.join()
    gc.collect()


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # oracledb leaves its own.
@pytest.mark.parametrize("engine", ["postgresql", "mysql", "mssql", "oracle"])
def test_connecting_is_given_up(engine: str, deaf: int) -> None:
    settings = silent(engine, deaf, connect_timeout_sec=30)
    with stopped_within(PROMPT_SEC) as stop:
        read_all(settings, "SELECT 1", stop)


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # oracledb leaves its own.
@pytest.mark.parametrize("engine", ["postgresql", "mysql", "mssql", "oracle"])
def test_connecting_ends_with_its_limit(engine: str, deaf: int) -> None:
    started = time.monotonic()
    with pytest.raises(QueryError, match="Cannot connect to “silent”") as caught:
        probe(silent(engine, deaf, connect_timeout_sec=1))
    assert time.monotonic() - started < 1 + PROMPT_SEC
    assert caught.value.retryable


def silent(engine: str, port: int, *, connect_timeout_sec: int) -> ConnectionSettings:
    return ConnectionSettings(
        "silent",
        engine,
        LOOPBACK,
        port,
        database="d",
        username="u",
        password="p",
        connect_timeout_sec=connect_timeout_sec,
    )


def test_a_session_that_comes_after_it_was_given_up_is_closed(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's own way to connect is only slowed down."""
    from queryexport import source

    closed = threading.Event()
    settings, close = make_settings(), source._close

    def slowly(self: object, connection: object, own: ConnectionSettings) -> None:
        time.sleep(1)

    def noticed(connection: object) -> None:
        close(connection)
        closed.set()

    monkeypatch.setattr(type(source.DIALECTS[settings.engine]), "begin", slowly)
    monkeypatch.setattr(source, "_close", noticed)
    with stopped_within(PROMPT_SEC) as stop:
        read_all(settings, "SELECT 1 AS n", stop)
    assert closed.wait(PROMPT_SEC)


@pytest.fixture
def through_proxy(
    make_server: MakeSettings,
) -> Iterator[tuple[ConnectionSettings, tcp_proxy.TcpProxy]]:
    """A server behind a network that can go away."""
    port = free_port()
    with tcp_proxy.running(port, make_server().port or 0) as proxy:
        yield make_server(port=port, statement_timeout_sec=1), proxy


@pytest.mark.services
@pytest.mark.slow
def test_the_statement_timeout_holds_without_a_network(
    through_proxy: tuple[ConnectionSettings, tcp_proxy.TcpProxy],
) -> None:
    settings, proxy = through_proxy
    started = time.monotonic()
    with (
        after(0.5, proxy.swallow_answers),
        pytest.raises(QueryError, match="statement timeout of 1 s"),
    ):
        read_all(settings, ENDLESS[settings.engine], Stop())
    assert time.monotonic() - started < 1 + WITHOUT_NETWORK_SEC


@pytest.mark.services
@pytest.mark.slow
def test_a_run_is_stopped_without_a_network(
    through_proxy: tuple[ConnectionSettings, tcp_proxy.TcpProxy],
) -> None:
    settings, proxy = through_proxy
    with after(0.4, proxy.swallow_answers), stopped_within(WITHOUT_NETWORK_SEC) as stop:
        read_all(settings, ENDLESS[settings.engine], stop)


@pytest.mark.services
@pytest.mark.slow
def test_a_result_is_given_up_without_a_network(
    through_proxy: tuple[ConnectionSettings, tcp_proxy.TcpProxy],
) -> None:
    settings, proxy = through_proxy
    with open_query(settings, WIDE[settings.engine].format(1_000_000)) as result:
        next(result.batches)
        proxy.swallow_answers()
        started = time.monotonic()
    assert time.monotonic() - started < WITHOUT_NETWORK_SEC
