"""Reads dates and times as people write them, in a time zone."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from queryexport.errors import ConfigurationError

YEARS = range(1970, 9000)


def moment(text: str, zone: ZoneInfo, *, last: bool = False) -> datetime:
    """The instant, in UTC, of a date (`2026-11-01`) or of a date and a time (`2026-11-01T08:00`).

    A date is the first instant of that day in the zone, or its last one with `last`. A time without
    an offset is the zone's own: one that exists twice is the first of the two, or the second with
    `last`; one that is skipped is the first instant after. Raises `ConfigurationError` for other
    text, and for years that no schedule is asked for.
    """
    day, wall = _date(text), _datetime(text)
    if (read := day or wall) is None or read.year not in YEARS:
        raise ConfigurationError(
            f"“{text}” is no date and no time. Write 2026-11-01 for a whole day, or "
            f"2026-11-01T08:00 for a time in {zone}; the year is from {YEARS[0]} to {YEARS[-1]}."
        )
    if day is not None:
        return _day(day, zone, last=last)
    assert wall is not None
    return wall.astimezone(UTC) if wall.tzinfo else _instant(wall, zone, last=last)


def _day(day: date, zone: ZoneInfo, *, last: bool) -> datetime:
    if not last:
        return _instant(datetime.combine(day, time.min), zone, last=False)
    return _day(day + timedelta(days=1), zone, last=False) - timedelta.resolution


def _instant(wall: datetime, zone: ZoneInfo, *, last: bool) -> datetime:
    first, second = _turns(wall, zone)
    if first <= second:
        return second if last else first
    wall = wall.replace(second=0, microsecond=0)
    while first > second:  # The clock skips this time.
        wall += timedelta(minutes=1)
        first, second = _turns(wall, zone)
    return first


def _turns(wall: datetime, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """The two instants of a time that exists twice; against the order for one that is skipped."""
    first, second = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    return first, second


def _date(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def _datetime(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
