"""`manage.py sync_beat`: repairs the tasks that beat ticks by."""

from typing import Any

from django.core.management.base import BaseCommand

from scheduling import beat


class Command(BaseCommand):
    help = "Brings beat's periodic tasks in step with the scheduling items."

    def handle(self, *args: Any, **options: Any) -> None:
        repaired = beat.repair()
        for name in repaired.written:
            self.stdout.write(f"changed: {name}")
        for name in repaired.removed:
            self.stdout.write(f"removed, without an item: {name}")
        if not (repaired.written or repaired.removed):
            self.stdout.write("Nothing to repair.")
