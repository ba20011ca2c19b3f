"""The destinations of a run on its page, and the download of the files that it wrote."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from django.core.exceptions import PermissionDenied
from django.http import FileResponse, Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.views.decorators.http import require_safe

from queryexport.read_only import ReadOnlyAdmin
from scheduling.admin.links import run_link, status_badge
from scheduling.models import RunDestination, SchedulingHistoryItem
from scheduling.retention import DELETED
from scheduling.run_files import open_file, with_later

NAME = "scheduling_schedulinghistoryitem_file"
# A larger file is told by its size until somebody downloads it: a page must not take long.
LARGEST_READ_BYTES = 20_000_000
TYPES = {
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".csv": "text/csv",
    ".jsonl": "application/jsonl",
    ".parquet": "application/vnd.apache.parquet",
    ".gz": "application/gzip",
    ".zip": "application/zip",
}


@dataclass(frozen=True)
class Recipient:
    address: str
    refusal: str


@dataclass(frozen=True)
class Shown:
    """One destination as the page shows it."""

    row: RunDestination
    status: str
    rows: str
    size: str
    place: str | SafeString
    note: str | SafeString
    conversions: list[str]
    recipients: list[Recipient]


class FilesOfRun(ReadOnlyAdmin):
    """The part of the history's admin that shows destinations and hands out files."""

    def get_urls(self) -> list[URLPattern]:
        own = self.admin_site.admin_view(require_safe(self.own_file))
        file = self.admin_site.admin_view(require_safe(self.file))
        return [
            path("<int:object_id>/file/", own, name=NAME),
            path("<int:object_id>/file/<int:destination_id>/", file, name=f"{NAME}_of_destination"),
            *super().get_urls(),
        ]

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        if run := context.get("original"):
            may_download = _may_see_item(request)
            context["destinations"] = list(_shown(run, may_download=may_download))
        return super().render_change_form(request, context, *args, **kwargs)

    def own_file(self, request: HttpRequest, object_id: int) -> HttpResponse:
        """The address that a run's file had when there was one destination."""
        run = self._run(request, object_id)
        own = get_object_or_404(RunDestination, run=run, is_own=True)
        return redirect(f"admin:{NAME}_of_destination", run.pk, own.pk)

    def file(self, request: HttpRequest, object_id: int, destination_id: int) -> FileResponse:
        """The file that a run wrote, for those who may see the run and its item."""
        run = self._run(request, object_id)
        row = get_object_or_404(run.destinations.exclude(path=""), pk=destination_id)
        if row.deleted_at or (file := _opened(row)) is None:
            raise Http404("The file is gone, or what is there now is another one.")
        name = Path(row.path).name
        response = FileResponse(
            file, as_attachment=True, filename=name, content_type=_type(name)
        )  # fmt: skip
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    def _run(self, request: HttpRequest, pk: int) -> SchedulingHistoryItem:
        run: SchedulingHistoryItem = get_object_or_404(self.get_queryset(request), pk=pk)
        if not (self.has_view_permission(request, run) and _may_see_item(request)):
            raise PermissionDenied
        return run


def file_link(row: RunDestination) -> SafeString:
    url = reverse(f"admin:{NAME}_of_destination", args=[row.run_id, row.pk])
    return format_html('<a href="{}">{}</a>', url, Path(row.path).name)


def place_in_list(row: RunDestination) -> str | SafeString:
    """A link to the file if one of that size is there, which reads nothing."""
    if row.deleted_at:
        return f"{row.place} (deleted)"
    if not row.path:
        return row.place or row.get_status_display()
    file = _opened(row, by_size=True)
    if file is None:
        return row.place
    file.close()
    return file_link(row)


def _shown(run: SchedulingHistoryItem, *, may_download: bool) -> Iterator[Shown]:
    for row in with_later(run.destinations.order_by("-is_own", "pk")):
        place, note = _place(row, may_download=may_download)
        yield Shown(
            row=row,
            status=status_badge(row.status),
            rows=f"{row.rows_delivered:,}",
            size="—" if row.size_bytes is None else f"{row.size_bytes:,}",
            place=place,
            note=note,
            conversions=[f"{number:,} {words}" for words, number in row.conversions.items()],
            recipients=[Recipient(*pair) for pair in row.recipients.items()],
        )


def _place(row: Any, *, may_download: bool) -> tuple[str | SafeString, str | SafeString]:
    """Where it is, and what has become of it there."""
    if not row.path:
        return row.place or "—", ""
    if row.deleted_at:
        return row.place, _deleted(row)
    try:
        file = open_file(row, by_size=(row.size_bytes or 0) > LARGEST_READ_BYTES)
    except OSError as error:
        return row.place, f"cannot be read: {error.strerror}"
    if file is None and row.later_run:
        return row.place, format_html("replaced by a later run, {}", run_link(row.later_run))
    if file is None:
        return row.place, "not there any more, or changed since"
    file.close()
    return (file_link(row) if may_download else row.place), ""


def _deleted(row: RunDestination) -> str:
    assert row.deleted_at
    when = f"{timezone.localtime(row.deleted_at):%Y-%m-%d %H:%M:%S %Z}"
    found = "" if row.deleted_why == DELETED else "found "
    return f"{row.deleted_why}, {found}{when}"


def _opened(row: Any, *, by_size: bool = False) -> IO[bytes] | None:
    try:
        return open_file(row, by_size=by_size)
    except OSError:
        return None


def _may_see_item(request: HttpRequest) -> bool:
    return request.user.has_perm("scheduling.view_schedulingitem")


def _type(name: str) -> str:
    return TYPES.get(Path(name).suffix.lower(), "application/octet-stream")
