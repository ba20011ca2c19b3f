"""Scheduling items: one query on one connection, when it runs, and where its rows go."""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, validate_email
from django.db import models
from django.db.models import Q
from django.utils.timezone import now
from timezone_field import TimeZoneField

from queryexport.errors import ExportError
from queryexport.filenames import Tokens, file_name, fill, folder_inside
from queryexport.models import DatabaseConnection, Query
from queryexport.parameters import bind, resolve
from scheduling.occurrences import Schedule, classic, five_fields

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
SCHEDULE_FIELDS = (
    "enabled", "scheduling_mode", "days_of_week", "hour", "minute", "cron_expression", "timezone",
    "end_date",
)  # fmt: skip


def default_timezone() -> ZoneInfo:
    return ZoneInfo(settings.TIME_ZONE)


class SharingMode(models.TextChoices):
    FILESYSTEM = "filesystem", "File"
    EMAIL = "email", "E-mail"
    KAFKA = "kafka", "Kafka"


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
        help_text="Column whose value is the message key, for example codice_spedizione.",
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
        constraints = [
            models.CheckConstraint(
                condition=Q(scheduling_mode__in=["classic", "cron"]),
                name="item_scheduling_mode_known",
                violation_error_message="Choose days and time, or a cron expression.",
            ),
            models.CheckConstraint(
                condition=Q(sharing_mode__in=["filesystem", "email", "kafka"]),
                name="item_sharing_mode_known",
                violation_error_message="Choose a file, an e-mail or Kafka.",
            ),
            models.CheckConstraint(
                condition=~Q(scheduling_mode="cron") | ~Q(cron_expression=""),
                name="item_cron_has_expression",
                violation_error_message="Enter a cron expression, for example 0 8 * * *.",
            ),
            models.CheckConstraint(
                condition=~Q(scheduling_mode="classic") | ~Q(days_of_week=[]),
                name="item_classic_has_days",
                violation_error_message="Choose at least one day of the week.",
            ),
            models.CheckConstraint(
                condition=Q(hour__lte=23) & Q(minute__lte=59),
                name="item_time_of_day",
                violation_error_message="The time is between 0:00 and 23:59.",
            ),
            models.CheckConstraint(
                condition=~Q(output_filename_template="") & ~Q(output_date_format=""),
                name="item_file_has_name",
                violation_error_message="Enter a file name and a date format.",
            ),
            models.CheckConstraint(
                condition=Q(output_offset_days__range=(-3660, 3660)),
                name="item_offset_range",
                violation_error_message="The offset is at most ten years either way.",
            ),
            models.CheckConstraint(
                condition=~Q(sharing_mode="email") | ~Q(email_to=""),
                name="item_email_has_recipient",
                violation_error_message="Enter at least one address in “email to”.",
            ),
            models.CheckConstraint(
                condition=~Q(sharing_mode="kafka")
                | ~Q(kafka_topic="") & ~Q(kafka_key_field="") & ~Q(kafka_connection=""),
                name="item_kafka_has_topic_key_connection",
                violation_error_message="Kafka needs a topic, a key field and a connection.",
            ),
            models.CheckConstraint(
                condition=Q(kafka_batch_size__range=(1, 10_000)),
                name="item_kafka_batch_size_range",
                violation_error_message="The Kafka batch size is between 1 and 10000.",
            ),
        ]

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

    def folder(self) -> Path:
        return folder_inside(Path(settings.EXPORT_ROOT), self.output_dir)

    def bound_parameters(self, slot: datetime) -> dict[str, Any]:
        """The values for the query, with relative dates taken from the slot."""
        return resolve(self.parameters, today=slot.astimezone(self.timezone).date())

    def clean(self) -> None:
        self.cron_expression = five_fields(self.cron_expression)
        errors: dict[str, str] = {}
        for field, check in self._rules():
            try:
                check()
            except (ExportError, ValidationError) as error:
                errors[field] = str(error.message)
        if errors:
            raise ValidationError(errors)

    def _rules(self) -> Sequence[tuple[str, Callable[[], object]]]:
        """What has to work, each rule with the field that shows it when it doesn't."""
        moment = now()
        rules: list[tuple[str, Callable[[], object]]] = [
            ("parameters", partial(check_object, self.parameters)),
            ("output_filename_template", lambda: self.file_name(moment)),
            ("output_dir", self.folder),
            ("email_subject", lambda: fill(one_line(self.email_subject), self.tokens(moment))),
            ("email_body", lambda: fill(self.email_body, self.tokens(moment))),
            ("email_to", partial(check_addresses, self.to)),
            ("email_cc", partial(check_addresses, self.cc)),
        ]
        if self.scheduling_mode == self.Mode.CLASSIC:
            rules.append(("days_of_week", partial(check_days, self.days_of_week)))
        elif self.cron_expression:
            rules.append(("cron_expression", lambda: next(self.schedule.after(moment), None)))
        if not self.query_id:
            return rules[:1]  # Names and parameters need the query, whose absence is said already.
        if isinstance(self.parameters, dict):
            rules.append(("parameters", lambda: self._bind(moment)))
        return rules

    def _bind(self, moment: datetime) -> None:
        """Raises `ConfigurationError` when the parameters do not match the query."""
        mysql = bool(self.connection_id) and self.connection.reads_as_mysql
        bind(self.query.sql, self.bound_parameters(moment), mysql=mysql)

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self.name:
            self.name = self._free_name()
        if self._schedule_changed():
            self.schedule_changed_at = now()
            if kwargs.get("update_fields") is not None:
                kwargs["update_fields"] = {*kwargs["update_fields"], "schedule_changed_at"}
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


def addresses(text: str) -> list[str]:
    """The addresses between the vertical bars."""
    return [address.strip() for address in text.split("|") if address.strip()]


def check_addresses(found: Sequence[str]) -> None:
    for address in found:
        try:
            validate_email(address)
        except ValidationError as error:
            raise ValidationError(
                f"“{address}” is not a valid email address. Separate addresses with |."
            ) from error


def one_line(text: str) -> str:
    """Raises `ValidationError` for text that would start a further mail header."""
    if "\n" in text or "\r" in text:
        raise ValidationError("The subject must be one line.")
    return text


def check_object(value: Any) -> None:
    if not isinstance(value, dict):
        raise ValidationError('Enter an object with names and values, for example {"day": "…"}.')


def check_days(days: Any) -> None:
    known = range(len(WEEKDAYS))
    if not isinstance(days, list) or not all(type(day) is int and day in known for day in days):
        raise ValidationError("Days are numbers from 0 (Monday) to 6 (Sunday).")
