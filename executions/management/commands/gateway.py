import gc
import sys
from typing import Any

import uvicorn
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from executions.gateway.app import application
from portal.lib.processes import AlreadyRunning, RunLock, lock_file
from portal.lib.serving import BoundedHttp


class Command(BaseCommand):
    """The gateway process: every request of every engine to a model or a tool goes through it."""

    requires_system_checks: list[str] = []  # `up` and the tests check; a part should start quickly
    help = "Serve the OpenAI-compatible gateway to the models of the catalog."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
        parser.add_argument("--port", type=int, default=settings.GATEWAY_PORT, help="port (PORTAL_GATEWAY_PORT)")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            with RunLock(lock_file("gateway")).acquire(port=options["port"]):
                self._serve(options)
        except AlreadyRunning as exc:
            raise CommandError(str(exc)) from exc

    def _serve(self, options: dict[str, Any]) -> None:
        settings.GATEWAY_PORT = options["port"]
        config = uvicorn.Config(
            application(),
            host=options["host"],
            port=options["port"],
            loop="uvloop",
            http=BoundedHttp,
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # PORTAL_TRUSTED_PROXIES says whose are believed
            server_header=False,
            date_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=3,
        )
        # What is loaded by now stays: looking through it for garbage would only cause pauses.
        gc.collect()
        gc.freeze()
        # An answer that a database thread brings should not wait for another thread's 5 ms turn.
        sys.setswitchinterval(0.0005)
        uvicorn.Server(config).run()
