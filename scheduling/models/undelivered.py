"""The rows that a Kafka run did not deliver, kept so that they can be sent again."""

from base64 import b64decode, b64encode
from typing import Self

from django.db import models
from django.db.models import F, Q

from kafka_sink.messages import Message
from scheduling.models.history import SchedulingHistoryItem
from scheduling.undelivered.rows import UndeliveredRow

TAKEN_HELP = "The run that sends it again, for example run 124; empty while none does."


class UndeliveredMessage(models.Model):
    """One message of a run that failed, or of which nothing is known, exactly as it was sent."""

    run = models.ForeignKey(
        SchedulingHistoryItem,
        on_delete=models.CASCADE,
        related_name="undelivered",
        help_text="The run that did not deliver it, for example run 120.",
    )
    number = models.PositiveBigIntegerField(
        help_text="Its place among the run's undelivered rows, from 1, for example 7."
    )
    key = models.BinaryField(null=True, help_text="The key's bytes, for example ABC123; or none.")
    value = models.BinaryField(help_text='The value\'s bytes, for example {"id": 7}.')
    headers = models.JSONField(
        default=list,
        help_text='Name and value, the latter in base64, for example [["source", "dHJhY2s="]].',
    )
    timestamp_ms = models.BigIntegerField(
        default=0,
        help_text="Its own time in milliseconds since 1970 UTC, for example 1768723200000; 0 is "
        "the time of sending.",
    )
    reason = models.TextField(help_text="Why it was not delivered, for example MSG_SIZE_TOO_LARGE.")
    unknown = models.BooleanField(
        help_text="Yes: it may be in the topic already, because its answer never came. No: it is "
        "not there."
    )
    attempts = models.PositiveIntegerField(
        help_text="How often it was sent, in all runs, for example 4."
    )
    taken_by = models.ForeignKey(
        SchedulingHistoryItem,
        on_delete=models.RESTRICT,  # Forgetting who sent it would let it be sent twice.
        null=True,
        related_name="taken",
        help_text=TAKEN_HELP,
    )

    class Meta:
        verbose_name = "undelivered row"
        ordering = ["-run_id", "number"]
        default_permissions = ("view",)
        constraints = [
            models.UniqueConstraint(
                fields=["run", "number"], name="undelivered_number_once_in_a_run"
            ),
            models.CheckConstraint(condition=~Q(reason=""), name="undelivered_has_reason"),
            models.CheckConstraint(
                condition=Q(taken_by__isnull=True) | ~Q(taken_by=F("run")),
                name="undelivered_taken_by_another_run",
            ),
        ]

    def __str__(self) -> str:
        return f"Undelivered row {self.number} of run {self.run_id}"

    @classmethod
    def of(cls, row: UndeliveredRow, *, run: SchedulingHistoryItem, number: int) -> Self:
        """The row as it is stored, not saved yet."""
        key, value, headers, timestamp_ms = row.message
        return cls(
            run=run,
            number=number,
            key=key,
            value=value,
            headers=[[name, b64encode(text).decode()] for name, text in headers],
            timestamp_ms=timestamp_ms,
            reason=row.reason,
            unknown=row.unknown,
            attempts=row.attempts,
        )

    @property
    def row(self) -> UndeliveredRow:
        """The row as it was sent, and what became of it."""
        headers = tuple((name, b64decode(text)) for name, text in self.headers)
        key = None if self.key is None else bytes(self.key)
        message = Message(key, bytes(self.value), headers, self.timestamp_ms)
        return UndeliveredRow(message, self.reason, self.unknown, self.attempts)


class UndeliveredFile(models.Model):
    """The undelivered rows of a run that were too many for the database; sent again as a whole."""

    run = models.ForeignKey(
        SchedulingHistoryItem,
        on_delete=models.CASCADE,
        related_name="undelivered_files",
        help_text="The run that did not deliver its rows, for example run 120.",
    )
    name = models.CharField(
        max_length=100,
        unique=True,
        help_text="The file in UNDELIVERED_ROOT, for example run-120-0f3a9c2b7d1e.failed.jsonl.",
    )
    rows = models.PositiveBigIntegerField(help_text="How many rows are in it, for example 51000.")
    unknown = models.BooleanField(
        help_text="Yes: its rows may be in the topic already. No: they are not there."
    )
    taken_by = models.ForeignKey(
        SchedulingHistoryItem,
        on_delete=models.RESTRICT,
        null=True,
        related_name="taken_files",
        help_text=TAKEN_HELP,
    )

    class Meta:
        verbose_name = "file of undelivered rows"
        verbose_name_plural = "files of undelivered rows"
        ordering = ["pk"]
        default_permissions = ()
        constraints = [
            models.CheckConstraint(condition=Q(rows__gt=0), name="undelivered_file_has_rows"),
            models.CheckConstraint(
                condition=Q(taken_by__isnull=True) | ~Q(taken_by=F("run")),
                name="undelivered_file_taken_by_another_run",
            ),
        ]

    def __str__(self) -> str:
        return self.name
