"""Runs over WebSockets: who may watch is settled here, what happens comes from `live.follow`."""

import asyncio
import contextlib
import logging
import uuid
from typing import Any
from urllib.parse import parse_qs

import orjson
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError
from django.http import Http404
from redis.exceptions import RedisError

from executions import live
from executions.models import Execution
from portal.accounts.models import User
from portal.accounts.permissions import Action, find

logger = logging.getLogger(__name__)

DONE, TRY_AGAIN = 1000, 1013
BAD_REQUEST, NOT_SIGNED_IN, FORBIDDEN, NOT_FOUND = 4400, 4401, 4403, 4404


class ExecutionConsumer(AsyncWebsocketConsumer):
    """One JSON event a frame: the history after `?after=`, then live, then close 1000.

    A refusal accepts first, since a browser shows nothing but "failed" of a socket that was never
    accepted, and closes with 4400, 4401, 4403 or 4404. 1013: the database or Redis is away; come back.
    """

    watching: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        await self.accept()
        route = self.scope["url_route"]["kwargs"]
        after = parse_qs(self.scope["query_string"].decode()).get("after", ["0"])[0]
        if not isinstance(self.scope["user"], User):
            return await self.close(NOT_SIGNED_IN)
        if not after.isdigit():
            return await self.close(BAD_REQUEST)
        try:
            stream_id = await database_sync_to_async(self._stream, thread_sensitive=False)(route)
        except PermissionDenied:
            return await self.close(FORBIDDEN)
        except Http404:
            return await self.close(NOT_FOUND)
        self.watching = asyncio.ensure_future(self._watch(stream_id, int(after)))
        return None

    def _stream(self, route: dict[str, Any]) -> uuid.UUID:
        runs = Execution.objects.filter(crew_id=route["crew_id"]) if "crew_id" in route else Execution.objects.all()
        # Not its texts: they may be long, and every watcher that comes back asks.
        runs = runs.only("stream_id", "access")
        return find(runs, self.scope["user"], Action.SEE, pk=route["exec_id"]).stream_id

    async def _watch(self, stream_id: uuid.UUID, after: int) -> None:
        try:
            async for event in live.follow(stream_id, after):
                await self.send(orjson.dumps(event).decode())
        except (DatabaseError, RedisError, OSError) as exc:
            # Who hears nothing any more is told so, and comes back where it was.
            logger.warning("a watcher of %s is sent away: %s", stream_id, exc)
            await self.close(TRY_AGAIN)
        else:
            await self.close(DONE)

    async def disconnect(self, code: int) -> None:
        if self.watching is not None and self.watching is not asyncio.current_task():
            self.watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.watching
