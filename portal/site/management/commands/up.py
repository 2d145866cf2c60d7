"""`manage.py up`: the whole portal on this machine, from an empty folder to a page to click on."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils.translation import gettext as _

from crews.embedded import files, serve
from portal.lib.processes import AlreadyRunning, RunLock, is_listening, lock_file
from portal.lib.progress import Progress, parse
from portal.lib.supervisor import Supervisor, describe_exit
from portal.site.processes import (
    LOOPBACK,
    FirstAdmin,
    Ports,
    Taken,
    choose_ports,
    part,
    prepare,
    wait_for_leftovers,
)

PARTS = ("web", "gateway", "worker", "model")
_WIDTH = max(map(len, PARTS))


class Command(BaseCommand):
    help = "Start everything: prepare the data, fetch the model, run web, gateway, worker and model until Ctrl-C."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default=settings.PORTAL_HOST, help="listen here (default: PORTAL_HOST)")
        parser.add_argument("--port", type=int, default=settings.PORTAL_PORT, help="and here (default: PORTAL_PORT)")
        parser.add_argument("--no-model", action="store_true", help="leave the embedded model out")

    def handle(self, *args: Any, **options: Any) -> None:
        names = tuple(name for name in PARTS if name != "model" or not options["no_model"])
        host, port = options["host"], options["port"]
        if not 1 <= port <= 65535:
            raise CommandError(_("--port: %d is not between 1 and 65535.") % port)
        try:
            with RunLock(lock_file("up")).acquire(port=port) as lock:
                if left := wait_for_leftovers(PARTS):
                    raise CommandError(
                        _("These already run for this data folder: %s. End them first.") % ", ".join(left)
                    )
                ports = choose_ports(host, port)
                url = os.environ.get("PORTAL_URL") or f"http://{_browser_host(host)}:{port}"
                lock.update(url=url)
                self._say(_("Preparing the data in %s …") % settings.PORTAL_DATA_DIR)
                admin = prepare()
                House(names, ports, url, admin, Progress(sys.stdout)).run()
        except AlreadyRunning as exc:
            where = exc.facts.get("url", f"http://localhost:{exc.facts.get('port', port)}")
            raise CommandError(_("Agent Portal already runs for this data folder: %s") % where) from exc
        except Taken as exc:
            raise CommandError(str(exc)) from exc
        except OSError as exc:
            raise CommandError(
                _("--host: cannot listen on %(host)s: %(why)s") % {"host": host, "why": exc.strerror}
            ) from exc
        except KeyboardInterrupt:
            raise CommandError(_("Stopped."), returncode=130) from None

    def _say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()


def _browser_host(host: str) -> str:
    if host in {LOOPBACK, "0.0.0.0", "::", "::1"}:  # noqa: S104 - compared, not bound
        return "localhost"
    return f"[{host}]" if ":" in host else host


class House:
    """One `up`, from the first part to the last word."""

    def __init__(
        self, names: tuple[str, ...], ports: Ports, url: str, admin: FirstAdmin | None, screen: Progress
    ) -> None:
        self.names, self.ports, self.url, self.admin, self.screen = names, ports, url, admin, screen
        self.supervisor = Supervisor(on_line=self._line, on_end=self._ended)
        self._asked = asyncio.Event()

    def run(self) -> None:
        """Until SIGINT, SIGTERM or SIGHUP; a second one kills."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._ask)
        news = None
        try:
            for name in self.names:
                await self.supervisor.start(part(name, self.ports))
            news = asyncio.create_task(self._tell_news())
            await self._asked.wait()
        finally:
            if news is not None:
                news.cancel()
            # The worker first: it hands its runs back while gateway and database still answer.
            await self.supervisor.stop("worker")
            await self.supervisor.stop()
            self.screen.note(_("Agent Portal has stopped."))

    def _ask(self) -> None:
        if self._asked.is_set():
            self.supervisor.kill_all()
            return
        self.screen.note(_("Stopping … (again to stop at once)"))
        self._asked.set()

    async def _tell_news(self) -> None:
        await self._until(lambda: is_listening(_connect_host(self.ports.host), self.ports.web))
        self.screen.note(self._summary())
        if "model" in self.names and not _model_is_ready():
            await self._until(_model_is_ready)
            self.screen.note(_("The model is ready."))

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not await asyncio.to_thread(holds):  # noqa: ASYNC110 - another process decides it
            await asyncio.sleep(0.3)

    def _summary(self) -> str:
        rows = {_("Open"): self.url}
        if self.admin is None:
            rows[_("Sign in")] = _("with your account")
        else:
            rows[_("User")] = self.admin.username
            rows[_("Password")] = (
                _("%s   (shown this once; you can change it on your profile)") % self.admin.password
                if self.admin.password
                else _("as PORTAL_ADMIN_PASSWORD says")
            )
        if "model" in self.names:
            rows[_("Model")] = self._model_words()
        database = _("PostgreSQL")
        if "sqlite" in settings.DATABASES["default"]["ENGINE"]:
            database = _("SQLite: right for one person; for a team set DATABASE_URL to a PostgreSQL database")
        rows[_("Database")] = database
        rows[_("Data")] = str(settings.PORTAL_DATA_DIR)
        width = max(map(len, rows))
        lines = ["", _("Agent Portal is running."), ""]
        lines += [f"  {name.ljust(width)}  {value}" for name, value in rows.items()]
        lines += ["", _("Ctrl-C ends all of it."), ""]
        return "\n".join(lines)

    def _model_words(self) -> str:
        spec, now = files.wanted(), serve.serving()
        if now is not None and now.is_ready:
            return _("%s, ready") % spec.name
        if now is not None and now.state == serve.LOADING:
            return _("%s, starting") % spec.name
        return _("%s, being fetched; runs that need it work once it is ready") % spec.name

    def _line(self, name: str, line: str) -> None:
        if moved := parse(line):
            self.screen.moved(*moved)
        elif line.strip():
            self.screen.note(f"{name.ljust(_WIDTH)} | {line}")

    def _ended(self, name: str, code: int, pause: float) -> None:
        self.screen.note(
            _("%(name)s ended (%(how)s) and is started again in %(pause)g s.")
            % {"name": name, "how": describe_exit(code), "pause": pause}
        )


def _model_is_ready() -> bool:
    now = serve.serving()
    return now is not None and now.is_ready


def _connect_host(host: str) -> str:
    return {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
