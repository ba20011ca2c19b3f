"""Any number of rows in one statement, the same as Django would write them one by one."""

from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import DataError, transaction
from pytest_django import DjangoAssertNumQueries

from scheduling import bulk
from scheduling.models import SchedulingHistoryItem, SchedulingItem
from tests.factories import MakeItem

SLOT = datetime(2026, 1, 18, 8, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
MANY = 5000  # Times three values that differ, which Django splits into batches for SQLite.


def run_of(item: SchedulingItem, number: int = 0, **values: Any) -> SchedulingHistoryItem:
    run = SchedulingHistoryItem.of(item, SLOT + number * MINUTE, trigger="schedule")
    for name, value in values.items():
        setattr(run, name, value)
    return run


def stored(**conditions: Any) -> list[dict[str, Any]]:
    rows = SchedulingHistoryItem.objects.filter(**conditions).order_by("scheduled_for")
    return [{**row, "id": None} for row in rows.values()]


VALUES = [
    {"not_before": SLOT.replace(microsecond=1), "claim_token": uuid4(), "broke_off": True},
    {
        "error": 'It’s "so" – 100 % wrong: {}, %s, $1, \\n\n',
        "status": "fail",
        "place": "ü’\U0001f600",
    },
    {"parameters": {"n": 1, "day": date(2026, 1, 18)}, "given_parameters": [1, "a", None]},
    {"parameters": {"n": True, "day": date(2026, 1, 18)}, "duration_sec": 0.1, "phases": {}},
    {"size_bytes": 2**40, "start_date": date(2026, 12, 31), "parameters": {"n": 1}},
]


@pytest.mark.parametrize("found", [VALUES, VALUES[:1], [{}, {}], [{}]])
def test_rows_are_written_as_django_writes_them(
    make_item: MakeItem, found: list[dict[str, Any]]
) -> None:
    item = make_item()
    rows = [run_of(item, number, timestamp=SLOT, **each) for number, each in enumerate(found)]
    SchedulingHistoryItem.objects.bulk_create(rows)
    expected = stored()
    SchedulingHistoryItem.objects.all().delete()
    for row in rows:
        row.pk = None
    assert bulk.insert_new(rows) == len(found)
    assert stored() == expected


def test_a_row_that_is_there_already_stays_as_it_is(make_item: MakeItem) -> None:
    item = make_item()
    run_of(item, 1, error="Here first.").save()
    assert bulk.insert_new([run_of(item, number) for number in range(3)]) == 2
    assert [row["error"] for row in stored()] == ["", "Here first.", ""]


def test_of_rows_that_exclude_each_other_the_first_is_written(make_item: MakeItem) -> None:
    item = make_item()
    assert bulk.insert_new([run_of(item, error="first"), run_of(item, error="second")]) == 1
    assert [row["error"] for row in stored()] == ["first"]


def test_a_text_that_is_too_long_for_its_column_is_not_cut(make_item: MakeItem) -> None:
    """PostgreSQL refuses it, SQLite knows no lengths."""
    item = make_item()
    rows = [run_of(item, number, item_name=str(number) * 201) for number in range(2)]
    try:
        with transaction.atomic():
            bulk.insert_new(rows)
    except DataError:
        assert stored() == []
    else:
        assert [len(row["item_name"]) for row in stored()] == [201, 201]


def test_nothing_is_nothing(db: None, django_assert_num_queries: DjangoAssertNumQueries) -> None:
    with django_assert_num_queries(0):
        assert bulk.insert_new([]) == 0
        assert bulk.replace(SchedulingItem, "next_slot", []) == 0


def test_a_value_is_replaced_where_the_old_one_still_stands(make_item: MakeItem) -> None:
    items = [make_item() for _ in range(4)]
    for item, slot in zip(items, [SLOT, SLOT + MINUTE, None, SLOT], strict=True):
        SchedulingItem.objects.filter(pk=item.pk).update(next_slot=slot)
    first, moved, unknown, other = (item.pk for item in items)
    changes = [
        (first, SLOT, SLOT + 1 * MINUTE),
        (moved, SLOT, SLOT + 2 * MINUTE),
        (unknown, None, SLOT + 3 * MINUTE),
    ]
    assert bulk.replace(SchedulingItem, "next_slot", changes) == 2
    found = dict(SchedulingItem.objects.values_list("pk", "next_slot"))
    assert found == {
        first: SLOT + 1 * MINUTE,
        moved: SLOT + 1 * MINUTE,
        unknown: SLOT + 3 * MINUTE,
        other: SLOT,
    }


def test_no_number_of_rows_is_too_large(
    make_item: MakeItem, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    item = make_item()
    rows = [run_of(item, number, place=f"/{number}") for number in range(MANY)]
    with django_assert_num_queries(1):
        assert bulk.insert_new(rows) == MANY
    assert SchedulingHistoryItem.objects.count() == MANY
