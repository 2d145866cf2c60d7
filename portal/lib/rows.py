"""Writing single rows with statements that are put together once.

For the few writes that are on the way of every event and every LLM call: there the ORM's query
building takes several times as long as the database. Values go through the model's fields, so they
are stored exactly as the ORM stores them; signals, defaults of the database and inheritance are
not for these functions.
"""

import functools
from collections.abc import Sequence
from typing import Any

from django.db import connection, models

# Fields whose values a database takes as they are: to ask the field for each would take most of the time.
_PLAIN = frozenset(
    {
        *(models.CharField, models.TextField, models.BooleanField, models.IntegerField, models.BigIntegerField),
        *(models.PositiveIntegerField, models.PositiveSmallIntegerField, models.PositiveBigIntegerField),
    }
)


@functools.lru_cache(maxsize=256)
def _insert_statement(
    model: type[models.Model], vendor: str, count: int, with_key: bool
) -> tuple[str, tuple[Any, ...]]:
    """SQL that inserts `count` rows, and the fields whose values it wants of each; one without a key gives its own."""
    quote = connection.ops.quote_name
    meta = model._meta
    fields = tuple(field for field in meta.concrete_fields if with_key or not field.primary_key)
    columns = ", ".join(quote(str(field.column)) for field in fields)
    values = ", ".join([f"({', '.join(['%s'] * len(fields))})"] * count)
    returning = "" if with_key or count > 1 else f" RETURNING {quote(str(meta.pk.column))}"
    return f"INSERT INTO {quote(meta.db_table)} ({columns}) VALUES {values}{returning}", fields  # noqa: S608


def insert(rows: Sequence[models.Model]) -> None:
    """Store new rows of one model, in one statement. A single row is given its key, where the database makes it."""
    if not rows:
        return
    model = type(rows[0])
    automatic = isinstance(model._meta.pk, models.AutoField)
    sql, fields = _insert_statement(model, connection.vendor, len(rows), not automatic)
    values = [
        getattr(row, field.attname)
        if type(field) in _PLAIN
        else field.get_db_prep_save(field.pre_save(row, True), connection)
        for row in rows
        for field in fields
    ]
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        if automatic and len(rows) == 1:
            rows[0].pk = cursor.fetchone()[0]
    for row in rows:
        row._state.adding = False
        row._state.db = connection.alias


@functools.cache
def _assignments(model: type[models.Model], vendor: str, names: tuple[str, ...]) -> tuple[str, tuple[Any, ...]]:
    quote = connection.ops.quote_name
    fields: tuple[Any, ...] = tuple(model._meta.get_field(name) for name in names)
    return ", ".join(f"{quote(field.column)} = %s" for field in fields), fields


def update(model: type[models.Model], changes: dict[str, Any], where: str, params: Sequence[Any]) -> int:
    """Set `changes` on the rows that the SQL condition `where` picks; the number of rows."""
    assignments, fields = _assignments(model, connection.vendor, tuple(changes))
    values = [
        value if type(field) in _PLAIN else field.get_db_prep_save(value, connection)
        for field, value in zip(fields, changes.values(), strict=True)
    ]
    table = connection.ops.quote_name(model._meta.db_table)
    return execute(f"UPDATE {table} SET {assignments} WHERE {where}", [*values, *params])  # noqa: S608


def execute(sql: str, params: Sequence[Any]) -> int:
    """Run a statement; the number of rows it touched."""
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return int(cursor.rowcount)


def one(sql: str, params: Sequence[Any]) -> tuple[Any, ...] | None:
    """Run a statement; the one row that it returns, if it does."""
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.fetchone()


def key(model: type[models.Model], value: Any) -> Any:
    """A primary key as this database stores it, to be a parameter."""
    return model._meta.pk.get_db_prep_value(value, connection)
