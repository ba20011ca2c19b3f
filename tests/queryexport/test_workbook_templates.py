"""Workbook templates: uploaded, checked, handed out, and kept as long as an item needs them."""

from hashlib import sha256
from io import BytesIO
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse
from openpyxl import Workbook
from openpyxl.workbook.defined_name import DefinedName

from queryexport.forms import LARGEST_TEMPLATE_BYTES
from queryexport.models import WorkbookTemplate
from scheduling.models import Destination, SchedulingItem
from tests.factories import make_connection, make_query

pytestmark = pytest.mark.django_db

PAGE = "admin:queryexport_workbooktemplate"
ADD = "/admin/queryexport/workbooktemplate/add/"


def workbook(start: str = "data") -> bytes:
    book, file = Workbook(), BytesIO()
    book.active.title = "Report"
    book.defined_names[start] = DefinedName(start, attr_text="Report!$B$4")
    book.save(file)
    return file.getvalue()


def entered(content: bytes | None = None, **values: Any) -> dict[str, Any]:
    data = {"name": "Monthly report", "start_name": "data", "with_header": "on"} | values
    if content is not None:
        data["upload"] = SimpleUploadedFile("report.xlsx", content)
    return data


@pytest.fixture
def template(db: None) -> WorkbookTemplate:
    content = workbook()
    return WorkbookTemplate.objects.create(
        name="Monthly report", content=content, file_name="report.xlsx",
        sha256=sha256(content).hexdigest(),
    )  # fmt: skip


def change(template: WorkbookTemplate) -> str:
    return reverse(f"{PAGE}_change", args=[template.pk])


def somebody(*permissions: str) -> Client:
    user = User.objects.create_user("staff", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


def test_an_upload_is_kept_as_it_is(admin_client: Client) -> None:
    content = workbook()
    assert admin_client.post(ADD, entered(content)).status_code == 302
    stored = WorkbookTemplate.objects.get()
    assert bytes(stored.content) == content
    assert stored.sha256 == sha256(content).hexdigest()
    assert (stored.file_name, stored.with_header) == ("report.xlsx", True)


def test_a_template_needs_a_workbook(admin_client: Client) -> None:
    page = admin_client.post(ADD, entered()).content.decode()
    assert "This field is required." in page
    assert 'enctype="multipart/form-data"' in page
    assert not WorkbookTemplate.objects.exists()


@pytest.mark.parametrize(
    ("content", "values", "words"),
    [
        (workbook(), {"start_name": "nowhere"}, "nowhere"),
        (b"no workbook", {}, "errorlist"),
        (b"", {}, "The submitted file is empty."),
        (b"0" * (LARGEST_TEMPLATE_BYTES + 1), {}, "10,000,001 bytes, and a template at most"),
    ],
)
def test_what_cannot_be_filled_is_refused(
    admin_client: Client, content: bytes, values: dict[str, str], words: str
) -> None:
    response = admin_client.post(ADD, entered(content, **values))
    assert response.status_code == 200
    assert words in response.content.decode()
    assert not WorkbookTemplate.objects.exists()


def test_without_an_upload_the_workbook_stays(
    admin_client: Client, template: WorkbookTemplate
) -> None:
    content = bytes(template.content)
    response = admin_client.post(change(template), entered(name="Yearly report"))
    assert response.status_code == 302
    template.refresh_from_db()
    assert (template.name, bytes(template.content)) == ("Yearly report", content)


def test_the_stored_workbook_is_checked_with_another_start(
    admin_client: Client, template: WorkbookTemplate
) -> None:
    response = admin_client.post(change(template), entered(start_name="elsewhere"))
    assert response.status_code == 200
    assert "elsewhere" in str(response.context["adminform"].errors["start_name"])
    template.refresh_from_db()
    assert template.start_name == "data"


def test_another_upload_replaces_it(admin_client: Client, template: WorkbookTemplate) -> None:
    content = workbook("rows")
    data = entered(content, start_name="rows")
    assert admin_client.post(change(template), data).status_code == 302
    template.refresh_from_db()
    assert bytes(template.content) == content
    assert template.sha256 == sha256(content).hexdigest()


def test_a_refused_upload_leaves_the_stored_one(
    admin_client: Client, template: WorkbookTemplate
) -> None:
    before = bytes(template.content)
    assert admin_client.post(change(template), entered(b"no workbook")).status_code == 200
    template.refresh_from_db()
    assert bytes(template.content) == before


def test_it_is_handed_out_as_it_was_uploaded(template: WorkbookTemplate) -> None:
    response = somebody("view_workbooktemplate").get(
        reverse(f"{PAGE}_file", args=[template.pk])
    )  # fmt: skip
    assert b"".join(response.streaming_content) == bytes(template.content)
    assert response["Content-Disposition"] == 'attachment; filename="report.xlsx"'
    assert response["Content-Type"].endswith("spreadsheetml.sheet")
    assert response["X-Content-Type-Options"] == "nosniff"


def test_without_permission_there_is_nothing(template: WorkbookTemplate, client: Client) -> None:
    file = reverse(f"{PAGE}_file", args=[template.pk])
    staff = somebody("view_query")
    for url in (file, change(template), ADD):
        assert staff.get(url).status_code == 403
        assert "login" in client.get(url).url
    assert staff.post(change(template), entered(name="x")).status_code == 403


def test_who_may_only_look_changes_nothing(template: WorkbookTemplate) -> None:
    staff = somebody("view_workbooktemplate")
    page = staff.get(change(template)).content.decode()
    assert reverse(f"{PAGE}_file", args=[template.pk]) in page
    assert 'field-upload"' not in page and 'name="upload"' not in page
    assert staff.post(change(template), entered(name="x")).status_code == 403
    assert WorkbookTemplate.objects.get().name == "Monthly report"


def test_what_uses_it_is_listed_and_protects_it(
    admin_client: Client, template: WorkbookTemplate
) -> None:
    query, connection = make_query("SELECT 1"), make_connection("x.sqlite3")
    values = {
        "query": query, "connection": connection, "days_of_week": [0],
        "output_format": "template", "workbook_template": template,
    }  # fmt: skip
    item = SchedulingItem.objects.create(name="Item of it", **values)
    other = SchedulingItem.objects.create(
        name="Other", **(values | {"output_format": "xlsx", "workbook_template": None})
    )
    Destination.objects.create(
        item=other, name="Copy", output_format="template", workbook_template=template
    )
    page = admin_client.get(change(template)).content.decode()
    link = reverse("admin:scheduling_schedulingitem_change", args=[item.pk])
    assert f'<a href="{link}">Item of it</a>' in page
    assert ">Other, Copy</a>" in page
    delete = reverse(f"{PAGE}_delete", args=[template.pk])
    assert "would require deleting the following protected" in (
        admin_client.get(delete).content.decode()
    )
    admin_client.post(delete, {"post": "yes"})
    assert WorkbookTemplate.objects.exists()


def test_lists_do_not_read_the_workbooks(
    admin_client: Client, template: WorkbookTemplate, django_assert_num_queries: Any
) -> None:
    url = reverse(f"{PAGE}_changelist")
    admin_client.get(url)
    with django_assert_num_queries(5) as captured:
        assert "report.xlsx" in admin_client.get(url).content.decode()
    assert not any('"content"' in query["sql"] for query in captured)
    for number in range(5):
        WorkbookTemplate.objects.create(name=f"Another {number}", content=b"x")
    with django_assert_num_queries(5):
        admin_client.get(url)
