"""The admin's pages take secrets and never give one back."""

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.forms import model_to_dict
from django.test import Client
from django.urls import reverse
from pytest_django import DjangoAssertNumQueries, Settings

from queryexport.models import DatabaseConnection, Query

pytestmark = pytest.mark.django_db
PASSWORD = "hunter-2<&>"
NEW_PASSWORD = "  ${CDG_PASSWORD} "
LIST_URL = "/admin/queryexport/databaseconnection/"


@pytest.fixture(autouse=True)
def quick_logins(settings: Settings) -> None:
    """Logging in is not what is tested here, and a safe password hash is slow on purpose."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def stored() -> DatabaseConnection:
    return DatabaseConnection.objects.create(
        name="cdg", engine="postgresql", host="db", database="sales", password=PASSWORD
    )


@pytest.fixture
def viewer(client: Client) -> Client:
    """Somebody who may look and not touch."""
    user = User.objects.create_user("viewer", password="x", is_staff=True)
    names = ["view_databaseconnection", "view_query"]
    user.user_permissions.set(Permission.objects.filter(codename__in=names))
    client.force_login(user)
    return client


def change_url(row: DatabaseConnection) -> str:
    return reverse("admin:queryexport_databaseconnection_change", args=[row.pk])


def entered(row: DatabaseConnection, **changes: str) -> dict[str, str]:
    """What the browser sends when the form is saved."""
    values = model_to_dict(row, exclude=["id", "password"])
    values["options"] = "{}"
    form = {name: "" if value is None else str(value) for name, value in values.items()}
    blackouts = {"blackouts-TOTAL_FORMS": "0", "blackouts-INITIAL_FORMS": "0"}
    return {**form, **blackouts, "password": "", **changes}


def password_of(row: DatabaseConnection) -> str:
    return DatabaseConnection.objects.get(pk=row.pk).password.stored()


def ciphertext_of(row: DatabaseConnection) -> str:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT password FROM queryexport_databaseconnection WHERE id = %s", [row.pk]
        )
        return cursor.fetchone()[0]


def assert_no_secret(html: str, row: DatabaseConnection) -> None:
    assert "cdg" in html
    assert "hunter" not in html
    assert ciphertext_of(row) not in html


# Reading -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ["change/", "history/", "delete/"])
def test_no_page_of_a_connection_shows_its_password(
    admin_client: Client, stored: DatabaseConnection, page: str
) -> None:
    response = admin_client.get(f"{LIST_URL}{stored.pk}/{page}")
    assert response.status_code == 200
    assert_no_secret(response.content.decode(), stored)


def test_the_list_shows_no_password(admin_client: Client, stored: DatabaseConnection) -> None:
    assert_no_secret(admin_client.get(LIST_URL).content.decode(), stored)


def test_somebody_who_may_only_look_sees_no_password(
    viewer: Client, stored: DatabaseConnection
) -> None:
    response = viewer.get(change_url(stored))
    assert response.status_code == 200
    assert_no_secret(response.content.decode(), stored)


def test_a_refused_form_does_not_show_what_was_entered(
    admin_client: Client, stored: DatabaseConnection
) -> None:
    data = entered(stored, host="", password="something-new")
    html = admin_client.post(change_url(stored), data).content.decode()
    assert "Enter the host of the database server." in html
    assert "something-new" not in html
    assert_no_secret(html, stored)


def test_the_form_says_whether_a_password_is_set(
    admin_client: Client, stored: DatabaseConnection
) -> None:
    assert "A value is set." in admin_client.get(change_url(stored)).content.decode()
    assert "No value is set." in admin_client.get(f"{LIST_URL}add/").content.decode()


def test_pages_open_although_no_key_fits(
    admin_client: Client, stored: DatabaseConnection, settings: Settings
) -> None:
    settings.FIELD_ENCRYPTION_KEYS = ["YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXoxMjM0NTY="]
    for url in (LIST_URL, change_url(stored)):
        assert_no_secret(admin_client.get(url).content.decode(), stored)


@pytest.mark.parametrize(
    "query",
    [
        "password__startswith=h",
        "password__regex=.*",
        "password=x",
        "password__isnull=False",
        "q=hunter",
        "o=password",
    ],
)
@pytest.mark.parametrize("follow", [False, True])
def test_the_lists_address_cannot_be_used_to_guess(
    admin_client: Client, stored: DatabaseConnection, query: str, follow: bool
) -> None:
    response = admin_client.get(f"{LIST_URL}?{query}", follow=follow)
    assert response.status_code in (200, 302, 400)
    wrong = admin_client.get(f"{LIST_URL}?{query.replace('=h', '=z')}", follow=follow)
    assert wrong.status_code == response.status_code
    assert ("cdg" in wrong.content.decode()) == ("cdg" in response.content.decode())


def test_another_list_cannot_be_used_to_guess_either(
    admin_client: Client, stored: DatabaseConnection
) -> None:
    Query.objects.create(name="q", sql="SELECT 1", default_connection=stored)
    url = "/admin/queryexport/query/?default_connection__password__startswith="
    answers = {admin_client.get(url + guess).status_code for guess in "hz"}
    assert len(answers) == 1
    assert answers <= {302, 400}


# Writing -----------------------------------------------------------------------------------------


def test_an_empty_password_keeps_the_stored_one(
    admin_client: Client, stored: DatabaseConnection
) -> None:
    data = entered(stored, description="changed")
    assert admin_client.post(change_url(stored), data).status_code == 302
    assert DatabaseConnection.objects.get().description == "changed"
    assert password_of(stored) == PASSWORD


def test_an_entered_password_replaces_the_stored_one_exactly(
    admin_client: Client, stored: DatabaseConnection
) -> None:
    data = entered(stored, password=NEW_PASSWORD)
    assert admin_client.post(change_url(stored), data).status_code == 302
    assert password_of(stored) == NEW_PASSWORD


def test_the_tick_box_clears_the_stored_password(
    admin_client: Client, stored: DatabaseConnection
) -> None:
    data = entered(stored, **{"password-clear": "on"})
    assert admin_client.post(change_url(stored), data).status_code == 302
    assert ciphertext_of(stored) == ""


def test_an_entered_password_wins_over_the_tick_box(
    admin_client: Client, stored: DatabaseConnection
) -> None:
    data = entered(stored, password="new", **{"password-clear": "on"})
    admin_client.post(change_url(stored), data)
    assert password_of(stored) == "new"


def test_a_refused_form_changes_nothing(admin_client: Client, stored: DatabaseConnection) -> None:
    data = entered(stored, host="", password="new")
    assert admin_client.post(change_url(stored), data).status_code == 200
    assert password_of(stored) == PASSWORD


def test_a_new_connection_is_made_with_its_password(admin_client: Client) -> None:
    row = DatabaseConnection(name="new", engine="mysql", host="db", database="sales")
    response = admin_client.post(f"{LIST_URL}add/", entered(row, password=PASSWORD))
    assert response.status_code == 302
    assert password_of(DatabaseConnection.objects.get(name="new")) == PASSWORD


def test_somebody_who_may_only_look_changes_nothing(
    viewer: Client, stored: DatabaseConnection
) -> None:
    response = viewer.post(change_url(stored), entered(stored, password="new"))
    assert response.status_code == 403
    assert password_of(stored) == PASSWORD


@pytest.mark.parametrize(
    "changes", [{"password": "something-new"}, {"password-clear": "on"}, {"description": "x"}]
)
def test_the_log_of_changes_holds_no_secret(
    admin_client: Client, stored: DatabaseConnection, changes: dict[str, str]
) -> None:
    admin_client.post(change_url(stored), entered(stored, **changes))
    entry = LogEntry.objects.get()
    text = f"{entry.change_message} {entry.get_change_message()} {entry.object_repr}"
    assert ("password" in text.lower()) == ("description" not in changes)
    assert not any(secret in text for secret in ("hunter", "something-new", "gAAAA"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": '{"passfile": "/x"}'}, "passfile is no option"),
        ({"options": "[1]"}, "Enter an object"),
        ({"options": "{"}, "Enter a valid JSON."),
        ({"port": "0"}, "greater than or equal to 1"),
        ({"engine": "informix"}, "Select a valid choice"),
        ({"name": ""}, "This field is required."),
    ],
)
def test_a_wrong_value_is_explained(
    admin_client: Client, stored: DatabaseConnection, changes: dict[str, str], message: str
) -> None:
    response = admin_client.post(change_url(stored), entered(stored, **changes))
    assert response.status_code == 200
    assert message in response.content.decode()


# Queries -----------------------------------------------------------------------------------------


def test_a_query_shows_its_parameters(admin_client: Client) -> None:
    query = Query.objects.create(name="q", sql="SELECT :day, ':no', x::int, :limit")
    html = admin_client.get(f"/admin/queryexport/query/{query.pk}/change/").content.decode()
    assert ":day, :limit" in html


def test_the_list_of_queries_asks_the_database_the_same_for_many(
    admin_client: Client,
    stored: DatabaseConnection,
    django_assert_max_num_queries: DjangoAssertNumQueries,
) -> None:
    for number in range(20):
        Query.objects.create(name=f"q{number}", sql="SELECT 1", default_connection=stored)
    admin_client.get("/admin/queryexport/query/")  # Fills Django's own caches.
    with django_assert_max_num_queries(7):
        assert "q19" in admin_client.get("/admin/queryexport/query/").content.decode()


@pytest.mark.parametrize("url", [LIST_URL, "/admin/queryexport/query/", f"{LIST_URL}1/change/"])
def test_nobody_sees_a_page_without_logging_in(client: Client, url: str) -> None:
    response = client.get(url)
    assert response.status_code == 302
    assert response["Location"].startswith("/admin/login/")
