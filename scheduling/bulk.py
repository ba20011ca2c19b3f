"""Writes any number of rows with one statement, where Django needs one for each batch.

The values travel as one array for each column (PostgreSQL) or as one JSON text (SQLite), because
both limit the number of parameters. No name and no value is put into the SQL but those of models.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from django.db import connection, transaction
from django.db.models import Field, Model, QuerySet
from django.db.models.expressions import RawSQL

AnyField: TypeAlias = "Field[Any, Any]"
Column = Sequence[Any]


def insert_new(rows: Sequence[Model]) -> int:
    """Writes the rows that break no unique constraint, in this order; returns how many.

    The rows are of one model and not saved yet, and they get no primary key here. Two processes
    that write the same rows at once give them in the same order, so that neither waits for the
    other for ever.
    """
    if not rows:
        return 0
    fields = [field for field in rows[0]._meta.concrete_fields if not field.primary_key]
    columns = {field: [getattr(row, field.attname) for row in rows] for field in fields}
    differing = [field for field in fields if _differ(columns[field])] or fields[:1]
    same = [field for field in fields if field not in differing]
    given, parameters = _given([(_name(field), field, columns[field]) for field in differing])
    names = ", ".join(map(_name, [*same, *differing]))
    values = ", ".join([*("%s" for _ in same), *(f"given.{_name(field)}" for field in differing)])
    return _execute(
        f"INSERT INTO {_table(type(rows[0]))} ({names}) SELECT {values} FROM {given} "  # noqa: S608
        "WHERE true ON CONFLICT DO NOTHING",
        [*(_prepared(field, columns[field][0]) for field in same), *parameters],
    )


def replace(model: type[Model], name: str, changes: Sequence[tuple[int, Any, Any]]) -> int:
    """Gives one field of each row its new value if it still has the old one; returns how many.

    A change is the row's primary key, the old value and the new one.
    """
    if not changes:
        return 0
    key, field = model._meta.pk, _field(model, name)
    pks, old, new = zip(*changes, strict=True)
    given, parameters = _given([("pk", key, pks), ("old", field, old), ("new", field, new)])
    table = _table(model)
    stored = f"{table}.{_name(field)}"
    with transaction.atomic():
        lock(model._default_manager.filter(pk__in=any_of(pks)))
        return _execute(
            f"UPDATE {table} SET {_name(field)} = given.new FROM {given} "  # noqa: S608
            f"WHERE {table}.{_name(key)} = given.pk "
            f"AND ({stored} = given.old OR ({stored} IS NULL AND given.old IS NULL))",
            parameters,
        )


def any_of(keys: Sequence[int]) -> RawSQL:
    """For `pk__in`, which takes a parameter for each key otherwise."""
    if connection.vendor == "postgresql":
        return RawSQL("SELECT unnest(%s::bigint[])", [list(keys)])
    return RawSQL("SELECT value FROM json_each(%s)", [json.dumps(keys)])


def lock(rows: "QuerySet[Any]") -> None:
    """Locks the rows in the order of their keys until the end of the transaction.

    So two processes that change the same rows never wait for each other in a circle.
    """
    list(rows.order_by("pk").select_for_update(no_key=True).values_list("pk"))


def _given(columns: Sequence[tuple[str, AnyField, Column]]) -> tuple[str, list[Any]]:
    """The columns, each with its name, as the table `given`, and its parameters."""
    names = [name for name, _, _ in columns]
    prepared = [[_prepared(field, value) for value in column] for _, field, column in columns]
    if connection.vendor == "postgresql":
        # Without its length, which would cut a text that is too long and say nothing.
        types = [str(field.db_type(connection)).partition("(")[0] for _, field, _ in columns]
        arrays = ", ".join(f"%s::{each}[]" for each in types)
        return f"unnest({arrays}) AS given ({', '.join(names)})", prepared
    values = ", ".join(f"json_extract(value, '$[{n}]') AS {name}" for n, name in enumerate(names))
    rows = json.dumps(list(zip(*prepared, strict=True)))
    return f"(SELECT {values} FROM json_each(%s)) AS given", [rows]  # noqa: S608


def _differ(column: Column) -> bool:
    """Whether it takes more than one value; JSON may hold a 1 here and a True there, both equal."""
    first = column[0]
    return any(value != first or (value and isinstance(value, (dict, list))) for value in column)


def _prepared(field: AnyField, value: Any) -> Any:
    return field.get_db_prep_save(value, connection)


def _field(model: type[Model], name: str) -> AnyField:
    return next(field for field in model._meta.concrete_fields if field.name == name)


def _name(field: AnyField) -> str:
    return connection.ops.quote_name(str(field.column))


def _table(model: type[Model]) -> str:
    return connection.ops.quote_name(model._meta.db_table)


def _execute(sql: str, parameters: Iterable[Any]) -> int:
    with connection.cursor() as cursor:
        cursor.execute(sql, list(parameters))
        return int(cursor.rowcount)
