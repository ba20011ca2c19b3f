"""Each driver is handed what the connection says, and nothing that it may not set."""

from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import oracledb
import pymssql
import pytest
from sqlalchemy import event

from queryexport.engines import DIALECTS, LONGEST_DELIVERY_SEC, ConnectionSettings, check_options
from queryexport.errors import ConfigurationError

PASSWORD = "p@ss:/w?#rd%20"
SERVER = ConnectionSettings(
    "far",
    "postgresql",
    host="db.example.com",
    port=1234,
    database="sales",
    username="reader",
    password=PASSWORD,
    connect_timeout_sec=7,
    statement_timeout_sec=90,
)


class NotConnected(Exception):
    """Raised instead of a connection being opened."""


def handed_to_driver(settings: ConnectionSettings) -> dict[str, Any]:
    """The arguments with which SQLAlchemy calls the driver's `connect()`."""
    engine = DIALECTS[settings.engine].create(settings)
    arguments: dict[str, Any] = {}

    @event.listens_for(engine, "do_connect")
    def remember(dialect: Any, record: Any, positional: Any, named: dict[str, Any]) -> None:
        assert not positional
        arguments.update(named)
        raise NotConnected

    with pytest.raises(NotConnected):
        engine.connect()
    return arguments


def test_oracle_is_reached_by_service_name_with_a_connect_timeout() -> None:
    known = oracle_parameters(SERVER)
    assert (known.host, known.port, known.service_name) == ("db.example.com", 1234, "sales")
    assert (known.user, known.tcp_connect_timeout) == ("reader", 7)


def test_a_statement_is_cancelled_by_calls_that_the_drivers_have() -> None:
    """For the two engines of which no server is run here; the others are cancelled for real."""
    oracle, sql_server = Mock(spec=oracledb.Connection), Mock(spec=["_conn"])
    assert hasattr(pymssql.Connection, "_conn")
    sql_server._conn = Mock(spec=pymssql._mssql.MSSQLConnection)
    DIALECTS["oracle"].cancel(oracle, SERVER)
    DIALECTS["mssql"].cancel(sql_server, SERVER)
    oracle.cancel.assert_called_once_with()
    sql_server._conn.cancel.assert_called_once_with()


def test_oracles_driver_knows_every_option() -> None:
    options = {"wallet_location": "/srv/wallet", "ssl_server_dn_match": True}
    known = oracle_parameters(replace(SERVER, options=options))
    assert (known.wallet_location, known.ssl_server_dn_match) == ("/srv/wallet", True)


def oracle_parameters(settings: ConnectionSettings) -> oracledb.ConnectParams:
    """What the driver makes of its arguments; it refuses one that it does not know."""
    handed = handed_to_driver(replace(settings, engine="oracle"))
    assert handed["password"] == PASSWORD
    dsn = handed.pop("dsn")
    known = oracledb.ConnectParams(**handed)
    known.parse_connect_string(dsn)
    return known


def test_sql_server_gets_both_timeouts_and_the_applications_name() -> None:
    assert handed_to_driver(replace(SERVER, engine="mssql")) == {
        "host": "db.example.com:1234",
        "database": "sales",
        "user": "reader",
        "password": PASSWORD,
        "login_timeout": 7,
        "timeout": 90,
        "appname": "query-export",
    }


def test_postgresql_gets_both_timeouts_and_the_applications_name() -> None:
    handed = handed_to_driver(SERVER)
    assert handed["password"] == PASSWORD
    assert handed["connect_timeout"] == 7
    assert handed["options"] == f"-c statement_timeout={90 + LONGEST_DELIVERY_SEC}s"
    assert handed["application_name"] == "query-export"


def test_mysql_gets_the_connect_timeout_and_full_unicode() -> None:
    handed = handed_to_driver(replace(SERVER, engine="mysql"))
    assert handed["password"] == PASSWORD
    assert handed["connect_timeout"] == 7
    assert handed["charset"] == "utf8mb4"
    assert handed["program_name"] == "query-export"


@pytest.mark.parametrize(
    ("engine", "options"),
    [
        ("postgresql", {"sslmode": "verify-full", "sslrootcert": "/srv/ca.pem"}),
        ("mysql", {"ssl_ca": "/srv/ca.pem", "ssl_verify_cert": True}),
        ("oracle", {"wallet_location": "/srv/wallet"}),
        ("mssql", {"tds_version": "7.4", "encryption": "require"}),
    ],
)
def test_an_allowed_option_reaches_the_driver(engine: str, options: dict[str, Any]) -> None:
    check_options(engine, options)
    handed = handed_to_driver(replace(SERVER, engine=engine, options=options))
    assert options.items() <= handed.items()


@pytest.mark.parametrize(
    ("engine", "option"),
    [
        ("postgresql", "passfile"),
        ("postgresql", "options"),
        ("postgresql", "service"),
        ("mysql", "local_infile"),
        ("mysql", "init_command"),
        ("mysql", "read_default_file"),
        ("mysql", "host"),
        ("oracle", "config_dir"),
        ("mssql", "conn_properties"),
        ("sqlite", "uri"),
        ("duckdb", "enable_external_access"),
        ("duckdb", "allow_unsigned_extensions"),
    ],
)
def test_an_option_that_is_not_listed_is_refused_by_name(engine: str, option: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{option} is no option that {engine}"):
        check_options(engine, {option: "x"})


def test_every_engine_refuses_an_unknown_option_and_says_what_is_allowed() -> None:
    for engine, dialect in DIALECTS.items():
        with pytest.raises(ConfigurationError) as caught:
            check_options(engine, {"nope": 1})
        assert (", ".join(sorted(dialect.options)) or "none") in caught.value.message


def test_the_password_is_in_no_text_of_the_settings() -> None:
    assert PASSWORD not in f"{SERVER} {SERVER!r}"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (SERVER, "“far” (postgresql db.example.com:1234/sales)"),
        (replace(SERVER, port=None), "“far” (postgresql db.example.com/sales)"),
        (ConnectionSettings("lite", "sqlite", database="/a/b.db"), "“lite” (sqlite b.db)"),
    ],
)
def test_settings_are_shown_as_name_engine_and_place(
    settings: ConnectionSettings, expected: str
) -> None:
    assert str(settings) == expected
