"""Scheduling items: one query on one connection, when it runs, and where its rows go."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils.timezone import now
from timezone_field import TimeZoneField

from queryexport.errors import ConfigurationError, ExportError
from queryexport.filenames import Tokens, file_name, folder_inside
from queryexport.models import DatabaseConnection, Query
from queryexport.parameters import bind, resolve
from scheduling.models.item_constraints import CONSTRAINTS
from scheduling.occurrences import Schedule, classic, five_fields
from scheduling.rules import addresses, rules

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
SCHEDULE_FIELDS = (
    "enabled", "scheduling_mode", "days_of_week", "hour", "minute", "cron_expression", "timezone",
    "end_date",
)  # fmt: skip


# The next slot of a schedule that has none any more.
NEVER = datetime(9999, 12, 31, tzinfo=UTC)


def default_timezone() -> ZoneInfo:
    return ZoneInfo(settings.TIME_ZONE)


class SharingMode(models.TextChoices):
    FILESYSTEM = "filesystem", "File"
    EMAIL = "email", "E-mail"
    KAFKA = "kafka", "Kafka"


class CatchUp(models.TextChoices):
    SKIP = "skip", "None of them"
    LATEST = "latest", "The last of them"
    ALL = "all", "All of them"


class Overlap(models.TextChoices):
    SKIP = "skip", "The new run is skipped"
    QUEUE = "queue", "One new run waits for it"
    ALLOW = "allow", "Both run at once"


class KafkaNullKey(models.TextChoices):
    FAIL = "fail", "The run fails"
    SEND = "null", "It is sent without a key"
    SKIP = "skip", "It is left out and counted"


class KafkaGuarantee(models.TextChoices):
    AT_LEAST_ONCE = "at_least_once", "At least once, with a threshold"
    TRANSACTION = "transaction", "All or nothing, in one transaction"


class SchedulingItem(models.Model):
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

    next_slot = models.DateTimeField(
        null=True,
        editable=False,
        db_index=True,
        help_text="The first slot that has not been dealt with, for example 2026-11-24 08:00:00.",
    )
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
        "further attempt always waits.",
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

    sharing_mode = models.CharField(
        max_length=10,
        choices=SharingMode,
        default=SharingMode.FILESYSTEM,
        help_text="Where the rows go: a file, an e-mail, or a Kafka topic.",
    )
    output_filename_template = models.CharField(
        max_length=200,
        default="{query_name}_{date}.xlsx",
        help_text="Tokens: {query_name}, {date}, {date-1} (any number of days), {timestamp}.",
    )
    output_date_format = models.CharField(
        max_length=40,
        default="%Y-%m-%d",
        help_text="How {date} is written (strftime), for example %Y%m%d.",
    )
    output_offset_days = models.SmallIntegerField(
        default=0,
        validators=[MinValueValidator(-3660), MaxValueValidator(3660)],
        help_text="Days added to {date}, for example -1 for yesterday.",
    )
    output_compress_gz = models.BooleanField(
        "compress (gzip)", default=False, help_text="Adds .gz to the file's name."
    )
    output_dir = models.CharField(
        max_length=300,
        blank=True,
        help_text="Folder inside the export folder, for example partner/daily.",
    )

    email_to = models.CharField(
        max_length=1000,
        blank=True,
        help_text="Addresses separated by |, for example ops@example.com|night@example.com.",
    )
    email_cc = models.CharField(
        max_length=1000, blank=True, help_text="Addresses separated by |, like To."
    )
    email_subject = models.CharField(
        max_length=200,
        default="{query_name} {date}",
        blank=True,
        help_text="Takes the same tokens as the file name, for example Traces of {date-1}.",
    )
    email_body = models.TextField(
        blank=True,
        default="Attached: {query_name}, {date}.",
        help_text="Takes the same tokens, for example Traces of {date-1} are attached.",
    )

    kafka_connection = models.CharField(
        max_length=100,
        default="default",
        blank=True,
        help_text="Name of the Kafka connection, for example default.",
    )
    kafka_topic = models.CharField(
        max_length=249, blank=True, help_text="An existing topic, for example shipments.traces."
    )
    kafka_key_field = models.CharField(
        max_length=100,
        default="id",
        blank=True,
        help_text="Column whose value is the message key, for example codice_spedizione. Several "
        "columns, with commas between them, give a JSON array of their values.",
    )
    kafka_null_key = models.CharField(
        "Kafka NULL key",
        max_length=10,
        choices=KafkaNullKey,
        default=KafkaNullKey.FAIL,
        help_text="What happens to a row whose key is NULL, for example leave it out and count it.",
    )
    kafka_timestamp_field = models.CharField(
        max_length=100,
        blank=True,
        help_text="Column whose date or time becomes the message's, for example data_evento. "
        "Empty: the time of sending.",
    )
    kafka_headers = models.JSONField(
        default=dict,
        blank=True,
        help_text='Headers of every message, for example {"source": "tracking"}. Run, attempt and '
        "slot are added.",
    )
    kafka_decimals_as_numbers = models.BooleanField(
        default=False,
        help_text='Off: decimals are text, "12.50". On: they are numbers, 12.50, which many '
        "readers round.",
    )
    kafka_guarantee = models.CharField(
        max_length=15,
        choices=KafkaGuarantee,
        default=KafkaGuarantee.AT_LEAST_ONCE,
        help_text="At least once: each message counts by itself, and the share below decides. All "
        "or nothing: one transaction of at most 15 minutes; readers with read_committed see the "
        "whole run or none of it.",
    )
    kafka_least_percent = models.DecimalField(
        max_digits=5,
        decimal_places=2,
        default=95,
        validators=[MinValueValidator(0), MaxValueValidator(100)],
        help_text="With less than this share of the messages delivered a run has failed, with all "
        "of them it is a success, between the two it is partial, for example 95.",
    )
    kafka_allow_duplicates = models.BooleanField(
        default=False,
        help_text="On: messages whose fate is unknown are sent again, perhaps a second time.",
    )
    kafka_dead_letter_topic = models.CharField(
        max_length=249,
        blank=True,
        help_text="An existing topic that gets a copy of each message that was not delivered, with "
        "the reason in its headers, for example shipments.traces.dead. Empty: none.",
    )
    kafka_batch_size = models.PositiveIntegerField(
        default=100,
        validators=[MinValueValidator(1), MaxValueValidator(10_000)],
        help_text="Most messages in one request, 1 to 10000, for example 1000.",
    )
    kafka_include_metadata = models.BooleanField(
        default=True,
        help_text="Adds _metadata (query, connection, time, export id) to every message.",
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
    def to(self) -> list[str]:
        return addresses(self.email_to)

    @property
    def cc(self) -> list[str]:
        return addresses(self.email_cc)

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

    def tokens(self, slot: datetime) -> Tokens:
        """What `{date}` and its kind stand for in a run of that slot."""
        local = slot.astimezone(self.timezone)
        return Tokens(
            query_name=self.query.name,
            day=local.date(),
            slot=local,
            date_format=self.output_date_format,
            offset_days=self.output_offset_days,
        )

    def file_name(self, slot: datetime) -> str:
        name = file_name(self.output_filename_template, self.tokens(slot))
        return f"{name}.gz" if self.output_compress_gz else name

    def check_parameters(self, slot: datetime) -> None:
        """Raises `ExportError` when the values do not match the query."""
        mysql = bool(self.connection_id) and self.connection.reads_as_mysql
        bind(self.query.sql, self.bound_parameters(slot), mysql=mysql)

    def topic(self) -> str:
        """The Kafka topic of a run; nothing for another mode."""
        return self.kafka_topic if self.sharing_mode == SharingMode.KAFKA else ""

    def folder(self) -> Path:
        return folder_inside(Path(settings.EXPORT_ROOT), self.output_dir)

    def bound_parameters(self, slot: datetime) -> dict[str, Any]:
        """The values for the query, with relative dates taken from the slot."""
        return resolve(self.parameters, today=slot.astimezone(self.timezone).date())

    def clean(self) -> None:
        self.cron_expression = five_fields(self.cron_expression)
        errors: dict[str, str] = {}
        for field, check in rules(self, now()):
            try:
                check()
            except (ExportError, ValidationError) as error:
                errors[field] = str(error.message)
        if errors:
            raise ValidationError(errors)

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self.name:
            self.name = self._free_name()
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

    def _free_name(self) -> str:
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
