"""Runs SQL and hands out its rows in batches. The only module that opens a query cursor."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from threading import Event, Thread, Timer
from time import monotonic
from typing import Any, Self, cast

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from queryexport.cursors import Cursor
from queryexport.engines import DIALECTS, ConnectionSettings, check_options
from queryexport.errors import ExportError, QueryError
from queryexport.parameters import Statement, bind
from queryexport.rows import Column, JsonRows, JsonShape, Result, Row
from queryexport.stopping import Stop

BATCH_ROWS = 1000
# A statement that does not end by being cancelled ends with its connection.
CANCEL_EVERY_SEC = 0.5
CUT_AFTER_SEC = 4.0
CLOSE_WITHIN_SEC = 5.0
TURN_SEC = 0.2


@contextmanager
def open_query(
    settings: ConnectionSettings,
    sql: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    stop: Stop | None = None,
) -> Iterator[Result]:
    """Runs one statement with bound parameters and yields its result while the session lives.

    Rows are streamed in batches of `BATCH_ROWS`, so memory does not grow with the result. The
    session is read-only where the engine can be, and always rolled back. The time that the database
    takes, from sending the statement to the last row, is limited by `statement_timeout_sec`; past
    it the statement is cancelled in the database. The time that the sink takes does not count.
    When `stop` is requested, connecting is given up and a running statement cancelled, and the
    reason is raised here or where the rows are read; nobody waits longer for that than about
    `CUT_AFTER_SEC` + `CLOSE_WITHIN_SEC`, also when the network is gone.

    Raises `QueryError` for whatever the database says, `ConfigurationError` for parameters that
    do not match the statement.
    """
    statement = bind(sql, parameters or {}, mysql=DIALECTS[settings.engine].reads_as_mysql)
    stop = stop or Stop()
    with _session(settings, stop) as connection:
        reading = Reading(connection, statement, settings, stop)
        try:
            rows = cast(Iterator[Sequence[Row]], reading.batches)
            yield Result(reading.columns(), rows, reading.render)
        finally:
            reading.close()


def probe(settings: ConnectionSettings) -> None:
    """Opens and closes a read-only session; raises `QueryError` when that fails."""
    with _session(settings, Stop()):
        pass


class StatementLimit:
    """A budget of seconds for the database's own time, spent only inside `with` blocks.

    When it is used up or `stop` is requested while the database works, the statement is cancelled
    from another thread; and when that does not end it, the connection is cut.
    """

    def __init__(self, connection: Connection, settings: ConnectionSettings, stop: Stop) -> None:
        self.driver_connection = connection.connection.driver_connection
        self._settings = settings
        self._stop = stop
        self._left_sec = float(settings.statement_timeout_sec)
        self._expired = False

    @property
    def reason(self) -> ExportError | None:
        """Why the statement was stopped, if it was."""
        return self._stop.reason or (_timed_out(self._settings) if self._expired else None)

    def __enter__(self) -> None:
        self._idle = Event()
        self._stop.add(self._interrupt)
        self._timer = Timer(max(self._left_sec, 0), self._expire)
        self._timer.daemon = True
        self._started = monotonic()
        self._timer.start()

    def __exit__(self, *exc: object) -> None:
        self._idle.set()
        self._timer.cancel()
        self._stop.remove(self._interrupt)
        self._left_sec -= monotonic() - self._started

    def _expire(self) -> None:
        self._expired = True
        self._interrupt()

    def _interrupt(self) -> None:
        idle, dialect = self._idle, DIALECTS[self._settings.engine]
        cut_at = monotonic() + CUT_AFTER_SEC
        while monotonic() < cut_at:
            # Again and again: the first time, the statement may not have begun.
            with suppress(Exception):
                dialect.cancel(self.driver_connection, self._settings)
            if idle.wait(CANCEL_EVERY_SEC):
                return
        with suppress(Exception):
            dialect.cut(self.driver_connection)


@contextmanager
def _session(settings: ConnectionSettings, stop: Stop) -> Iterator[Connection]:
    check_options(settings.engine, settings.options)
    dialect = DIALECTS[settings.engine]
    try:
        connection = _connected(settings, stop)
    except ExportError:
        raise
    except Exception as error:  # Drivers raise far more here than their own error classes.
        reason = _reason(error, settings)
        hopeless = isinstance(error, TypeError | ValueError)
        raise QueryError(
            f"Cannot connect to {settings} as “{settings.username}”: {reason}. "
            "Check host, port, database, user and password of the connection.",
            # Trying a wrong password again and again locks the account.
            retryable=not (hopeless or re.search(dialect.login_refused, reason)),
        ) from error
    driver_connection = connection.connection.driver_connection
    try:
        yield connection
    finally:
        with _cutting(settings, driver_connection):
            _close(connection)


def _connected(settings: ConnectionSettings, stop: Stop) -> Connection:
    """A read-only session. A thread opens it, because no driver can be interrupted at that."""
    opened: Future[Connection] = Future()
    Thread(target=_open, args=(settings, opened), name="connecting", daemon=True).start()
    give_up_at = monotonic() + settings.connect_timeout_sec + 1
    try:
        while not wait([opened], TURN_SEC).done:
            stop.check()
            if monotonic() > give_up_at:
                raise _never_connected(settings)
        return opened.result()
    except BaseException:
        if not opened.cancel():  # It was just opened.
            with suppress(Exception):
                _close(opened.result())
        raise


def _open(settings: ConnectionSettings, opened: "Future[Connection]") -> None:
    """Opens a session for whoever waits for it; closes it when nobody does any more."""
    connection = None
    try:
        connection = DIALECTS[settings.engine].create(settings).connect()
        with _translated(settings):
            DIALECTS[settings.engine].begin(connection, settings)
    except BaseException as error:
        if connection is not None:
            _close(connection)
        if opened.set_running_or_notify_cancel():
            opened.set_exception(error)
        return
    if opened.set_running_or_notify_cancel():
        opened.set_result(connection)
    else:
        _close(connection)


@contextmanager
def _cutting(settings: ConnectionSettings, driver_connection: Any) -> Iterator[None]:
    """Cuts the connection when the block, which talks to the database once more, takes long."""

    def cut() -> None:
        with suppress(Exception):
            DIALECTS[settings.engine].cut(driver_connection)

    timer = Timer(CLOSE_WITHIN_SEC, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _close(connection: Connection) -> None:
    """Rolls back and closes; a session that is broken is dropped instead."""
    try:
        connection.rollback()
        connection.close()
    except SQLAlchemyError:
        connection.invalidate()
        connection.close()


def _columns(names: Sequence[str]) -> tuple[Column, ...]:
    if not names:
        raise QueryError("The statement returns no rows. An export needs a SELECT.")
    if doubled := [name for name, count in Counter(names).items() if count > 1]:
        raise QueryError(
            f"The query returns more than one column called {', '.join(doubled)}. "
            "Give each its own name with AS."
        )
    return tuple(Column(name) for name in names)


class Reading:
    """One statement, its open cursor, and the rows of it that are read."""

    def __init__(
        self,
        connection: Connection,
        statement: Statement,
        settings: ConnectionSettings,
        stop: Stop,
    ) -> None:
        self._connection = connection
        self._statement = statement
        self._settings = settings
        self._dialect = DIALECTS[settings.engine]
        self._limit = StatementLimit(connection, settings, stop)
        with _translated(settings, self._limit), self._limit:
            cursor = self._dialect.execute(connection, statement, batch_rows=BATCH_ROWS)
        self._read(cursor)

    def columns(self) -> tuple[Column, ...]:
        return _columns(self._cursor.names)

    def render(self, shape: JsonShape) -> Iterator[JsonRows] | None:
        """The rows as the engine itself writes them, instead of `batches`; None if it cannot."""
        plain = self._cursor
        with _translated(self._settings, self._limit), self._limit:
            cursor = self._dialect.execute_as_json(self._connection, self._statement, plain, shape)
        if cursor is None:
            return None
        self._read(cursor)
        plain.close()
        return cast(Iterator[JsonRows], self.batches)

    def close(self) -> None:
        """Gives up what has not been read; the session is free after it."""
        driver_connection = self._limit.driver_connection
        # The session is closed next, whatever is left of it.
        with suppress(Exception), _cutting(self._settings, driver_connection):
            if not self.batches.exhausted:
                self._dialect.abandon(self._connection, driver_connection, self._settings)
            self._cursor.close()

    def _read(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self.batches = Batches(cursor, self._connection, self._settings, self._limit)


class Batches:
    """The rows of a cursor in batches of `BATCH_ROWS`; knows whether they were read to the end."""

    def __init__(
        self,
        cursor: Cursor,
        connection: Connection,
        settings: ConnectionSettings,
        limit: StatementLimit,
    ) -> None:
        self.exhausted = False
        self._cursor = cursor
        self._connection = connection
        self._settings = settings
        self._limit = limit

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Sequence[Row] | JsonRows:
        with _translated(self._settings, self._limit, self._connection), self._limit:
            batch = self._cursor.fetchmany(BATCH_ROWS)
        if reason := self._limit.reason:
            raise reason
        if not batch:
            self.exhausted = True
            raise StopIteration
        return batch


@contextmanager
def _translated(
    settings: ConnectionSettings,
    limit: StatementLimit | None = None,
    connection: Connection | None = None,
) -> Iterator[None]:
    """Turns what a driver raises into a `QueryError` that names the connection.

    SQLAlchemy marks a lost connection itself; for what the driver raises by itself, `connection`
    is asked and marked here.
    """
    try:
        yield
    except ExportError:
        raise
    except Exception as error:
        if limit and (reason := limit.reason):
            raise reason from error
        lost = _is_lost(error, connection)
        if lost:
            message = (
                f"The connection to {settings} was lost: {_reason(error, settings)}. "
                "Check that the server runs, then run the item again."
            )
        else:
            message = (
                f"{settings} refused the query: {_reason(error, settings)}. "
                "Correct the query, or what the connection's account may read."
            )
        raise QueryError(message, retryable=lost) from error


def _is_lost(error: Exception, connection: Connection | None) -> bool:
    if isinstance(error, DBAPIError):
        return error.connection_invalidated
    driver = connection.connection.driver_connection if connection else None
    lost = connection is not None and connection.dialect.is_disconnect(
        cast(Any, error), driver, None
    )
    if connection and lost:
        connection.invalidate(error)
    return lost


def _never_connected(settings: ConnectionSettings) -> QueryError:
    return QueryError(
        f"Cannot connect to {settings} as “{settings.username}”: no session within its connect "
        f"timeout of {settings.connect_timeout_sec} s. Check that the server runs and that the "
        "network lets this worker through, or raise the connection's timeout.",
        retryable=True,
    )


def _timed_out(settings: ConnectionSettings) -> QueryError:
    return QueryError(
        f"The query ran longer than its statement timeout of {settings.statement_timeout_sec} s "
        f"on {settings} and was stopped. Make the query faster or raise the connection's timeout.",
        retryable=True,
    )


def _reason(error: BaseException, settings: ConnectionSettings) -> str:
    """The driver's own words on one line, without SQLAlchemy's additions and the password."""
    original = error.orig if isinstance(error, DBAPIError) and error.orig else error
    words = " ".join(_words(original.args)) or type(original).__name__
    if settings.password:
        words = words.replace(settings.password, "•••")
    return " ".join(words.split()).rstrip(".")


def _words(parts: Iterable[Any]) -> Iterator[str]:
    """The parts of an error as text; pymssql nests them and leaves some as bytes."""
    for part in parts:
        if isinstance(part, tuple | list):
            yield from _words(part)
        else:
            yield part.decode(errors="replace") if isinstance(part, bytes) else str(part)
