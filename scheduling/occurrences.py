"""When a schedule was and will be due: crontab(5) in a time zone, the same at every DST change.

cronsim walks the wall clock, which knows no zone; here its times become instants, as in Debian's
cron(8). A schedule whose minute or hour begins with a wildcard follows elapsed time: it takes what
the clock shows, not what is skipped, and twice what is shown twice. Any other has fixed times: one
that is skipped runs at the first instant after, one that exists twice runs at the first of the two.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import dropwhile, takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from queryexport.errors import ConfigurationError

FIELDS = 5
MINUTE = timedelta(minutes=1)
NOTHING = timedelta()


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
        later = dropwhile(lambda slot: slot.astimezone(UTC) <= moment, slots)
        return takewhile(self._within, later) if self.end_date else later

    def latest(self, moment: datetime) -> datetime | None:
        """The last slot at or before `moment`, or None when there was none before the end date."""
        start = moment.astimezone(UTC)
        if self.end_date:
            ended = datetime.combine(self.end_date + timedelta(days=1), datetime.min.time())
            start = min(start, ended.replace(tzinfo=self.zone).astimezone(UTC) - MINUTE)
        slots = self._slots(start, reverse=True)
        return next(dropwhile(lambda slot: slot.astimezone(UTC) > start, slots), None)

    def _slots(self, moment: datetime, *, reverse: bool) -> Iterator[datetime]:
        """Slots in the order of time or against it; the first few may be on the wrong side."""
        wall = self._wall_times(moment, reverse=reverse)
        if _follows_elapsed_time(self.expression):
            return self._each_as_shown(wall, reverse=reverse)
        return self._each_once(wall)

    def _wall_times(self, moment: datetime, *, reverse: bool) -> Iterator[datetime]:
        """Naive times that match, from the start of a repeated hour if the moment is in one."""
        local = moment.astimezone(UTC).astimezone(self.zone).replace(second=0, microsecond=0)
        margin = _set_back(local)
        start = local + (margin + MINUTE if reverse else -margin)
        try:
            return CronSim(self.expression, start.replace(tzinfo=None), reverse=reverse)
        except CronSimError as error:
            raise ConfigurationError(
                f"“{self.expression}” is no cron expression: {str(error).lower()}. Write minute, "
                "hour, day of month, month and day of week, for example 0 8 * * 1-5."
            ) from error

    def _each_as_shown(self, walls: Iterator[datetime], *, reverse: bool) -> Iterator[datetime]:
        """No slot for a skipped time, two for a repeated one."""
        held: list[datetime] = []  # The hour's other turn, which comes when this one is over.
        for wall in walls:
            slot = wall.replace(tzinfo=self.zone)
            repeated = _set_back(slot)
            if held and abs(slot - held[0]) >= repeated:
                yield from held
                held = []
            if repeated > NOTHING:
                held.append(slot.replace(fold=int(not reverse)))
                slot = slot.replace(fold=int(reverse))
            if repeated >= NOTHING:
                yield slot
        yield from held

    def _each_once(self, walls: Iterator[datetime]) -> Iterator[datetime]:
        """The first turn of a repeated time; for skipped times the first instant after, once."""
        before = None
        for wall in walls:
            slot = wall.replace(tzinfo=self.zone)
            while _set_back(slot) < NOTHING:
                slot += MINUTE
            if slot != before:
                yield slot
            before = slot

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


def _follows_elapsed_time(expression: str) -> bool:
    """Whether minute or hour begins with a wildcard, as Debian's cron tells the two kinds apart."""
    minute, hour = expression.split()[-FIELDS:][:2]
    return minute.startswith("*") or hour.startswith("*")


def _set_back(local: datetime) -> timedelta:
    """How far the clock goes back if it shows this time twice; negative if it skips it; else 0."""
    first, second = local.replace(fold=0), local.replace(fold=1)
    return second.astimezone(UTC) - first.astimezone(UTC)
