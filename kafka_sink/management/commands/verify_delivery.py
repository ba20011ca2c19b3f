"""Reads a delivery back from the cluster and says what is missing, double or not its own."""

from argparse import RawDescriptionHelpFormatter
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from kafka_sink.deliveries.verification import LIMIT_SEC, Verification, verify
from kafka_sink.models import Delivery, KafkaConnection
from queryexport.errors import ExportError

HELP = """\
Reads the offset ranges of a delivery back from its topic and compares them with the ledger.
The exit status is 0 only when every acknowledged message is there, and once.

What can be known depends on what the messages carry:
  an export id      (header export_id, or _metadata of the value) tells the delivery's own
                    messages from others'. Without it, every message in the ranges that bears no
                    other export id is taken for its own, so another program's message can hide
                    a missing one.
  a row number      (header row or seq, or _metadata) proves a message to be a duplicate. Without
                    it, two messages with the same key and value count as duplicates, which two
                    equal rows of a query also are.
Unexpected messages are others' in the ranges; a shared topic has them, and they are no fault.
Messages that retention or compaction has deleted since count as missing. A message whose
outcome is unknown may be there and stand in for a missing one, so all of them must be found."""


class Command(BaseCommand):
    help = HELP

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(
            prog_name, subcommand, formatter_class=RawDescriptionHelpFormatter, **kwargs
        )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("delivery", help="number of the delivery, or its export id")
        parser.add_argument(
            "--timeout", type=float, default=LIMIT_SEC, help="most seconds to read, 300 by default"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        for delivery in _deliveries(options["delivery"]):
            try:
                settings = _connection(delivery).settings()
                found = verify(delivery, settings, limit_sec=options["timeout"])
            except ExportError as error:
                raise CommandError(error.message) from error
            self.stdout.write("\n".join(_report(delivery, found)))
            if not found.all_there:
                raise CommandError(f"Delivery {delivery.pk} is not proved to be whole.")


def _deliveries(which: str) -> list[Delivery]:
    """By number, or all of an export id: a run that was sent again has several."""
    found = list(Delivery.objects.filter(export_id=which).order_by("pk"))
    if not found and which.isdigit():
        found = list(Delivery.objects.filter(pk=int(which)))
    if not found:
        raise CommandError(f"There is no delivery {which}. The admin lists them.")
    return found


def _connection(delivery: Delivery) -> KafkaConnection:
    connection = KafkaConnection.objects.filter(name=delivery.connection).first()
    if connection is None:
        raise CommandError(
            f"The Kafka connection “{delivery.connection}” of delivery {delivery.pk} does not "
            "exist any more. Create it under that name, then try again."
        )
    return connection


def _report(delivery: Delivery, found: Verification) -> list[str]:
    own = "export id" if found.by_export_id else "offset only (the messages carry no export id)"
    twice = "row number" if found.by_number else "key and value (the messages carry no row number)"
    lines = [
        f"Delivery {delivery.pk}, {delivery.export_id}, to {delivery.topic}",
        f"  acknowledged {found.acked}, found {found.found} by {own}",
        f"  missing {found.missing}",
        f"  duplicate {found.duplicates} by {twice}",
        f"  unexpected {found.unexpected}",
    ]
    if found.unproved:
        lines.append(f"  unproved {found.unproved}: not found, or not to be told from unknown ones")
    if found.expired:
        lines.append(f"  expired {found.expired} offsets, which retention has deleted")
    if not found.complete:
        lines.append("  not read to the end in time: give it more with --timeout")
    return lines
