"""Turns what an item says about its e-mail into the sink that sends it."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO

from django.conf import settings
from django.urls import reverse

from queryexport.contents import Contents
from queryexport.formats import Written
from queryexport.rows import Result
from queryexport.sinks.email import EmailSink, Letter, NoRows, Published
from queryexport.sinks.file import FileSink, OnExisting
from queryexport.sinks.prepared import Prepared
from scheduling.delivering import earlier_attempts
from scheduling.file_contents import contents_of
from scheduling.models import (
    Output,
    RunDestination,
    SchedulingHistoryItem,
    SchedulingItem,
    TooLarge,
)


def email_sink(
    output: Output, run: SchedulingHistoryItem, *, only: frozenset[str] | None
) -> EmailSink:
    """The message of one destination of a run, for `only` those of its recipients, unless None."""
    contents = contents_of(output)
    name = output.file_name(run.scheduled_for, run_id=run.pk)
    tokens = output.tokens(run.scheduled_for, run_id=run.pk)
    letter = Letter(
        to=output.to,
        cc=output.cc,
        bcc=output.bcc,
        subject=output.email_subject,
        text=output.email_body,
        html=output.email_body_html,
        tokens=replace(tokens, run_url=run_url(run)),
        message_id=message_id(output, run),
    )
    return EmailSink(
        letter,
        name,
        contents,
        only=only,
        link=_publisher(output, run, name) if output.email_too_large == TooLarge.LINK else None,
        no_rows=NoRows(output.email_no_rows),
    )


def run_url(run: SchedulingHistoryItem) -> str:
    """The page of the run, as people reach it by SITE_URL."""
    page = reverse("admin:scheduling_schedulinghistoryitem_change", args=[run.pk])
    return f"{settings.SITE_URL}{page}"


def message_id(output: Output, run: SchedulingHistoryItem) -> str:
    """The same in all attempts that carry the first one on, so that a second copy can be told."""
    first = [run, *earlier_attempts(run)][-1]
    part = "" if isinstance(output, SchedulingItem) else f".{output.pk}"
    domain = settings.DEFAULT_FROM_EMAIL.rpartition("@")[2].rstrip(">") or "localhost"
    return f"<query-export.{first.pk}{part}.{first.timestamp:%Y%m%d%H%M%S}@{domain}>"


def _publisher(
    output: Output, run: SchedulingHistoryItem, name: str
) -> Callable[[Prepared], Published]:
    """Puts the file into the export folder, once for all attempts; the page of a run offers it."""

    def publish(prepared: Prepared) -> Published:
        if before := _published_before(output, run):
            return Published("", _link(before.run, before.path))
        sink = FileSink(
            output.folder() / name,
            Contents(_Copy(prepared)),
            root=Path(settings.EXPORT_ROOT),
            on_existing=OnExisting(output.output_on_existing),
            keep_versions=output.output_keep_versions,
        )
        path = sink.deliver(Result((), iter(())), _NoProgress()).path
        return Published(path, _link(run, path))

    return publish


def _published_before(output: Output, run: SchedulingHistoryItem) -> RunDestination | None:
    own = isinstance(output, SchedulingItem)
    rows = RunDestination.objects.filter(run__in=earlier_attempts(run), deleted_at__isnull=True)
    rows = rows.filter(is_own=True) if own else rows.filter(destination=output.pk)
    return rows.exclude(path="").select_related("run").order_by("pk").last()


def _link(run: SchedulingHistoryItem, path: str) -> str:
    return run_url(run) if settings.SITE_URL else path


class _Copy:
    """A format that is a file which has been written already."""

    mime_type = "application/octet-stream"

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared

    def write(self, result: Result, file: IO[bytes]) -> Written:
        self._prepared.file.seek(0)
        shutil.copyfileobj(self._prepared.file, file)
        return self._prepared.written


class _NoProgress:
    """The rows are counted by the message, and cancelling is checked by it."""

    def delivered(self, rows: int) -> None: ...

    def arrived(self, rows: int) -> None: ...

    def check(self) -> None: ...
