"""How an item's runs behave: late slots, overlaps, attempts, limits."""

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models


class CatchUp(models.TextChoices):
    SKIP = "skip", "None of them"
    LATEST = "latest", "The last of them"
    ALL = "all", "All of them"


class Overlap(models.TextChoices):
    SKIP = "skip", "The new run is skipped"
    QUEUE = "queue", "One new run waits for it"
    ALLOW = "allow", "Both run at once"


class WorkQueue(models.TextChoices):
    SHORT = "short", "Short"
    LONG = "long", "Long"


class RunPolicy(models.Model):
    """The fields of an item that say when its runs wait, are tried again, or are stopped."""

    catch_up = models.CharField(
        "catch up",
        max_length=10,
        choices=CatchUp,
        default=CatchUp.LATEST,
        help_text="Which slots run late when beat, the broker or the workers were away at their "
        "time. The others are missed, and have a row that says so.",
    )
    catch_up_minutes = models.PositiveSmallIntegerField(
        "catch up (minutes)",
        default=60,
        validators=[MaxValueValidator(10_080)],
        help_text="How late a slot may start, in minutes, for example 60; at most a week.",
    )
    overlap = models.CharField(
        max_length=10,
        choices=Overlap,
        default=Overlap.SKIP,
        help_text="What happens when a run is due while one of the same item is going on. A "
        "further attempt and a backfill always wait.",
    )
    most_attempts = models.PositiveSmallIntegerField(
        default=3,
        validators=[MinValueValidator(1), MaxValueValidator(20)],
        help_text="How often a slot is tried in all, when the error may pass by itself, for "
        "example 3. Wrong SQL and wrong passwords are not tried again.",
    )
    retry_delay_minutes = models.PositiveSmallIntegerField(
        "retry delay (minutes)",
        default=30,
        validators=[MaxValueValidator(1440)],
        help_text="Minutes from a failed attempt to the next, for example 30.",
    )
    work_queue = models.CharField(
        max_length=10,
        choices=WorkQueue,
        default=WorkQueue.SHORT,
        help_text="Which workers run it. Long, for runs of many minutes, so that the short ones of "
        "other items need not wait for them.",
    )
    no_progress_minutes = models.PositiveSmallIntegerField(
        "no-progress limit (minutes)",
        default=60,
        validators=[MinValueValidator(1), MaxValueValidator(1440)],
        help_text="A run in which no row was read or delivered for so long is stopped, for example "
        "60. The time that the query takes to begin counts.",
    )
    time_limit_minutes = models.PositiveSmallIntegerField(
        "time limit (minutes)",
        default=360,
        validators=[MinValueValidator(1), MaxValueValidator(1440)],
        help_text="A run that takes longer in all is stopped, for example 360; at most a day.",
    )

    class Meta:
        abstract = True
