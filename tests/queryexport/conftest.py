"""Connections to the databases of these tests, as a worker gets them."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest

from queryexport.engines import ConnectionSettings
from tests.services.mariadb import MariaDB
from tests.services.postgresql import PostgreSQL

MakeSettings = Callable[..., ConnectionSettings]
OurSessions = Callable[[ConnectionSettings], list[str]]
# What a server says about the sessions that this product has open.
SESSIONS = {
    "postgresql": "SELECT query FROM pg_stat_activity WHERE application_name = 'query-export'",
    "mysql": "SELECT info FROM information_schema.processlist WHERE id <> CONNECTION_ID()"
    " AND user = SUBSTRING_INDEX(CURRENT_USER(), '@', 1)",
}


def write_sqlite(path: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    return path


def write_duckdb(path: Path, *statements: str) -> Path:
    with closing(duckdb.connect(str(path))) as connection:
        for statement in statements:
            connection.execute(statement)
    return path


@pytest.fixture
def make_sqlite(tmp_path: Path) -> MakeSettings:
    """Makes the settings of a SQLite file with `things`, a table of the numbers 1 to 3."""
    path = write_sqlite(
        tmp_path / "things.sqlite3",
        "CREATE TABLE things (n integer)",
        "INSERT INTO things VALUES (1), (2), (3)",
    )
    return _factory(engine="sqlite", name="lite", database=str(path))


@pytest.fixture
def make_duckdb(tmp_path: Path) -> MakeSettings:
    """The same for a DuckDB file."""
    path = write_duckdb(
        tmp_path / "things.duckdb", "CREATE TABLE things AS SELECT * FROM range(1, 4) AS r(n)"
    )
    return _factory(engine="duckdb", name="duck", database=str(path))


@pytest.fixture(scope="session")
def make_postgresql(postgresql: PostgreSQL) -> MakeSettings:
    """The same for a real PostgreSQL, whose table all tests share."""
    with postgresql.connect() as connection:
        connection.execute("DROP TABLE IF EXISTS things")
        connection.execute("CREATE TABLE things AS SELECT * FROM generate_series(1, 3) AS r(n)")
    return _server_factory(postgresql, engine="postgresql", name="elephant")


@pytest.fixture(scope="session")
def make_mariadb(mariadb: MariaDB) -> MakeSettings:
    """The same for a real MariaDB, whose table all tests share."""
    with closing(mariadb.connect(autocommit=True)) as connection, connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS things")
        cursor.execute("CREATE TABLE things AS SELECT seq AS n FROM seq_1_to_3")
    return _server_factory(mariadb, engine="mysql", name="seal")


@pytest.fixture(
    params=[
        "sqlite",
        "duckdb",
        pytest.param("postgresql", marks=pytest.mark.services),
        pytest.param("mariadb", marks=pytest.mark.services),
    ]
)
def make_settings(request: pytest.FixtureRequest) -> MakeSettings:
    """Makes the settings of each engine in turn."""
    return request.getfixturevalue(f"make_{request.param}")


@pytest.fixture(
    params=["postgresql", "mariadb"],
)
def make_server(request: pytest.FixtureRequest) -> MakeSettings:
    """Makes the settings of each real server in turn."""
    return request.getfixturevalue(f"make_{request.param}")


@pytest.fixture
def sessions(request: pytest.FixtureRequest) -> OurSessions:
    """Asks a server which statements our sessions run, over a session of its own."""

    def running(settings: ConnectionSettings) -> list[str]:
        name = {"postgresql": "postgresql", "mysql": "mariadb"}[settings.engine]
        with closing(request.getfixturevalue(name).connect(autocommit=True)) as connection:
            cursor = connection.cursor()
            cursor.execute(SESSIONS[settings.engine])
            return [str(row[0]) for row in cursor.fetchall()]

    return running


def _server_factory(server: PostgreSQL | MariaDB, **values: Any) -> MakeSettings:
    return _factory(
        host=server.host,
        port=server.port,
        database=server.database,
        username=server.user,
        password=server.password,
        **values,
    )


def _factory(**values: Any) -> MakeSettings:
    return lambda **changes: ConnectionSettings(**{**values, **changes})
