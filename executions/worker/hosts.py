"""The engine hosts of this machine: which run from the start, and which once a run needs them.

A host of an engine in the portal's own interpreter is warm before anybody asks. One with an interpreter of
its own holds a hundred megabytes for what many machines never run, so it is started with the first
run, or when its engine has been installed for one. Runners say so by a file, which outlives both sides.
"""

import asyncio
import logging
from pathlib import Path

from django.conf import settings

from executions.engines import launch
from executions.engines.registry import ENGINES, Engine
from portal.lib.supervisor import Part, Supervisor

logger = logging.getLogger(__name__)

LOOK_EVERY = 0.3  # seconds


def socket_of(engine: str) -> Path:
    """Where the host of an engine listens."""
    return Path(settings.RUN_DIR) / f"host-{engine}.sock"


def want(engine: str) -> None:
    """A run needs this engine's host: have the worker of this machine start it. Raises `OSError`."""
    _wish(engine).touch()


def part(engine: Engine) -> Part:
    """The host of an engine that is installed here."""
    home = Path(settings.RUN_DIR) / f"home-{engine.key}"
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    command = launch.command(engine.key, socket_of(engine.key))
    return Part(f"host-{engine.key}", command, launch.environment(home), grace_seconds=2, cwd=home)


async def keep(supervisor: Supervisor) -> None:
    """Start hosts as they are needed, until cancelled. The supervisor keeps them running."""
    started: set[str] = set()
    for engine in ENGINES.values():
        _wish(engine.key).unlink(missing_ok=True)
        if not engine.is_installed():
            logger.warning("the engine %s is not installed here; it is when a run needs it", engine.label)
    while True:
        for key, engine in ENGINES.items():
            if key in started or not engine.is_installed():
                continue
            if engine.environment is None or _wish(key).exists():
                await supervisor.start(part(engine))
                started.add(key)
        await asyncio.sleep(LOOK_EVERY)


def _wish(engine: str) -> Path:
    return Path(settings.RUN_DIR) / f"host-{engine}.wanted"
