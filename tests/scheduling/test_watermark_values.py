"""Watermark values: exact as text and back, of their kind, and never past their bounds."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queryexport.errors import ConfigurationError
from scheduling.watermark_values import (
    LAST_NUMBER,
    far_end,
    of_kind,
    parse,
    upper_bound,
    write,
)

ROME = ZoneInfo("Europe/Rome")
CHARACTERS = st.characters(exclude_characters="\x00", exclude_categories=["Cs"])
OFFSETS = st.timedeltas(timedelta(hours=-23, minutes=-59), timedelta(hours=23, minutes=59)).map(
    lambda offset: timezone(timedelta(seconds=int(offset.total_seconds())))
)
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


class TestText:
    """A value as the database has it, kept as text and read back."""

    @given(st.datetimes())
    def test_a_time_without_an_offset_keeps_every_microsecond(self, value: datetime) -> None:
        read = parse("time", write(value))
        assert (read, type(read), read.tzinfo) == (value, datetime, None)

    @given(st.datetimes(timezones=OFFSETS))
    def test_a_time_with_an_offset_keeps_instant_and_offset(self, value: datetime) -> None:
        read = parse("time", write(value))
        assert (read, read.utcoffset()) == (value, value.utcoffset())

    @given(
        st.datetimes(min_value=datetime(1990, 1, 1), max_value=datetime(2100, 1, 1)), st.booleans()
    )
    def test_a_time_in_a_zone_keeps_its_instant_also_where_clocks_go_back(
        self, wall: datetime, second: bool
    ) -> None:
        value = wall.replace(tzinfo=ROME, fold=int(second))
        assert parse("time", write(value)).astimezone(UTC) == value.astimezone(UTC)

    @given(st.dates())
    def test_a_date_stays_a_date(self, value: date) -> None:
        read = parse("time", write(value))
        assert (read, type(read)) == (value, date)

    @given(st.integers(-LAST_NUMBER, LAST_NUMBER))
    def test_an_integer_stays_an_integer(self, value: int) -> None:
        read = parse("number", write(value))
        assert (read, type(read)) == (value, int)

    @given(st.decimals(-LAST_NUMBER, LAST_NUMBER, allow_nan=False, allow_infinity=False))
    def test_a_decimal_keeps_its_digits(self, value: Decimal) -> None:
        read = parse("number", write(value))
        assert read == value
        if value.as_tuple().exponent != 0:
            assert read.as_tuple() == value.as_tuple()

    @given(st.text(CHARACTERS, max_size=199))
    def test_text_stays_as_it_is(self, rest: str) -> None:
        value = f"2{rest}"
        assert parse("text", write(value)) == value

    @given(st.text(max_size=30))
    def test_whatever_is_read_is_written_as_something_that_reads_the_same(self, text: str) -> None:
        for kind in ("time", "number"):
            try:
                value = parse(kind, text)
            except ConfigurationError:
                continue
            assert parse(kind, write(value)) == value

    @pytest.mark.parametrize(
        ("kind", "text", "value"),
        [
            ("time", " 2026-11-23 08:00 ", datetime(2026, 11, 23, 8)),
            ("time", "2026-11-23T08:00:00.5Z", datetime(2026, 11, 23, 8, 0, 0, 500_000, UTC)),
            ("number", "+12", 12),
            ("number", "0.10", Decimal("0.10")),
            ("number", "1.5e3", Decimal("1.5E+3")),
            ("text", " 2026-11-23", " 2026-11-23"),
        ],
    )
    def test_people_may_write_it_as_they_do(self, kind: str, text: str, value: Any) -> None:
        read = parse(kind, text)
        assert (read, type(read)) == (value, type(value))

    @pytest.mark.parametrize(
        ("kind", "text"),
        [
            ("time", ""),
            ("time", "yesterday"),
            ("time", "23.11.2026"),
            ("time", "20261123"),
            ("time", "2026-02-30"),
            ("time", "2026-11-23T08:00:00.1234567"),  # Python would cut off the last digit.
            ("time", "2026-11-23T25:00"),
            ("time", "120"),
            ("number", "NaN"),
            ("number", "Infinity"),
            ("number", "1,5"),
            ("number", "1_000"),
            ("number", "١٢"),
            ("number", "9223372036854775808"),
            ("number", "1e999999999"),
            ("number", "9" * 201),
            ("text", ""),
            ("text", "2" * 201),
            ("text", "A-120"),
            ("text", "2026\x00"),
        ],
    )
    def test_anything_else_is_refused_with_an_example(self, kind: str, text: str) -> None:
        with pytest.raises(ConfigurationError, match="Write for example"):
            parse(kind, text)


class TestFoundValues:
    """What the database answers for the newest value."""

    @pytest.mark.parametrize(
        ("kind", "found"),
        [
            ("time", datetime(2026, 10, 25, 2, 30, tzinfo=ROME, fold=1)),
            ("time", datetime(2026, 11, 23, 8, 0, 0, 1)),
            ("time", date(2026, 11, 23)),
            ("number", 120),
            ("number", Decimal("120.50")),
            ("text", "2026-11-23 08:00:00"),
        ],
    )
    def test_of_the_kind_are_taken_as_they_are(self, kind: str, found: Any) -> None:
        value = of_kind(kind, "c", found)
        assert value == found or value.astimezone(UTC) == found.astimezone(UTC)
        assert type(value) is type(found)

    @pytest.mark.parametrize(
        ("kind", "found", "words"),
        [
            ("time", "2026-11-23", "text such as “2026-11-23”.*Choose the kind “A time as text"),
            ("time", 1_700_000_000, "numbers such as 1700000000.*Choose the kind “A number”"),
            ("number", "120", "Choose the kind “A time as text"),
            ("number", 120.5, r"numbers such as 120.5.*CAST\(… AS DECIMAL\(20, 6\)\) AS c"),
            ("number", True, "holds truth values"),
            (
                "text",
                datetime(2026, 11, 23),
                "times such as 2026.*Choose the kind “A time or a date”",
            ),
            ("time", b"\x01", "values of the type bytes"),
        ],
    )
    def test_of_another_kind_are_refused_and_the_right_kind_is_named(
        self, kind: str, found: Any, words: str
    ) -> None:
        with pytest.raises(ConfigurationError, match=words):
            of_kind(kind, "c", found)

    @pytest.mark.parametrize(
        ("kind", "found"),
        [("number", Decimal("NaN")), ("number", Decimal("1E+400")), ("text", "x" * 201)],
    )
    def test_that_cannot_be_kept_are_refused(self, kind: str, found: Any) -> None:
        with pytest.raises(ConfigurationError, match="cannot be"):
            of_kind(kind, "c", found)


class TestBounds:
    def upper(self, newest: Any, mark: Any, not_after: datetime | None = None) -> Any:
        return upper_bound(newest, mark, column="c", not_after=not_after, zone=ROME)

    @pytest.mark.parametrize(
        ("mark", "far"),
        [
            (datetime(2026, 1, 1), datetime.max),
            (datetime(2026, 1, 1, tzinfo=ROME), datetime.max.replace(tzinfo=UTC)),
            (date(2026, 1, 1), date.max),
            (120, 2**63 - 1),
            (Decimal("1.5"), Decimal(2**63 - 1)),
            ("2026-01-01", "9999-12-31 23:59:59"),
        ],
    )
    def test_the_far_end_is_of_the_marks_own_convention(self, mark: Any, far: Any) -> None:
        assert (far_end(mark), type(far_end(mark))) == (far, type(far))

    def test_without_anything_new_the_end_is_the_mark(self) -> None:
        assert self.upper(None, 120) == 120

    def test_without_a_lag_the_end_is_the_newest_value_also_in_the_future(self) -> None:
        assert self.upper(datetime(9000, 1, 1), datetime(2026, 1, 1)) == datetime(9000, 1, 1)

    @pytest.mark.parametrize(
        ("newest", "mark", "end"),
        [
            # Times with an offset are instants, in whatever zone they are written.
            ("2026-11-23T13:30:00+01:00", "2026-11-23T08:00:00Z", "2026-11-23T13:00:00+01:00"),
            ("2026-11-23T12:30:00+01:00", "2026-11-23T08:00:00Z", "2026-11-23T12:30:00+01:00"),
            ("2026-11-23T13:30:00+01:00", "2026-11-23T12:15:00Z", "2026-11-23T12:15:00+00:00"),
            # Without one they are wall time in the item's zone, where it is 13:00.
            ("2026-11-23T13:30:00", "2026-11-23T08:00:00", "2026-11-23T13:00:00"),
            ("2026-11-23T12:30:00", "2026-11-23", "2026-11-23T12:30:00"),
            ("2026-11-24", "2026-11-20", "2026-11-23"),
            ("2026-11-24", "2026-11-23T13:00:00", "2026-11-23T13:00:00"),
        ],
    )  # fmt: skip
    def test_with_a_lag_the_end_is_the_earlier_of_both_but_never_below_the_mark(
        self, newest: str, mark: str, end: str
    ) -> None:
        found, seen = parse("time", newest), parse("time", mark)
        assert write(self.upper(found, seen, NOON)) == end

    @pytest.mark.parametrize(
        ("newest", "mark"),
        [(119, 120), (Decimal("119.9"), 120), (date(2026, 1, 1), datetime(2026, 1, 1, 8))],
    )
    def test_a_newest_value_below_the_mark_shows_a_wrong_query(
        self, newest: Any, mark: Any
    ) -> None:
        with pytest.raises(ConfigurationError, match="must compare the column c itself"):
            self.upper(newest, mark)

    @pytest.mark.parametrize(
        ("newest", "mark", "needed"),
        [
            (NOON, datetime(2026, 1, 1), "with an offset, such as"),
            (NOON, date(2026, 1, 1), "with an offset, such as"),
            (datetime(2026, 1, 1), NOON, "without an offset"),
        ],
    )
    def test_times_with_and_without_an_offset_are_not_compared(
        self, newest: Any, mark: Any, needed: str
    ) -> None:
        with pytest.raises(ConfigurationError, match=needed):
            self.upper(newest, mark)

    @given(st.datetimes(timezones=OFFSETS), st.datetimes(timezones=OFFSETS), st.timedeltas())
    def test_the_end_is_never_below_the_mark_nor_past_the_newest(
        self, one: datetime, other: datetime, lag: timedelta
    ) -> None:
        mark, newest = sorted((one, other))
        try:
            not_after = NOON - lag
        except OverflowError:
            return
        assert mark <= self.upper(newest, mark, not_after) <= newest
