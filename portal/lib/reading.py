"""Reading rows with queries that are put together once.

For the reads that are on the way of every kickoff: there the ORM takes several times as long to put
a query together as the database takes to answer it. The query is written with the ORM, and answers
with the same instances.
"""

import functools
import uuid
from collections.abc import Callable, Iterable
from typing import Any, Generic, NamedTuple, TypeVar

from django.db import connection, models
from django.db.models.query import get_related_populators

M = TypeVar("M", bound=models.Model)

# Stands in a query for the key that it will be asked with.
_KEY = uuid.UUID("6b657920-6f66-4061-a071-756572792e2e")
_KEY_FIELD: "models.UUIDField[Any, Any]" = models.UUIDField()


class _Plan(NamedTuple):
    sql: str
    params: tuple[Any, ...]
    own: slice  # the columns of the model itself
    names: list[str]  # of its fields, in that order
    populators: list[Any]  # fill in what `select_related` names
    converters: list[tuple[int, list[Callable[..., Any]], Any]]  # by column: database value → Python value


class Reading(Generic[M]):
    """A queryset that is asked again and again, each time for another UUID.

        tasks = Reading(lambda crew: Task.objects.filter(crew=crew))
        tasks(crew.pk)

    `select_related` and order are the queryset's; prefetches, annotations and `defer` are not for this.
    """

    def __init__(self, build: Callable[[uuid.UUID], models.QuerySet[M]]) -> None:
        self._build = build
        self._plan = functools.cache(self._put_together)  # one a database vendor

    def __call__(self, key: uuid.UUID) -> list[M]:
        """The rows for `key`. One query."""
        plan = self._plan(connection.vendor)
        mark, value = (_KEY_FIELD.get_db_prep_value(one, connection) for one in (_KEY, key))
        with connection.cursor() as cursor:
            cursor.execute(plan.sql, [value if param == mark else param for param in plan.params])
            found = cursor.fetchall()
        return [self._instance(plan, list(row)) for row in found]

    def _put_together(self, vendor: str) -> _Plan:
        queryset = self._build(_KEY)
        compiler = queryset.query.get_compiler(connection=connection)
        sql, params = compiler.as_sql()
        select, info = compiler.select, compiler.klass_info
        own = slice(info["select_fields"][0], info["select_fields"][-1] + 1)
        names = [expression.target.attname for expression, *_ in select[own]]
        populators = get_related_populators(info, select, connection.alias)  # type: ignore[call-arg]  # of Django 6
        converters = compiler.get_converters([expression for expression, *_ in select])
        return _Plan(sql, params, own, names, populators, [(at, *found) for at, found in converters.items()])

    def _instance(self, plan: _Plan, row: list[Any]) -> M:
        for at, converters, expression in plan.converters:
            for convert in converters:
                row[at] = convert(row[at], expression, connection)
        instance = self.model.from_db(connection.alias, plan.names, row[plan.own])
        for populator in plan.populators:
            populator.populate(row, instance)
        return instance

    @functools.cached_property
    def model(self) -> type[M]:
        return self._build(_KEY).model


def attach(owner: models.Model, name: str, found: Iterable[models.Model]) -> None:
    """Let `owner.<name>.all()` answer with `found`, as after a prefetch."""
    answer = getattr(owner, name).get_queryset()  # not put together unless somebody asks it for more
    answer._result_cache, answer._prefetch_done = list(found), True
    prefetched: dict[str, Any] = owner.__dict__.setdefault("_prefetched_objects_cache", {})
    prefetched[name] = answer
