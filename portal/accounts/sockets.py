"""Who opens a WebSocket, and from where."""

import base64
import binascii
from typing import Any

from asgiref.sync import sync_to_async
from channels.auth import AuthMiddlewareStack
from channels.security.websocket import AllowedHostsOriginValidator
from django.contrib.auth import authenticate

from portal.accounts.models import User


class BasicAuth:
    """Takes `Authorization: Basic …` of scripts, as the API does, where no session says who it is."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> Any:
        header = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
        kind, _, credentials = header.partition(" ")
        if kind.lower() == "basic" and not isinstance(scope.get("user"), User):
            try:
                name, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                name = password = ""
            if user := await sync_to_async(authenticate)(username=name, password=password):
                scope = {**scope, "user": user}
        return await self.inner(scope, receive, send)


class OriginCheck:
    """Refuses pages of other sites. Programs send no Origin, and a browser always does."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.checked = AllowedHostsOriginValidator(inner)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> Any:
        has_origin = any(name == b"origin" for name, _ in scope["headers"])
        return await (self.checked if has_origin else self.inner)(scope, receive, send)


def guarded(inner: Any) -> Any:
    """`inner` behind the origin check and everything that tells who is asking (`scope["user"]`)."""
    return OriginCheck(AuthMiddlewareStack(BasicAuth(inner)))
