"""Keeps a handful of programs running: starts them, passes on what they print, starts again what dies."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from django.conf import settings

from portal.lib.processes import dying_with_me, kill_group

logger = logging.getLogger(__name__)

# A part that lived this long was healthy: its next death is restarted quickly again.
HEALTHY_SECONDS = 60.0


def manage(*arguments: str) -> list[str]:
    """The command line of `manage.py` with these arguments, in this interpreter."""
    return [sys.executable, str(Path(settings.BASE_DIR) / "manage.py"), *arguments]


@dataclass(frozen=True)
class Part:
    """A program to keep running.

    `environment` is all that it gets; `grace_seconds` is how long it may take to end when asked to;
    `longest_pause` bounds the wait before it is started again after dying over and over.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    grace_seconds: float = 10.0
    longest_pause: float = 30.0
    cwd: Path | None = None


@dataclass
class _Kept:
    part: Part
    process: asyncio.subprocess.Process | None = None
    keeper: "asyncio.Task[None] | None" = None
    starts: int = 0
    leaving: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Supervisor:
    """Runs parts in sessions of their own that die with this process; use it in the main thread's event loop.

    `on_line(name, line)` takes what parts print; without it they write where this process writes.
    `on_end(name, code, pause)` hears of a part that died and is started again after `pause` seconds.
    """

    def __init__(
        self,
        *,
        on_line: Callable[[str, str], None] | None = None,
        on_end: Callable[[str, int, float], None] | None = None,
        log_folder: Path | None = None,
    ) -> None:
        self._on_line = on_line
        self._on_end = on_end or _log_end
        self._log_folder = log_folder
        self._kept: dict[str, _Kept] = {}

    async def start(self, part: Part) -> None:
        """Start a part, and keep it running until `stop`. Raises `OSError` when its program cannot be started."""
        kept = self._kept[part.name] = _Kept(part)
        await self._launch(kept)
        kept.keeper = asyncio.create_task(self._keep(kept), name=f"keep {part.name}")

    def pid(self, name: str) -> int | None:
        """The part's process, or None while it is not running."""
        process = self._kept[name].process if name in self._kept else None
        return process.pid if process is not None and process.returncode is None else None

    def starts(self, name: str) -> int:
        """How often the part has been started."""
        return self._kept[name].starts if name in self._kept else 0

    def kill(self, name: str) -> None:
        """SIGKILL a part with its whole process group; it is started again."""
        if (pid := self.pid(name)) is not None:
            kill_group(pid)

    def kill_all(self) -> None:
        """SIGKILL everything now; nothing is started again."""
        for kept in self._kept.values():
            kept.leaving = True
            kept.changed.set()
        for name in self._kept:
            self.kill(name)

    async def stop(self, *names: str) -> None:
        """End the named parts (all without names), side by side: SIGTERM, and after the grace SIGKILL."""
        chosen = [self._kept[name] for name in names or tuple(self._kept) if name in self._kept]
        await asyncio.gather(*(self._end(kept) for kept in chosen))

    async def _end(self, kept: _Kept) -> None:
        kept.leaving = True
        kept.changed.set()
        if kept.process is not None and kept.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                kept.process.send_signal(signal.SIGTERM)
        if kept.keeper is None:
            return
        _, late = await asyncio.wait({kept.keeper}, timeout=kept.part.grace_seconds)
        if late:
            logger.warning("%s did not end in %g s and is killed", kept.part.name, kept.part.grace_seconds)
            self.kill(kept.part.name)
            await kept.keeper

    async def _launch(self, kept: _Kept) -> None:
        part = kept.part
        output: int | None = None
        if self._log_folder is not None:
            self._log_folder.mkdir(parents=True, exist_ok=True)
            log = self._log_folder / f"{part.name}.log"
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            piped = asyncio.subprocess.PIPE if self._on_line is not None else None
            kept.process = await asyncio.create_subprocess_exec(
                *part.command,
                env=dict(part.environment),
                cwd=part.cwd,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output if output is not None else piped,
                stderr=output if output is not None else (asyncio.subprocess.STDOUT if piped else None),
                start_new_session=True,
                preexec_fn=dying_with_me(),
            )
        finally:
            if output is not None:
                os.close(output)
        kept.starts += 1

    async def _keep(self, kept: _Kept) -> None:
        name, pause = kept.part.name, 0.5
        while True:
            process = kept.process
            if process is not None:
                born = time.monotonic()
                code = await self._watch(name, process)
                if kept.leaving:
                    return
                pause = 0.5 if time.monotonic() - born > HEALTHY_SECONDS else min(pause * 2, kept.part.longest_pause)
                self._on_end(name, code, pause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(kept.changed.wait(), pause)
            if kept.leaving:
                return
            try:
                await self._launch(kept)
            except OSError as exc:
                kept.process = None
                pause = kept.part.longest_pause
                logger.error("%s cannot be started: %s", name, exc)

    async def _watch(self, name: str, process: asyncio.subprocess.Process) -> int:
        """Pass on what the process prints until it has ended, and its whole group with it; its exit code."""
        reading = None
        if process.stdout is not None:
            reading = asyncio.create_task(self._read(name, process.stdout))
        await _exited(process.pid)
        # Whatever of its group is left has no parent that would look after it, and may hold the pipe
        # open, on which asyncio's `wait` waits.
        kill_group(process.pid)
        code = await process.wait()
        if reading is not None:
            await reading
        return code

    async def _read(self, name: str, stream: asyncio.StreamReader) -> None:
        assert self._on_line is not None  # noqa: S101 - there is a pipe for nothing else
        rest = b""
        while chunk := await stream.read(65536):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._on_line(name, line.decode(errors="replace").rstrip("\r"))
        if rest:
            self._on_line(name, rest.decode(errors="replace"))


async def _exited(pid: int) -> None:
    """Until a child of ours has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return  # it has ended, and asyncio has collected it already
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _log_end(name: str, code: int, pause: float) -> None:
    logger.warning("%s ended (%s) and is started again in %g s", name, describe_exit(code), pause)


def describe_exit(code: int) -> str:
    """An exit code as people say it."""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
