"""`manage.py cancel_run RUN`: cancels a run that waits or is going on."""

import argparse
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from queryexport.errors import ConfigurationError
from scheduling import cancelling
from scheduling.models import SchedulingHistoryItem


class Command(BaseCommand):
    help = "Cancels a run: one that waits at once, one that is going on within seconds."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("run", type=int, help="the run's number, as the history shows it")

    def handle(self, *args: Any, run: int, **options: Any) -> None:
        found = SchedulingHistoryItem.objects.filter(pk=run).first()
        if found is None:
            raise CommandError(
                f"There is no run {run}. The history in the admin shows the numbers."
            )
        try:
            ended = cancelling.cancel(found, user=None)
        except ConfigurationError as error:
            raise CommandError(error.message) from error
        words = "is cancelled" if ended else "will be ended by its worker within seconds"
        self.stdout.write(f"Run {run} of “{found.item_name}” {words}.")
