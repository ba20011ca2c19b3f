"""Further destinations are entered in the form of their item, by the same rules."""

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from kafka_sink.models import KafkaConnection
from queryexport.models import WorkbookTemplate
from scheduling.models import Destination, SchedulingItem
from tests.factories import MakeItem, make_kafka_connection
from tests.scheduling.conftest import LogIn
from tests.scheduling.test_admin import form_data

pytestmark = pytest.mark.django_db

ITEM = "admin:scheduling_schedulingitem"
PASSWORD = "p4ss-of-the-zip"
KAFKA = {
    "sharing_mode": "kafka", "kafka_topic": "events", "kafka_key_field": "id",
    "kafka_connection": "default",
}  # fmt: skip


@pytest.fixture
def item(make_item: MakeItem) -> SchedulingItem:
    return make_item()


@pytest.fixture
def cluster(db: None) -> KafkaConnection:
    return make_kafka_connection("127.0.0.1:9092")


def page(item: SchedulingItem) -> str:
    return reverse(f"{ITEM}_change", args=[item.pk])


def further(item: SchedulingItem, /, **changes: Any) -> dict[str, Any]:
    """The part of a post for one further destination."""
    own = form_data(item)
    prefixes = ("output_", "csv_", "email_", "kafka_", "sharing_mode")
    data = {name: value for name, value in own.items() if name.startswith(prefixes)}
    data |= {"name": "Copy", "enabled": "on", "output_filename_template": "copy.xlsx"}
    return {name: value for name, value in (data | changes).items() if value is not None}


def posted(item: SchedulingItem, *entries: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A post of the item's form with these further destinations."""
    stored = sum(bool(entry.get("id")) for entry in entries)
    data = form_data(item, **changes) | {
        "destinations-TOTAL_FORMS": len(entries), "destinations-INITIAL_FORMS": stored,
    }  # fmt: skip
    for number, entry in enumerate(entries):
        data |= {f"destinations-{number}-{name}": value for name, value in entry.items()}
    return data


def errors(response: Any) -> str:
    assert response.status_code == 200
    (inline,) = response.context["inline_admin_formsets"]
    forms = response.context["adminform"].errors
    return f"{forms} {inline.formset.errors} {inline.formset.non_form_errors()}"


def test_a_destination_is_added_changed_and_removed(
    admin_client: Client, item: SchedulingItem
) -> None:
    new = further(item, output_dir="partner", retention_days=9, output_on_existing="keep")
    assert admin_client.post(page(item), posted(item, new)).status_code == 302
    copy = item.destinations.get()
    assert (copy.name, copy.output_dir, copy.retention_days) == ("Copy", "partner", 9)
    assert copy.output_on_existing == "keep"
    changed = further(item, id=copy.pk, item=item.pk, name="Archive", enabled=None)
    assert admin_client.post(page(item), posted(item, changed)).status_code == 302
    copy.refresh_from_db()
    assert (copy.name, copy.enabled) == ("Archive", False)
    gone = changed | {"DELETE": "on"}
    assert admin_client.post(page(item), posted(item, gone)).status_code == 302
    assert not item.destinations.exists()


def test_an_item_is_made_together_with_its_destinations(
    admin_client: Client, item: SchedulingItem
) -> None:
    data = posted(item, further(item), name="New")
    response = admin_client.post(reverse(f"{ITEM}_add"), data)
    assert response.status_code == 302, errors(response)
    assert SchedulingItem.objects.get(name="New").destinations.get().name == "Copy"


@pytest.mark.parametrize("where", ["add", "change"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output_filename_template": "{quary}.xlsx"}, "unknown token"),
        ({"output_filename_template": "copy.csv"}, "does not end in .xlsx"),
        ({"output_dir": "../x"}, "outside the export folder"),
        ({"output_format": "template", "output_filename_template": "a.xlsx"}, "template"),
        ({"sharing_mode": "email"}, "at least one address"),
        ({"sharing_mode": "email", "email_to": "nobody"}, "no plain mail address"),
        ({"sharing_mode": "kafka", "kafka_topic": ""}, "Kafka needs a topic"),
        (KAFKA | {"kafka_connection": ""}, "Choose a Kafka connection that exists"),
        ({"retention_days": 0}, "greater than or equal to 1"),
        ({"name": ""}, "This field is required"),
    ],
)
def test_its_rules_are_those_of_an_item(
    admin_client: Client, item: SchedulingItem, cluster: KafkaConnection, where: str,
    changes: dict[str, Any], message: str,
) -> None:  # fmt: skip
    new = where == "add"
    url = reverse(f"{ITEM}_add") if new else page(item)
    data = posted(item, further(item, **changes), name="New" if new else item.name)
    assert message in errors(admin_client.post(url, data))
    assert SchedulingItem.objects.count() == 1
    assert not Destination.objects.exists()


def test_names_are_unique_within_the_item(
    admin_client: Client, make_item: MakeItem, item: SchedulingItem
) -> None:
    found = admin_client.post(page(item), posted(item, further(item), further(item)))
    assert "duplicate" in errors(found)
    Destination.objects.create(item=item, name="Copy")
    stored = further(item, id=item.destinations.get().pk, item=item.pk)
    found = admin_client.post(page(item), posted(item, stored, further(item)))
    assert "duplicate" in errors(found)
    other = make_item()
    assert admin_client.post(page(other), posted(other, further(other))).status_code == 302


# Kafka -------------------------------------------------------------------------------------------


def test_one_kafka_destination_is_allowed(
    admin_client: Client, item: SchedulingItem, cluster: KafkaConnection
) -> None:
    data = posted(item, further(item, **KAFKA), further(item, name="Other"))
    assert admin_client.post(page(item), data).status_code == 302
    assert item.destinations.filter(sharing_mode="kafka").count() == 1


@pytest.mark.parametrize("url", ["add", "change"])
@pytest.mark.parametrize("own", [True, False])
def test_a_second_topic_is_refused(
    admin_client: Client, item: SchedulingItem, cluster: KafkaConnection, url: str, own: bool
) -> None:
    entries = [further(item, **KAFKA), further(item, name="Other", **KAFKA)][own:]
    data = posted(item, *entries, **({"name": "New"} | (KAFKA if own else {})))
    where = page(item) if url == "change" else reverse(f"{ITEM}_add")
    assert "An item goes to one Kafka topic" in errors(admin_client.post(where, data))
    assert not Destination.objects.exists()


def test_a_topic_that_is_removed_makes_room(
    admin_client: Client, item: SchedulingItem, cluster: KafkaConnection
) -> None:
    """The item's own may take it over in the same step."""
    Destination.objects.create(item=item, name="Copy", **KAFKA)
    stored = further(item, id=item.destinations.get().pk, item=item.pk, DELETE="on", **KAFKA)
    response = admin_client.post(page(item), posted(item, stored, **KAFKA))
    assert response.status_code == 302, errors(response)
    item.refresh_from_db()
    assert (item.sharing_mode, item.destinations.count()) == ("kafka", 0)


# Secrets -----------------------------------------------------------------------------------------


def test_the_password_of_an_item_is_written_and_never_shown(
    admin_client: Client, item: SchedulingItem
) -> None:
    data = posted(item, output_zip_password=PASSWORD)
    assert admin_client.post(page(item), data).status_code == 302
    item.refresh_from_db()
    assert item.output_zip_password.reveal() == PASSWORD
    shown = admin_client.get(page(item)).content.decode()
    assert PASSWORD not in shown and "gAAAA" not in shown
    assert "A value is set. Leave this empty to keep it." in shown
    assert ".xlsx.zip" in shown
    admin_client.post(page(item), posted(item))
    item.refresh_from_db()
    assert item.output_zip_password.reveal() == PASSWORD
    admin_client.post(page(item), posted(item, **{"output_zip_password-clear": "on"}))
    item.refresh_from_db()
    assert not item.output_zip_password


def test_each_destination_has_a_password_of_its_own(
    admin_client: Client, item: SchedulingItem
) -> None:
    entries = [
        further(item, output_zip_password=PASSWORD),
        further(item, name="Other", output_filename_template="other.xlsx"),
    ]
    assert admin_client.post(page(item), posted(item, *entries)).status_code == 302
    copy, other = item.destinations.all()
    assert copy.output_zip_password.reveal() == PASSWORD
    assert not other.output_zip_password
    shown = admin_client.get(page(item)).content.decode()
    assert PASSWORD not in shown and "gAAAA" not in shown
    assert 'name="destinations-0-output_zip_password-clear"' in shown
    assert 'name="destinations-1-output_zip_password-clear"' not in shown
    stored = [
        entry | {"id": each.pk, "item": item.pk, "output_zip_password": ""}
        for entry, each in zip(entries, (copy, other), strict=True)
    ]
    stored[0]["output_zip_password-clear"] = "on"
    assert admin_client.post(page(item), posted(item, *stored)).status_code == 302
    copy.refresh_from_db()
    assert not copy.output_zip_password
    assert not any(PASSWORD in entry.change_message for entry in LogEntry.objects.all())


# Permissions -------------------------------------------------------------------------------------


def test_whoever_may_change_the_item_may_change_its_destinations(
    log_in: LogIn, item: SchedulingItem
) -> None:
    client = log_in("change_schedulingitem", "view_schedulingitem")
    assert client.post(page(item), posted(item, further(item))).status_code == 302
    assert item.destinations.exists()


def test_whoever_may_only_add_items_may_add_them_with_destinations(
    log_in: LogIn, item: SchedulingItem
) -> None:
    client = log_in("add_schedulingitem")
    data = posted(item, further(item), name="New")
    response = client.post(reverse(f"{ITEM}_add"), data)
    assert response.status_code == 302
    assert SchedulingItem.objects.get(name="New").destinations.exists()


def test_whoever_may_only_look_changes_nothing(log_in: LogIn, item: SchedulingItem) -> None:
    copy = Destination.objects.create(item=item, name="Copy", output_dir="partner")
    client = log_in("view_schedulingitem", "change_destination", "add_destination")
    shown = client.get(page(item)).content.decode()
    assert "partner" in shown
    assert 'name="destinations-0-name"' not in shown
    changed = further(item, id=copy.pk, item=item.pk, name="Changed")
    assert client.post(page(item), posted(item, changed)).status_code == 403
    copy.refresh_from_db()
    assert copy.name == "Copy"


def test_looking_at_the_form_changes_nothing(admin_client: Client, item: SchedulingItem) -> None:
    Destination.objects.create(item=item, name="Copy")
    before = [*SchedulingItem.objects.values(), *Destination.objects.values()]
    admin_client.get(page(item))
    assert [*SchedulingItem.objects.values(), *Destination.objects.values()] == before


# The form ----------------------------------------------------------------------------------------


def test_a_destination_has_every_field_of_its_own(
    admin_client: Client, item: SchedulingItem
) -> None:
    Destination.objects.create(item=item, name="Copy")
    shown = admin_client.get(page(item)).content.decode()
    fields = [field.name for field in Destination._meta.fields if field.name not in ("id", "item")]
    missing = [name for name in fields if f'name="destinations-0-{name}"' not in shown]
    assert missing == []
    assert [name for name in fields if f'name="destinations-__prefix__-{name}"' not in shown] == []
    assert [name for name in fields if f' name="{name}"' not in shown] == []
    assert "for example &lt;p&gt;&lt;b&gt;{row_count}" in shown


def test_templates_are_offered_without_their_bytes(
    admin_client: Client, item: SchedulingItem, django_assert_max_num_queries: Any
) -> None:
    WorkbookTemplate.objects.create(name="Monthly report", content=b"x")
    Destination.objects.create(item=item, name="Copy")
    with django_assert_max_num_queries(40) as captured:
        shown = admin_client.get(page(item)).content.decode()
    assert shown.count(">Monthly report</option>") == 3
    assert not any('"content"' in query["sql"] for query in captured)


def test_a_further_destination_costs_few_queries(
    admin_client: Client, item: SchedulingItem
) -> None:
    """Those of its own choices and of its warnings, and none for the item's rows again."""

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            admin_client.get(page(item))
        return len(captured)

    Destination.objects.create(item=item, name="Copy 1")
    queries()
    one = queries()
    Destination.objects.create(item=item, name="Copy 2")
    assert queries() - one <= 4
