"""`manage.py worker`: all that carries runs on this machine."""

import asyncio
import logging
import os
import signal
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from executions.engines import launch
from executions.engines.registry import ENGINES
from executions.worker.queue_watch import BEAT_SECONDS, PATIENCE_SECONDS, QueueWatch
from portal.lib.processes import AlreadyRunning, RunLock, lock_file
from portal.lib.supervisor import Part, Supervisor, manage

logger = logging.getLogger(__name__)


class Command(BaseCommand):
    requires_system_checks: list[str] = []  # `up` and the tests check; a part should start quickly
    help = "Carry runs on this machine: the queue, the runner and one warm host per engine."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--heartbeat-every", type=float, default=BEAT_SECONDS, metavar="SECONDS")
        parser.add_argument("--hang-after", type=float, default=PATIENCE_SECONDS, metavar="SECONDS")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            with RunLock(lock_file("worker")).acquire():
                asyncio.run(carry(options["heartbeat_every"], options["hang_after"]))
        except AlreadyRunning as exc:
            raise CommandError(str(exc)) from exc


async def carry(beat: float, patience: float) -> None:
    """Keep every part running until SIGTERM or SIGINT; a part that dies is started again."""
    loop, asked_to_end = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_end.set)
    supervisor = Supervisor()
    watch: asyncio.Task[None] | None = None
    try:
        for part in parts():
            await supervisor.start(part)
        watch = asyncio.create_task(
            QueueWatch(lambda: supervisor.kill("queue"), beat=beat, patience=patience).run(), name="queue watch"
        )
        ended = asyncio.create_task(asked_to_end.wait())
        await asyncio.wait({watch, ended}, return_when=asyncio.FIRST_COMPLETED)
        if watch.done():
            watch.result()
    finally:
        if watch is not None:
            watch.cancel()
        # The runner first: it hands its runs back while the hosts are there to end the engines.
        await supervisor.stop("runner")
        await supervisor.stop()


def parts() -> list[Part]:
    """The hosts of all engines that are installed here, the runner and the queue cluster."""
    run_dir, environment = Path(settings.RUN_DIR), dict(os.environ)
    found = []
    for key, engine in ENGINES.items():
        if not engine.is_installed():
            logger.warning("the engine %s is not installed here; its runs wait for another machine", engine.label)
            continue
        home = run_dir / f"home-{key}"
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        command = launch.command(key, run_dir / f"host-{key}.sock")
        found.append(Part(f"host-{key}", command, launch.environment(home), grace_seconds=2, cwd=home))
    found.append(Part("runner", manage("runner"), environment, grace_seconds=10))
    found.append(Part("queue", manage("queue"), environment, grace_seconds=5))
    return found
