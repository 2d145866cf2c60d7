"""What all requests of one gateway process share."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from django.db import InterfaceError, OperationalError, connection
from django.utils.translation import gettext as _

from crews.embedded.serve import FETCHING, serving
from crews.models import LLMModel, LLMProvider
from executions.gateway import journal, ledger
from executions.gateway.catalog import Directory, StaleRun
from executions.gateway.faults import Fault, Refusal
from executions.gateway.holds import Holds
from executions.gateway.keyset import KeySet
from executions.gateway.presence import Presence
from executions.gateway.room import Room
from executions.gateway.slots import Slots
from executions.gateway.translated import Litellm
from executions.gateway.upstream import OpenAICompatible, Upstream
from portal.lib.dbthreads import DatabaseThreads

logger = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

# SQLite has one writer: threads that wait for each other there sleep longer than a queue makes them wait.
SQLITE_THREADS = 1
DATABASE_THREADS = 8
# A database that restarts or is busy: seconds between the attempts. Runs outlive a minute without it.
PAUSES = (0.1, 0.5, 2.0, 5.0, 10.0, 15.0, 30.0)
MODEL_CHECK_SECONDS = 0.5
# Seconds between the looks at a request that another gateway carries out.
FIRST_LOOK, LAST_LOOK = 0.05, 1.0

# How work may end that somebody waits for, or that nobody needs any more.
_TOLD = (Fault, Refusal, StaleRun, journal.Taken, ledger.NoRoom)


class State:
    """Created on the event loop that serves; `open` it before the first request, and `close` it in the end."""

    def __init__(self) -> None:
        size = SQLITE_THREADS if connection.vendor == "sqlite" else DATABASE_THREADS
        self.db = DatabaseThreads(size, "gateway-database")
        self.directory = Directory(self.write)
        self.presence = Presence(self.db, ledger.gateway_name())
        self.keyset = KeySet()
        self.slots = Slots()
        self.room = Room()
        self.holds = Holds()
        self.compatible = OpenAICompatible()
        self.litellm = Litellm()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        """Be known to the database as a gateway that lives."""
        await self.presence.begin(self.write)

    @property
    def instance(self) -> str:
        """What this process's calls and journal entries are held by."""
        return self.presence.instance

    async def recorded(self, key: journal.Key) -> journal.Found | None:
        """The journal's entry once it is done or lost; None when nobody carries it out.

        For whoever holds `key` here: an entry that is open in this process's name is then a leftover.
        """
        pause = FIRST_LOOK
        while True:
            found = await self.write(journal.find, key)
            if found is None or found.is_lost or (found.holder == self.instance and not found.is_done):
                return None
            if found.is_done:
                return found
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, LAST_LOOK)

    def upstream(self, kind: str) -> Upstream:
        """The way to providers of a kind."""
        return self.litellm if kind == LLMProvider.Kind.LITELLM else self.compatible

    async def ready(self, kind: str, tell: Callable[[str, str], Awaitable[None]]) -> None:
        """Have what a kind needs loaded; it is not the model's time that this takes.

        A run may be started while the embedded model is still being fetched: it waits, and `tell(kind,
        message)` is awaited once to say for what.
        """
        if kind == LLMProvider.Kind.LITELLM:
            await self.litellm.load()
        elif kind == LLMProvider.Kind.EMBEDDED and (message := await asyncio.to_thread(_why_not_served)):
            await tell("model_loading", message)
            while await asyncio.to_thread(_why_not_served):  # noqa: ASYNC110 - another process gets ready: there is no event
                await asyncio.sleep(MODEL_CHECK_SECONDS)

    async def write(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a transaction on the database threads; again when the database was away for a moment."""
        for pause in PAUSES:
            try:
                return await self.db(function, *args, **kwargs)
            except (OperationalError, InterfaceError):
                logger.warning("the database is away, trying again in %s s", pause)
                await asyncio.sleep(pause)
        return await self.db(function, *args, **kwargs)

    def background(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start `work`, which goes on whoever stops waiting for it; `close` waits for it."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        # What a caller is told anyway is no news; the rest may have nobody who waits for it.
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, _TOLD):
            logger.error("background work failed", exc_info=error)

    async def close(self) -> None:
        """Let what is being written be written, then give everything back."""
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=10)
        await self.presence.end()
        await self.compatible.close()
        await asyncio.to_thread(self.db.close)


def _why_not_served() -> str:
    """What keeps this machine's model process from answering yet; empty when it serves, or is not there at all."""
    now = serving()
    if now is None or now.is_ready:
        return ""
    if now.state == FETCHING:
        return _("The embedded model is still being fetched; the run goes on when it is there.")
    return _("The embedded model is starting; the run goes on when it is ready.")


def needs_litellm() -> bool:
    """Whether a model that can be used is reached through litellm."""
    models = LLMModel.objects.filter(provider__kind=LLMProvider.Kind.LITELLM).select_related("provider")
    return any(model.is_runnable for model in models)
