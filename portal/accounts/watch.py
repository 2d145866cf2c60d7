"""Whatever stays open is asked again and again whether it still may: WebSockets and server-sent events.

A permit is checked when something opens; it must not outlive what it rests on. One task a process asks
the database every half second about all permits that are held, with the same few queries however
many there are, and ends within a second those whose

- session was ended, has expired or lost its password, whose API key was revoked or has expired, whose
  token has expired, whose user was deactivated: 4401;
- user lost the role that the route needs: 4403;
- thing is not theirs to see any more: 4404.

It needs no Redis and hears of what other processes changed. When the database cannot be asked,
everything ends with 1013, and whoever may comes back.
"""

import asyncio
import logging
import uuid
import weakref
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from channels.db import database_sync_to_async
from django.db import DatabaseError
from django.db.models import Q
from django.utils import timezone

from portal.accounts.credentials import Credential
from portal.accounts.models import AccessGrant, AccessList, ApiKey, Role, Session, User
from portal.accounts.oidc import renewal
from portal.accounts.permissions import level_without_grant

logger = logging.getLogger(__name__)

T = TypeVar("T")

PERIOD = 0.5  # seconds between two looks
RENEW_PERIOD = 3  # the same for sessions that are to be renewed at the identity provider
TRY_AGAIN = 1013
NOT_SIGNED_IN, FORBIDDEN, NOT_FOUND = 4401, 4403, 4404


@dataclass(frozen=True, eq=False)
class Permit:
    """Why something may be open: `user`, who came with `credential` (None: nothing that could end), has the
    role `role` and may see what the access list `access_id` guards (None: no single thing)."""

    user: User
    credential: Credential | None
    role: Role
    access_id: uuid.UUID | None = None


@contextmanager
def hold(permit: Permit, end: Callable[[int], None]) -> Iterator[None]:
    """Hold `permit` for as long as something is open. `end` is called, once at most and in the event loop, with the
    code to close with when the permit is no longer good."""
    loop = asyncio.get_running_loop()
    watch = _watches.get(loop)
    if watch is None:
        watch = _watches[loop] = _Watch()
    watch.add(permit, end)
    try:
        yield
    finally:
        watch.remove(permit)


async def while_allowed(permit: Permit, items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """The `items` for as long as `permit` is good; then they end."""
    waiting: asyncio.Task[object] | None = None
    is_over = False

    def end(_code: int) -> None:
        nonlocal is_over
        is_over = True
        if waiting is not None:
            waiting.cancel()

    with hold(permit, end):
        try:
            while not is_over:
                waiting = asyncio.current_task()
                try:
                    item = await anext(items)
                except StopAsyncIteration:
                    return
                except asyncio.CancelledError:
                    # Ours, unless somebody else ended the request as well.
                    if not is_over or waiting is None or waiting.uncancel():
                        raise
                    return
                finally:
                    waiting = None
                yield item
        finally:
            await items.aclose()


class _Watch:
    """The permits that are held in one event loop, and the task that asks about them while there are any."""

    def __init__(self) -> None:
        self._held: dict[Permit, Callable[[int], None]] = {}
        self._asking: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None

    def add(self, permit: Permit, end: Callable[[int], None]) -> None:
        self._held[permit] = end
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(self._ask())

    def remove(self, permit: Permit) -> None:
        self._held.pop(permit, None)

    async def _ask(self) -> None:
        try:
            while self._held:
                await asyncio.sleep(PERIOD)
                asked = list(self._held)
                self._end(await database_sync_to_async(judge, thread_sensitive=False)(asked))
                if self._renewing is None or self._renewing.done():
                    # Apart from the look that ends things within a second: the provider may take its time.
                    self._renewing = asyncio.ensure_future(self._renew(asked))
        except DatabaseError as exc:
            logger.warning("the database does not say who may still watch: %s", exc)
        except asyncio.CancelledError:
            self._held.clear()  # the loop ends, and everything in it
            raise
        finally:
            # However this came to its end: nothing stays open that nobody asks about.
            self._end(dict.fromkeys(self._held, TRY_AGAIN))

    async def _renew(self, asked: list[Permit]) -> None:
        """Sessions of the identity provider are renewed there while something of theirs is open."""
        shown = {permit.credential for permit in asked if permit.credential is not None}
        keys = {credential.id for credential in shown if credential.kind == "session"}
        try:
            await database_sync_to_async(renewal.renew_open, thread_sensitive=False)(keys)
        except DatabaseError as exc:
            logger.warning("open sessions cannot be renewed now: %s", exc)
        await asyncio.sleep(RENEW_PERIOD)

    def _end(self, over: dict[Permit, int]) -> None:
        for permit, code in over.items():
            # Who is gone meanwhile needs no end.
            if end := self._held.pop(permit, None):
                end(code)


_watches: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Watch]" = weakref.WeakKeyDictionary()


def judge(permits: list[Permit]) -> dict[Permit, int]:
    """Those of `permits` that are no longer good, with the code that says why. At most five queries."""
    facts = _Facts(permits)
    return {permit: code for permit in permits if (code := facts.code_for(permit))}


class _Facts:
    """What is true now about everything that permits rest on."""

    def __init__(self, permits: list[Permit]) -> None:
        self.now = timezone.now()
        # Not by `in_bulk`, which asks SQLite again for every thousand.
        people = {permit.user.pk for permit in permits}
        self.users = {
            user.pk: user for user in User.objects.filter(pk__in=people).only("role", "is_active", "password")
        }
        shown = [permit.credential for permit in permits if permit.credential is not None]
        # Sessions and keys that open something: their ids, and whose they are.
        self.good: dict[tuple[str, str], uuid.UUID | None] = {}
        if ids := {credential.id for credential in shown if credential.kind == "session"}:
            sessions = Session.objects.filter(pk__in=ids, expire_date__gt=self.now)
            self.good |= {("session", key): user for key, user in sessions.values_list("pk", "user")}
        if ids := {credential.id for credential in shown if credential.kind == "api_key"}:
            keys = ApiKey.objects.filter(Q(expires_at=None) | Q(expires_at__gt=self.now), pk__in=ids, revoked_at=None)
            self.good |= {("api_key", str(key)): user for key, user in keys.values_list("pk", "user")}
        lists = {permit.access_id for permit in permits if permit.access_id is not None}
        self.access = {access.pk: access for access in AccessList.objects.filter(pk__in=lists)}
        grants = AccessGrant.objects.filter(access__in=self.access, user__in=self.users)
        self.granted = set(grants.values_list("access", "user"))

    def code_for(self, permit: Permit) -> int | None:
        """The code to close with; None while the permit is good."""
        user, shown = self.users.get(permit.user.pk), permit.credential
        if user is None or not user.is_active or not self._holds(shown, permit.user, user):
            return NOT_SIGNED_IN
        user = user.acting_as(shown.cap if shown else None)
        if not user.has_role(permit.role):
            return FORBIDDEN
        if permit.access_id is not None:
            access = self.access.get(permit.access_id)
            if access is None:
                return NOT_FOUND
            if not level_without_grant(user, access) and (access.pk, user.pk) not in self.granted:
                return NOT_FOUND
        return None

    def _holds(self, shown: Credential | None, then: User, now: User) -> bool:
        if shown is None:
            return True
        if shown.expires_at is not None and shown.expires_at <= self.now and shown.kind != "session":
            return False  # a session may have been prolonged meanwhile: its row knows
        if shown.kind == "session" and then.password != now.password:
            return False  # Django signs such sessions out with their next request
        return shown.kind not in {"session", "api_key"} or self.good.get((shown.kind, shown.id)) == now.pk
