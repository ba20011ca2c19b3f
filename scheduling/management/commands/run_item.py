"""`manage.py run_item NAME`: runs one item in the foreground, with a progress bar."""

import argparse
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from scheduling import runs
from scheduling.models import SchedulingHistoryItem, SchedulingItem
from scheduling.progress import RunProgress


class Command(BaseCommand):
    help = "Runs one scheduling item now. Exit status 0 only if every row was delivered."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("name", help="the item's name, as the admin shows it")

    def handle(self, *args: Any, name: str, **options: Any) -> None:
        item = SchedulingItem.objects.select_related("query", "connection").filter(name=name)
        if not (found := item.first()):
            known = ", ".join(SchedulingItem.objects.values_list("name", flat=True)) or "none"
            raise CommandError(f"There is no scheduling item “{name}”. Known: {known}.")
        run = runs.queue(found, timezone.now(), trigger=runs.Trigger.COMMAND)
        assert run, "a run for this very instant cannot exist"
        finished = self._run(run)
        if finished is None:
            raise CommandError(
                "It was not run here: its history row says why, or what became of it."
            )
        self._report(finished)

    def _run(self, run: SchedulingHistoryItem) -> SchedulingHistoryItem | None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[read]:,} read, {task.completed:,.0f} delivered"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as bar:
            line = bar.add_task(run.item_name, total=None, read=0)

            def show(progress: RunProgress) -> None:
                bar.update(line, completed=progress.rows_delivered, read=progress.rows_read)

            return runs.execute(run.pk, watch=show)

    def _report(self, run: SchedulingHistoryItem) -> None:
        self.stdout.write(
            f"{run.get_status_display()}: {run.rows_delivered:,} of {run.row_count:,} rows in "
            f"{run.duration_sec or 0:.1f} s. {run.place}"
        )
        if run.status != runs.Status.SUCCESS:
            raise CommandError(run.error)
