"""The runner's loop: claim what is pending, keep leases alive, obey stops, find what was lost."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

from django.conf import settings
from django.db import DatabaseError
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from executions.engines import client
from executions.engines.registry import ENGINES
from executions.errors import InvalidTransition, TransitionLost
from executions.models import Execution, Worker
from executions.runner.attempt import Run
from executions.runner.intake import BadLine, Intake, LeaseLost
from executions.status import Status
from executions.tasks import runner_socket
from portal.lib.dbthreads import DatabaseThreads

logger = logging.getLogger(__name__)

STOPS_EVERY = 0.4  # seconds: a stop is obeyed within a second even when its ring was lost
QUEUE_EVERY = 1.0  # and so is a kickoff whose ring was lost
SIGN_OF_LIFE_EVERY = 5.0
LOST_EVERY = 5.0
RUNNER_LOST = _("The worker that carried the run disappeared.")
RUNNER_RESTARTED = _("The worker was restarted.")


class Supervisor:
    """All executions of this machine; `run` goes on until `finish` is called."""

    def __init__(self) -> None:
        self.name = settings.WORKER_NAME
        self.lease = timedelta(seconds=settings.LEASE_SECONDS)
        self.db = DatabaseThreads(4, name="runner")
        self.runs: dict[Run, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._finished = asyncio.Event()
        self._isolation = ""

    def finish(self) -> None:
        """End: engines are killed, their executions go back into the queue."""
        self._finished.set()
        self._wake.set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        doorbell = self._open_doorbell()
        loop.add_reader(doorbell, self._rang, doorbell)
        await self._sign_of_life()
        await self._take_back()
        chores = [
            asyncio.ensure_future(self._every(seconds, chore))
            for seconds, chore in (
                (STOPS_EVERY, self._obey_stops),
                (SIGN_OF_LIFE_EVERY, self._sign_of_life),
                (LOST_EVERY, self._find_lost),
            )
        ]
        logger.info("runner %s is ready for %d runs", self.name, settings.PORTAL_MAX_RUNS)
        try:
            while not self._finished.is_set():
                await self._guarded(self._claim)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), QUEUE_EVERY)
                self._wake.clear()
        finally:
            for chore in chores:
                chore.cancel()
            loop.remove_reader(doorbell)
            doorbell.close()
            await self._put_back()
            self.db.close()

    # --- The doorbell ------------------------------------------------------------------------

    def _open_doorbell(self) -> socket.socket:
        path = runner_socket()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.unlink(missing_ok=True)
        doorbell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        doorbell.bind(str(path))
        path.chmod(0o600)
        doorbell.setblocking(False)
        return doorbell

    def _rang(self, doorbell: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while doorbell.recv(64):
                self._wake.set()

    # --- Claiming ----------------------------------------------------------------------------

    async def _claim(self) -> None:
        """Take pending executions, best first, while there is room; also look for stops, which ring too."""
        await self._obey_stops()
        while len(self.runs) < settings.PORTAL_MAX_RUNS and not self._finished.is_set():
            execution = await self.db(self._take_one)
            if execution is None:
                return
            run = Run(execution, self.db)
            self.runs[run] = asyncio.ensure_future(self._carry(run))

    def _take_one(self) -> Execution | None:
        while True:
            execution = Execution.objects.queued().filter(stop_requested_at=None, engine__in=ENGINES).first()
            if execution is None:
                return None
            try:
                execution.start(worker=self.name, lease=self.lease)
            except TransitionLost:
                continue  # another runner was faster: look for the next
            return execution

    async def _carry(self, run: Run) -> None:
        try:
            await run.carry()
        except DatabaseError:
            logger.exception("run %s: given up; its lease expires and it is recovered", run.execution.pk)
        finally:
            del self.runs[run]
            self._wake.set()

    # --- Chores ------------------------------------------------------------------------------

    async def _every(self, seconds: float, chore: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            await self._guarded(chore)

    async def _guarded(self, chore: Callable[[], Awaitable[None]]) -> None:
        try:
            await chore()
        except DatabaseError as exc:
            logger.warning("%s: %s", getattr(chore, "__name__", "chore"), exc)

    async def _obey_stops(self) -> None:
        if not self.runs:
            return
        asked = await self.db(self._stops)
        for run in list(self.runs):
            if run.execution.pk in asked:
                run.stop()

    def _stops(self) -> set[uuid.UUID]:
        mine = [run.execution.pk for run in list(self.runs)]
        return set(Execution.objects.filter(pk__in=mine).exclude(stop_requested_at=None).values_list("pk", flat=True))

    async def _sign_of_life(self) -> None:
        """Renew the leases of what runs here, and this runner's own row; drop runs whose lease went elsewhere."""
        if not self._isolation:
            self._isolation = await self._ask_isolation()
        kept = await self.db(self._renew)
        for run in list(self.runs):
            if run.execution.pk not in kept and not self.runs[run].done():
                run.abandon()

    async def _ask_isolation(self) -> str:
        for engine in ENGINES:
            try:
                return (await client.hello(Path(settings.RUN_DIR) / f"host-{engine}.sock")).isolation
            except client.EngineUnavailable:
                continue
        return ""

    def _renew(self) -> set[uuid.UUID]:
        kept: set[uuid.UUID] = set()
        for run in list(self.runs):
            execution = run.execution
            if execution.renew_lease(self.lease) or execution.status != Status.RUNNING:
                kept.add(execution.pk)
        versions = {key: engine.version() for key, engine in ENGINES.items()}
        row = {
            "seen_at": Now(),
            "max_runs": settings.PORTAL_MAX_RUNS,
            "isolation": self._isolation,
            "engines": versions,
        }
        Worker.objects.update_or_create(
            name=self.name, defaults=row, create_defaults={**row, "started_at": timezone.now()}
        )
        return kept

    async def _find_lost(self) -> None:
        await self.db(self._recover_expired)
        self._wake.set()

    def _recover_expired(self) -> None:
        for execution in Execution.objects.filter(status=Status.RUNNING, lease_until__lt=Now()):
            self._recover(execution, str(RUNNER_LOST))

    async def _take_back(self) -> None:
        """At the start: what an earlier runner of this name left running can be carried by nobody else."""
        await self.db(self._recover_mine, str(RUNNER_RESTARTED))

    def _recover_mine(self, reason: str) -> None:
        for execution in Execution.objects.filter(status=Status.RUNNING, lease_worker=self.name):
            # What the engine wrote before it died is still in its file: finished tasks need not run again.
            path = Path(settings.RUNS_DIR) / str(execution.pk) / str(execution.attempt) / "events.jsonl"
            with contextlib.suppress(LeaseLost, BadLine):
                intake = Intake(execution, path)
                while intake.read().is_full:
                    pass
            self._recover(execution, reason)

    @staticmethod
    def _recover(execution: Execution, reason: str) -> None:
        with contextlib.suppress(TransitionLost, InvalidTransition):
            execution.recover(reason=reason)
            logger.warning("run %s recovered: %s", execution.pk, reason)

    async def _put_back(self) -> None:
        """At the end: kill what runs, and queue it again for whoever comes next."""
        carried = dict(self.runs)
        for run in carried:
            run.abandon()
        if carried:
            await asyncio.wait(list(carried.values()))
        await self._guarded(self._take_back)
        await self.db(Worker.objects.filter(name=self.name).delete)


def run_forever() -> None:
    """The body of `manage.py runner`: until SIGTERM or SIGINT."""

    async def main() -> None:
        supervisor = Supervisor()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, supervisor.finish)
        await supervisor.run()

    os.umask(0o077)
    asyncio.run(main())
