"""Asks a statement for the greatest value that one of its columns has."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.engine import Dialect as SQLDialect

from queryexport.engines import DIALECTS, ConnectionSettings
from queryexport.parameters import first_statement
from queryexport.source import open_query
from queryexport.stopping import Stop


def newest(
    settings: ConnectionSettings,
    sql: str,
    column: str,
    parameters: Mapping[str, Any],
    *,
    stop: Stop | None = None,
) -> Any:
    """The greatest value of `column` in the rows of the statement, as the driver gives it; None
    when there are no rows, or only NULLs.

    The statement stands inside another one that the database answers with one row. It runs like an
    export: read-only, bound, within the statement timeout; and raises like `open_query`.
    """
    dialect = DIALECTS[settings.engine]
    name = _quoted(column, dialect.create(settings).dialect)
    # A line of its own for the bracket: the statement may end in a comment.
    inner = first_statement(sql, mysql=dialect.reads_as_mysql)
    outer = f"SELECT max(q.{name}) AS newest FROM (\n{inner}\n) q"  # noqa: S608
    with open_query(settings, outer, parameters, stop=stop) as result:
        rows = [row for batch in result.batches for row in batch]
    return rows[0][0]


def _quoted(column: str, dialect: SQLDialect) -> str:
    """Always in quotes, for SQLAlchemy does not know each reserved word of each release; but where
    a name without quotes is not lower case, it has to decide.
    """
    quote = dialect.identifier_preparer
    return (
        quote.quote(column) if dialect.requires_name_normalize else quote.quote_identifier(column)
    )
