"""Scheduling items: one query on one connection, when it runs, and where its rows go."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from django.core.validators import MaxValueValidator
from django.db import models
from django.utils.timezone import now
from timezone_field import TimeZoneField

from queryexport.errors import ConfigurationError
from queryexport.models import DatabaseConnection, Query, default_timezone
from queryexport.parameters import bind, resolve
from scheduling.models.item_constraints import CONSTRAINTS
from scheduling.models.item_policy import RunPolicy
from scheduling.models.output import Output
from scheduling.occurrences import Schedule, classic, five_fields
from scheduling.rules import WATERMARK_NAMES, check, rules, watermark_fault

SCHEDULE_FIELDS = (
    "enabled", "scheduling_mode", "days_of_week", "hour", "minute", "cron_expression", "timezone",
    "end_date",
)  # fmt: skip


# The next slot of a schedule that has none any more.
NEVER = datetime(9999, 12, 31, tzinfo=UTC)


class WatermarkKind(models.TextChoices):
    TIME = "time", "A time or a date"
    NUMBER = "number", "A number"
    TEXT = "text", "A time as text, for example 2026-11-23 08:00:00"


class SchedulingItem(RunPolicy, Output):
    """One query on one connection, when it runs, and where its rows go."""

    class Mode(models.TextChoices):
        CLASSIC = "classic", "Days and time"
        CRON = "cron", "Cron expression"

    name = models.CharField(
        max_length=200,
        unique=True,
        blank=True,
        help_text="For example Daily traces to the partner. Empty: made from query and mode.",
    )
    query = models.ForeignKey(
        Query,
        on_delete=models.PROTECT,
        related_name="items",
        help_text="The query whose rows leave, for example CDG-KAFKA-001--TracceGiornaliere.sql.",
    )
    connection = models.ForeignKey(
        DatabaseConnection,
        on_delete=models.PROTECT,
        related_name="items",
        help_text="The database that the query runs on, for example cdg_prod.",
    )
    enabled = models.BooleanField(
        default=True, help_text="Only enabled items run by themselves; Run now works for all."
    )
    description = models.TextField(
        blank=True, help_text="Who needs it and what for, for example Asked for by Operations."
    )

    scheduling_mode = models.CharField(
        max_length=10,
        choices=Mode,
        default=Mode.CLASSIC,
        help_text="Days and time, or a cron expression.",
    )
    days_of_week = models.JSONField(
        default=list,
        blank=True,
        help_text="Days on which it runs: 0 = Monday … 6 = Sunday, for example [0, 1, 2, 3, 4].",
    )
    hour = models.PositiveSmallIntegerField(
        default=8, validators=[MaxValueValidator(23)], help_text="0 to 23, for example 8."
    )
    minute = models.PositiveSmallIntegerField(
        default=0, validators=[MaxValueValidator(59)], help_text="0 to 59, for example 30."
    )
    cron_expression = models.CharField(
        max_length=100,
        blank=True,
        help_text="Minute, hour, day of month, month, day of week: 0 8 * * 1-5 is 08:00 from "
        "Monday to Friday. A sixth field in front (seconds) is dropped.",
    )
    timezone = TimeZoneField(
        default=default_timezone,
        help_text="The zone of the schedule and of the dates in names, for example Europe/Rome.",
    )
    end_date = models.DateField(
        null=True, blank=True, help_text="Last day on which it runs, for example 2027-12-31."
    )
    schedule_changed_at = models.DateTimeField(
        default=now,
        editable=False,
        help_text="Slots before this moment are never due, for example 2026-11-23 08:00:00.",
    )

    parameters = models.JSONField(
        default=dict,
        blank=True,
        help_text='A value for each :name of the query, for example {"day": "{today-1}", '
        '"states": ["NEW", "SENT"]}. {today} is the day of the slot in the item\'s zone.',
    )

    watermark_column = models.CharField(
        max_length=100,
        blank=True,
        help_text="Column of the query by which each run sends only what is new, for example "
        "updated_at. The query then says WHERE updated_at > :watermark_from AND updated_at <= "
        ":watermark_to. Empty: every run sends all that the query gives.",
    )
    watermark_kind = models.CharField(
        max_length=10,
        choices=WatermarkKind,
        default=WatermarkKind.TIME,
        help_text="What the column holds, for example a time.",
    )
    watermark_lag_sec = models.PositiveIntegerField(
        "watermark lag (s)",
        default=0,
        validators=[MaxValueValidator(604_800)],
        help_text="Rows younger than so many seconds are left to the next run, because older ones "
        "may still be committed after them, for example 60. For times only.",
    )

    next_slot = models.DateTimeField(
        null=True,
        editable=False,
        db_index=True,
        help_text="The first slot that has not been dealt with, for example 2026-11-24 08:00:00.",
    )

    class Meta:
        ordering = ["name"]
        permissions = [("run_schedulingitem", "Can run a scheduling item now")]
        constraints = CONSTRAINTS

    def __str__(self) -> str:
        return self.name

    @property
    def schedule(self) -> Schedule:
        """When it is due; raises `ConfigurationError` on use if the expression is no cron."""
        if self.scheduling_mode == self.Mode.CLASSIC:
            expression = classic(self.days_of_week, self.hour, self.minute)
        else:
            expression = self.cron_expression
        return Schedule(expression, self.timezone, self.end_date)

    @property
    def source(self) -> "SchedulingItem":
        return self

    @property
    def label(self) -> str:
        return self.get_sharing_mode_display()

    @property
    def outputs(self) -> list[Output]:
        """Itself, and its further destinations that are enabled."""
        return [self, *self.destinations.filter(enabled=True)]

    def first_slot_after(self, moment: datetime) -> datetime:
        """`NEVER` when there is none, or the schedule is not one."""
        try:
            return next(iter(self.stored_schedule().after(moment)), NEVER)
        except (ConfigurationError, OverflowError):
            return NEVER

    def stored_schedule(self) -> Schedule:
        """The schedule as it reads after saving: an unsaved instance may hold text."""
        fields = {field.name: field for field in self._meta.concrete_fields}
        zone = fields["timezone"].to_python(self.timezone)
        end_date = fields["end_date"].to_python(self.end_date)
        return replace(self.schedule, zone=zone, end_date=end_date)

    def check_parameters(self, slot: datetime, given: Mapping[str, Any] | None = None) -> None:
        """Raises `ExportError` when the values, or those `given` instead, do not fit the query."""
        if fault := watermark_fault(self):
            raise ConfigurationError(fault)
        values = self.bound_parameters(slot, given)
        if self.watermark_column:
            values |= dict.fromkeys(WATERMARK_NAMES)
        mysql = bool(self.connection_id) and self.connection.reads_as_mysql
        bind(self.query.sql, values, mysql=mysql)

    def bound_parameters(
        self, slot: datetime, given: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The item's values for the query, or those `given`, with relative dates of the slot."""
        values = self.parameters if given is None else given
        return resolve(values, today=slot.astimezone(self.timezone).date())

    def clean(self) -> None:
        self.cron_expression = five_fields(self.cron_expression)
        check(rules(self, now()))

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self.name:
            self.name = self.free_name()
        changed = self._schedule_changed()
        if changed:
            self.schedule_changed_at = now()
        if changed or self._state.adding:
            self.next_slot = self.first_slot_after(self.schedule_changed_at)
        if changed and kwargs.get("update_fields") is not None:
            kwargs["update_fields"] = {
                *kwargs["update_fields"], "schedule_changed_at", "next_slot"
            }  # fmt: skip
        super().save(*args, **kwargs)

    def free_name(self) -> str:
        base = f"{self.query.name} ({self.get_sharing_mode_display()})"
        taken = set(
            SchedulingItem.objects.filter(name__startswith=base).values_list("name", flat=True)
        )
        names = [base, *(f"{base} {number}" for number in range(2, len(taken) + 2))]
        return next(name for name in names if name not in taken)

    def _schedule_changed(self) -> bool:
        """Whether the stored schedule differs, so that old slots of the new one never run."""
        stored = SchedulingItem.objects.filter(pk=self.pk).values(*SCHEDULE_FIELDS).first()
        fields = [field for field in self._meta.concrete_fields if field.name in SCHEDULE_FIELDS]
        return stored is not None and stored != {
            field.name: field.to_python(getattr(self, field.name)) for field in fields
        }
