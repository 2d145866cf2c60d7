"""System checks that hold for the whole site."""

from collections.abc import Iterator
from typing import Any

from django.core.checks import Error, register
from django.urls import URLPattern, URLResolver, get_resolver


@register()
def every_route_declares_its_access(**_: Any) -> list[Error]:
    """A view that names no role (`permissions.allow`, `public`, or `read_role`/`write_role`) is an error."""
    return [
        Error(f"The route /{path} declares no permission.", hint="Use portal.accounts.permissions.allow or public.")
        for path, view in walk(get_resolver())
        if not declares_access(view)
    ]


def walk(resolver: URLResolver, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every route of the site with its view, except Django admin's own."""
    for entry in resolver.url_patterns:
        path = prefix + str(entry.pattern)
        if isinstance(entry, URLResolver):
            if entry.app_name != "admin":
                yield from walk(entry, path)
        elif isinstance(entry, URLPattern):
            yield path, entry.callback


def declares_access(view: Any) -> bool:
    cls = getattr(view, "cls", None)
    if cls is not None:
        return hasattr(cls, "read_role") and hasattr(cls, "write_role")
    return hasattr(view, "portal_access")
