"""The runner's loop: claim what is pending, keep leases alive, obey stops and pauses, find what was lost."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial

from django.conf import settings
from django.db import Error as DatabaseFault
from django.db.models.functions import Now

from executions import actions, budgets, hooks, notices
from executions.engines import client
from executions.engines.registry import ENGINES
from executions.models import Approval, Execution, Worker
from executions.runner import chores, claims, lost
from executions.runner.attempt import Run
from executions.runner.missing import Installer
from executions.tasks import runner_socket
from executions.worker import hosts
from portal.accounts import limits
from portal.accounts.audit import appender
from portal.accounts.sessions import SessionStore
from portal.lib import redaction
from portal.lib.dbthreads import DatabaseThreads

logger = logging.getLogger(__name__)

REQUESTS_EVERY = 0.4  # seconds: a stop or pause is obeyed within a second even when its ring was lost
QUEUE_EVERY = 1.0  # and so is a kickoff whose ring was lost
SIGN_OF_LIFE_EVERY = 5.0  # at most; a lease is renewed several times before it is over
RENEWALS = 4
LOST_EVERY = 5.0
CHORES_EVERY = 5.0
CLEANING_EVERY = 3600.0


class Supervisor:
    """All executions of this machine; `run` goes on until `finish` is called."""

    def __init__(self) -> None:
        self.name = settings.WORKER_NAME
        self.lease = timedelta(seconds=settings.LEASE_SECONDS)
        self.db = DatabaseThreads(4, name="runner")
        self.mail = DatabaseThreads(1, name="mail")  # a mail server may take its time, but not the runs'
        self.runs: dict[Run, asyncio.Task[None]] = {}
        self._mailing: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._finished = asyncio.Event()
        self._isolation = ""
        self._installer = Installer(self.name, self.db, self._wake.set)

    def finish(self) -> None:
        """End: engines are killed, their executions go back into the queue."""
        self._finished.set()
        self._wake.set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        doorbell = self._open_doorbell()
        loop.add_reader(doorbell, self._rang, doorbell)
        await self._sign_of_life()
        await self.db(lost.recover_mine, self.name, is_blameless=False)
        await asyncio.to_thread(lost.remove_leftovers)
        regular = [
            asyncio.ensure_future(self._every(seconds, chore))
            for seconds, chore in (
                (REQUESTS_EVERY, self._obey),
                (min(SIGN_OF_LIFE_EVERY, settings.LEASE_SECONDS / RENEWALS), self._sign_of_life),
                (LOST_EVERY, self._find_lost),
                (QUEUE_EVERY, self._installer.look),
                (CHORES_EVERY, self._do_chores),
                (CHORES_EVERY, self._do_others_chores),
                (CHORES_EVERY, self._remind),
                (CHORES_EVERY, self._seal_audit),
                (CLEANING_EVERY, self._clean),
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
            for chore in regular:
                chore.cancel()
            await self._installer.end()
            loop.remove_reader(doorbell)
            doorbell.close()
            await self._put_back()
            self.db.close()
            self.mail.close()

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
        """Take pending executions, best first, while there is room; also look for requests, which ring too."""
        await self._obey()
        while len(self.runs) < settings.PORTAL_MAX_RUNS and not self._finished.is_set():
            execution = await self.db(claims.take_one, self.name, self.lease)
            if execution is None:
                return
            run = Run(execution, self.db, on_asked=self._tell_people)
            self.runs[run] = asyncio.ensure_future(self._carry(run))

    async def _carry(self, run: Run) -> None:
        try:
            await run.carry()
        except (DatabaseFault, OSError):  # the latter: no room for its folder
            logger.exception("run %s: given up; its lease expires and it is recovered", run.execution.pk)
        finally:
            del self.runs[run]
            self._wake.set()  # there is room, and the run itself may have come back
            await asyncio.to_thread(run.clean_up)

    # --- Chores ------------------------------------------------------------------------------

    async def _every(self, seconds: float, chore: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            await self._guarded(chore)

    async def _guarded(self, chore: Callable[[], Awaitable[object]], name: str = "") -> None:
        """Carry it out; what goes wrong with one run or person must not end the care for all others."""
        name = name or getattr(chore, "__name__", "chore")
        try:
            await chore()
        except DatabaseFault as exc:
            logger.warning("%s: %s", name, exc)
        except Exception:
            logger.exception("%s failed", name)

    async def _obey(self) -> None:
        """Do what people have asked for since: stop, pause."""
        if not self.runs:
            return
        mine = {run.execution.pk: run for run in self.runs}
        for pk, stop, at_once in await self.db(_requests, list(mine)):
            if stop is not None:
                mine[pk].stop()
            else:
                mine[pk].pause(at_once=at_once)

    async def _sign_of_life(self) -> None:
        """Renew the leases of what runs here, and this runner's own row; drop runs whose lease went elsewhere."""
        if not self._isolation:
            self._isolation = await self._ask_isolation()
        carried = list(self.runs)
        held = await self.db(self._renew, [run.execution.pk for run in carried])
        for run in carried:
            if held.get(run.execution.pk) != run.attempt:
                run.abandon(is_lost=True)

    async def _ask_isolation(self) -> str:
        for engine in ENGINES:
            try:
                return (await client.hello(hosts.socket_of(engine))).isolation
            except client.EngineUnavailable:
                continue
        return ""

    def _renew(self, carried: list[uuid.UUID]) -> dict[uuid.UUID, int]:
        """Which of these executions this runner still holds, at which attempt."""
        row = {
            "seen_at": Now(),
            "max_runs": settings.PORTAL_MAX_RUNS,
            "isolation": self._isolation,
            "engines": {key: engine.version() for key, engine in ENGINES.items()},
        }
        Worker.objects.update_or_create(name=self.name, defaults=row, create_defaults={**row, "started_at": Now()})
        return Execution.objects.filter(pk__in=carried).renew_leases(self.name, self.lease) if carried else {}

    async def _find_lost(self) -> None:
        mine = [run.execution.pk for run in self.runs]  # held up for too long, they may still be renewed
        if await self.db(lost.recover_expired, self.name, self.lease, mine):
            self._wake.set()

    async def _do_chores(self) -> None:
        await self.db(chores.expire_approvals)
        await self.db(actions.stop_runs_of_inactive)
        if await self.db(budgets.go_on):
            self._wake.set()

    async def _do_others_chores(self) -> None:
        """What higher rooms have runners look after; one that fails keeps no other from its turn."""
        for chore in hooks.chores():
            await self._guarded(partial(self.db, chore), getattr(chore, "__name__", ""))

    async def _clean(self) -> None:
        await self.db(limits.clean)
        await self.db(SessionStore.clear_expired)

    async def _seal_audit(self) -> None:
        await self.db(appender.seal)

    async def _remind(self) -> None:
        await self.mail(notices.remind_due)

    def _tell_people(self, approval: Approval) -> None:
        """A run asks people something: let them know, without waiting for it."""
        telling = asyncio.ensure_future(self._guarded(lambda: self.mail(_tell, approval)))
        self._mailing.add(telling)
        telling.add_done_callback(self._mailing.discard)

    async def _put_back(self) -> None:
        """At the end: kill what runs, and queue it again for whoever comes next."""
        carried = dict(self.runs)
        for run in carried:
            run.abandon()
        if carried:
            await asyncio.wait(list(carried.values()))
        await self._guarded(self._leave)

    async def _leave(self) -> None:
        await self.db(lost.recover_mine, self.name, is_blameless=True)
        await self.db(Worker.objects.filter(name=self.name).delete)


def _requests(carried: list[uuid.UUID]) -> list[tuple[uuid.UUID, object, bool]]:
    """Which of these runs somebody wants stopped or paused: id, when a stop was asked for, and whether at once."""
    redaction.refresh()  # this process opens no provider's key itself, and stores what engines say
    asked = Execution.objects.filter(pk__in=carried).exclude(stop_requested_at=None, pause_requested_at=None)
    return list(asked.values_list("pk", "stop_requested_at", "pause_at_once"))


def _tell(approval: Approval) -> None:
    notices.asked(approval)


def run_forever() -> None:
    """The body of `manage.py runner`: until SIGTERM or SIGINT."""

    async def main() -> None:
        supervisor = Supervisor()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, supervisor.finish)
        await supervisor.run()

    os.umask(0o077)
    asyncio.run(main())
