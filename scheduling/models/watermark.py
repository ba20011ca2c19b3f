"""How far each item has come: every change of its watermark, of which the latest counts."""

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.timezone import now

from scheduling.models.history import SchedulingHistoryItem
from scheduling.models.item import SchedulingItem


class WatermarkChange(models.Model):
    """One change of an item's watermark. Rows are only ever added; the latest is the watermark."""

    item = models.ForeignKey(
        SchedulingItem,
        on_delete=models.CASCADE,
        related_name="watermark_changes",
        help_text="The item whose watermark it is.",
    )
    value = models.CharField(
        max_length=200,
        blank=True,
        help_text="Rows up to this value are delivered, for example 2026-11-23T08:00:00+01:00 or "
        "120. Empty: none is set, and the item does not run.",
    )
    changed_at = models.DateTimeField(default=now, help_text="When it was changed.")
    run = models.ForeignKey(
        SchedulingHistoryItem,
        on_delete=models.SET_NULL,
        null=True,
        related_name="watermark_changes",
        help_text="The run whose delivery moved it; empty when a person did.",
    )
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        related_name="+",
        help_text="The person who set it.",
    )
    reason = models.CharField(
        max_length=300, blank=True, help_text="Why, for example Partner lost the files of Monday."
    )

    class Meta:
        ordering = ["-pk"]
        permissions = [("set_watermark", "Can set the watermark of an item")]
        constraints = [
            models.CheckConstraint(
                condition=Q(run__isnull=True) | Q(user__isnull=True),
                name="watermark_moved_by_a_run_or_a_person",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.item}: {self.value or 'none'}"
