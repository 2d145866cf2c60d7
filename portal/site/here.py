"""Work carried out from the command line: starts the parts that are missing, follows, prints, ends what it started."""

import asyncio
import json
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import OutputWrapper
from django.db.models import Q
from django.utils.translation import gettext as _

from crews.embedded import fetch, serve
from crews.embedded.files import ModelUnavailable
from crews.models import LLMModel, LLMProvider
from executions import installation
from executions.engines.registry import ENGINES
from executions.errors import ErrorCode
from executions.installation import CannotInstall
from portal.lib.processes import is_listening
from portal.lib.progress import Progress
from portal.lib.supervisor import Supervisor, describe_exit
from portal.site.processes import LOOPBACK, Ports, choose_ports, part, running

COMPLETED, FAILED, BAD_INPUT, WAITING, STOPPED = range(5)
# A part that died this often will not come up any more.
MANY_DEATHS = 6
FOLLOW_EVERY = 0.2  # seconds
LOOK_AFTER_PARTS_EVERY = 3.0  # seconds


class Unstartable(Exception):
    """Something that the work needs cannot be started; the message says what, and where to read more."""


def may_call_embedded(models: Q) -> bool:
    """Whether one of `models`, or a fallback of one, is the embedded model. One query."""
    embedded = LLMProvider.Kind.EMBEDDED
    return (
        LLMModel.objects.filter(models)
        .filter(Q(provider__kind=embedded) | Q(fallbacks__provider__kind=embedded))
        .exists()
    )


class Here(ABC):
    """Some work, from starting what it needs to the exit code. Call `run` in the main thread, outside event loops."""

    def __init__(self, *, as_json: bool, out: OutputWrapper, err: OutputWrapper) -> None:
        self.as_json, self.out = as_json, out
        err.style_func = None
        self.err = err
        self.progress = Progress(sys.stderr)
        self.logs = Path(settings.PORTAL_DATA_DIR) / "logs"
        self.supervisor = Supervisor(log_folder=self.logs, on_end=self._died)
        self.started: list[str] = []
        self.deaths: dict[str, int] = {}
        self._trouble = asyncio.Event()
        self._stopping: asyncio.Task[None] | None = None

    @abstractmethod
    def needs_model(self) -> bool:
        """Whether the embedded model may be called."""

    @abstractmethod
    def engine(self) -> str:
        """The engine that carries the work."""

    @abstractmethod
    def has_begun(self) -> bool:
        """Whether there is something that has to be stopped."""

    @abstractmethod
    async def carry(self) -> int:
        """Do the work, and follow it; the exit code."""

    @abstractmethod
    async def stop(self) -> None:
        """Stop the work; what follows it sees it end."""

    def run(self) -> int:
        """The exit code. Raises `Unstartable`, and what beginning the work raises."""
        names = ["gateway", "worker"]
        if not ENGINES[self.engine()].is_installed():
            self._install()
        if self.needs_model():
            names.append("model")
            if running("model") is None:
                self._fetch()
        ports = choose_ports(settings.PORTAL_HOST, settings.PORTAL_PORT, with_web=False)
        return asyncio.run(self._run(names, ports))

    def _install(self) -> None:
        try:
            installation.ensure(self.engine(), self.progress)
        except CannotInstall as exc:
            raise Unstartable(str(exc)) from exc
        finally:
            self.progress.clear()

    def _fetch(self) -> None:
        try:
            fetch.ensure(self.progress)
        except ModelUnavailable as exc:
            raise Unstartable(str(exc)) from exc
        finally:
            self.progress.clear()

    async def _run(self, names: list[str], ports: Ports) -> int:
        loop = asyncio.get_running_loop()
        main = asyncio.current_task()
        assert main is not None  # noqa: S101 - a coroutine runs in a task
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._interrupted, main)
        try:
            await self._start_missing(names, ports)
            await self._ready(ports, with_model="model" in names)
            keeping = asyncio.create_task(self._stay_complete(names, ports))
            try:
                return await self.carry()
            finally:
                keeping.cancel()
        except asyncio.CancelledError:
            self.say(_("Left at once.") if self.has_begun() else _("Stopped before the run began."))
            return STOPPED
        finally:
            await self.supervisor.stop("worker")
            await self.supervisor.stop()

    # --- Starting --------------------------------------------------------------------------------

    async def _start_missing(self, names: list[str], ports: Ports) -> None:
        missing = [name for name in names if running(name) is None]
        for name in missing:
            await self.supervisor.start(part(name, ports))
        self.started += missing
        if missing:
            self.say(_("Starting %(parts)s; logs in %(folder)s") % {"parts": ", ".join(missing), "folder": self.logs})

    async def _stay_complete(self, names: list[str], ports: Ports) -> None:
        """Take over what another command ran and has ended in the meantime."""
        while True:
            await asyncio.sleep(LOOK_AFTER_PARTS_EVERY)
            await self._start_missing([name for name in names if name not in self.started], ports)

    async def _ready(self, ports: Ports, *, with_model: bool) -> None:
        """Until the gateway answers and, if it is needed, the model."""
        while not await asyncio.to_thread(is_listening, LOOPBACK, ports.gateway):
            await self._look_again()
        while with_model and not ((now := serve.serving()) and now.is_ready):
            if now is not None and now.state == serve.FETCHING and now.total:
                self.progress.moved(now.done, now.total, now.doing)
            await self._look_again()
        self.progress.clear()

    async def _look_again(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._trouble.wait(), FOLLOW_EVERY)
            raise self._unstartable()

    def _unstartable(self) -> Unstartable:
        name = max(self.deaths, key=lambda one: self.deaths[one])
        return Unstartable(
            _("%(name)s cannot be kept running; see %(log)s.") % {"name": name, "log": self.logs / f"{name}.log"}
        )

    def _died(self, name: str, code: int, pause: float) -> None:
        if running(name) is not None:
            return  # another command started the same part in this moment, and ours gave way
        self.deaths[name] = self.deaths.get(name, 0) + 1
        self.say(_("%(name)s ended (%(how)s) and is started again.") % {"name": name, "how": describe_exit(code)})
        if self.deaths[name] >= MANY_DEATHS:
            self._trouble.set()

    # --- Following -------------------------------------------------------------------------------

    async def until_rest(self, following: Coroutine[Any, Any, None]) -> None:
        """Wait for `following`; when a part cannot be kept running, stop the work and raise `Unstartable`."""
        follow = asyncio.create_task(following)
        trouble = asyncio.create_task(self._trouble.wait())
        try:
            await asyncio.wait({follow, trouble}, return_when=asyncio.FIRST_COMPLETED)
            if not follow.done():
                await self.stop()
                raise self._unstartable()
            follow.result()
        finally:
            follow.cancel()
            trouble.cancel()

    @property
    def is_stopping(self) -> bool:
        return self._stopping is not None

    def _interrupted(self, main: "asyncio.Task[int]") -> None:
        """Ctrl-C: before the work it ends the command, during it stops the work; a second one ends all at once."""
        if self._stopping is not None:
            self.supervisor.kill_all()
            main.cancel()
        elif not self.has_begun():
            main.cancel()
        else:
            self.say(_("Stopping the run …"))
            self._stopping = asyncio.ensure_future(self.stop())

    # --- Words -----------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """For people, on standard error."""
        self.progress.clear()
        self.err.write(text)
        self.err.flush()

    def print(self, value: dict[str, Any]) -> None:
        """For programs, a line of JSON on standard output."""
        self.out.write(json.dumps(value, ensure_ascii=False))
        self.out.flush()

    def tell_of_run(self, event: dict[str, Any]) -> None:
        """What an event of a run is for people; nothing for most."""
        data = event["data"]
        name = data.get("name") or event.get("role") or event.get("task", "")
        words = {
            "execution.started": _("started"),
            "execution.recovered": _("picked up again"),
            "task.started": _("%(task)s: %(role)s is at work") % {"task": name, "role": event.get("role", "")},
            "task.completed": _("%s: done") % name,
            "task.failed": _("%s: failed") % name,
            "tool.started": _("    calls %s") % data.get("tool", name),
        }.get(event["type"])
        if event["type"] == "llm.failed" and data.get("error_code") in ErrorCode.values:
            words = f"    {ErrorCode(data['error_code']).label}"
        if words:
            self.say(f"{event['at'][11:19]}  {words}")


def when_nothing_runs() -> list[str]:
    """What to say where somebody is sent to a page, and no portal runs that would show it."""
    return [] if running("web") else [_("The portal does not run: start it with “python manage.py up”.")]
