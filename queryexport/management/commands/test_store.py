"""`manage.py test_store URL`: the connection test of a server that files are to go to."""

import argparse
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from queryexport.stores import probe


class Command(BaseCommand):
    help = "Tests the URL of a store step by step, up to writing a tiny file and deleting it again."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "url", help="as in an item, for example 'sftp://user:${PW}@host/folder'"
        )

    def handle(self, *args: Any, url: str, **options: Any) -> None:
        steps = probe(url)
        for step in steps:
            self.stdout.write(f"{'ok    ' if step.ok else 'FAILED'} {step.name}: {step.words}")
        if not steps[-1].ok:
            raise CommandError(f"The step “{steps[-1].name}” failed. Nothing was written.")
