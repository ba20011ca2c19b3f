"""The history: one row for every run, written before it starts and true about how it ended."""

from datetime import datetime
from typing import Any, Self
from uuid import uuid4

from django.conf import settings
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.db.models import F, Q
from django.utils.timezone import now

from queryexport.errors import RunSuperseded
from scheduling.models.item import SchedulingItem
from scheduling.models.output import SharingMode


class SchedulingHistoryItem(models.Model):
    """One run: written before it starts, and true about how it ended."""

    class Status(models.TextChoices):
        QUEUED = "queued", "Queued"
        RUNNING = "running", "Running"
        SUCCESS = "success", "Success"
        PARTIAL = "partial", "Partial"
        FAIL = "fail", "Failed"
        SKIPPED = "skipped", "Skipped"
        MISSED = "missed", "Missed"
        HELD = "held", "Held"
        CANCELLED = "cancelled", "Cancelled"
        LOST = "lost", "Lost"

    UNFINISHED = (Status.QUEUED, Status.RUNNING)

    class Trigger(models.TextChoices):
        SCHEDULE = "schedule", "Schedule"
        MANUAL = "manual", "Run now"
        COMMAND = "command", "Command"
        REPLAY = "replay", "Sent again"
        RERUN = "rerun", "Run again"
        BACKFILL = "backfill", "Backfill"

    item = models.ForeignKey(
        SchedulingItem,
        on_delete=models.SET_NULL,
        null=True,
        related_name="history",
        help_text="The item that ran; empty once it is deleted.",
    )
    item_name = models.CharField(max_length=200, help_text="The item's name at the time.")
    query = models.CharField(max_length=200, help_text="The query's name at the time.")
    connection = models.CharField(max_length=100, help_text="The connection's name at the time.")
    timestamp = models.DateTimeField(
        default=now, help_text="When the run was asked for, before it started."
    )
    status = models.CharField(
        max_length=10, choices=Status, default=Status.QUEUED, help_text="What became of it."
    )
    scheduled_for = models.DateTimeField(help_text="The slot that this run is for.")
    attempt = models.PositiveSmallIntegerField(default=1, help_text="1 for the first try.")
    trigger = models.CharField(max_length=10, choices=Trigger, help_text="Who asked for it.")
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        help_text="The person who asked for it, if one did.",
    )
    export_id = models.CharField(
        max_length=260, blank=True, help_text="The id that its messages carry."
    )
    sql = models.TextField("SQL", blank=True, help_text="The SQL as run.")
    parameters = models.JSONField(
        default=dict,
        encoder=DjangoJSONEncoder,
        help_text="The parameters as bound, relative dates resolved.",
    )
    given_parameters = models.JSONField(
        null=True,
        help_text="The item's parameters at the time, before relative dates were resolved.",
    )
    watermark_from = models.CharField(
        max_length=200, blank=True, help_text="The lower bound of its rows, for example 120."
    )
    watermark_to = models.CharField(
        max_length=200,
        blank=True,
        help_text="The upper bound of its rows, fixed at its start, for example 180.",
    )
    watermark_moved = models.BooleanField(
        default=False, help_text="Whether the item's watermark was moved to the upper bound."
    )
    start_date = models.DateField(
        null=True, help_text="The day that {date} stood for, offset included."
    )
    export_mode = models.CharField(
        max_length=10, choices=SharingMode, help_text="Where the rows went."
    )

    started_at = models.DateTimeField(null=True, help_text="When a worker took it.")
    finished_at = models.DateTimeField(null=True, help_text="When it ended.")
    duration_sec = models.FloatField(
        "duration (s)", null=True, help_text="Seconds from the start to the end."
    )
    phases = models.JSONField(
        default=dict, help_text="Seconds spent until the first row, and in delivery."
    )
    row_count = models.PositiveBigIntegerField(
        "rows", default=0, help_text="Rows that the query gave, or that were to be sent again."
    )
    rows_delivered = models.PositiveBigIntegerField(
        "delivered", default=0, help_text="Rows that the destination confirmed."
    )
    rows_skipped = models.PositiveBigIntegerField(
        "skipped", default=0, help_text="Rows left out because the item says so, and counted."
    )
    conversions = models.JSONField(
        default=dict,
        help_text="Values that could not be kept as they were, counted by what became of them.",
    )
    error = models.TextField(blank=True, help_text="What went wrong, and what to do next.")
    place = models.TextField(
        blank=True, help_text="Path of the file, the recipients, or topic and offsets."
    )
    size_bytes = models.PositiveBigIntegerField(
        "size (bytes)", null=True, help_text="Size of the file, the attachment or the messages."
    )

    kafka_topic = models.CharField(max_length=249, blank=True, help_text="The topic, for Kafka.")
    kafka_messages_sent = models.PositiveBigIntegerField(
        null=True, help_text="Messages that the cluster acknowledged."
    )
    kafka_messages_failed = models.PositiveBigIntegerField(
        null=True, help_text="Messages that failed, or of which nothing is known."
    )
    kafka_duration_sec = models.FloatField(
        "Kafka duration (s)", null=True, help_text="Seconds from the first send to the last answer."
    )

    retry_of = models.ForeignKey(
        "self",
        on_delete=models.SET_NULL,
        null=True,
        related_name="next_attempts",
        help_text="The attempt before this one, which failed, for example run 120.",
    )
    carries_on = models.BooleanField(
        default=False,
        help_text="Yes: it goes only to the destinations that the attempt before did not reach.",
    )
    not_before = models.DateTimeField(
        null=True, help_text="A queued run waits until then; empty: it starts at once."
    )
    dispatched_at = models.DateTimeField(
        null=True, help_text="When it was last handed to the workers."
    )
    waits_for = models.CharField(
        max_length=300, blank=True, help_text="Why it waits, for example for run 120 of its item."
    )
    cancel_requested_at = models.DateTimeField(
        null=True, help_text="When a person asked to cancel it."
    )
    cancelled_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        related_name="+",
        help_text="The person who asked to cancel it.",
    )
    replay_of = models.ForeignKey(
        "self",
        on_delete=models.SET_NULL,
        null=True,
        related_name="replays",
        help_text="The run whose undelivered rows this one sends again, for example run 120.",
    )
    broke_off = models.BooleanField(
        default=False,
        help_text="Yes: it stopped on its way to Kafka, for example because the database went "
        "away, and rows that it had not read yet are kept nowhere.",
    )
    spool = models.CharField(
        max_length=100,
        blank=True,
        help_text="The file with the rows of its query, from which further attempts deliver to the "
        "destinations that did not get all.",
    )
    undelivered_kept = models.PositiveBigIntegerField(
        default=0, help_text="Undelivered rows that it kept to be sent again, for example 12."
    )
    taken_settled = models.BooleanField(
        default=False,
        help_text="For a run that sends rows again. Yes: each of them was delivered, or is kept "
        "under this run. No, although it ended: nothing is known of them.",
    )
    dead_letters = models.PositiveBigIntegerField(
        default=0, help_text="Rows that the dead-letter topic took a copy of, for example 12."
    )

    worker = models.CharField(max_length=200, blank=True, help_text="Host and process.")
    heartbeat_at = models.DateTimeField(null=True, help_text="Last sign of life of the worker.")
    claim_token = models.UUIDField(
        null=True, editable=False, help_text="Held by the one process that may write to this row."
    )

    class Meta:
        verbose_name = "history row"
        verbose_name_plural = "history"
        ordering = ["-timestamp", "-pk"]
        permissions = [
            ("replay_schedulinghistoryitem", "Can send undelivered rows again"),
            ("cancel_schedulinghistoryitem", "Can cancel a run"),
        ]
        indexes = [
            models.Index(fields=["-timestamp", "-id"], name="history_newest"),
            models.Index(fields=["status", "-timestamp"], name="history_by_status"),
            models.Index(fields=["export_mode", "-timestamp"], name="history_by_mode"),
            models.Index(fields=["item", "-timestamp"], name="history_by_item"),
            models.Index(
                fields=["status"],
                name="history_unfinished",
                condition=Q(status__in=["queued", "running"]),
            ),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["item", "scheduled_for", "attempt"], name="history_one_run_per_slot"
            ),
            models.CheckConstraint(
                condition=Q(
                    status__in=[
                        "queued", "running", "success", "partial", "fail", "skipped", "missed",
                        "held", "cancelled", "lost",
                    ]
                ),
                name="history_status_known",
            ),
            models.CheckConstraint(
                condition=Q(export_mode__in=["filesystem", "email", "kafka"]),
                name="history_export_mode_known",
            ),
            models.CheckConstraint(
                condition=~Q(status="success")
                | Q(rows_delivered=F("row_count") - F("rows_skipped"), error=""),
                name="history_success_means_all_delivered",
            ),
            models.CheckConstraint(
                condition=~Q(status__in=["partial", "fail", "lost", "cancelled"]) | ~Q(error=""),
                name="history_failure_has_error",
            ),
            models.CheckConstraint(
                condition=Q(rows_delivered__lte=F("row_count")),
                name="history_delivered_at_most_read",
            ),
            models.CheckConstraint(
                condition=Q(dead_letters__lte=F("undelivered_kept")),
                name="history_dead_letters_at_most_kept",
            ),
            models.CheckConstraint(
                condition=Q(replay_of__isnull=True) | Q(trigger="replay"),
                name="history_only_a_replay_has_an_origin",
            ),
            models.CheckConstraint(
                condition=Q(retry_of__isnull=True) | Q(attempt__gt=1),
                name="history_only_a_later_attempt_repeats",
            ),
        ]  # fmt: skip

    def __str__(self) -> str:
        return f"{self.item_name}, {self.scheduled_for:%Y-%m-%d %H:%M:%S %Z}"

    @classmethod
    def of(
        cls, item: SchedulingItem, scheduled_for: datetime, *, trigger: Trigger, **values: Any
    ) -> Self:
        """The row of a run as the item stands now, not saved yet."""
        return cls(
            item=item,
            item_name=item.name,
            query=item.query.name,
            connection=item.connection.name,
            scheduled_for=scheduled_for,
            trigger=trigger,
            start_date=item.tokens(scheduled_for).start_date,
            export_mode=item.sharing_mode,
            kafka_topic=item.topic(),
            **values,
        )

    @property
    def is_over(self) -> bool:
        return self.status not in self.UNFINISHED

    def claim(self, worker: str) -> bool:
        """Takes a queued run for this process; False when another has it or it was ended.

        One conditional update, so that of any number of workers exactly one wins.
        """
        moment, token = now(), uuid4()
        won = SchedulingHistoryItem.objects.filter(pk=self.pk, status=self.Status.QUEUED).update(
            status=self.Status.RUNNING,
            claim_token=token,
            started_at=moment,
            heartbeat_at=moment,
            worker=worker,
            waits_for="",
        )
        if won:
            self.refresh_from_db()
        return bool(won)

    def record(self, **values: Any) -> None:
        """Writes to the running row; raises `RunSuperseded` once it is no longer this process's."""
        mine = SchedulingHistoryItem.objects.filter(
            pk=self.pk, status=self.Status.RUNNING, claim_token=self.claim_token
        )
        if not mine.update(heartbeat_at=now(), **values):
            raise RunSuperseded(f"Run {self.pk} was ended or taken over by another process.")
        for name, value in values.items():
            setattr(self, name, value)

    def finish(self, status: Status, *, error: str = "", **values: Any) -> None:
        """Ends the running row with its outcome; the database refuses one that is not true."""
        self.record(status=status, error=error, finished_at=now(), **values)

    def lose(self, now: datetime) -> bool:
        """Ends a running row whose worker is silent; False when it has moved since it was read.

        Whoever held it can write no more, because its token is no longer that of a running row.
        """
        silent_sec = (
            now - (self.heartbeat_at or self.started_at or self.timestamp)
        ).total_seconds()
        error = (
            f"The worker {self.worker or '(unknown)'} gave no sign of life for {silent_sec:.0f} s: "
            "it was killed, stands still, or its machine is off. What had arrived by then is not "
            "known for certain."
        )
        same = SchedulingHistoryItem.objects.filter(
            pk=self.pk,
            status=self.Status.RUNNING,
            claim_token=self.claim_token,
            heartbeat_at=self.heartbeat_at,
        )
        if not same.update(status=self.Status.LOST, error=error, finished_at=now):
            return False
        self.status, self.error, self.finished_at = self.Status.LOST, error, now
        return True
