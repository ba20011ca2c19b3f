"""A secret is ciphertext in the database, dots on a page, and text only where it is used."""

import io

import pytest
from cryptography.fernet import Fernet
from django.core.exceptions import FieldError, ImproperlyConfigured
from django.core.management import call_command
from django.db import connection
from pytest_django import Settings

from queryexport.encryption import MASK, Secret, decrypt, encrypt
from queryexport.errors import ConfigurationError
from queryexport.models import DatabaseConnection

OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()
PASSWORD = "hunter-2 ünï"


@pytest.fixture(autouse=True)
def encryption_keys(settings: Settings) -> None:
    settings.FIELD_ENCRYPTION_KEYS = [OLD]


def make_connection(password: object = PASSWORD) -> DatabaseConnection:
    return DatabaseConnection.objects.create(
        name="cdg", engine="postgresql", host="db", database="sales", password=password
    )


def stored_text() -> str:
    """What the database itself holds."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT password FROM queryexport_databaseconnection")
        return cursor.fetchone()[0]


@pytest.mark.parametrize("text", [PASSWORD, "${VAR}"])
def test_a_secret_is_shown_as_dots(text: str) -> None:
    secret = Secret(text)
    assert str(secret) == f"{secret}" == MASK
    assert text not in f"{secret!r} {secret!s} {[secret]}"


def test_an_empty_secret_is_false_and_shown_as_nothing() -> None:
    assert not Secret("")
    assert str(Secret("")) == ""


def test_secrets_are_equal_by_their_text() -> None:
    assert Secret("a") == Secret("a") != Secret("b")
    assert len({Secret("a"), Secret("a")}) == 1
    assert Secret("a") != "a"


def test_a_variable_is_resolved_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDG_PASSWORD", PASSWORD)
    assert Secret("${CDG_PASSWORD}").reveal() == PASSWORD


def test_every_variable_of_a_secret_is_resolved_once() -> None:
    environ = {"A": "${B}", "B": "b"}
    assert Secret("x${A}-${B}$B").reveal(environ) == "x${B}-b$B"


def test_an_unset_variable_is_named() -> None:
    with pytest.raises(ConfigurationError, match="environment variable NOPE is not set"):
        Secret("${NOPE}").reveal({})


@pytest.mark.django_db
def test_the_database_holds_ciphertext() -> None:
    make_connection()
    assert PASSWORD not in stored_text()
    assert Fernet(OLD).decrypt(stored_text()).decode() == PASSWORD


@pytest.mark.django_db
def test_a_reference_is_encrypted_as_it_was_entered() -> None:
    make_connection("${CDG_PASSWORD}")
    assert "CDG_PASSWORD" not in stored_text()
    assert DatabaseConnection.objects.get().password.stored() == "${CDG_PASSWORD}"


@pytest.mark.django_db
def test_no_password_is_stored_as_nothing() -> None:
    make_connection("")
    assert stored_text() == ""
    assert DatabaseConnection.objects.get().password.reveal() == ""


@pytest.mark.django_db
@pytest.mark.parametrize("entered", [PASSWORD, Secret(PASSWORD)])
def test_what_was_saved_is_revealed(entered: object) -> None:
    make_connection(entered)
    found = DatabaseConnection.objects.get()
    assert found.password.reveal() == found.settings().password == PASSWORD


@pytest.mark.django_db
def test_a_secret_from_the_database_is_shown_as_dots() -> None:
    make_connection()
    found = DatabaseConnection.objects.get().password
    assert str(found) == MASK
    assert PASSWORD not in repr(found)
    assert stored_text() not in f"{found!r} {found!s}"


@pytest.mark.django_db
def test_saving_again_keeps_the_secret() -> None:
    make_connection()
    found = DatabaseConnection.objects.get()
    found.description = "changed"
    found.save()
    assert DatabaseConnection.objects.get().password.reveal() == PASSWORD


@pytest.mark.django_db
def test_an_unset_variable_fails_the_settings_of_its_connection() -> None:
    make_connection("${NOT_SET_ANYWHERE}")
    with pytest.raises(ConfigurationError, match="NOT_SET_ANYWHERE"):
        DatabaseConnection.objects.get().settings()


@pytest.mark.django_db
def test_a_wrong_key_is_an_error_and_never_the_ciphertext(settings: Settings) -> None:
    make_connection()
    settings.FIELD_ENCRYPTION_KEYS = [NEW]
    found = DatabaseConnection.objects.get()
    for use in (found.password.reveal, found.password.stored, found.settings):
        with pytest.raises(ConfigurationError, match="FIELD_ENCRYPTION_KEYS") as caught:
            use()
        assert stored_text() not in caught.value.message
    assert str(found.password) == MASK


@pytest.mark.django_db
def test_a_wrong_key_does_not_damage_what_is_saved_again(settings: Settings) -> None:
    make_connection()
    settings.FIELD_ENCRYPTION_KEYS = [NEW]
    DatabaseConnection.objects.get().save()
    settings.FIELD_ENCRYPTION_KEYS = [OLD]
    assert DatabaseConnection.objects.get().password.reveal() == PASSWORD


@pytest.mark.django_db
def test_a_value_that_is_no_ciphertext_is_an_error() -> None:
    make_connection()
    with connection.cursor() as cursor:
        cursor.execute("UPDATE queryexport_databaseconnection SET password = 'plain text ü'")
    with pytest.raises(ConfigurationError, match="cannot be decrypted"):
        DatabaseConnection.objects.get().password.reveal()


@pytest.mark.django_db
def test_a_new_key_before_the_old_one_reads_what_is_there(settings: Settings) -> None:
    make_connection()
    settings.FIELD_ENCRYPTION_KEYS = [NEW, OLD]
    assert DatabaseConnection.objects.get().password.reveal() == PASSWORD


@pytest.mark.django_db
def test_the_first_key_encrypts(settings: Settings) -> None:
    settings.FIELD_ENCRYPTION_KEYS = [NEW, OLD]
    make_connection()
    settings.FIELD_ENCRYPTION_KEYS = [NEW]
    assert DatabaseConnection.objects.get().password.reveal() == PASSWORD


@pytest.mark.django_db
def test_saving_again_moves_the_secret_to_the_first_key(settings: Settings) -> None:
    make_connection()
    settings.FIELD_ENCRYPTION_KEYS = [NEW, OLD]
    DatabaseConnection.objects.get().save()
    settings.FIELD_ENCRYPTION_KEYS = [NEW]
    assert DatabaseConnection.objects.get().password.reveal() == PASSWORD


def test_the_same_text_is_encrypted_differently_each_time() -> None:
    first, second = encrypt(PASSWORD), encrypt(PASSWORD)
    assert first != second
    assert decrypt(first) == decrypt(second) == PASSWORD


@pytest.mark.parametrize("keys", [[], ["no key"], [OLD, "x" * 44]])
def test_a_key_that_is_none_is_an_error_of_the_installation(
    settings: Settings, keys: list[str]
) -> None:
    settings.FIELD_ENCRYPTION_KEYS = keys
    with pytest.raises(ImproperlyConfigured, match="FIELD_ENCRYPTION_KEYS"):
        encrypt("x")


@pytest.mark.django_db
@pytest.mark.parametrize(
    "lookup", ["", "__exact", "__startswith", "__regex", "__gt", "__in", "__isnull", "__length"]
)
def test_the_field_cannot_be_searched(lookup: str) -> None:
    value = {"__in": ["a"], "__isnull": True}.get(lookup, "a")
    with pytest.raises(FieldError, match="encrypted and cannot be searched"):
        DatabaseConnection.objects.filter(**{f"password{lookup}": value}).exists()


@pytest.mark.django_db
@pytest.mark.parametrize("form", ["json", "xml", "jsonl"])
def test_dumpdata_holds_neither_secret_nor_ciphertext(form: str) -> None:
    make_connection()
    dumped = io.StringIO()
    call_command("dumpdata", "queryexport", format=form, stdout=dumped)
    assert "cdg" in dumped.getvalue()
    assert PASSWORD not in dumped.getvalue()
    assert stored_text() not in dumped.getvalue()
