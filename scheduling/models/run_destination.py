"""What became of one destination of one run: what arrived there, and what lies there now."""

from django.db import models
from django.db.models import Q

from scheduling.models.destination import Destination
from scheduling.models.history import SchedulingHistoryItem
from scheduling.models.output import SharingMode


class RunDestination(models.Model):
    """The outcome of one destination of a run, written once, when it is known.

    A run that ends without one never came to that destination. Only what happens to a file later
    is added.
    """

    Status = SchedulingHistoryItem.Status

    run = models.ForeignKey(
        SchedulingHistoryItem,
        on_delete=models.CASCADE,
        related_name="destinations",
        help_text="The run, for example run 120.",
    )
    destination = models.ForeignKey(
        Destination,
        on_delete=models.SET_NULL,
        null=True,
        related_name="+",
        help_text="The further destination; empty for the item's own, and once it is deleted.",
    )
    is_own = models.BooleanField(help_text="Whether it is the item's own destination.")
    name = models.CharField(max_length=100, help_text="What it was called at the time.")
    sharing_mode = models.CharField(
        max_length=10, choices=SharingMode, help_text="Where the rows went."
    )
    status = models.CharField(
        max_length=10, choices=SchedulingHistoryItem.Status, help_text="What became of it."
    )
    may_pass = models.BooleanField(
        default=False, help_text="Whether its error may pass, so that it is tried again."
    )
    error = models.TextField(blank=True, help_text="What went wrong, and what to do next.")
    rows_delivered = models.PositiveBigIntegerField(
        "delivered", default=0, help_text="Rows that it confirmed."
    )
    place = models.TextField(
        blank=True, help_text="Path or URL of the file, the recipients, or topic and offsets."
    )
    recipients = models.JSONField(
        default=dict,
        help_text="For an e-mail, what the server said to each address; empty: it took it.",
    )
    path = models.TextField(blank=True, help_text="Path of the file in the export folder.")
    size_bytes = models.PositiveBigIntegerField(
        "size (bytes)", null=True, help_text="Size of the file, the attachment or the messages."
    )
    sha256 = models.CharField(
        "SHA-256", max_length=64, blank=True, help_text="Of the bytes of the file."
    )
    conversions = models.JSONField(
        default=dict,
        help_text="Values that could not be kept as they were, counted by what became of them.",
    )
    finished_at = models.DateTimeField(help_text="When its outcome was known.")
    deleted_at = models.DateTimeField(
        null=True, help_text="When the file was deleted, or found to be gone."
    )
    deleted_why = models.CharField(
        max_length=100, blank=True, help_text="For example deleted by retention."
    )

    class Meta:
        verbose_name = "destination of a run"
        verbose_name_plural = "destinations of runs"
        ordering = ["pk"]
        indexes = [
            models.Index(
                fields=["path"],
                name="run_destination_files",
                condition=Q(deleted_at__isnull=True) & ~Q(path=""),
            ),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["run", "destination"],
                name="run_destination_once",
                condition=Q(destination__isnull=False),
            ),
            models.UniqueConstraint(
                fields=["run"], name="run_destination_own_once", condition=Q(is_own=True)
            ),
            models.CheckConstraint(
                condition=~Q(status="success") | Q(error=""),
                name="run_destination_success_has_no_error",
            ),
            models.CheckConstraint(
                condition=Q(status__in=["success", "skipped"]) | ~Q(error=""),
                name="run_destination_failure_has_error",
            ),
            models.CheckConstraint(
                condition=Q(status__in=["success", "partial", "fail", "skipped"]),
                name="run_destination_status_known",
            ),
            models.CheckConstraint(
                condition=~Q(path="") | Q(deleted_at__isnull=True),
                name="run_destination_only_a_file_is_deleted",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name}, run {self.run_id}"
