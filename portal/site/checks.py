"""What every route must declare, or the portal does not start."""

import inspect
from collections.abc import Iterator
from typing import Any

from django.core.checks import Error, register
from django.urls import URLPattern, URLResolver, get_resolver
from rest_framework.settings import api_settings

from portal.accounts.api import DeclaredAccess
from portal.accounts.models import Role, Scope
from portal.accounts.permissions import PUBLIC
from portal.site.socket_urls import websocket_urlpatterns

_LOOKS = "Use portal.accounts.permissions.allow or public; for API views read_role and write_role."


@register()
def every_route_declares_its_access(**_: Any) -> list[Error]:
    """A route, HTTP or WebSocket, that does not say who may use it is an error; so is a scope that does not exist."""
    routes = [*walk(get_resolver()), *((str(entry.pattern), entry.callback) for entry in websocket_urlpatterns)]
    return [
        Error(f"The route /{path.lstrip('^/')} {fault}.", hint=_LOOKS, id="portal.E001")
        for path, view in routes
        for fault in faults(view)
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


def faults(view: Any) -> Iterator[str]:
    """What is wrong with the declaration of `view`: a page, an API view or a WebSocket consumer."""
    if (consumer := getattr(view, "consumer_class", None)) is not None:
        if not isinstance(getattr(consumer, "read_role", None), Role):
            yield "declares no permission: its consumer has no read_role"
    elif (cls := getattr(view, "cls", None)) is not None:
        yield from _faults_of_api(cls, getattr(view, "initkwargs", {}))
    elif not _is_role(getattr(view, "portal_access", None)):
        yield "declares no permission"


def _faults_of_api(cls: Any, initial: dict[str, Any]) -> Iterator[str]:
    for name in ("read_role", "write_role"):
        if not _is_role(initial.get(name, getattr(cls, name, None))):
            yield f"declares no permission: {name} is missing"
    for name in ("read_scope", "write_scope"):
        if not isinstance(getattr(cls, name, Scope.READ), Scope):
            yield f"has a {name} that is none"
    for action, scope in getattr(cls, "action_scopes", {}).items():
        if not isinstance(scope, Scope) or not inspect.isfunction(getattr(cls, action, None)):
            yield f"has action_scopes for “{action}”, which is no action or gets no scope"
    # Whoever puts other classes in their place goes around the one door.
    if DeclaredAccess not in initial.get("permission_classes", cls.permission_classes):
        yield "declares a permission that nothing looks at: DeclaredAccess is not among its permission_classes"
    authenticators = initial.get("authentication_classes", cls.authentication_classes)
    if list(authenticators) != list(api_settings.DEFAULT_AUTHENTICATION_CLASSES):
        yield "has authentication_classes of its own"


def _is_role(declared: Any) -> bool:
    return isinstance(declared, Role) or declared == PUBLIC
