"""What a running statement offers, whichever driver runs it: its columns and its rows."""

from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from selectors import EVENT_READ, DefaultSelector
from typing import Any, Protocol, cast

import psycopg
from psycopg.adapt import Transformer
from psycopg.pq import DiagnosticField, ExecStatus
from psycopg.pq.abc import PGresult
from sqlalchemy import BindParameter, Connection, TextClause, bindparam, text

from queryexport.parameters import Statement, is_list
from queryexport.rows import JsonRows, Row

NUMBERS = count()
# How long a request to cancel may take; the network may be what is broken.
CANCEL_SEC = 2


class Cursor(Protocol):
    """An open cursor. `types` are the driver's own, one per name; both are empty without rows."""

    names: tuple[str, ...]
    types: tuple[Any, ...]

    def fetchmany(self, rows: int) -> Sequence[Row] | JsonRows:
        """The next rows, at most so many; none after the last one."""

    def close(self) -> None:
        """Frees what the cursor holds in the database."""


def clause(statement: Statement) -> TextClause:
    """The statement for SQLAlchemy, its lists as `IN` needs them."""
    lists: list[BindParameter[Any]] = [
        bindparam(name, expanding=True)
        for name, value in statement.values.items()
        if is_list(value)
    ]
    return text(statement.text).bindparams(*lists)


class ResultCursor:
    """The cursor of a SQLAlchemy result; after the first batch, the driver's own.

    SQLAlchemy reads the first row ahead, and takes as long again as a driver to wrap each row.
    """

    def __init__(self, connection: Connection, statement: Statement, *, batch_rows: int) -> None:
        options = {"yield_per": batch_rows, "stream_results": True}
        sql, values = clause(statement), dict(statement.values)
        result = connection.execute(sql, values, execution_options=options)
        self._result = result
        self._begun = False
        description = result.cursor.description if result.cursor else None
        self.names = tuple(result.keys()) if result.returns_rows else ()
        self.types = tuple(column[1] for column in description or ())
        self.close = result.close

    def fetchmany(self, rows: int) -> Sequence[Row]:
        if not self._begun:
            self._begun = True
            return self._result.fetchmany(rows)
        cursor = self._result.cursor  # None once SQLAlchemy has seen the end.
        return cast(Sequence[Row], cursor.fetchmany(rows)) if cursor else ()


class NamedCursor:
    """psycopg's server-side cursor, asked for the next batch while the last one is being used.

    It is declared, described, and not run before the first batch: SQLAlchemy would read a row at
    once, which may cost the database the whole sort.
    """

    def __init__(self, connection: Connection, statement: Statement) -> None:
        compiled = clause(statement).compile(dialect=connection.dialect)
        bound = compiled.construct_expanded_state(dict(statement.values))
        self._driver = cast(psycopg.Connection, connection.connection.driver_connection)
        self._cursor = self._driver.cursor(f"query_export_{next(NUMBERS)}")
        try:
            self._cursor.execute(bound.statement, bound.parameters)
        except Exception:
            self._cursor.close()
            raise
        description = self._cursor.description or ()
        self.names = tuple(column[0] for column in description)
        self.types = tuple(column[1] for column in description)
        self._transformer = Transformer(self._driver)
        self._asked = False

    def fetchmany(self, rows: int) -> Sequence[Row] | JsonRows:
        if not self._asked:
            self._ask(rows)
        result = self._answer()
        if result.ntuples == rows:
            self._ask(rows)
        return self._rows(result)

    def close(self) -> None:
        with suppress(psycopg.Error):
            if self._asked:
                self._driver.cancel_safe(timeout=CANCEL_SEC)
                self._answer()
        self._cursor.close()

    def _rows(self, result: PGresult) -> Sequence[Row] | JsonRows:
        self._transformer.set_pgresult(result)
        return self._transformer.load_rows(0, result.ntuples, tuple)

    def _ask(self, rows: int) -> None:
        self._driver.pgconn.send_query(f"FETCH FORWARD {rows} FROM {self._cursor.name}".encode())
        self._asked = True

    def _answer(self) -> PGresult:
        """The batch that was asked for; lets other threads run while it waits, as libpq does not.

        Raises `psycopg.Error` for what PostgreSQL says instead.
        """
        pgconn = self._driver.pgconn
        with DefaultSelector() as selector:
            selector.register(pgconn.socket, EVENT_READ)
            while pgconn.is_busy():
                selector.select()
                pgconn.consume_input()
        result = pgconn.get_result()
        while pgconn.get_result():
            """The end of the answer."""
        self._asked = False
        if result is None or result.status != ExecStatus.TUPLES_OK:
            raise _error_of(result)
        return result


class JsonCursor(NamedCursor):
    """A named cursor over what `postgresql_json.json_query` asks for, read into `JsonRows`."""

    def _rows(self, result: PGresult) -> JsonRows:
        get, numbers = result.get_value, range(result.ntuples)
        keys = [get(number, 0) for number in numbers]
        values = [cast(bytes, get(number, 1)) for number in numbers]
        nulled = [int(get(number, 2) or 0) for number in numbers] if result.nfields > 2 else ()
        return JsonRows(keys, values, nulled)


def _error_of(result: PGresult | None) -> psycopg.Error:
    if result is None:
        return psycopg.OperationalError("PostgreSQL gave no answer")
    state = result.error_field(DiagnosticField.SQLSTATE)
    words = result.error_field(DiagnosticField.MESSAGE_PRIMARY) or result.error_message
    kind = psycopg.errors.lookup(state.decode()) if state else psycopg.OperationalError
    return kind((words or b"").decode(errors="replace"))
