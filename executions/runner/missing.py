"""Engines that queued runs need and no machine has: installed here, while the runs wait, or the runs end and say so."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from django.conf import settings
from django.db import DatabaseError, InterfaceError
from django.utils.translation import gettext as _

from executions import events, installation
from executions.engines import registry
from executions.errors import ErrorCode, Failure, InvalidTransition, TransitionLost
from executions.models import Execution, Worker
from executions.models.execution import ExecutionQuerySet
from executions.runner import claims
from portal.lib.dbthreads import DatabaseThreads
from portal.lib.processes import dying_with_me
from portal.lib.progress import parse
from portal.lib.supervisor import manage

logger = logging.getLogger(__name__)

KIND = "engine_install"
TELL_EVERY = 5.0  # seconds
AT_ONCE = 100  # runs told or ended in one go


def engines_to_install(worker: str) -> list[str]:
    """Engines of queued runs that neither this machine has nor another one that takes runs."""
    wanted = set(Execution.objects.queued().filter(stop_requested_at=None).order_by().values_list("engine", flat=True))
    lacking = (wanted & set(registry.ENGINES)) - set(registry.installed())
    if not lacking or claims.is_draining(worker):
        return []
    return sorted(lacking - _elsewhere(worker))


def tell(engine: str, message: str, done: int = 0, total: int = 0) -> None:
    """Say in the log of every run that waits for an engine how its installation goes."""
    data = {"kind": KIND, "engine": engine, "message": message, "done": done, "total": total}
    for execution in _waiting(engine):
        events.append(execution.stream_id, [events.NewEvent("log", data=data, attempt=execution.attempt)])


def give_up(engine: str, worker: str, reason: str) -> int:
    """End the runs that wait for an engine that cannot be had, unless another machine has it; how many they were."""
    if engine in _elsewhere(worker):
        return 0
    sentence = _("%(code)s %(engine)s could not be installed: %(reason)s. Command: %(command)s") % {
        "code": ErrorCode.ENGINE_MISSING.label,
        "engine": _label(engine),
        "reason": reason.rstrip("."),
        "command": installation.command(engine),
    }
    ended = 0
    for execution in _waiting(engine):
        with contextlib.suppress(TransitionLost, InvalidTransition):
            execution.fail(Failure(ErrorCode.ENGINE_MISSING, sentence))
            ended += 1
    return ended


def _waiting(engine: str) -> ExecutionQuerySet:
    return Execution.objects.queued().filter(engine=engine, stop_requested_at=None)[:AT_ONCE]


def _elsewhere(worker: str) -> set[str]:
    """The engines of the other machines that are alive and take runs."""
    others = Worker.objects.alive().exclude(name=worker).filter(is_draining=False)
    return {key for engines in others.values_list("engines", flat=True) for key, has in engines.items() if has}


@dataclass
class _Said:
    """What an installation printed that is worth telling, and when that was last told."""

    last: str = ""
    told_at: float = field(default_factory=time.monotonic)


class Installer:
    """Installs what queued runs need, in processes that end with this one; `wake` is called when one is done."""

    def __init__(self, worker: str, db: DatabaseThreads, wake: Callable[[], None]) -> None:
        self._worker, self._db, self._wake = worker, db, wake
        self._under_way: dict[str, asyncio.Task[None]] = {}

    async def look(self) -> None:
        """Begin to install what has come to be needed."""
        for engine in await self._db(engines_to_install, self._worker):
            if engine not in self._under_way:
                self._under_way[engine] = asyncio.ensure_future(self._carry(engine))

    async def end(self) -> None:
        """Stop what is under way; the next runner begins anew."""
        for task in self._under_way.values():
            task.cancel()
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)

    async def _carry(self, engine: str) -> None:
        label = _label(engine)
        try:
            logger.info("a run needs %s: installing it", label)
            reason = await self._install(engine)
            if reason:
                logger.error("%s could not be installed: %s", label, reason)
                await self._db(give_up, engine, self._worker, reason)
            else:
                logger.info("%s is installed", label)
                await self._db(tell, engine, _("%s is installed.") % label, 1, 1)
        except (DatabaseError, InterfaceError, OSError):
            # A database that is away, no process to be had: the next look tries again.
            logger.exception("installing %s broke off", label)
        finally:
            del self._under_way[engine]
            self._wake()

    async def _install(self, engine: str) -> str:
        """Why it could not be installed; empty when it was."""
        if registry.ENGINES[engine].environment is None:
            return _("it belongs to the portal's own packages (requirements.txt)")
        await self._db(tell, engine, _("Installing %s, which a run needs for the first time.") % _label(engine))
        said = _Said()
        process = await asyncio.create_subprocess_exec(
            *manage("engine", "install", engine, "--marked-progress"),
            cwd=Path(settings.BASE_DIR),
            env=dict(os.environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            preexec_fn=dying_with_me(),
        )
        try:
            assert process.stdout is not None  # noqa: S101 - it is a pipe
            async for raw in process.stdout:
                await self._hear(engine, raw.decode(errors="replace").strip(), said)
            code = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return "" if code == 0 else said.last.removeprefix("CommandError: ") or f"exit code {code}"

    async def _hear(self, engine: str, line: str, said: _Said) -> None:
        progress = parse(line)
        if progress is None:
            if line:
                said.last = line
                logger.info("%s", line)
            return
        done, total, _doing = progress
        if time.monotonic() - said.told_at < TELL_EVERY:
            return
        said.told_at = time.monotonic()
        megabytes = {"engine": _label(engine), "done": done // 10**6, "total": total // 10**6}
        message = _("Installing %(engine)s: %(done)d of %(total)d MB.") % megabytes
        logger.info("%s", message)
        await self._db(tell, engine, message, done, total)


def _label(engine: str) -> str:
    return registry.ENGINES[engine].label
