"""The JSON form of a database value loses nothing."""

import json
import math
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from ipaddress import ip_address, ip_interface, ip_network
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queryexport.values import JsonEncoder, duration, is_finite, wide_integers

ROME = ZoneInfo("Europe/Rome")


def encoded(value: object) -> str:
    """The JSON text of one value, without the record around it."""
    return JsonEncoder(ROME).encode({"v": value}).decode().removeprefix('{"v":').removesuffix("}")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "null"),
        (True, "true"),
        (0.5, "0.5"),
        ("àè", '"àè"'),
        (Decimal("1.10"), '"1.10"'),
        (Decimal("1E+3"), '"1000"'),
        (Decimal("NaN"), "null"),
        (Decimal("-Infinity"), "null"),
        (math.nan, "null"),
        (math.inf, "null"),
        (date(2024, 2, 29), '"2024-02-29"'),
        (time(9, 30), '"09:30:00"'),
        (datetime(2024, 7, 1, 12, tzinfo=UTC), '"2024-07-01T12:00:00+00:00"'),
        (timedelta(days=1, hours=1), '"P1DT3600S"'),
        (b"\x00\xff", '"AP8="'),
        (bytearray(b"\x00\xff"), '"AP8="'),
        (memoryview(b"\x00\xff"), '"AP8="'),
        (UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (ip_address("10.0.0.1"), '"10.0.0.1"'),
        (ip_interface("10.0.0.1/8"), '"10.0.0.1/8"'),
        (ip_network("fe80::/10"), '"fe80::/10"'),
        ([1, {"a": Decimal("0.10")}], '[1,{"a":"0.10"}]'),
        (frozenset({7}), "[7]"),
        ({date(2024, 1, 1): 1}, '{"2024-01-01":1}'),
    ],
)
def test_a_value_has_one_json_form(value: object, expected: str) -> None:
    assert encoded(value) == expected


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (datetime(2024, 7, 1, 12), '"2024-07-01T12:00:00+02:00"'),
        (datetime(2024, 12, 1, 12), '"2024-12-01T12:00:00+01:00"'),
    ],
)
def test_a_time_without_a_zone_is_in_the_encoders_zone(moment: datetime, expected: str) -> None:
    assert encoded(moment) == expected


@given(st.integers(min_value=-(10**40), max_value=10**40))
def test_an_integer_of_any_size_keeps_every_digit(number: int) -> None:
    assert json.loads(encoded(number)) == number


def test_wide_integers_beside_other_values_keep_them_all() -> None:
    record = [2**70, Decimal("1.5"), {"deep": [-(2**80)]}, True, None]
    assert encoded(record) == f'[{2**70},"1.5",{{"deep":[{-(2**80)}]}},true,null]'


def test_integers_of_64_bits_are_left_as_they_are() -> None:
    assert wide_integers([2**64 - 1, -(2**63)]) == [2**64 - 1, -(2**63)]


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_a_decimal_comes_back_equal(number: Decimal) -> None:
    assert Decimal(json.loads(encoded(number))) == number


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_text_comes_back_equal(text: str) -> None:
    assert json.loads(encoded(text)) == text


@pytest.mark.parametrize("value", [object(), 1j, "\ud800"])
def test_a_value_without_a_form_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError):
        encoded(value)


@given(st.timedeltas())
def test_a_duration_holds_the_exact_length(length: timedelta) -> None:
    sign, _, rest = duration(length).partition("P")
    days, _, seconds = rest.removesuffix("S").partition("DT")
    whole, _, fraction = seconds.partition(".")
    exact = timedelta(int(days), int(whole), int(fraction.ljust(6, "0")))
    assert (-exact if sign else exact) == length


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (timedelta(), "P0DT0S"),
        (timedelta(microseconds=-500_000), "-P0DT0.5S"),
        (timedelta(days=2, microseconds=1), "P2DT0.000001S"),
    ],
)
def test_a_duration_is_written_in_days_and_seconds(length: timedelta, expected: str) -> None:
    assert duration(length) == expected


@pytest.mark.parametrize("number", [math.nan, -math.inf, Decimal("NaN"), Decimal("Infinity")])
def test_nan_and_infinity_are_not_finite(number: float | Decimal) -> None:
    assert not is_finite(number)


@pytest.mark.parametrize("number", [0.0, -1e308, Decimal("1E+999")])
def test_numbers_are_finite(number: float | Decimal) -> None:
    assert is_finite(number)


ZONES = [UTC, ROME, ZoneInfo("America/St_Johns"), ZoneInfo("Africa/Monrovia")]
SIMPLE = st.one_of(
    st.none(),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.decimals(),
    st.dates(),
    st.times(),
    st.datetimes(timezones=st.sampled_from([None, *ZONES])),
    st.timedeltas(),
    st.binary(),
    st.uuids(),
    st.ip_addresses(),
)
VALUES = st.recursive(
    SIMPLE, lambda inner: st.lists(inner) | st.dictionaries(st.text("abc"), inner), max_leaves=4
)


@given(st.lists(st.tuples(VALUES, SIMPLE, st.datetimes()), min_size=1), st.booleans())
def test_rows_together_come_out_as_they_do_one_by_one(
    rows: list[tuple[object, ...]], decimals_as_numbers: bool
) -> None:
    encoder = JsonEncoder(ROME, decimals_as_numbers=decimals_as_numbers)
    one_by_one = [encoder.encode(dict(zip("abc", row, strict=True))) for row in rows]
    assert encoder.encode_rows("abc", rows) == one_by_one


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime(2026, 1, 18, 8, 0, 0, 500_000), '"2026-01-18T08:00:00.5+01:00"'),
        (datetime(2026, 1, 18, 8, 0, 0, 120), '"2026-01-18T08:00:00.00012+01:00"'),
        (datetime(2026, 1, 18, 8, 0, 10), '"2026-01-18T08:00:10+01:00"'),
        (time(8, 0, 0, 250_000), '"08:00:00.25"'),
    ],
)
def test_a_second_has_no_more_digits_than_it_needs(value: object, expected: str) -> None:
    assert encoded(value) == expected
