"""The year 2026 in every zone: the slots of a schedule are those of crontab(5), and no others.

`pytest -s` prints the sums: slots expected by the model, slots computed, and what differs.
"""

import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice, product, takewhile
from zoneinfo import ZoneInfo

import pytest

from scheduling.occurrences import Schedule, classic
from tests.scheduling import cron_model as model

pytestmark = pytest.mark.slow

MINUTE = timedelta(minutes=1)
AROUND = 2 * model.DAY  # Minutes on each side of a change of the clock.
NEXT = 12  # Slots to compare after a random moment.

ZONES = [
    ZoneInfo(name)
    for name in (
        "UTC",
        "Europe/Rome",
        "Europe/London",
        "Europe/Dublin",  # Winter is the exception: a negative change.
        "Atlantic/Azores",
        "Africa/Casablanca",  # Goes back for Ramadan.
        "Africa/Cairo",  # Changes at midnight.
        "Africa/Monrovia",
        "America/New_York",
        "America/St_Johns",
        "America/Havana",  # Midnight is skipped, and comes twice.
        "America/Santiago",
        "America/Asuncion",
        "America/Sao_Paulo",
        "America/Nuuk",  # The end of Saturday is skipped.
        "Asia/Beirut",
        "Asia/Tehran",
        "Asia/Kolkata",
        "Asia/Kathmandu",
        "Australia/Lord_Howe",  # Changes by half an hour.
        "Australia/Sydney",
        "Pacific/Chatham",
        "Pacific/Auckland",
        "Pacific/Apia",
        "Antarctica/Troll",  # Changes by two hours.
    )
]

# Every few minutes. For speed the whole year only in two zones, elsewhere the days around changes.
DENSE = ["*/5 * * * *", "*/7 * * * *"]
WHOLE_YEAR = ["Europe/Rome", "Australia/Lord_Howe"]

CRON = [
    # Wildcards
    "15 * * * *",
    "45 * * * *",
    "0 */2 * * *",
    "*/7 */6 * * 5-7",
    "*/15 0-3 * * 4-7",
    "*/10 2 * * *",
    "*/30 23 * * 6,7",
    "5-59/20 */2 * * 0",
    "0 */6 1,15 * *",
    "*/20 1-3 * MAR,APR,SEP,OCT Sun",
    "30 * 29 3-10/1 *",
    # Fixed times, several a day
    "0 8-18 * * 1-5",
    "15 0-23 * * *",
    "0-59/10 1-3 * * 0,6",
    "0,30 2,3 * * *",
    "0 0-22/3 * * *",
    # Fixed times, daily
    "0 0 * * *",
    "30 0 * * *",
    "0 1 * * *",
    "0 2 * * *",
    "30 2 * * *",
    "0 3 * * *",
    "59 23 * * *",
    "0 8 * * *",
    # Days
    "0 9 * * 1",
    "30 2 * * 0",
    "30 23 * * 7",
    "0 0 1 * *",
    "0 6 31 * *",
    "0 6 28-31 * *",
    "0 22 L * *",
    "0 9 13 * 5",
    "30 2 1-7 * SUN",
    "0 4 */2 * 1",
    "0 0 29 2 *",
    "5,35 6-20/7 10,20,30 jan-jun/2,DEC *",
]

# What the model reads, and what a person chose: days from 0 = Monday, hour, minute.
CLASSIC = {
    "30 7 * * MON,FRI": ([0, 4], 7, 30),
    "30 2 * * SUN": ([6], 2, 30),
    "0 0 * * 6,7": ([5, 6], 0, 0),
    "15 1 * * *": (range(7), 1, 15),
}

SCHEDULES = {expression: expression for expression in DENSE + CRON} | {
    expression: classic(*chosen) for expression, chosen in CLASSIC.items()
}

COLUMNS = ("expected", "computed", "missing", "unexpected", "duplicate")
Minutes = list[int]  # Slots as minutes of the year in UTC.


class Sums:
    """How the computed slots of one schedule, in one or more zones, differ from the expected."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: list[str] = []

    def differ(self, kind: str, zone: ZoneInfo, minutes: Minutes) -> None:
        """Count differences of one kind, and keep the first few to look at."""
        self.counts[kind] += len(minutes)
        for minute in minutes[:5]:
            slot = (model.START + minute * MINUTE).astimezone(zone)
            self.examples.append(f"{kind} {zone.key} {slot.isoformat()}")

    def row(self, name: str) -> str:
        """A line of the table."""
        return f"{name:<36}" + "".join(f"{self.counts[kind]:>12,}" for kind in COLUMNS)


@pytest.fixture(scope="module")
def table() -> Iterator[dict[str, Sums]]:
    """Collects the sums of every schedule, and prints them at the end."""
    rows: dict[str, Sums] = {}
    yield rows
    total = Sums()
    for sums in rows.values():
        total.counts.update(sums.counts)
    print(f"\n\n{len(rows)} schedules in {len(ZONES)} zones, {model.YEAR}")
    print(f"{'':<36}" + "".join(f"{kind:>12}" for kind in COLUMNS))
    print("\n".join(sums.row(name) for name, sums in rows.items()))
    print(total.row("Sum"))


def minute_of(moment: datetime) -> int:
    """The minute of the year in UTC, rounded down."""
    return int(moment.timestamp() - model.START.timestamp()) // 60


def walk(schedule: Schedule, begin: int, end: int) -> Minutes:
    """The slots from a minute of the year to before another, from one walk."""
    before = model.START + (begin - 1) * MINUTE
    return list(takewhile(lambda minute: minute < end, map(minute_of, schedule.after(before))))


def expect(expression: str, zone: ZoneInfo, begin: int, end: int) -> Minutes:
    """The slots that the model expects there."""
    slots = model.expected(expression, zone)
    minute, found = slots.find(1, begin, end), []
    while minute >= 0:
        found.append(minute)
        minute = slots.find(1, minute + 1, end)
    return found


def spans(expression: str, zone: ZoneInfo) -> list[tuple[int, int]]:
    """What is walked in a zone: the whole year, or the first days and those around each change."""
    if expression not in DENSE or zone.key in WHOLE_YEAR:
        return [(0, model.MINUTES)]
    around = [(change - AROUND, change + AROUND) for change in model.changes(zone)]
    return [(0, AROUND), *around]


def compare(sums: Sums, zone: ZoneInfo, computed: Minutes, expected: Minutes) -> None:
    """Add a span to the sums."""
    sums.counts.update(expected=len(expected), computed=len(computed))
    if computed != expected:
        times = Counter(computed)
        sums.differ("missing", zone, sorted(set(expected) - set(times)))
        sums.differ("unexpected", zone, sorted(set(times) - set(expected)))
        sums.differ("duplicate", zone, [minute for minute in times if times[minute] > 1])


@pytest.mark.parametrize("expression", SCHEDULES)
def test_the_slots_of_a_year_are_those_of_crontab(expression: str, table: dict[str, Sums]) -> None:
    sums = table[expression] = Sums()
    for zone in ZONES:
        schedule = Schedule(SCHEDULES[expression], zone)
        for begin, end in spans(expression, zone):
            computed = walk(schedule, begin, end)
            compare(sums, zone, computed, expect(expression, zone, begin, end))
            assert computed == sorted(computed), f"goes back in time in {zone.key}"
    assert sums.examples == []


def some_moments(chance: random.Random, zone: ZoneInfo, count: int) -> Iterator[datetime]:
    """Moments of the year to the second, most near a change, in UTC or as the zone shows them."""
    changes = model.changes(zone)
    for _ in range(count):
        minute = chance.randrange(model.MINUTES)
        if changes and chance.random() < 0.7:
            minute = chance.choice(changes) + chance.randint(-180, 180)
        moment = model.START + timedelta(minutes=minute, seconds=chance.choice([0, 0, 1, 59]))
        yield moment.astimezone(chance.choice([UTC, zone]))


@pytest.mark.parametrize("zone", ZONES, ids=str)
def test_from_any_moment_the_slots_are_those_of_the_year(zone: ZoneInfo) -> None:
    chance = random.Random(zone.key)
    for expression in chance.sample(sorted(SCHEDULES), 15):
        schedule = Schedule(SCHEDULES[expression], zone)
        slots = expect(expression, zone, 0, model.MINUTES)
        for moment in some_moments(chance, zone, 14):
            past = bisect_right(slots, minute_of(moment))
            following = slots[past : past + NEXT]
            computed = map(minute_of, islice(schedule.after(moment), len(following)))
            assert (expression, moment, list(computed)) == (expression, moment, following)


@pytest.mark.parametrize("zone", ZONES, ids=str)
def test_the_latest_slot_at_any_moment_is_that_of_the_year(zone: ZoneInfo) -> None:
    chance = random.Random(zone.key)
    for expression in chance.sample(sorted(SCHEDULES), 15):
        schedule = Schedule(SCHEDULES[expression], zone)
        slots = expect(expression, zone, 0, model.MINUTES)
        for moment in some_moments(chance, zone, 14):
            past = bisect_right(slots, minute_of(moment))
            latest = schedule.latest(moment)
            assert latest is not None
            computed = max(-1, minute_of(latest))
            assert (expression, moment, computed) == (expression, moment, [-1, *slots][past])


@pytest.mark.parametrize("zone", ZONES, ids=str)
def test_every_slot_is_a_time_that_the_clock_shows(zone: ZoneInfo) -> None:
    for expression, change in product(SCHEDULES.values(), model.changes(zone)):
        start = model.START + (change - 180) * MINUTE
        for slot in islice(Schedule(expression, zone).after(start), NEXT):
            shown = slot.astimezone(UTC).astimezone(zone)
            assert (slot.isoformat(), slot.fold) == (shown.isoformat(), shown.fold)


@pytest.mark.parametrize("expression", ["*/7 * * * *", "*/10 2 * * *", "*/30 23 * * 6,7"])
@pytest.mark.parametrize("name", ["Europe/Rome", "Australia/Lord_Howe", "Africa/Cairo"])
def test_the_model_is_the_manual_read_minute_by_minute(expression: str, name: str) -> None:
    zone = ZoneInfo(name)
    expected = model.expected(expression, zone)
    for change in model.changes(zone):
        for minute in range(change - model.DAY, change + model.DAY):
            wall = (model.START + minute * MINUTE).astimezone(zone)
            assert bool(expected[minute]) == model.matches(expression, wall)


@pytest.mark.parametrize(
    ("expression", "name", "day", "slots"),
    [
        ("0,30 2,3 * * *", "Europe/Rome", "03-29", ["03:00+02:00", "03:30+02:00"]),
        ("30 2 * * *", "Europe/Rome", "10-25", ["02:30+02:00"]),
        ("30 2 * * *", "America/New_York", "03-08", ["03:00-04:00"]),
        ("30 0 * * *", "America/Havana", "03-08", ["01:00-04:00"]),
        ("30 0 * * *", "America/Havana", "11-01", ["00:30-04:00"]),
        ("45 1 * * *", "Australia/Lord_Howe", "04-05", ["01:45+11:00"]),
        (
            "45 */1 5 4 *",
            "Australia/Lord_Howe",
            "04-05",
            ["00:45+11:00", "01:45+11:00", "01:45+10:30", "02:45+10:30"],
        ),
        ("0,30 1,2 * * *", "Antarctica/Troll", "03-29", ["03:00+02:00"]),
        ("30 23 * * 6", "America/Nuuk", "03-29", ["00:00-01:00"]),
    ],
)
def test_the_model_gives_what_the_manuals_say_by_hand(
    expression: str, name: str, day: str, slots: list[str]
) -> None:
    zone = ZoneInfo(name)
    midnight = minute_of(datetime.fromisoformat(f"{model.YEAR}-{day}").replace(tzinfo=zone))
    minutes = expect(expression, zone, midnight, midnight + 4 * 60)
    shown = [(model.START + minute * MINUTE).astimezone(zone) for minute in minutes]
    assert [slot.isoformat("T", "minutes")[5:] for slot in shown] == [
        f"{day}T{slot}" for slot in slots
    ]
