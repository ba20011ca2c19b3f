"""When a schedule was and will be due: crontab(5) in a time zone, the same at every DST change.

cronsim computes it, as Debian's cron does: a schedule with a wildcard in its hours or minutes
follows elapsed time; a fixed time that does not exist runs at the first instant after, one that
exists twice runs once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from queryexport.errors import ConfigurationError

FIELDS = 5


@dataclass(frozen=True)
class Schedule:
    """A cron expression of five fields in a zone, until the end of `end_date` in that zone."""

    expression: str
    zone: ZoneInfo
    end_date: date | None = None

    def after(self, moment: datetime) -> Iterator[datetime]:
        """Every slot later than `moment`, earliest first; endless when there is no end date.

        Slots are aware datetimes in the schedule's zone. Raises `ConfigurationError` for an
        expression that is not one, or that never comes true.
        """
        slots = self._slots(moment, reverse=False)
        return takewhile(self._within, slots) if self.end_date else slots

    def latest(self, moment: datetime) -> datetime | None:
        """The last slot at or before `moment`, or None when there was none before the end date."""
        start = moment
        if self.end_date:
            ended = datetime.combine(self.end_date + timedelta(days=1), datetime.min.time())
            start = min(moment, ended.replace(tzinfo=self.zone) - timedelta(seconds=1))
        # The reverse walk excludes its start, and a slot is a whole minute.
        return next(self._slots(start + timedelta(minutes=1), reverse=True), None)

    def _slots(self, moment: datetime, *, reverse: bool) -> Iterator[datetime]:
        local = moment.astimezone(self.zone).replace(second=0, microsecond=0)
        try:
            return CronSim(self.expression, local, reverse=reverse)
        except CronSimError as error:
            raise ConfigurationError(
                f"“{self.expression}” is no cron expression: {str(error).lower()}. Write minute, "
                "hour, day of month, month and day of week, for example 0 8 * * 1-5."
            ) from error

    def _within(self, slot: datetime) -> bool:
        return self.end_date is None or slot.date() <= self.end_date


def classic(days_of_week: Sequence[int], hour: int, minute: int) -> str:
    """The cron expression for a time on some days of the week, with 0 = Monday … 6 = Sunday."""
    # crontab(5) counts from Sunday, where 7 is Sunday as well.
    days = ",".join(str(day + 1) for day in sorted(set(days_of_week)))
    return f"{minute} {hour} * * {'*' if days == '1,2,3,4,5,6,7' else days}"


def five_fields(expression: str) -> str:
    """The expression with single blanks, and without the seconds field if there are six."""
    fields = expression.split()
    return " ".join(fields[1:] if len(fields) == FIELDS + 1 else fields)


@dataclass(frozen=True)
class Tick:
    """Minutes and hours, in Celery's crontab form, at which a schedule can be due on some day."""

    minute: str
    hour: str


def tick(expression: str) -> Tick:
    """A superset of the schedule that Celery's crontab can express.

    Celery combines day of month and day of week with AND where crontab(5) has OR, and knows neither
    `7` nor `L`; so the tick comes on every day, and the slot decides.
    """
    cron = CronSim(expression, datetime(2000, 1, 1, tzinfo=UTC))
    return Tick(_celery_field(cron.minutes, 60), _celery_field(cron.hours, 24))


def _celery_field(values: set[int], size: int) -> str:
    return "*" if len(values) == size else ",".join(str(value) for value in sorted(values))
