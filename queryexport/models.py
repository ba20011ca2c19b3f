"""What operators keep: the database connections, and the queries that run on them."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from timezone_field import TimeZoneField

from queryexport.encryption import EncryptedTextField
from queryexport.engines import DIALECTS, ConnectionSettings, check_options
from queryexport.errors import ConfigurationError, QueryError
from queryexport.parameters import check_single, find_parameters

LONGEST_TIMEOUT_SEC = 24 * 60 * 60


def as_utc(moment: datetime) -> datetime:
    """Python compares and subtracts times of one zone by the wall clock, which clock changes
    make wrong; in UTC it does not.
    """
    return moment.astimezone(UTC)


def are_weekdays(days: object) -> bool:
    """Whether it is a list of numbers from 0 (Monday) to 6 (Sunday)."""
    return isinstance(days, list) and all(type(day) is int and day in range(7) for day in days)


def every_day() -> list[int]:
    return list(range(7))


def default_timezone() -> ZoneInfo:
    return ZoneInfo(settings.TIME_ZONE)


class DatabaseConnection(models.Model):
    """A database that queries read from, always read-only."""

    class Engine(models.TextChoices):
        POSTGRESQL = "postgresql", "PostgreSQL"
        MYSQL = "mysql", "MySQL or MariaDB"
        ORACLE = "oracle", "Oracle"
        MSSQL = "mssql", "SQL Server"
        SQLITE = "sqlite", "SQLite"
        DUCKDB = "duckdb", "DuckDB"

    FILE_ENGINES = (Engine.SQLITE, Engine.DUCKDB)

    name = models.CharField(
        max_length=100,
        unique=True,
        help_text="Short name that history and messages show, for example cdg_prod.",
    )
    environment = models.CharField(
        max_length=40,
        blank=True,
        help_text="Label shown beside the name, for example production or test.",
    )
    engine = models.CharField(max_length=20, choices=Engine, help_text="For example PostgreSQL.")
    host = models.CharField(
        max_length=255,
        blank=True,
        help_text="Host name or address, for example db1.example.com. Empty for a file.",
    )
    port = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(65535)],
        help_text="For example 5432. Empty for the engine's usual port.",
    )
    database = models.CharField(
        max_length=500,
        help_text="Database name, Oracle service name, or the path of a SQLite or DuckDB file.",
    )
    username = models.CharField(
        max_length=100,
        blank=True,
        help_text="An account that may only read, for example export_reader.",
    )
    password = EncryptedTextField(
        blank=True,
        default="",
        help_text="The password, or ${ENV_VAR} to take it from the worker's environment.",
    )
    options = models.JSONField(
        default=dict,
        blank=True,
        help_text='Driver options from a fixed list, for example {"sslmode": "verify-full"}.',
    )
    connect_timeout_sec = models.PositiveIntegerField(
        "connect timeout (s)",
        default=10,
        validators=[MinValueValidator(1), MaxValueValidator(300)],
        help_text="Seconds to wait for a connection, for example 10.",
    )
    statement_timeout_sec = models.PositiveIntegerField(
        "statement timeout (s)",
        default=300,
        validators=[MinValueValidator(1), MaxValueValidator(LONGEST_TIMEOUT_SEC)],
        help_text="Seconds of database time after which a query is stopped, for example 300.",
    )
    most_runs = models.PositiveSmallIntegerField(
        "most runs at once",
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(1000)],
        help_text="How many runs may read from it at once, for example 2; others wait. Empty: any "
        "number.",
    )
    description = models.TextField(
        blank=True, help_text="What is in it and whom to call, for example Tracking, DBA team 2."
    )

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                condition=Q(
                    engine__in=["postgresql", "mysql", "oracle", "mssql", "sqlite", "duckdb"]
                ),
                name="database_connection_engine_known",
                violation_error_message="Choose one of the listed engines.",
            ),
            models.CheckConstraint(
                condition=Q(engine__in=["sqlite", "duckdb"]) | ~Q(host=""),
                name="database_connection_server_has_host",
                violation_error_message="Enter the host of the database server.",
            ),
            models.CheckConstraint(
                condition=~Q(database=""),
                name="database_connection_has_database",
                violation_error_message="Enter the database, service name or file path.",
            ),
            models.CheckConstraint(
                condition=Q(port__isnull=True) | Q(port__range=(1, 65535)),
                name="database_connection_port_range",
                violation_error_message="A port is between 1 and 65535.",
            ),
            models.CheckConstraint(
                condition=Q(connect_timeout_sec__range=(1, 300)),
                name="database_connection_connect_timeout_range",
                violation_error_message="The connect timeout is between 1 and 300 seconds.",
            ),
            models.CheckConstraint(
                condition=Q(statement_timeout_sec__range=(1, LONGEST_TIMEOUT_SEC)),
                name="database_connection_statement_timeout_range",
                violation_error_message="The statement timeout is between 1 second and 24 hours.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.environment})" if self.environment else self.name

    def clean(self) -> None:
        if not isinstance(self.options, dict):
            raise ValidationError(
                {"options": 'Enter an object, for example {"sslmode": "require"}.'}
            )
        try:
            if self.engine in self.Engine.values:
                check_options(self.engine, self.options)
        except ConfigurationError as error:
            raise ValidationError({"options": error.message}) from error

    def blackout_end(self, moment: datetime) -> datetime | None:
        """When the black-out ends that covers the moment; None when there is none.

        Windows that overlap or touch are one black-out, of at most a week.
        """
        windows, end = list(self.blackouts.all()), moment
        while end - moment < timedelta(weeks=1):
            ends = [found for window in windows if (found := window.end_after(end))]
            if not ends:
                break
            end = max(ends)
        return end if end > moment else None

    @property
    def reads_as_mysql(self) -> bool:
        """Whether literals and comments in its SQL are MySQL's."""
        return self.engine in DIALECTS and DIALECTS[self.engine].reads_as_mysql

    def settings(self) -> ConnectionSettings:
        """What a worker needs to connect, with `${ENV_VAR}` references resolved.

        Raises `ConfigurationError` when a variable is not set or the secret cannot be decrypted.
        """
        return ConnectionSettings(
            name=self.name,
            engine=self.engine,
            host=self.host,
            port=self.port,
            database=self.database,
            username=self.username,
            password=self.password.reveal(),
            options=self.options,
            connect_timeout_sec=self.connect_timeout_sec,
            statement_timeout_sec=self.statement_timeout_sec,
        )


class BlackoutWindow(models.Model):
    """A time of day in which no run may begin to read from a connection."""

    connection = models.ForeignKey(
        DatabaseConnection, on_delete=models.CASCADE, related_name="blackouts"
    )
    days_of_week = models.JSONField(
        default=every_day,
        help_text="Days on which it begins: 0 = Monday … 6 = Sunday, for example [0, 1, 2, 3, 4].",
    )
    start = models.TimeField("from", help_text="For example 22:00.")
    end = models.TimeField("to", help_text="For example 05:30; on the next day if not later.")
    timezone = TimeZoneField(
        default=default_timezone, help_text="The zone of both times, for example Europe/Rome."
    )

    class Meta:
        verbose_name = "black-out window"
        ordering = ["connection", "start"]

    def __str__(self) -> str:
        return f"{self.start:%H:%M}–{self.end:%H:%M} {self.timezone}"

    def clean(self) -> None:
        if not self.days_of_week or not are_weekdays(self.days_of_week):
            raise ValidationError(
                {"days_of_week": "Enter days from 0 (Monday) to 6 (Sunday), for example [5, 6]."}
            )

    def end_after(self, moment: datetime) -> datetime | None:
        """When the window ends that covers the moment; None when it does not.

        The end itself is outside. Both times are those of a clock on the wall in its zone.
        """
        today = moment.astimezone(self.timezone).date()
        for day in (today - timedelta(days=1), today):
            begins = datetime.combine(day, self.start, self.timezone)
            last_day = day + timedelta(days=self.end <= self.start)
            ends = datetime.combine(last_day, self.end, self.timezone)
            if day.weekday() in self.days_of_week and as_utc(begins) <= moment < as_utc(ends):
                return as_utc(ends)
        return None


class WorkbookTemplate(models.Model):
    """An operator's own workbook, with logo and styles, that runs fill from a named cell.

    It is kept in the database, so that every worker has the same.
    """

    name = models.CharField(
        max_length=100, unique=True, help_text="For example Monthly report to the partner."
    )
    content = models.BinaryField(help_text="The bytes of the .xlsx file.")
    file_name = models.CharField(
        max_length=200, blank=True, help_text="What the file was called, for example report.xlsx."
    )
    start_name = models.CharField(
        "start",
        max_length=100,
        default="data",
        help_text="The name of the cell where the rows begin, as Excel's name box shows it, for "
        "example data.",
    )
    with_header = models.BooleanField(
        "column names",
        default=True,
        help_text="Writes the names of the columns into the row of that cell, and the rows below.",
    )
    sha256 = models.CharField("SHA-256", max_length=64, blank=True, help_text="Of its bytes.")
    uploaded_at = models.DateTimeField(auto_now=True, help_text="When it was last changed.")

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Query(models.Model):
    """One SELECT, with `:name` parameters that are always bound, never pasted."""

    name = models.CharField(
        max_length=200,
        unique=True,
        help_text="For example CDG-KAFKA-001--TracceGiornaliere.sql.",
    )
    sql = models.TextField(
        "SQL",
        help_text="One statement that returns rows. Write parameters as :name, for example "
        "WHERE event_date = :day; each scheduling item gives their values.",
    )
    description = models.TextField(
        blank=True, help_text="What it is for, for example Traces of one day for the partner."
    )
    default_connection = models.ForeignKey(
        DatabaseConnection,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="queries",
        help_text="Offered when a scheduling item is made for this query, for example cdg_prod.",
    )

    class Meta:
        ordering = ["name"]
        verbose_name_plural = "queries"
        constraints = [
            models.CheckConstraint(
                condition=~Q(sql=""),
                name="query_has_sql",
                violation_error_message="Enter the SQL of the query.",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        try:
            check_single(self.sql, mysql=self._reads_as_mysql)
        except QueryError as error:
            raise ValidationError({"sql": error.message}) from error

    @property
    def _reads_as_mysql(self) -> bool:
        connection = self.default_connection
        return connection is not None and connection.reads_as_mysql

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of its `:name` parameters."""
        return find_parameters(self.sql, mysql=self._reads_as_mysql)
