"""The database itself refuses what the forms only explain."""

from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from queryexport.models import DatabaseConnection, Query

pytestmark = pytest.mark.django_db
CONNECTION = {"name": "cdg", "engine": "postgresql", "host": "db", "database": "sales"}

BROKEN = [
    ({"engine": "informix"}, "Choose one of the listed engines."),
    ({"host": ""}, "Enter the host of the database server."),
    ({"engine": "oracle", "host": ""}, "Enter the host of the database server."),
    ({"database": ""}, "Enter the database, service name or file path."),
    ({"port": 0}, "A port is between 1 and 65535."),
    ({"port": 65536}, "A port is between 1 and 65535."),
    ({"connect_timeout_sec": 0}, "The connect timeout is between 1 and 300 seconds."),
    ({"connect_timeout_sec": 301}, "The connect timeout is between 1 and 300 seconds."),
    ({"statement_timeout_sec": 0}, "The statement timeout is between 1 second and 24 hours."),
    ({"statement_timeout_sec": 86_401}, "The statement timeout is between 1 second and 24 hours."),
]


def connection_with(**changes: Any) -> DatabaseConnection:
    return DatabaseConnection(**{**CONNECTION, **changes})


@pytest.mark.parametrize(("changes", "message"), BROKEN)
def test_the_database_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        DatabaseConnection.objects.create(**{**CONNECTION, **changes})
    assert not DatabaseConnection.objects.exists()


@pytest.mark.parametrize(("changes", "message"), BROKEN)
def test_the_constraint_explains_itself(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        connection_with(**changes).validate_constraints()
    assert message in caught.value.messages


@pytest.mark.parametrize(("changes", "message"), BROKEN)
def test_a_form_says_what_is_wrong(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        connection_with(**changes).full_clean()
    assert caught.value.messages


def test_every_constraint_is_broken_by_these_tests() -> None:
    messages = {message for _, message in BROKEN}
    constraints = DatabaseConnection._meta.constraints
    assert {constraint.violation_error_message for constraint in constraints} == messages


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"port": 1},
        {"port": 65535},
        {"engine": "sqlite", "host": ""},
        {"engine": "duckdb", "host": ""},
        {"connect_timeout_sec": 300, "statement_timeout_sec": 86_400},
        {"options": {"sslmode": "require"}},
    ],
)
def test_a_connection_at_its_limits_is_fine(changes: dict[str, Any]) -> None:
    connection = connection_with(**changes)
    connection.full_clean()
    connection.save()


def test_two_connections_of_one_name_are_refused() -> None:
    connection_with().save()
    with pytest.raises(ValidationError, match="already exists"):
        connection_with().full_clean()
    with pytest.raises(IntegrityError), transaction.atomic():
        connection_with().save()


def test_an_unknown_option_is_an_error_of_its_field() -> None:
    with pytest.raises(ValidationError) as caught:
        connection_with(options={"passfile": "/etc/passwd"}).full_clean()
    assert "passfile is no option" in caught.value.message_dict["options"][0]


@pytest.mark.parametrize("options", [[], ["sslmode"], "sslmode", 1, None])
def test_options_that_are_no_object_are_an_error_of_their_field(options: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        connection_with(options=options).full_clean()
    assert "options" in caught.value.message_dict


def test_options_of_an_unknown_engine_do_not_crash() -> None:
    with pytest.raises(ValidationError) as caught:
        connection_with(engine="informix", options={"a": 1}).full_clean()
    assert "engine" in caught.value.message_dict


def test_a_worker_gets_everything_that_the_connection_says() -> None:
    values = {
        "port": 5433,
        "username": "reader",
        "options": {"sslmode": "require"},
        "connect_timeout_sec": 3,
        "statement_timeout_sec": 60,
    }
    connection_with(**values, password="hunter-2").save()
    settings = DatabaseConnection.objects.get().settings()
    expected = {**CONNECTION, **values, "password": "hunter-2"}
    assert {name: getattr(settings, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("environment", "expected"), [("", "cdg"), ("production", "cdg (production)")]
)
def test_a_connection_is_shown_with_its_environment(environment: str, expected: str) -> None:
    assert str(connection_with(environment=environment)) == expected


def test_a_query_without_sql_is_refused() -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        Query.objects.create(name="empty", sql="")
    with pytest.raises(ValidationError) as caught:
        Query(name="empty", sql="").validate_constraints()
    assert caught.value.messages == ["Enter the SQL of the query."]


def test_a_query_knows_its_parameters() -> None:
    assert Query(sql="SELECT :a, ':b', x::c, :d").parameters == ("a", "d")


def test_a_query_outlives_its_default_connection() -> None:
    connection = DatabaseConnection.objects.create(**CONNECTION)
    Query.objects.create(name="q", sql="SELECT 1", default_connection=connection)
    connection.delete()
    assert Query.objects.get().default_connection is None


@pytest.mark.parametrize("model", [DatabaseConnection, Query])
def test_every_field_has_a_help_text_with_an_example(model: Any) -> None:
    fields = [field for field in model._meta.concrete_fields if not field.primary_key]
    assert [field.name for field in fields if not field.help_text] == []
