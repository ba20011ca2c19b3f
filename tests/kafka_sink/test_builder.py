"""Rows become messages whose key is canonical and whose value loses nothing."""

import json
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_sink.builder import MessageBuilder, MessageOptions, NullKey
from kafka_sink.messages import Envelope, export_id
from queryexport.errors import ConfigurationError, DeliveryError
from queryexport.rows import Column

ROME = timezone(timedelta(hours=1))
ENVELOPE = Envelope(
    source_query="CDG-KAFKA-001--TracceGiornaliere.sql",
    source_connection="cdg_prod",
    export_timestamp=datetime(2026, 1, 18, 8, 0, 15, 123456, tzinfo=ROME),
    export_id="CDG-KAFKA-001--TracceGiornaliere.sql-20260118080015-7f3a",
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def builder(*names, key_field=None, envelope=None):
    columns = [Column(name) for name in names]
    return MessageBuilder(columns, key_field or names[0], envelope=envelope, zone=ROME)


def built(made, row, number=1):
    return next(made.build([row], number).messages(()), None)


def key_of(value):
    return built(builder("id"), [value], 1).key


@given(TEXT, TEXT, st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans())
def test_a_row_comes_back_from_its_message_exactly(key, text, number, ratio, flag):
    message = built(
        builder("id", "text", "number", "ratio", "flag"), [key, text, number, ratio, flag], 1
    )
    assert message.key.decode() == key
    assert json.loads(message.value) == {
        "id": key,
        "text": text,
        "number": number,
        "ratio": ratio,
        "flag": flag,
    }


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_a_decimal_key_keeps_every_digit_and_has_no_exponent(number):
    text = key_of(number).decode()
    assert Decimal(text) == number
    assert "E" not in text


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("ABC123456", b"ABC123456"),
        ("città", "città".encode()),
        (42, b"42"),
        (10**30, b"1" + b"0" * 30),
        (True, b"true"),
        (False, b"false"),
        (Decimal("1E+2"), b"100"),
        (Decimal("1.50"), b"1.50"),
        (date(2026, 1, 18), b"2026-01-18"),
        (datetime(2026, 1, 18, 8, 0), b"2026-01-18T08:00:00+01:00"),
        (datetime(2026, 1, 18, 8, 0, tzinfo=UTC), b"2026-01-18T08:00:00+00:00"),
        (time(8, 30), b"08:30:00"),
        (
            UUID("12345678-1234-5678-1234-567812345678"),
            b"12345678-1234-5678-1234-567812345678",
        ),
        (b"\x00\xff", b"AP8="),
        (1.5, b"1.5"),
    ],
)
def test_a_key_is_the_canonical_text_of_its_value(value, key):
    assert key_of(value) == key


def test_a_row_without_a_key_is_refused_by_number_and_column():
    with pytest.raises(DeliveryError, match="Row 17 has NULL in its key column “id”"):
        built(builder("id"), [None], 17)


@pytest.mark.parametrize("value", [float("nan"), Decimal("NaN"), [1], object(), "\ud800"])
def test_a_value_without_a_stable_text_is_no_key(value):
    with pytest.raises(DeliveryError, match="Row 3 cannot be sent: the value of its key column"):
        built(builder("id"), [value], 3)


def test_a_key_field_that_is_not_in_the_result_names_the_columns_that_are():
    with pytest.raises(ConfigurationError, match=r"no column “id”.* returns codice, data"):
        builder("codice", "data", key_field="id")


def test_the_metadata_is_the_last_member_of_the_value():
    value = json.loads(built(builder("id", "note", envelope=ENVELOPE), ["A", "ok"], 1).value)
    assert list(value) == ["id", "note", "_metadata"]
    assert value["_metadata"] == {
        "source_query": "CDG-KAFKA-001--TracceGiornaliere.sql",
        "source_connection": "cdg_prod",
        "export_timestamp": "2026-01-18T08:00:15.123456+01:00",
        "export_id": "CDG-KAFKA-001--TracceGiornaliere.sql-20260118080015-7f3a",
    }


def test_the_metadata_survives_a_row_with_an_integer_over_64_bits():
    value = json.loads(built(builder("id", "big", envelope=ENVELOPE), ["A", 10**30], 1).value)
    assert value["big"] == 10**30
    assert value["_metadata"]["source_connection"] == "cdg_prod"


def test_a_column_called_metadata_is_refused_only_while_metadata_is_on():
    builder("id", "_metadata")
    with pytest.raises(ConfigurationError, match="returns a column “_metadata”"):
        builder("id", "_metadata", envelope=ENVELOPE)


def test_a_value_that_json_cannot_hold_is_named_with_its_row_column_and_type():
    with pytest.raises(DeliveryError, match=r"Row 9 .*column “shape” has the type object .*Cast"):
        built(builder("id", "shape"), ["A", object()], 9)


def test_an_envelope_needs_a_time_zone():
    with pytest.raises(ValueError, match="time zone"):
        Envelope("query", "connection", datetime(2026, 1, 18), "id")


def test_an_export_id_tells_two_runs_of_the_same_second_apart():
    at = datetime(2026, 1, 18, 8, 0, 15)
    assert export_id("Q.sql", at, "a1") == "Q.sql-20260118080015-a1"
    assert export_id("Q.sql", at, "a1") != export_id("Q.sql", at, "a2")


def with_options(*names, key_field, row, **options):
    columns = [Column(name) for name in names]
    chosen = MessageOptions(**options)
    made = MessageBuilder(columns, key_field, envelope=None, zone=ROME, options=chosen)
    return made, built(made, row)


def test_several_key_columns_make_one_unambiguous_key():
    _, one = with_options("a", "b", key_field="a, b", row=["x", 5])
    _, other = with_options("a", "b", key_field="a,b", row=['x","5', None or ""])
    assert one.key == b'["x","5"]'
    assert json.loads(other.key) == ['x","5', ""]


@given(st.lists(TEXT, min_size=2, max_size=2), st.lists(TEXT, min_size=2, max_size=2))
def test_keys_of_several_columns_are_equal_only_when_all_values_are(one, other):
    _, first = with_options("a", "b", key_field="a,b", row=one)
    _, second = with_options("a", "b", key_field="a,b", row=other)
    assert (first.key == second.key) == (one == other)


def test_each_of_several_key_columns_must_be_returned():
    with pytest.raises(ConfigurationError, match="no column “c”"):
        with_options("a", "b", key_field="a,c", row=["x", "y"])


def test_a_null_key_can_be_sent_as_none():
    _, message = with_options("a", "b", key_field="a", row=[None, 1], null_key=NullKey.SEND)
    assert message.key is None
    assert json.loads(message.value) == {"a": None, "b": 1}


def test_a_null_key_can_leave_its_row_out_and_is_counted():
    made, message = with_options("a", "b", key_field="a", row=[None, 1], null_key=NullKey.SKIP)
    assert (message, made.skipped) == (None, 1)
    assert made.build([["x", 1], [None, 2], ["y", 3]], 1).keys == [b"x", b"y"]
    assert made.skipped == 2


def test_decimals_are_exact_numbers_on_request():
    number = "12345678901234567890.1234567890"
    _, message = with_options(
        "a", "n", key_field="a", row=["x", Decimal(number)], decimals_as_numbers=True
    )
    assert message.value == f'{{"a":"x","n":{number}}}'.encode()


@pytest.mark.parametrize(
    "value", [float("nan"), float("-inf"), Decimal("NaN"), Decimal("Infinity")]
)
def test_what_is_no_number_in_json_is_null_and_counted(value):
    made, message = with_options("a", "n", "m", key_field="a", row=["x", value, None])
    assert (json.loads(message.value)["n"], made.nulled) == (None, 1)


def test_null_itself_is_not_counted_as_converted():
    made, _ = with_options("a", "n", key_field="a", row=["x", None])
    assert made.nulled == 0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime(2026, 1, 18, 8, 0, tzinfo=UTC), 1768723200000),
        (datetime(2026, 1, 18, 9, 0), 1768723200000),  # In the item's zone.
        (date(2026, 1, 18), 1768690800000),
        (None, 0),
    ],
)
def test_a_column_can_give_the_time_of_the_message(value, expected):
    _, message = with_options("a", "t", key_field="a", row=["x", value], timestamp_field="t")
    assert message.timestamp_ms == expected


@pytest.mark.parametrize("value", ["2026-01-18", 5, datetime(1960, 1, 1, tzinfo=UTC)])
def test_what_is_no_time_cannot_be_the_time_of_a_message(value):
    with pytest.raises(DeliveryError, match="Row 1 cannot be sent: its timestamp column “t”"):
        with_options("a", "t", key_field="a", row=["x", value], timestamp_field="t")


def test_a_timestamp_column_must_be_returned():
    with pytest.raises(ConfigurationError, match="no column “t” to take the messages' time from"):
        with_options("a", key_field="a", row=["x"], timestamp_field="t")
