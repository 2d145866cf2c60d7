"""A gateway's sign of life, and what becomes of the work of one that has died.

Calls and journal entries that are open name the instance that carries them out. An instance lives as
long as its row is there, and its row as long as its lease is renewed, by the database's clock. What
no living instance holds is ended by any gateway that notices: calls are closed by estimate, entries
of the journal lost. Who stood still for so long that its row is gone begins a new life; what it still
writes for its old one finds the rows closed and changes nothing.
"""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from time import monotonic
from typing import Any, TypeAlias

from django.conf import settings
from django.db import DatabaseError, InterfaceError
from django.db.models.functions import Now

from executions.gateway import journal, ledger
from executions.models import GatewayInstance

logger = logging.getLogger(__name__)

# Calls a function with arguments where queries may run.
Database: TypeAlias = Callable[..., Awaitable[Any]]

RENEWALS = 3  # in the time of a lease


def register(name: str) -> str:
    """Begin a life of the gateway `name`, which ends its earlier ones; returns the instance."""
    instance = f"{name}#{uuid.uuid4().hex[:8]}"
    GatewayInstance.objects.create(instance=instance, name=name, started_at=Now(), lease_until=Now() + _lease())
    GatewayInstance.objects.filter(name=name).exclude(pk=instance).delete()
    return instance


def renew(instance: str) -> bool:
    """Keep the lease; False when the instance has been ended."""
    return bool(GatewayInstance.objects.filter(pk=instance).update(lease_until=Now() + _lease()))


def leave(instance: str) -> None:
    """End a life in good order."""
    GatewayInstance.objects.filter(pk=instance).delete()
    end_orphans()


def end_expired() -> None:
    """End the instances whose lease has run out."""
    GatewayInstance.objects.filter(lease_until__lt=Now()).delete()


def end_orphans() -> None:
    """Close what no living gateway carries out. Safe to repeat, and beside others that do the same."""
    # The calls first: whoever waits for an entry finds its reserve given back and its failure told.
    closed = ledger.close_orphans()
    lost = journal.lose_orphans()
    if lost or closed:
        logger.warning("ended %s calls and %s requests of gateways that have died", closed, lost)


def _lease() -> timedelta:
    return timedelta(seconds=settings.GATEWAY_LEASE_SECONDS)


class Presence:
    """Keeps this process's instance alive and looks after the work of others; `instance` is its current life."""

    def __init__(self, db: Database, name: str) -> None:
        self.instance = ""
        self._db = db
        self._name = name
        self._task: asyncio.Task[Any] | None = None

    async def begin(self, patiently: Database) -> None:
        """Start to live: before the first request is taken. `patiently` does not mind a database that is away."""
        await self._begin_life(patiently)
        self._task = asyncio.ensure_future(self._keep())

    async def end(self) -> None:
        """What is open by now is lost; a database that is away finds it out by the lease."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait((self._task,))
        try:
            await self._db(leave, self.instance)
        except (DatabaseError, InterfaceError):
            logger.warning("the database is away; this gateway's lease runs out by itself")

    async def _begin_life(self, db: Database) -> None:
        self.instance = await db(register, self._name)
        await db(end_orphans)

    async def _keep(self) -> None:
        heard = monotonic()
        while True:
            await asyncio.sleep(settings.GATEWAY_LEASE_SECONDS / RENEWALS)
            try:
                if not await self._db(renew, self.instance):
                    logger.warning("this gateway stood still for longer than its lease, and begins anew")
                    await self._begin_life(self._db)
                was_away = monotonic() - heard > settings.GATEWAY_LEASE_SECONDS
                heard = monotonic()
                # After a pause of the database everybody's lease has run out: first let the others renew theirs.
                if not was_away:
                    await self._db(end_expired)
                    await self._db(end_orphans)
            except (DatabaseError, InterfaceError):
                logger.warning("the lease could not be renewed; trying again")
