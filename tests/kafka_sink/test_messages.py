"""Rows become messages whose key is canonical and whose value loses nothing."""

import json
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_sink.messages import Envelope, MessageBuilder, export_id
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


def key_of(value):
    return builder("id").build([value], 1).key


@given(TEXT, TEXT, st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans())
def test_a_row_comes_back_from_its_message_exactly(key, text, number, ratio, flag):
    message = builder("id", "text", "number", "ratio", "flag").build(
        [key, text, number, ratio, flag], 1
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
        builder("id").build([None], 17)


@pytest.mark.parametrize("value", [float("nan"), Decimal("NaN"), [1], object(), "\ud800"])
def test_a_value_without_a_stable_text_is_no_key(value):
    with pytest.raises(DeliveryError, match="Row 3 cannot be sent: the value of its key column"):
        builder("id").build([value], 3)


def test_a_key_field_that_is_not_in_the_result_names_the_columns_that_are():
    with pytest.raises(ConfigurationError, match=r"no column “id”.* returns codice, data"):
        builder("codice", "data", key_field="id")


def test_the_metadata_is_the_last_member_of_the_value():
    value = json.loads(builder("id", "note", envelope=ENVELOPE).build(["A", "ok"], 1).value)
    assert list(value) == ["id", "note", "_metadata"]
    assert value["_metadata"] == {
        "source_query": "CDG-KAFKA-001--TracceGiornaliere.sql",
        "source_connection": "cdg_prod",
        "export_timestamp": "2026-01-18T08:00:15.123456+01:00",
        "export_id": "CDG-KAFKA-001--TracceGiornaliere.sql-20260118080015-7f3a",
    }


def test_the_metadata_survives_a_row_with_an_integer_over_64_bits():
    value = json.loads(builder("id", "big", envelope=ENVELOPE).build(["A", 10**30], 1).value)
    assert value["big"] == 10**30
    assert value["_metadata"]["source_connection"] == "cdg_prod"


def test_a_column_called_metadata_is_refused_only_while_metadata_is_on():
    builder("id", "_metadata")
    with pytest.raises(ConfigurationError, match="returns a column “_metadata”"):
        builder("id", "_metadata", envelope=ENVELOPE)


def test_a_value_that_json_cannot_hold_is_named_with_its_row_column_and_type():
    with pytest.raises(DeliveryError, match=r"Row 9 .*column “shape” has the type object .*Cast"):
        builder("id", "shape").build(["A", object()], 9)


def test_an_envelope_needs_a_time_zone():
    with pytest.raises(ValueError, match="time zone"):
        Envelope("query", "connection", datetime(2026, 1, 18), "id")


def test_an_export_id_tells_two_runs_of_the_same_second_apart():
    at = datetime(2026, 1, 18, 8, 0, 15)
    assert export_id("Q.sql", at, "a1") == "Q.sql-20260118080015-a1"
    assert export_id("Q.sql", at, "a1") != export_id("Q.sql", at, "a2")
