"""The one way to page a list (`portal.lib.pagination`), for pages."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from django.db.models import QuerySet
from django.http import Http404, HttpRequest
from rest_framework.request import Request

from portal.lib.pagination import CursorPages
from portal.lib.problems import Problem


@dataclass(frozen=True)
class Page:
    """Rows of a list and the queries (`?cursor=…`) of its neighbours; None where there is none."""

    rows: list[Any]
    next: str | None
    previous: str | None


def page_of(queryset: QuerySet[Any], request: HttpRequest, *, ordering: str = "-created_at", size: int = 25) -> Page:
    """One page of `queryset`: one query, constant in cost however deep.

    Raises `Http404` for a cursor that is not of this list.
    """
    pages = CursorPages()
    pages.ordering = ordering
    pages.page_size = size
    try:
        rows = pages.paginate_queryset(queryset, Request(request))
    except Problem as problem:
        raise Http404(problem.detail) from problem
    return Page(rows, _query(pages.get_next_link()), _query(pages.get_previous_link()))


def asked_for(request: HttpRequest, name: str) -> str:
    """A parameter of the address, without what no database has a place for."""
    return request.GET.get(name, "").replace("\0", "").strip()


def _query(link: str | None) -> str | None:
    return f"?{urlsplit(link).query}" if link else None
