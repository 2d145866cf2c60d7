"""Notices a queue cluster that hangs.

A django-q2 cluster whose idle workers were killed lives on with a lock that nobody gives back: it
takes no task and ignores SIGTERM. So it is watched from outside: heartbeat tasks go into the queue,
and its workers say in datagrams when they take up a task (`+pid`) and when they have finished it
(`-pid`). Silence for too long, while workers should have been free, is a hang.

Machines that share a broker carry out each other's heartbeats; as each sends one every few seconds
and the patience holds a dozen of them, every cluster that works is heard.
"""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable
from typing import Any

import psutil
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import DatabaseError, close_old_connections
from django_q.tasks import async_task
from redis.exceptions import RedisError

from executions.tasks import worker_socket
from portal.lib.processes import listen

logger = logging.getLogger(__name__)

BEAT_SECONDS = 10.0
PATIENCE_SECONDS = 120.0


class QueueWatch:
    """Calls `restart` when the cluster has been silent for `patience` seconds."""

    def __init__(
        self, restart: Callable[[], None], *, beat: float = BEAT_SECONDS, patience: float = PATIENCE_SECONDS
    ) -> None:
        self._restart = restart
        self._beat, self._patience = beat, patience
        self._asked_at: float | None = None  # the oldest heartbeat since the last sign of life
        self._busy: dict[int, float] = {}  # worker's pid → when it took up its task
        cluster: dict[str, Any] = settings.Q_CLUSTER
        self._workers: int = cluster["workers"]
        self._task_limit: float = cluster["timeout"]

    async def run(self) -> None:
        """Watch until cancelled."""
        ear = listen(worker_socket())
        loop = asyncio.get_running_loop()
        loop.add_reader(ear, self._hear, ear)
        try:
            while True:
                if await self._ask() and self._asked_at is None:
                    self._asked_at = time.monotonic()
                before = time.monotonic()
                await asyncio.sleep(self._beat)
                now = time.monotonic()
                if now - before > 2 * self._beat:
                    self._asked_at = None  # this process was held up itself, and can judge nobody
                elif self.is_hanging(now):
                    logger.error("the queue cluster has been silent for %.0f s and is started again", self._patience)
                    self._asked_at = None
                    self._busy.clear()
                    self._restart()
        finally:
            loop.remove_reader(ear)
            ear.close()

    def is_hanging(self, now: float) -> bool:
        """Whether a heartbeat has waited too long although a worker was free to take it."""
        if self._asked_at is None or now - self._asked_at < self._patience:
            return False
        at_work = [
            pid
            for pid, since in self._busy.items()
            if psutil.pid_exists(pid) and now - since < self._task_limit + self._patience
        ]
        return len(at_work) < self._workers

    def hear(self, message: bytes, now: float) -> None:
        """A sign of life: `+pid` or `-pid`."""
        self._asked_at = None
        with contextlib.suppress(ValueError):
            pid = int(message[1:])
            if message.startswith(b"+"):
                self._busy[pid] = now
            else:
                self._busy.pop(pid, None)

    def _hear(self, ear: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                self.hear(ear.recv(64), time.monotonic())

    async def _ask(self) -> bool:
        try:
            await sync_to_async(_enqueue)()
        except (DatabaseError, RedisError, OSError) as exc:
            # The broker is away: no cluster could be heard, so none is judged.
            logger.warning("no heartbeat for the queue: %s", exc)
            return False
        return True


def _enqueue() -> None:
    close_old_connections()
    async_task("executions.tasks.heartbeat")
