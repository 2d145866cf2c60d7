"""The one way to page a list: by cursor, constant in cost however deep; a count only when asked for."""

import base64
import json
from dataclasses import dataclass
from decimal import Context, Decimal
from functools import cached_property
from typing import Any

from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db import connection, models
from django.db.models import F, Q
from django.utils.translation import gettext as _
from rest_framework.filters import OrderingFilter
from rest_framework.pagination import BasePagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import replace_query_param

from portal.lib import numbers
from portal.lib.problems import FieldError, Problem


def _bad_parameter(name: str, detail: str) -> Problem:
    return Problem(_("A query parameter cannot be used."), errors=[FieldError(name, "invalid", detail)])


class Ordering(OrderingFilter):
    """`?ordering=name,-created_at`, from the view's `ordering_fields`; another name is an error.

    It only reads: `CursorPages` does the sorting, because a cursor needs to know the order.
    """

    def get_ordering(self, request: Request, queryset: Any, view: Any) -> list[str]:
        """The names that were asked for; empty when none were. Raises `Problem` for an unknown one."""
        asked = [name.strip() for name in request.query_params.get(self.ordering_param, "").split(",") if name.strip()]
        allowed = set(getattr(view, "ordering_fields", ()))
        for name in asked:
            if name.removeprefix("-") not in allowed:
                choices = ", ".join(sorted(allowed))
                detail = _("Cannot sort by “%(name)s”; use one of: %(choices)s.") % {"name": name, "choices": choices}
                raise _bad_parameter(self.ordering_param, detail)
        return asked

    def filter_queryset(self, request: Request, queryset: Any, view: Any) -> Any:
        return queryset

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        names = sorted(getattr(view, "ordering_fields", ()))
        shown = _("Names to sort by, separated by commas; a minus reverses. Known: %(names)s.")
        return [
            {
                "name": self.ordering_param,
                "required": False,
                "in": "query",
                "description": shown % {"names": ", ".join(names)},
                "schema": {"type": "string"},
            }
        ]


@dataclass(frozen=True)
class _Step:
    """One field of an order."""

    field: "models.Field[Any, Any]"
    descending: bool

    def read(self, value: Any) -> Any:
        """What a cursor says of this field. Raises whatever fields and databases raise for what they cannot hold."""
        if value is None:
            return None
        if not isinstance(value, str) or "\0" in value:
            raise ValueError("no cursor of ours holds this")
        value.encode()  # half a character fits into no database
        found = self.field.to_python(value)
        if isinstance(found, Decimal):  # as many digits as any column has; PostgreSQL stumbles over thousands
            found = found.quantize(Decimal("1e-18"), context=Context(prec=36))
        # A moment may be beyond all dates in the database's zone: it must not be the query that finds out.
        self.field.get_db_prep_value(found, connection)
        return found

    def expression(self, backwards: bool) -> Any:
        sort = F(self.field.attname)
        nulls = {"nulls_first": True} if backwards else {"nulls_last": True}
        return (sort.desc if self.descending != backwards else sort.asc)(**(nulls if self.field.null else {}))

    def beyond(self, value: Any, backwards: bool) -> Q:
        """Rows that come after `value`. Empty values stand last, in either direction of sorting."""
        name = self.field.attname
        if value is None:
            return Q(**{f"{name}__isnull": False}) if backwards else Q(pk__in=[])
        after = Q(**{f"{name}__{'lt' if self.descending != backwards else 'gt'}": value})
        return after | Q(**{f"{name}__isnull": True}) if self.field.null and not backwards else after

    def same(self, value: Any) -> Q:
        return Q(**{f"{self.field.attname}__isnull": True} if value is None else {self.field.attname: value})


class CursorPages(BasePagination):
    """`{results, next, previous}`; `?page_size=` up to 200, `?ordering=`, `?count=1` adds `count`.

    The order is what `Ordering` read, else the view's `ordering`, else the class's; the primary key
    stands last in it, so that equal rows neither repeat nor vanish, however many they are. A cursor
    holds the values of the row beside the page.
    """

    ordering: str | tuple[str, ...] = "-created_at"
    page_size = 50
    max_page_size = 200
    steps: list[_Step]
    rows: list[Any]

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any]:
        self.url = request.build_absolute_uri()
        self.steps = self._steps(request, queryset, view)
        size = self._size(request)
        self.total = queryset.count() if request.query_params.get("count") == "1" else None
        backwards, values = self._read(request.query_params.get("cursor", ""))
        if values is not None:
            queryset = queryset.filter(self._beyond(values, backwards))
        found = list(queryset.order_by(*(step.expression(backwards) for step in self.steps))[: size + 1])
        more, self.rows = len(found) > size, found[:size]
        if backwards:
            self.rows.reverse()
        self.has_next = bool(self.rows) and (more or backwards)
        self.has_previous = bool(self.rows) and (more if backwards else values is not None)
        return self.rows

    def get_paginated_response(self, data: Any) -> Response:
        body = {"results": data, "next": self.get_next_link(), "previous": self.get_previous_link()}
        if self.total is not None:
            body["count"] = self.total
        return Response(body)

    def get_next_link(self) -> str | None:
        return self._link(self.rows[-1], backwards=False) if self.has_next else None

    def get_previous_link(self) -> str | None:
        return self._link(self.rows[0], backwards=True) if self.has_previous else None

    # --- Reading the request -----------------------------------------------------------------

    def _size(self, request: Request) -> int:
        asked = request.query_params.get("page_size")
        if asked is None:
            return self.page_size
        size = numbers.whole(asked)
        if not size:
            raise _bad_parameter("page_size", _("Give a whole number from 1 to %(max)d.") % {"max": self.max_page_size})
        return min(size, self.max_page_size)

    def _steps(self, request: Request, queryset: Any, view: Any) -> list[_Step]:
        names: list[str] = []
        for backend in getattr(view, "filter_backends", ()):
            if issubclass(backend, Ordering):
                names = backend().get_ordering(request, queryset, view)
        if not names:
            default = getattr(view, "ordering", None) or self.ordering
            names = [default] if isinstance(default, str) else list(default)
        meta = queryset.model._meta
        steps: list[_Step] = []
        for name in [*names, "pk"]:
            bare = name.removeprefix("-")
            try:
                field = meta.pk if bare == "pk" else meta.get_field(bare)
            except FieldDoesNotExist as exc:
                raise AssertionError(f"{queryset.model.__name__} cannot be sorted by {bare}") from exc
            if field not in [step.field for step in steps]:
                steps.append(_Step(field, name.startswith("-")))
        return steps

    # --- Cursors -----------------------------------------------------------------------------

    @cached_property
    def _names(self) -> list[str]:
        return [f"{'-' if step.descending else ''}{step.field.attname}" for step in self.steps]

    def _link(self, row: Any, *, backwards: bool) -> str:
        values = [
            None if getattr(row, step.field.attname) is None else step.field.value_to_string(row) for step in self.steps
        ]
        token = json.dumps([int(backwards), self._names, values], separators=(",", ":"))
        return replace_query_param(self.url, "cursor", base64.urlsafe_b64encode(token.encode()).decode().rstrip("="))

    def _read(self, cursor: str) -> tuple[bool, list[Any] | None]:
        """Whether the cursor leads back, and the row's values beside which the page lies."""
        if not cursor:
            return False, None
        try:
            backwards, names, raw = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
            if names != self._names or len(raw) != len(self.steps):
                raise ValueError("made for another order")
            values = [step.read(value) for step, value in zip(self.steps, raw, strict=True)]
        except (ValueError, TypeError, ArithmeticError, RecursionError, ValidationError) as exc:
            raise _bad_parameter("cursor", _("This cursor belongs to another list. Start without one.")) from exc
        return bool(backwards), values

    def _beyond(self, values: list[Any], backwards: bool) -> Q:
        found, same = Q(pk__in=[]), Q()
        for step, value in zip(self.steps, values, strict=True):
            found |= same & step.beyond(value, backwards)
            same &= step.same(value)
        return found

    # --- OpenAPI -----------------------------------------------------------------------------

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        def described(name: str, schema: dict[str, Any], text: str) -> dict[str, Any]:
            return {"name": name, "required": False, "in": "query", "description": text, "schema": schema}

        size = {"type": "integer", "minimum": 1, "maximum": self.max_page_size, "default": self.page_size}
        return [
            described("cursor", {"type": "string"}, _("From the “next” or “previous” of an answer.")),
            described("page_size", size, _("Results of a page.")),
            described("count", {"type": "string", "enum": ["1"]}, _("1: also count all results.")),
        ]

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        link = {"type": "string", "format": "uri", "nullable": True}
        return {
            "type": "object",
            "required": ["results", "next", "previous"],
            "properties": {
                "results": schema,
                "next": {**link, "description": _("The page after this one; null on the last.")},
                "previous": {**link, "description": _("The page before this one; null on the first.")},
                "count": {"type": "integer", "description": _("All results; only with ?count=1.")},
            },
        }
