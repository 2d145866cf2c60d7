"""`manage.py web`: pages, API and WebSockets."""

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from django.core.checks import Error
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError

from portal.lib.processes import AlreadyRunning, RunLock, is_free, lock_file
from portal.lib.serving import MAX_FRAME_BYTES, BoundedHttp
from portal.site.checks import every_route_declares_its_access

logger = logging.getLogger(__name__)


class Command(BaseCommand):
    help = "Serve pages, API and WebSockets on PORTAL_HOST and PORTAL_PORT."
    requires_system_checks: list[str] = []  # `up` and the tests check; a part should start quickly

    def handle(self, *args: Any, **options: Any) -> None:
        refuse_open_doors(every_route_declares_its_access())
        host, port = settings.PORTAL_HOST, settings.PORTAL_PORT
        # Without Redis live news reaches one web process only; with it there may be several.
        name = f"web-{port}" if settings.REDIS_URL else "web"
        try:
            with RunLock(lock_file(name)).acquire(host=host, port=port):
                if not is_free(host, port):
                    raise CommandError(f"PORTAL_PORT: port {port} is taken by another program")
                collect_static()
                serve(host, port)
        except AlreadyRunning as exc:
            raise CommandError(str(exc)) from exc


def refuse_open_doors(faults: list[Error]) -> None:
    """Raise `CommandError` for a route that does not say who may use it: nothing is served then."""
    if faults:
        raise CommandError("\n".join(str(fault.msg) for fault in faults))


def serve(host: str, port: int) -> None:
    """Answer until SIGTERM or SIGINT."""
    uvicorn.run(
        "portal.asgi:application",
        host=host,
        port=port,
        loop="uvloop",
        http=BoundedHttp,
        ws="websockets-sansio",
        ws_max_size=MAX_FRAME_BYTES,
        ws_ping_interval=20,
        ws_ping_timeout=20,
        lifespan="on",
        # Whose headers about the client are believed, PORTAL_TRUSTED_PROXIES says (`portal.lib.addresses`).
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        # Open sockets and streams do not hold up the end.
        timeout_graceful_shutdown=3,
    )


def collect_static() -> None:
    """Collect static files under hashed names; nothing when none has changed since the last time."""
    mark = Path(settings.STATIC_ROOT) / ".collected"
    state = hashlib.sha256("\n".join(_static_state()).encode()).hexdigest()
    if mark.exists() and mark.read_text(encoding="ascii") == state:
        return
    call_command("collectstatic", interactive=False, verbosity=0)
    mark.write_text(state, encoding="ascii")


def _static_state() -> Iterator[str]:
    yield settings.VERSION
    for finder in get_finders():
        for path, storage in finder.list([]):
            stat = Path(storage.path(path)).stat()
            yield f"{path} {stat.st_size} {stat.st_mtime_ns}"
