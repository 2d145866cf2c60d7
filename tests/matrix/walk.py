"""Every route that there is, found where the servers find them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.urls import URLPattern, URLResolver, get_resolver


@dataclass(frozen=True)
class Found:
    """A route of the site: the name by which the table knows it, its address and its view."""

    name: str
    address: str
    view: Any
    parameters: tuple[str, ...]


def http_routes() -> list[Found]:
    """Pages, API and Django admin. A route without a name is known by its address."""
    return list(_below(get_resolver(), "", ()))


def _below(resolver: URLResolver, prefix: str, spaces: tuple[str, ...]) -> Iterator[Found]:
    for entry in resolver.url_patterns:
        address = prefix + str(entry.pattern)
        if isinstance(entry, URLResolver):
            yield from _below(entry, address, (*spaces, *([entry.namespace] if entry.namespace else [])))
        elif isinstance(entry, URLPattern):
            name = ":".join([*spaces, entry.name]) if entry.name else f"/{address}"
            yield Found(name, f"/{address}", entry.callback, tuple(_parameters(entry)))


def _parameters(entry: URLPattern) -> Iterator[str]:
    if converters := getattr(entry.pattern, "converters", None):
        yield from converters
    elif regex := getattr(entry.pattern, "regex", None):
        yield from regex.groupindex


def socket_routes() -> list[str]:
    """The addresses of WebSockets: `/ws/executions/{exec_id}`."""
    from portal.asgi import websocket_urlpatterns

    patterns = [str(entry.pattern) for entry in websocket_urlpatterns]
    return ["/" + re.sub(r"\(\?P<(\w+)>[^)]*\)", r"{\1}", pattern).strip("^$/?") for pattern in patterns]


def gateway_routes() -> list[tuple[str, frozenset[str]]]:
    """The gateway's addresses, each with the methods that it serves."""
    from executions.gateway.app import application

    return [
        (route.path, frozenset(route.methods or ()))  # type: ignore[attr-defined]
        for route in application().routes
    ]
