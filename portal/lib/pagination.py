"""The one way to page a list: by cursor, constant in cost however deep; a count only when asked for."""

from typing import Any

from rest_framework.pagination import CursorPagination
from rest_framework.request import Request
from rest_framework.response import Response


class CursorPages(CursorPagination):
    """`{results, next, previous}`; `?page_size=` up to 200, `?ordering=`, `?count=1` adds `count`."""

    ordering = "-created_at"
    page_size_query_param = "page_size"
    max_page_size = 200

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any] | None:
        self.total = queryset.count() if request.query_params.get("count") == "1" else None
        return super().paginate_queryset(queryset, request, view)

    def get_ordering(self, request: Request, queryset: Any, view: Any) -> tuple[str, ...]:
        """The asked-for order with the primary key last, so that equal rows neither repeat nor vanish."""
        ordering = tuple(super().get_ordering(request, queryset, view))
        return ordering if any(name.lstrip("-") in {"pk", "id"} for name in ordering) else (*ordering, "pk")

    def get_paginated_response(self, data: Any) -> Response:
        body = {"results": data, "next": self.get_next_link(), "previous": self.get_previous_link()}
        if self.total is not None:
            body["count"] = self.total
        return Response(body)

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        described = super().get_paginated_response_schema(schema)
        described["required"] = ["results", "next", "previous"]
        described["properties"]["count"] = {"type": "integer", "description": "Only with ?count=1"}
        return described
