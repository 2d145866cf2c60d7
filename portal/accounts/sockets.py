"""Who opens a WebSocket, from where, and for how long it stays open."""

import asyncio
import contextlib
import io
import logging
import uuid
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import orjson
from channels.auth import get_user
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.security.websocket import WebsocketDenier
from channels.sessions import CookieMiddleware, SessionMiddleware
from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import DisallowedHost, PermissionDenied
from django.core.handlers.asgi import ASGIRequest
from django.db import DatabaseError
from django.http import Http404
from redis.exceptions import RedisError

from portal.accounts import audit, credentials, development, sessions, throttling, watch
from portal.accounts.audit import refusals
from portal.accounts.credentials import Credential, CredentialRefused, CredentialUnchecked
from portal.accounts.limits import TooMany
from portal.accounts.models import Role, User
from portal.accounts.watch import FORBIDDEN, NOT_FOUND, NOT_SIGNED_IN, TRY_AGAIN, Permit
from portal.lib.addresses import client_address
from portal.lib.problems import Problem

logger = logging.getLogger(__name__)

DONE, BAD_REQUEST = 1000, 4400


class Doorkeeper:
    """Says who asks: `scope["user"]` and `scope["credential"]`, by the rules of the API.

    The header `Authorization` is judged by `credentials`, and one that is refused (or sent twice) is the
    end; without it the browser's session counts. A refusal accepts first: see `GuardedConsumer`.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> Any:
        peer = (scope.get("client") or (None,))[0]
        address = client_address(peer, _header(scope, b"x-forwarded-for"))
        audit.set_origin(address=address, user_agent=_header(scope, b"user-agent"), credential="")
        refusals.begin()
        try:
            try:
                user, shown = await self._who(scope, address)
            except CredentialUnchecked:
                return await _close(receive, send, TRY_AGAIN)
            except CredentialRefused:
                await _count(None, address)
                return await _refuse(receive, send, NOT_SIGNED_IN)
            await _count(user, address)
        except TooMany:
            return await _refuse(receive, send, TRY_AGAIN)
        except DatabaseError as exc:
            logger.warning("nobody says who opens %s: %s", scope["path"], exc)
            return await _close(receive, send, TRY_AGAIN)
        return await self.inner({**scope, "user": user, "credential": shown}, receive, send)

    async def _who(self, scope: dict[str, Any], address: str | None) -> tuple[User | AnonymousUser, Credential | None]:
        sent = [value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"]
        # Two of them make one that is no credential, as where HTTP joins them.
        token = credentials.split(", ".join(sent))
        if token is not None:
            return await database_sync_to_async(credentials.check)(token, address=address)
        user = await get_user(scope)
        if isinstance(user, User):
            shown = sessions.credential_of(scope["session"])
            audit.set_origin(credential=shown.label)
            return user, shown
        if (stand_in := await database_sync_to_async(development.user)()) is not None:
            return stand_in, development.CREDENTIAL
        return user, None


async def _count(user: User | AnonymousUser | None, address: str | None) -> None:
    """One more request, as HTTP counts them. Raises `TooMany`."""
    if isinstance(user, User):
        await database_sync_to_async(throttling.count_user)(user)
    else:
        await database_sync_to_async(throttling.count_stranger)(address)


def _header(scope: dict[str, Any], wanted: bytes) -> str:
    return ", ".join(value.decode("latin-1") for name, value in scope["headers"] if name == wanted)


async def _refuse(receive: Any, send: Any, code: int) -> None:
    audit.refused("request.refused", by=None, after={"status": code, "route": "websocket"})
    await _close(receive, send, code)


async def _close(receive: Any, send: Any, code: int) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close", "code": code})


class OriginCheck:
    """Refuses pages of other sites, other ports of this host among them: they all share its cookies.

    Programs send no Origin, and a browser always does. Ours is that of PORTAL_URL, and the one at which the
    request itself arrives, as Django has it for forms.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> Any:
        is_page = any(name == b"origin" for name, _value in scope["headers"])
        if is_page and not _is_ours(_header(scope, b"origin"), scope):
            return await WebsocketDenier()(scope, receive, send)
        return await self.inner(scope, receive, send)


def _is_ours(origin: str, scope: dict[str, Any]) -> bool:
    # Browsers write an origin in one way only, and as the header Host: nothing has to be taken apart.
    if origin == "{0.scheme}://{0.netloc}".format(urlsplit(settings.PORTAL_URL)).lower():
        return True
    scheme = "https" if scope.get("scheme") == "wss" else "http"
    request = ASGIRequest({**scope, "method": "GET", "scheme": scheme, "query_string": b""}, io.BytesIO())
    try:
        # Django knows which hosts are ours, and whether a proxy is believed.
        return origin == f"{request.scheme}://{request.get_host()}"
    except DisallowedHost:
        return False


def guarded(inner: Any) -> Any:
    """`inner` behind the origin check and everything that tells who is asking (`scope["user"]`)."""
    return OriginCheck(CookieMiddleware(SessionMiddleware(Doorkeeper(inner))))


class GuardedConsumer(AsyncWebsocketConsumer):
    """Base of all WebSockets: one JSON event a frame for who has `read_role` and may see the thing, for as
    long as that holds (`watch`), then close 1000.

    A refusal accepts first, since a browser shows nothing but "failed" of a socket that was never
    accepted, and closes with 4400, 4401, 4403 or 4404. 1013: the database, Redis or the identity provider
    is away; come back.
    """

    read_role: Role
    watching: asyncio.Task[None] | None = None
    over: int | None = None  # the code with which a permit ended

    def find(self) -> uuid.UUID:
        """Find what the address asks for, in a thread of its own; returns the id of its access list.

        Raises `Http404`, `PermissionDenied`, and `Problem` for an address that makes no sense.
        """
        raise NotImplementedError

    def events(self) -> AsyncIterator[dict[str, Any]]:
        """What is sent, once `find` has found it."""
        raise NotImplementedError

    async def connect(self) -> None:
        await self.accept()
        user = self.scope["user"]
        if not isinstance(user, User) or not user.is_active:
            return await self._refuse(NOT_SIGNED_IN)
        if not user.has_role(self.read_role):
            return await self._refuse(FORBIDDEN)
        try:
            access_id = await database_sync_to_async(self.find, thread_sensitive=False)()
        except Problem:
            return await self.close(BAD_REQUEST)
        except PermissionDenied:
            return await self._refuse(FORBIDDEN)
        except Http404:
            return await self._refuse(NOT_FOUND)
        except DatabaseError:
            return await self.close(TRY_AGAIN)
        permit = Permit(user, self.scope["credential"], self.read_role, access_id)
        self.watching = asyncio.ensure_future(self._watch(permit))
        return None

    async def _refuse(self, code: int) -> None:
        target = refusals.noted().get("target")
        if code != NOT_FOUND or target is not None:  # what is not there is hidden from nobody
            after = {"status": code, "route": type(self).__name__}
            audit.refused("request.refused", by=self.scope["user"], target=target, after=after)
        await self.close(code)

    async def _watch(self, permit: Permit) -> None:
        try:
            with watch.hold(permit, self._end):
                async for event in self.events():
                    await self.send(orjson.dumps(event).decode())
        except (DatabaseError, RedisError, OSError) as exc:
            # Who hears nothing any more is told so, and comes back where it was.
            logger.warning("a watcher of %s is sent away: %s", self.scope["path"], exc)
            await self.close(TRY_AGAIN)
        except asyncio.CancelledError:
            if self.over is None:
                raise
            await self.close(self.over)
        else:
            await self.close(DONE)

    def _end(self, code: int) -> None:
        self.over = code
        if self.watching is not None:
            self.watching.cancel()

    async def disconnect(self, code: int) -> None:
        if self.watching is not None and self.watching is not asyncio.current_task():
            self.watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.watching
