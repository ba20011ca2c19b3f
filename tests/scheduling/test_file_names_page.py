"""The names in the form of an item are those that its next run would give, or say what is wrong."""

from datetime import UTC, datetime
from typing import Any

import pytest
import time_machine
from django.contrib.messages import get_messages
from django.test import Client
from django.urls import reverse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytest_django import DjangoAssertNumQueries

from scheduling.admin.file_names import FIELDS, NAME
from scheduling.models import Destination, SchedulingHistoryItem, SchedulingItem
from scheduling.same_files import MOST_COMPARED
from tests.factories import MakeItem
from tests.scheduling.conftest import LogIn
from tests.scheduling.test_admin import form_data

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 3, 27, 23, 30, tzinfo=UTC)  # In Rome it is the 28th already.


@pytest.fixture
def item(make_item: MakeItem) -> SchedulingItem:
    return make_item(name="Daily", timezone="Europe/Rome", cron_expression="0 8 * * *")


def asked(item: SchedulingItem, **changes: Any) -> dict[str, Any]:
    """What the form of the item asks; fields that are None are not sent."""
    values = {
        "item": item.pk, "name": item.name, "query": item.query_id,
        "connection": item.connection_id, "scheduling_mode": "cron", "hour": 8, "minute": 0,
        "cron_expression": item.cron_expression, "timezone": str(item.timezone),
        "sharing_mode": item.sharing_mode, "output_format": item.output_format,
        "output_filename_template": item.output_filename_template,
        "output_date_format": "%Y-%m-%d", "output_offset_days": 0, "output_dir": item.output_dir,
        "output_on_existing": item.output_on_existing, "email_subject": item.email_subject,
        "email_body": item.email_body,
    } | changes  # fmt: skip
    return {name: value for name, value in values.items() if value is not None}


def answer(client: Client, fields: dict[str, Any]) -> dict[str, Any]:
    with time_machine.travel(NOW, tick=False):
        response = client.get(reverse(f"admin:{NAME}"), fields)
    assert (response.status_code, response["Content-Type"]) == (200, "application/json")
    found: dict[str, Any] = response.json()
    return found


def file(client: Client, fields: dict[str, Any]) -> tuple[list[str], str]:
    found = answer(client, fields)["file"]
    return found["lines"], " ".join(found["errors"])


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "CDG-TEST-001--Rows_2026-03-28.xlsx"),  # The day in the item's zone.
        ({"output_offset_days": -1}, "CDG-TEST-001--Rows_2026-03-27.xlsx"),
        ({"output_date_format": "%Y%m"}, "CDG-TEST-001--Rows_202603.xlsx"),
        ({"output_compress_gz": "on"}, "CDG-TEST-001--Rows_2026-03-28.xlsx.gz"),
        ({"zipped": "on"}, "CDG-TEST-001--Rows_2026-03-28.xlsx.zip"),
        ({"timezone": "UTC"}, "CDG-TEST-001--Rows_2026-03-28.xlsx"),
        (
            {"output_filename_template": "{item} {connection} {run_id}.xlsx"},
            "Daily tracking 12345.xlsx",
        ),
        ({"cron_expression": "0 8 1 4 *"}, "CDG-TEST-001--Rows_2026-04-01.xlsx"),
        ({"cron_expression": "nonsense"}, "CDG-TEST-001--Rows_2026-03-28.xlsx"),
        ({"end_date": "2020-01-01"}, "CDG-TEST-001--Rows_2026-03-28.xlsx"),
        (
            {"scheduling_mode": "classic", "days_of_week": ["6"]},
            "CDG-TEST-001--Rows_2026-03-29.xlsx",
        ),
        (
            {"output_format": "csv", "output_filename_template": "a.csv"},
            "a.csv",
        ),
    ],
)
def test_the_name_is_that_of_the_next_slot(
    admin_client: Client, item: SchedulingItem, changes: dict[str, Any], name: str
) -> None:
    lines, error = file(admin_client, asked(item, **changes))
    assert (lines, error) == ([f"File: {name}", "In: export folder/"], "")


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"output_dir": "partner/daily"}, "In: export folder/partner/daily/"),
        ({"output_url": "s3://bucket/folder?region=eu-south-1"}, "In: s3://bucket/folder/"),
        ({"output_url": "sftp://me:${PASSWORD}@host/f"}, "In: sftp://me@host/f/"),
    ],
)
def test_the_place_is_said_without_secrets(
    admin_client: Client, item: SchedulingItem, changes: dict[str, Any], place: str
) -> None:
    lines, error = file(admin_client, asked(item, **changes))
    assert (lines[1:], error) == ([place], "")


@pytest.mark.parametrize(
    "url", ["sftp://me:hunter2@host/f?passphrase=hunter3", "sftp:me:hunter2@host", "//a:hunter2@b"]
)
def test_a_password_in_the_url_is_never_shown(
    admin_client: Client, item: SchedulingItem, url: str
) -> None:
    assert "hunter" not in str(answer(admin_client, asked(item, output_url=url)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"output_filename_template": "{quary}.xlsx"}, "{query_name}, {item}"),
        ({"output_filename_template": "../x.xlsx"}, "contains a folder"),
        ({"output_filename_template": "x.csv"}, "does not end in .xlsx"),
        ({"output_filename_template": ""}, "This field is required."),
        ({"output_dir": "../x"}, "outside the export folder"),
        ({"output_offset_days": "soon"}, "Enter a whole number"),
        ({"output_compress_gz": "on", "zipped": "on"}, "not both"),
    ],
)
def test_what_is_wrong_is_said(
    admin_client: Client, item: SchedulingItem, changes: dict[str, Any], words: str
) -> None:
    assert words in file(admin_client, asked(item, **changes))[1]


@pytest.mark.parametrize("query", [None, "", "999"])
def test_without_a_query_there_is_no_example(
    admin_client: Client, item: SchedulingItem, query: str | None
) -> None:
    found = file(admin_client, asked(item, query=query))
    assert found == (["Shown as soon as a query is chosen."], "")


def test_the_mail_is_shown_with_its_tokens(admin_client: Client, item: SchedulingItem) -> None:
    fields = asked(
        item, sharing_mode="email", email_subject="{item}: {row_count} rows of {date-1}",
        email_body="See {file_name}",
    )  # fmt: skip
    found = answer(admin_client, fields)
    assert found["mail"]["lines"] == [
        "Subject: Daily: 1234 rows of 2026-03-27",
        "Text: See CDG-TEST-001--Rows_2026-03-28.xlsx",
    ]
    assert found["file"]["lines"] == ["File: CDG-TEST-001--Rows_2026-03-28.xlsx"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"email_subject": "{rows}"}, "{row_count}"),
        ({"email_body": "{rows}"}, "{row_count}"),
    ],
)
def test_what_is_wrong_in_the_mail_is_said(
    admin_client: Client, item: SchedulingItem, changes: dict[str, Any], words: str
) -> None:
    found = answer(admin_client, asked(item, sharing_mode="email", **changes))["mail"]
    assert words in found["errors"][0]
    assert len(found["lines"]) == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*FIELDS, "zipped", "item", "destination"]),
        st.one_of(
            st.text(max_size=60), st.integers().map(str), st.text("{}-+:%dateYm.x/", max_size=30)
        ),
    )
)
def test_garbage_is_answered(
    admin_client: Client, item: SchedulingItem, fields: dict[str, Any]
) -> None:
    found = answer(admin_client, asked(item) | fields)["file"]
    assert found["lines"] or found["errors"]


# Permissions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("permission", "status"),
    [
        ("change_schedulingitem", 200),
        ("add_schedulingitem", 200),
        ("view_schedulingitem", 403),
        ("change_destination", 403),
    ],
)
def test_who_may_enter_items_may_ask(
    log_in: LogIn, item: SchedulingItem, permission: str, status: int
) -> None:
    assert log_in(permission).get(reverse(f"admin:{NAME}"), asked(item)).status_code == status


def test_nobody_else_may(client: Client, item: SchedulingItem) -> None:
    assert "login" in client.get(reverse(f"admin:{NAME}"), asked(item)).url


def test_asking_changes_nothing(admin_client: Client, item: SchedulingItem) -> None:
    before = SchedulingItem.objects.values().get()
    answer(admin_client, asked(item, name="Other", output_dir="new"))
    assert SchedulingItem.objects.values().get() == before
    assert not SchedulingHistoryItem.objects.exists()
    assert not item.folder().joinpath("new").exists()
    assert admin_client.post(reverse(f"admin:{NAME}"), asked(item)).status_code == 405


# The same file -----------------------------------------------------------------------------------


def warned(client: Client, fields: dict[str, Any]) -> list[str]:
    found: list[str] = answer(client, fields)["file"]["warnings"]
    return found


def test_another_item_that_writes_the_same_file_is_named(
    admin_client: Client, make_item: MakeItem, item: SchedulingItem
) -> None:
    make_item(name="Other", timezone="Europe/Rome", cron_expression="0 9 * * *")
    assert warned(admin_client, asked(item)) == [
        "“Other” writes the same file CDG-TEST-001--Rows_2026-03-28.xlsx; with “It is replaced”, "
        "the later run replaces it."
    ]
    assert warned(admin_client, asked(item, output_filename_template="a.xlsx")) == []
    assert warned(admin_client, asked(item, output_dir="elsewhere")) == []
    assert warned(admin_client, asked(item, sharing_mode="email")) == []
    assert warned(admin_client, asked(item, output_url="s3://bucket/folder")) == []


@pytest.mark.parametrize(
    "values",
    [
        {"enabled": False},
        {"output_filename_template": "{query_name}_{date}_{item}.xlsx"},
        {"output_dir": "elsewhere"},
        {"output_url": "s3://bucket/folder"},
        {"sharing_mode": "email", "email_to": "a@example.com"},
        {"cron_expression": "0 9 1 5 *"},  # Not on the same day.
    ],
)
def test_others_are_not(
    admin_client: Client, make_item: MakeItem, item: SchedulingItem, values: dict[str, Any]
) -> None:
    make_item(name="Other", **({"timezone": "Europe/Rome"} | values))
    assert warned(admin_client, asked(item)) == []


@pytest.mark.parametrize(("mine", "others"), [("a/b", "a/b/"), ("", "."), ("./a", "a")])
def test_one_folder_may_be_spelled_in_several_ways(
    admin_client: Client, make_item: MakeItem, item: SchedulingItem, mine: str, others: str
) -> None:
    make_item(name="Other", timezone="Europe/Rome", output_dir=others)
    assert len(warned(admin_client, asked(item, output_dir=mine))) == 1


def test_names_that_hold_the_runs_number_differ(
    admin_client: Client, make_item: MakeItem, item: SchedulingItem
) -> None:
    make_item(name="Other", output_filename_template="{run_id}.xlsx")
    assert warned(admin_client, asked(item, output_filename_template="{run_id}.xlsx")) == []


@pytest.mark.parametrize(
    ("mine", "others", "words"),
    [
        ("number", "number", None),
        ("refuse", "number", "with “The run fails”, the later run fails."),
        ("number", "replace", "with “It is replaced”, the later run replaces it."),
        ("keep", "refuse", "the old files of both are kept together."),
    ],
)
def test_what_comes_of_it_is_said(
    admin_client: Client, make_item: MakeItem, item: SchedulingItem, mine: str, others: str,
    words: str | None,
) -> None:  # fmt: skip
    make_item(name="Other", timezone="Europe/Rome", output_on_existing=others)
    found = warned(admin_client, asked(item, output_on_existing=mine))
    assert [text.endswith(words or "") for text in found] == ([True] if words else [])


def test_destinations_are_compared_too(
    admin_client: Client, make_item: MakeItem, item: SchedulingItem
) -> None:
    own = Destination.objects.create(item=item, name="Copy")
    other = make_item(name="Other", timezone="Europe/Rome", output_dir="elsewhere")
    Destination.objects.create(item=other, name="Archive")
    Destination.objects.create(item=other, name="Off", enabled=False)
    of_item = [text.split(" writes")[0] for text in warned(admin_client, asked(item))]
    assert of_item == ["The further destination “Copy”", "“Other” (its destination “Archive”)"]
    of_copy = warned(admin_client, asked(item, destination=own.pk))
    assert [text.split(" writes")[0] for text in of_copy] == [
        "The item itself", "“Other” (its destination “Archive”)",
    ]  # fmt: skip
    of_new = warned(admin_client, asked(item, destination=-1))
    assert len(of_new) == 3


def test_looking_for_others_takes_a_fixed_number_of_queries(
    admin_client: Client,
    make_item: MakeItem,
    item: SchedulingItem,
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    answer(admin_client, asked(item))
    with django_assert_num_queries(6):
        answer(admin_client, asked(item))
    for number in range(6):
        other = make_item(name=f"Other {number}", timezone="Europe/Rome")
        Destination.objects.create(item=other, name="Copy")
    with django_assert_num_queries(6):
        assert len(warned(admin_client, asked(item))) == 12


def test_those_of_the_same_query_are_found_among_any_number(
    admin_client: Client, make_item: MakeItem, item: SchedulingItem
) -> None:
    other = make_item(sql="SELECT 1")
    fields = [field for field in SchedulingItem._meta.concrete_fields if not field.primary_key]
    values = {field.attname: getattr(other, field.attname) for field in fields}
    SchedulingItem.objects.bulk_create(
        SchedulingItem(**(values | {"name": f"Many {number}"})) for number in range(MOST_COMPARED)
    )
    make_item(name="The same", timezone="Europe/Rome", query=item.query)
    assert [text.split(" writes")[0] for text in warned(admin_client, asked(item))] == [
        "“The same”"
    ]


def test_it_is_said_after_saving_and_does_not_keep_from_it(
    admin_client: Client, make_item: MakeItem, item: SchedulingItem
) -> None:
    make_item(name="Other", output_filename_template="{query_name}.xlsx")
    Destination.objects.create(item=item, name="Copy", output_filename_template="{query_name}.xlsx")
    url = reverse("admin:scheduling_schedulingitem_change", args=[item.pk])
    destination = item.destinations.get()
    data = form_data(item) | {
        "destinations-TOTAL_FORMS": 1, "destinations-INITIAL_FORMS": 1,
        "destinations-0-DELETE": "", "destinations-0-id": destination.pk,
        "destinations-0-item": item.pk,
    }  # fmt: skip
    names = [key for key in data if key.startswith(("output_", "csv_", "email_", "kafka_"))]
    data |= {f"destinations-0-{key}": data[key] for key in (*names, "sharing_mode")}
    data |= {"destinations-0-name": "Copy", "destinations-0-enabled": "on"}
    response = admin_client.post(url, data)
    assert response.status_code == 302, response.context["inline_admin_formsets"][0].formset.errors
    item.refresh_from_db()
    assert item.output_filename_template == "{query_name}.xlsx"
    texts = [str(m) for m in get_messages(response.wsgi_request) if m.level_tag == "warning"]
    assert [text.split(" writes")[0] for text in texts] == [
        "The further destination “Copy”", "“Other”",
    ]  # fmt: skip


# The page ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ["add", "change"])
def test_the_page_has_places_and_scripts_for_them(
    admin_client: Client, item: SchedulingItem, page: str
) -> None:
    arguments = [item.pk] if page == "change" else []
    shown = admin_client.get(
        reverse(f"admin:scheduling_schedulingitem_{page}", args=arguments)
    ).content.decode()
    url = reverse(f"admin:{NAME}")
    for part in ("file", "mail"):
        assert f'<div class="name-example" data-part="{part}" data-url="{url}"' in shown
    for script in ("file_names.js", "relevant_fields.js", "next_runs.js"):
        assert f'{script}" defer></script>' in shown
    assert all(f'name="{field}"' in shown for field in FIELDS)


def test_the_page_shows_the_stored_names_without_any_script(
    admin_client: Client, make_item: MakeItem, item: SchedulingItem
) -> None:
    make_item(name="Other", timezone="Europe/Rome")
    Destination.objects.create(item=item, name="Copy", output_filename_template="copy.xlsx")
    with time_machine.travel(NOW, tick=False):
        url = reverse("admin:scheduling_schedulingitem_change", args=[item.pk])
        shown = admin_client.get(url).content.decode()
    assert '<div class="example-line">File: CDG-TEST-001--Rows_2026-03-28.xlsx</div>' in shown
    assert '<div class="example-line">File: copy.xlsx</div>' in shown
    assert '<div class="example-warning">“Other” writes the same file' in shown
