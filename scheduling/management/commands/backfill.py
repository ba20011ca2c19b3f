"""`manage.py backfill ITEM --from … --to …`: queues runs for the past slots of an item."""

import argparse
from collections.abc import Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from queryexport.errors import ExportError
from scheduling import backfill
from scheduling.backfill import PlannedSlot
from scheduling.models import SchedulingItem
from scheduling.moments import moment


class Command(BaseCommand):
    help = (
        "Queues runs for the past slots of an item that have no run yet, or whose latest one did "
        "not end in success; the workers run them one after the other."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("name", help="the item's name, as the admin shows it")
        for option, day in (("from", "first"), ("to", "last")):
            parser.add_argument(
                f"--{option}",
                dest=day,
                required=True,
                help=f"the {day} day, as 2026-11-01, or the {day} moment, as 2026-11-01T08:00, in "
                "the item's zone unless it has an offset; included",
            )
        parser.add_argument("--dry-run", action="store_true", help="only print what would run")
        parser.add_argument("--all", action="store_true", help="also slots that ended in success")

    def handle(self, *args: Any, name: str, first: str, last: str, **options: Any) -> None:
        item = _item(name)
        try:
            start, end = moment(first, item.timezone), moment(last, item.timezone, last=True)
            planned = backfill.plan(item, start, end)
            chosen = [each for each in planned if each.chosen or (options["all"] and each.can_run)]
            self._print(item, planned, chosen)
            if not options["dry_run"]:
                self._queue(item, chosen)
        except ExportError as error:
            raise CommandError(error.message) from error

    def _print(
        self, item: SchedulingItem, planned: Sequence[PlannedSlot], chosen: Sequence[PlannedSlot]
    ) -> None:
        for each in planned:
            becomes = "will run" if each in chosen else f"left out: {each.state}"
            self.stdout.write(f"{backfill.local(item, each.slot)}  {each.state:9}  {becomes}")

    def _queue(self, item: SchedulingItem, chosen: Sequence[PlannedSlot]) -> None:
        if not chosen:
            self.stdout.write("Nothing is queued. --all runs slots that ended in success, too.")
            return
        started = backfill.start(item, [each.slot for each in chosen], user=None)
        for each in started.left_out:
            self.stdout.write(f"{backfill.local(item, each.slot)} was just queued by another.")
        numbers = ", ".join(str(run.pk) for run in started.runs)
        words = "1 run is" if len(started.runs) == 1 else f"{len(started.runs)} runs are"
        self.stdout.write(f"{words} queued: {numbers or 'none'}.")


def _item(name: str) -> SchedulingItem:
    item = SchedulingItem.objects.select_related("query", "connection").filter(name=name).first()
    if item is None:
        known = ", ".join(SchedulingItem.objects.values_list("name", flat=True)) or "none"
        raise CommandError(f"There is no scheduling item “{name}”. Known: {known}.")
    return item
