"""A second opinion on when cron is due: Debian's crontab(5) and cron(8), minute by minute.

It is written from the two manuals alone, and shares no code with what it judges. From crontab(5):

- A field is `*`, a number, a range `a-b`, a list of those, each with a step `/n` after `*` or a
  range. Months and days of the week have names. Sunday is 0 and 7.
- When day of month and day of week are both restricted (neither starts with `*`), a day matches if
  either does; otherwise both must.

From cron(8), “Notes”: only jobs “that run at a particular time”, with no `*` in the hour or minute
field, get special care when the clock changes by a few hours. So the border is the field's first
character, as in Debian's `entry.c` (`MIN_STAR`, `HR_STAR`):

- **Wildcard**: minute or hour starts with `*` (`*/5 * * * *`, `15 * * * *`, `*/10 2 * * *`,
  `0 */2 * * *`). Each minute that the clock shows is matched as it comes: what is skipped never
  comes, what is shown twice comes twice. This follows elapsed time.
- **Fixed**: every other, also when it comes often (`0 0-23 * * *`, `0-59/5 8-18 * * *`). A minute
  that is skipped comes at the first instant after; several skipped minutes, and one that is due at
  that instant anyway, are one slot. A minute that is shown twice comes at the first of the two.

Two things are the product's and not the manuals': changes of any size count as changes of the
clock, and `L` as day of month is its last day.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

YEAR = 2026
START = datetime(YEAR, 1, 1, tzinfo=UTC)
STOP = datetime(YEAR + 1, 1, 1, tzinfo=UTC)
DAY = 24 * 60
MINUTES = (STOP - START).days * DAY
MARGIN = 2  # Days of wall clock before and after the year, for zones that are ahead or behind.
GRAIN = 15  # Every change of the year falls on a quarter of an hour of UTC.

MONTHS = ["-", "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
WEEKDAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]


def numbers(field: str, low: int, high: int, names: Sequence[str] = ()) -> set[int]:
    """The numbers that a field stands for."""
    found: set[int] = set()
    for part in field.upper().split(","):
        span, _, step = part.partition("/")
        first, _, last = (f"{low}-{high}" if span == "*" else span).partition("-")
        found.update(
            range(_number(first, names), _number(last or first, names) + 1, int(step or 1))
        )
    return found


def _number(text: str, names: Sequence[str]) -> int:
    return names.index(text) if text in names else int(text)


def is_wildcard(expression: str) -> bool:
    """Whether the schedule takes each minute as it comes; otherwise it is for fixed times."""
    minute, hour, *_ = expression.split()
    return minute.startswith("*") or hour.startswith("*")


def matches_day(expression: str, day: date) -> bool:
    """Whether the last three fields match a date."""
    _, _, days, months, weekdays = expression.split()
    by_date = _matches_date(days, day)
    by_weekday = _matches_weekday(weekdays, day)
    if day.month not in numbers(months, 1, 12, MONTHS):
        return False
    if days.startswith("*") or weekdays.startswith("*"):
        return by_date and by_weekday
    return by_date or by_weekday


def _matches_weekday(weekdays: str, day: date) -> bool:
    return not numbers(weekdays, 0, 7, WEEKDAYS).isdisjoint(
        {day.isoweekday(), day.isoweekday() % 7}
    )


def _matches_date(days: str, day: date) -> bool:
    if days == "L":
        return (day + timedelta(days=1)).day == 1
    return day.day in numbers(days, 1, 31)


def matches_time(expression: str, minute_of_day: int) -> bool:
    """Whether the first two fields match a minute of the day, 0 to 1439."""
    minute, hour, *_ = expression.split()
    hours, minutes = divmod(minute_of_day, 60)
    return minutes in numbers(minute, 0, 59) and hours in numbers(hour, 0, 23)


def matches(expression: str, wall: datetime) -> bool:
    """Whether all five fields match what a clock shows."""
    return matches_time(expression, wall.hour * 60 + wall.minute) and matches_day(
        expression, wall.date()
    )


@cache
def wall_minutes(expression: str) -> bytes:
    """One byte for each minute of the calendar, the margin included: 1 where all fields match."""
    due = bytes(matches_time(expression, minute) for minute in range(DAY))
    first = START.date() - timedelta(days=MARGIN)
    days = (first + timedelta(days=n) for n in range(MINUTES // DAY + 2 * MARGIN))
    return b"".join(due if matches_day(expression, day) else bytes(DAY) for day in days)


@cache
def stretches(zone: ZoneInfo) -> list[tuple[int, int, int]]:
    """The year in pieces of one UTC offset: first minute, minute after the last, offset."""
    begins = [0, *changes(zone)]
    ends = [*begins[1:], MINUTES]
    return [(begin, end, offset(zone, begin)) for begin, end in zip(begins, ends, strict=True)]


@cache
def changes(zone: ZoneInfo) -> list[int]:
    """The minutes of the year at which the zone's offset becomes another."""
    minutes = range(0, MINUTES, GRAIN)
    offsets = [offset(zone, minute) for minute in minutes]
    return [minutes[n] for n in range(1, len(minutes)) if offsets[n] != offsets[n - 1]]


def offset(zone: ZoneInfo, minute: int) -> int:
    """Minutes that the zone is ahead of UTC at a minute of the year."""
    ahead = (START + timedelta(minutes=minute)).astimezone(zone).utcoffset()
    assert ahead is not None
    return int(ahead.total_seconds()) // 60


def expected(expression: str, zone: ZoneInfo) -> bytes:
    """One byte for each minute of the year in UTC: 1 where the schedule is due."""
    wall = wall_minutes(expression)
    slots = bytearray()
    for begin, end, ahead in stretches(zone):
        slots += wall[begin + ahead + MARGIN * DAY : end + ahead + MARGIN * DAY]
    if not is_wildcard(expression):
        _settle_fixed_times(slots, wall, zone)
    return bytes(slots)


def _settle_fixed_times(slots: bytearray, wall: bytes, zone: ZoneInfo) -> None:
    """Bring what was skipped to the first instant after, and drop the second of what came twice."""
    for (_, _, before), (change, _, after) in pairwise(stretches(zone)):
        shown = change + MARGIN * DAY
        if any(wall[shown + before : shown + after]):
            slots[change] = 1
        slots[change : change + max(0, before - after)] = bytes(max(0, before - after))
