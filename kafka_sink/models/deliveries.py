"""The ledger of what was sent to Kafka: one row for each run and each publish by API."""

from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import F, Q


def _count(help_text: str) -> "models.PositiveBigIntegerField[int, int]":
    return models.PositiveBigIntegerField(default=0, help_text=help_text)


def _milliseconds(verbose_name: str, help_text: str) -> "models.FloatField[Any, Any]":
    return models.FloatField(verbose_name, null=True, blank=True, help_text=help_text)


class Delivery(models.Model):
    """What the delivery reports of one delivery to one topic added up to; never changed later."""

    class Source(models.TextChoices):
        RUN = "run", "run"
        API = "api", "API"

    connection = models.CharField(
        max_length=100, help_text="Name of the Kafka connection, for example default."
    )
    topic = models.CharField(
        max_length=249, help_text="Topic that was written to, for example shipments.events."
    )
    source = models.CharField(
        max_length=3,
        choices=Source,
        help_text="What sent the messages, a run of an item or a call of the API, for example run.",
    )
    export_id = models.CharField(
        max_length=260,
        db_index=True,
        help_text="Same as in the run's history and in the messages' metadata, for example "
        "events.sql-20260118080015-0f3a9c2b7d1e.",
    )
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="+",
        help_text="Who published by API, for example anna; empty for runs.",
    )
    started_at = models.DateTimeField(
        db_index=True, help_text="Start of the delivery, for example 2026-01-18 08:00:15."
    )
    duration_sec = models.FloatField(
        "duration (s)", help_text="From start to the last report, in seconds, for example 4.2."
    )
    handed = _count("Messages handed to the Kafka client, for example 20000.")
    acked = _count("Messages that all in-sync replicas acknowledged, for example 20000.")
    failed = _count("Messages that were refused and are not in the topic, for example 0.")
    unknown = _count("Messages that may or may not be in the topic, for example 0.")
    skipped = _count("Rows left out by the item's choice and never handed over, for example 0.")
    size_bytes = _count("Keys and values of the acknowledged messages, for example 4120000.")
    latency_average_ms = _milliseconds(
        "average latency (ms)", "From hand-over to acknowledgement, on average, for example 12.5."
    )
    latency_p90_ms = _milliseconds(
        "p90 latency (ms)", "Nine of ten messages were acknowledged within it, for example 25."
    )
    latency_p99_ms = _milliseconds(
        "p99 latency (ms)", "99 of 100 messages were acknowledged within it, for example 60."
    )
    offsets = models.JSONField(
        default=dict,
        blank=True,
        help_text="First and last offset of each partition, for example "
        '{"0": [0, 6712], "1": [0, 6640]}.',
    )
    last_error = models.TextField(
        blank=True, help_text="Why messages did not arrive, for example MSG_SIZE_TOO_LARGE."
    )

    class Meta:
        ordering = ["-started_at", "-pk"]
        verbose_name_plural = "deliveries"
        default_permissions = ("view",)
        indexes = [models.Index(fields=["topic", "started_at"], name="kafka_delivery_topic")]
        constraints = [
            models.CheckConstraint(
                condition=Q(handed=F("acked") + F("failed") + F("unknown")),
                name="kafka_delivery_accounts_for_every_message",
                violation_error_message="Handed must be acked + failed + unknown.",
            ),
            models.CheckConstraint(
                condition=Q(source__in=("run", "api")),
                name="kafka_delivery_source_known",
                violation_error_message="The source is either run or api.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.export_id} to {self.topic}"

    @property
    def finished_at(self) -> datetime:
        return self.started_at + timedelta(seconds=self.duration_sec)

    @property
    def ranges(self) -> dict[int, tuple[int, int]]:
        """First and last offset by partition, as numbers; JSON keeps its keys as text."""
        return {int(number): (first, last) for number, (first, last) in self.offsets.items()}
