"""`manage.py worker`: all that carries runs on this machine."""

import asyncio
import os
import signal
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from executions.worker import hosts
from executions.worker.queue_watch import BEAT_SECONDS, PATIENCE_SECONDS, QueueWatch
from portal.lib.processes import AlreadyRunning, RunLock, lock_file
from portal.lib.supervisor import Part, Supervisor, manage


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
    kept: list[asyncio.Task[None]] = []
    try:
        kept.append(asyncio.create_task(hosts.keep(supervisor), name="engine hosts"))
        await asyncio.sleep(0)  # the hosts first: they take the longest
        for part in parts():
            await supervisor.start(part)
        watch = QueueWatch(lambda: supervisor.kill("queue"), beat=beat, patience=patience)
        kept.append(asyncio.create_task(watch.run(), name="queue watch"))
        ended = asyncio.create_task(asked_to_end.wait())
        await asyncio.wait({*kept, ended}, return_when=asyncio.FIRST_COMPLETED)
        for task in kept:
            if task.done():
                task.result()
    finally:
        for task in kept:
            task.cancel()
        # The runner first: it hands its runs back while the hosts are there to end the engines.
        await supervisor.stop("runner")
        await supervisor.stop()


def parts() -> list[Part]:
    """The runner and the queue cluster; engine hosts come and go beside them (`hosts`)."""
    environment = dict(os.environ)
    return [
        Part("runner", manage("runner"), environment, grace_seconds=10),
        Part("queue", manage("queue"), environment, grace_seconds=5),
    ]
