"""The page of a run says what became of each destination, and hands out what the run wrote."""

import os
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from pytest_django import DjangoAssertNumQueries

from scheduling import retention
from scheduling.models import Destination, RunDestination, SchedulingHistoryItem
from tests.factories import MakeItem
from tests.scheduling.conftest import LogIn
from tests.scheduling.files_of_runs import WRITTEN, a_run, put, wrote

pytestmark = pytest.mark.django_db

HISTORY = "admin:scheduling_schedulinghistoryitem"
MAY_DOWNLOAD = ("view_schedulinghistoryitem", "view_schedulingitem")


def address(row: RunDestination) -> str:
    return reverse(f"{HISTORY}_file_of_destination", args=[row.run_id, row.pk])


def page(client: Client, run: SchedulingHistoryItem) -> str:
    return client.get(reverse(f"{HISTORY}_change", args=[run.pk])).content.decode()


def got(client: Client, row: RunDestination) -> bytes:
    response = client.get(address(row))
    assert response.status_code == 200
    return b"".join(response.streaming_content)


# Downloads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("a.xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
        ("a.csv", "text/csv"),
        ("a.jsonl", "application/jsonl"),
        ("a.parquet", "application/vnd.apache.parquet"),
        ("a.xlsx.gz", "application/gzip"),
        ("a.csv.zip", "application/zip"),
        ("a.html", "application/octet-stream"),
    ],
)
def test_a_file_has_its_name_its_type_and_its_bytes(
    make_item: MakeItem, log_in: LogIn, name: str, content_type: str
) -> None:
    row = wrote(make_item(), name, b"some bytes")
    response = log_in(*MAY_DOWNLOAD).get(address(row))
    assert b"".join(response.streaming_content) == b"some bytes"
    assert response["Content-Type"] == content_type
    assert response["Content-Length"] == "10"
    assert response["Content-Disposition"] == f'attachment; filename="{name}"'
    assert response["X-Content-Type-Options"] == "nosniff"
    assert "no-store" in response["Cache-Control"]


def test_each_destination_has_its_own_file(make_item: MakeItem, admin_client: Client) -> None:
    item = make_item()
    copy = Destination.objects.create(item=item, name="Copy")
    own = wrote(item, "own.xlsx", b"own")
    further = wrote(item, "copy.xlsx", b"copy", destination=copy, run=own.run)
    assert (got(admin_client, own), got(admin_client, further)) == (b"own", b"copy")


def test_the_old_address_leads_to_the_own_file(make_item: MakeItem, admin_client: Client) -> None:
    row = wrote(make_item())
    response = admin_client.get(reverse(f"{HISTORY}_file", args=[row.run_id]))
    assert (response.status_code, response["Location"]) == (302, address(row))
    other = a_run(make_item())
    assert admin_client.get(reverse(f"{HISTORY}_file", args=[other.pk])).status_code == 404


@pytest.mark.parametrize("permissions", [MAY_DOWNLOAD[:1], MAY_DOWNLOAD[1:], ()])
def test_a_file_needs_both_permissions(
    make_item: MakeItem, log_in: LogIn, permissions: tuple[str, ...]
) -> None:
    row, client = wrote(make_item()), log_in(*permissions)
    assert client.get(address(row)).status_code == 403
    assert client.get(reverse(f"{HISTORY}_file", args=[row.run_id])).status_code == 403


def test_a_file_needs_a_login(make_item: MakeItem, client: Client) -> None:
    assert "login" in client.get(address(wrote(make_item()))).url


def test_a_file_is_only_handed_out(make_item: MakeItem, admin_client: Client) -> None:
    assert admin_client.post(address(wrote(make_item()))).status_code == 405


def test_the_file_of_another_run_is_not_found(make_item: MakeItem, admin_client: Client) -> None:
    row, other = wrote(make_item()), wrote(make_item(), "other.xlsx")
    url = reverse(f"{HISTORY}_file_of_destination", args=[row.run_id, other.pk])
    assert admin_client.get(url).status_code == 404


def test_other_bytes_of_the_same_size_are_not_handed_out(
    make_item: MakeItem, admin_client: Client
) -> None:
    row = wrote(make_item(), content=b"rows")
    put(Path(row.path), b"mine")
    assert admin_client.get(address(row)).status_code == 404
    assert address(row) not in page(admin_client, row.run)


def test_a_run_from_before_is_told_by_its_size(make_item: MakeItem, admin_client: Client) -> None:
    row = wrote(make_item(), content=b"rows", sha256="")
    assert got(admin_client, row) == b"rows"
    put(Path(row.path), b"other rows")
    assert admin_client.get(address(row)).status_code == 404


def test_a_kept_version_is_found_by_its_bytes(make_item: MakeItem, admin_client: Client) -> None:
    item = make_item(output_on_existing="keep")
    rows = []
    for day, content in enumerate([b"one", b"two", b"six"]):
        for number in (1, 0):
            before = item.folder() / (f"rows.{number}.xlsx" if number else "rows.xlsx")
            if before.exists():
                before.rename(item.folder() / f"rows.{number + 1}.xlsx")
        rows.append(wrote(item, content=content, day=day))
    assert [got(admin_client, row) for row in rows] == [b"one", b"two", b"six"]
    response = admin_client.get(address(rows[0]))
    assert response["Content-Disposition"] == 'attachment; filename="rows.xlsx"'
    assert b"".join(response.streaming_content) == b"one"
    assert all(address(row) in page(admin_client, row.run) for row in rows)


def test_nothing_outside_the_export_folder_is_handed_out(
    make_item: MakeItem, admin_client: Client, export_root: Path, tmp_path: Path
) -> None:
    outside = put(tmp_path / "outside" / "rows.xlsx", b"rows")
    item = make_item()
    rows = [wrote(item, "a.xlsx", path=str(outside))]
    (export_root / "link").symlink_to(outside.parent)
    rows.append(wrote(item, "b.xlsx", path=str(export_root / "link" / "rows.xlsx")))
    rows.append(wrote(item, "c.xlsx", path=f"{export_root}/../outside/rows.xlsx"))
    rows.append(wrote(item, "d.xlsx"))
    (export_root / "d.xlsx").unlink()
    (export_root / "d.xlsx").symlink_to(outside)
    rows.append(wrote(item, "e.xlsx", path="e.xlsx"))
    assert {admin_client.get(address(row)).status_code for row in rows} == {404}
    assert not any(address(row) in page(admin_client, row.run) for row in rows)


def test_a_pipe_in_place_of_the_file_does_not_block(
    make_item: MakeItem, admin_client: Client
) -> None:
    row = wrote(make_item(), content=b"")
    Path(row.path).unlink()
    os.mkfifo(row.path)
    assert admin_client.get(address(row)).status_code == 404


def test_a_deleted_file_is_not_handed_out(make_item: MakeItem, admin_client: Client) -> None:
    row = wrote(make_item(), deleted_at=WRITTEN, deleted_why=retention.REPLACED)
    assert admin_client.get(address(row)).status_code == 404


# The page ----------------------------------------------------------------------------------------


def test_the_page_shows_each_destination(make_item: MakeItem, admin_client: Client) -> None:
    item = make_item()
    copy = Destination.objects.create(item=item, name="Copy for the partner")
    own = wrote(
        item, conversions={"control characters were replaced": 1200}, rows_delivered=1234567
    )
    RunDestination.objects.create(
        run=own.run, destination=copy, is_own=False, name=copy.name, sharing_mode="email",
        status="partial", error="1 of 2 recipients got the message.", finished_at=WRITTEN,
        recipients={"a@example.com": "", "b@example.com": "550 no <such> user"}, place="a, b",
    )  # fmt: skip
    shown = page(admin_client, own.run)
    assert f'<a href="{address(own)}">rows.xlsx</a>' in shown
    for text in (
        "Copy for the partner", "1,234,567", "1,200 control characters were replaced", own.sha256,
        "1 of 2 recipients got the message.", "a@example.com: ✓ accepted",
        "b@example.com: <strong", "✗ refused: 550 no &lt;such&gt; user", "status-partial",
    ):  # fmt: skip
        assert text in shown


def test_without_the_items_permission_there_is_no_link(make_item: MakeItem, log_in: LogIn) -> None:
    row = wrote(make_item())
    shown = page(log_in("view_schedulinghistoryitem"), row.run)
    assert address(row) not in shown
    assert row.path in shown


def test_a_file_that_retention_deleted_says_so(make_item: MakeItem, admin_client: Client) -> None:
    row = wrote(make_item(), deleted_at=WRITTEN, deleted_why=retention.DELETED)
    assert "deleted by retention, 2026-01-10 08:00:00 UTC" in page(admin_client, row.run)
    row = wrote(make_item(), "b.xlsx", deleted_at=WRITTEN, deleted_why=retention.GONE)
    assert f"{retention.GONE}, found 2026-01-10 08:00:00 UTC" in page(admin_client, row.run)


def test_a_replaced_file_says_by_which_run(make_item: MakeItem, admin_client: Client) -> None:
    item = make_item()
    old, new = wrote(item, content=b"old"), wrote(item, content=b"new", day=1)
    shown = page(admin_client, old.run)
    assert "replaced by a later run" in shown
    assert f">run {new.run_id}</a>" in shown
    assert "replaced by a later run" not in page(admin_client, new.run)


def test_a_file_that_is_gone_says_so(make_item: MakeItem, admin_client: Client) -> None:
    row = wrote(make_item())
    Path(row.path).unlink()
    assert "not there any more, or changed since" in page(admin_client, row.run)


def test_the_page_takes_a_fixed_number_of_queries(
    make_item: MakeItem, admin_client: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    item = make_item()
    row = wrote(item)
    page(admin_client, row.run)
    with django_assert_num_queries(6):
        page(admin_client, row.run)
    for number in range(4):
        copy = Destination.objects.create(item=item, name=f"Copy {number}")
        wrote(item, f"{number}.xlsx", destination=copy, run=row.run)
        wrote(item, f"{number}.xlsx", day=1)
    with django_assert_num_queries(6):
        page(admin_client, row.run)


# The list ----------------------------------------------------------------------------------------


def listed(client: Client) -> Any:
    return client.get(reverse(f"{HISTORY}_changelist")).content.decode()


def test_the_list_links_what_is_there(make_item: MakeItem, admin_client: Client) -> None:
    item = make_item()
    there, gone, deleted = (wrote(item, f"{name}.xlsx", day=n) for n, name in enumerate("abc"))
    Path(gone.path).write_bytes(b"another")
    RunDestination.objects.filter(pk=deleted.pk).update(deleted_at=WRITTEN, deleted_why="x")
    shown = listed(admin_client)
    assert address(there) in shown
    assert address(gone) not in shown and gone.path in shown
    assert address(deleted) not in shown


def test_the_list_names_every_destination(make_item: MakeItem, admin_client: Client) -> None:
    item = make_item()
    copy = Destination.objects.create(item=item, name="Copy")
    own = wrote(item)
    wrote(item, "b.xlsx", destination=copy, run=own.run, path="", place="sftp://host/b.xlsx")
    assert "sftp://host/b.xlsx" in listed(admin_client)
    assert address(own) in listed(admin_client)


def test_the_list_takes_a_fixed_number_of_queries(
    make_item: MakeItem, admin_client: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    item = make_item()
    wrote(item)
    listed(admin_client)
    with django_assert_num_queries(8):
        listed(admin_client)
    for day in range(1, 6):
        row = wrote(item, day=day)
        copy = Destination.objects.create(item=item, name=f"Copy {day}")
        wrote(item, f"{day}.xlsx", destination=copy, run=row.run)
    with django_assert_num_queries(8):
        listed(admin_client)
