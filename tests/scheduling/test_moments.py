"""Dates and times as people write them become instants, also where the clock changes."""

from zoneinfo import ZoneInfo

import pytest

from queryexport.errors import ConfigurationError
from scheduling.moments import moment

ROME = ZoneInfo("Europe/Rome")
CAIRO = ZoneInfo("Africa/Cairo")


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("2026-11-01", "2026-10-31T23:00:00+00:00", "2026-11-01T22:59:59.999999+00:00"),
        ("2026-03-29", "2026-03-28T23:00:00+00:00", "2026-03-29T21:59:59.999999+00:00"),
        ("2026-10-25", "2026-10-24T22:00:00+00:00", "2026-10-25T22:59:59.999999+00:00"),
        ("2026-11-01T08:00", "2026-11-01T07:00:00+00:00", "2026-11-01T07:00:00+00:00"),
        ("2026-11-01 08:00", "2026-11-01T07:00:00+00:00", "2026-11-01T07:00:00+00:00"),
        ("2026-11-01T08:00Z", "2026-11-01T08:00:00+00:00", "2026-11-01T08:00:00+00:00"),
        ("2026-11-01T08:00+05:30", "2026-11-01T02:30:00+00:00", "2026-11-01T02:30:00+00:00"),
    ],
)
def test_a_date_is_a_whole_day_and_a_time_is_that_of_the_zone(
    text: str, first: str, last: str
) -> None:
    assert moment(text, ROME).isoformat() == first
    assert moment(text, ROME, last=True).isoformat() == last


def test_a_time_that_exists_twice_is_the_wider_range() -> None:
    assert moment("2026-10-25T02:30", ROME).isoformat() == "2026-10-25T00:30:00+00:00"
    assert moment("2026-10-25T02:30", ROME, last=True).isoformat() == "2026-10-25T01:30:00+00:00"


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("text", ["2026-03-29T02:00", "2026-03-29T02:30:59", "2026-03-29T02:59"])
def test_a_time_that_does_not_exist_is_the_first_instant_after(text: str, last: bool) -> None:
    assert moment(text, ROME, last=last).isoformat() == "2026-03-29T01:00:00+00:00"


def test_a_day_without_midnight_begins_and_ends_where_its_clock_does() -> None:
    assert moment("2026-04-24", CAIRO).isoformat() == "2026-04-23T22:00:00+00:00"
    assert moment("2026-04-23", CAIRO, last=True).isoformat() == "2026-04-23T21:59:59.999999+00:00"


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-13-01", "2026-11-01T25:00", "0001-01-01", "9999-12-31", "08:00"]
)
def test_other_text_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigurationError, match="Write 2026-11-01 for a whole day") as error:
        moment(text, ROME)
    assert f"“{text}”" in error.value.message and "Europe/Rome" in error.value.message
