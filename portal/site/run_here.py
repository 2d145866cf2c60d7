"""One run carried out from the command line: starts what is missing, follows, prints, ends what it started."""

import asyncio
import json
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.management.base import OutputWrapper
from django.db.models import Q
from django.urls import reverse
from django.utils.translation import gettext as _

from crews.embedded import fetch, serve
from crews.embedded.files import ModelUnavailable
from crews.models import Crew, LLMModel, LLMProvider
from executions import actions, live
from executions.errors import ErrorCode, InvalidTransition
from executions.models import Approval, Execution, LLMCall
from executions.status import Status, WaitingFor
from portal.accounts.models import User
from portal.lib.processes import is_listening
from portal.lib.progress import Progress
from portal.lib.supervisor import Supervisor, describe_exit
from portal.site.processes import LOOPBACK, Ports, choose_ports, part, running

COMPLETED, FAILED, BAD_INPUT, WAITING, STOPPED = range(5)
EXIT_CODES = {
    Status.COMPLETED: COMPLETED,
    Status.FAILED: FAILED,
    Status.STOPPED: STOPPED,
    Status.WAITING: WAITING,
    Status.PAUSED: WAITING,
}
# After these the run needs somebody; this command has nothing left to follow.
HALTS = frozenset({"execution.waiting", "execution.paused"})
# A part that died this often will not come up any more.
MANY_DEATHS = 6
FOLLOW_EVERY = 0.2  # seconds
LOOK_AFTER_PARTS_EVERY = 3.0  # seconds


class Unstartable(Exception):
    """Something that the run needs cannot be started; the message says what, and where to read more."""


@dataclass(frozen=True)
class Request:
    """What to run."""

    crew: Crew
    inputs: Mapping[str, Any]
    by: User
    model: LLMModel | None
    priority: int


def needs_embedded(crew: Crew, model: LLMModel | None) -> bool:
    """Whether a run of `crew` (on `model`, if given) may call the embedded model. One query."""
    if model is not None:
        chosen = Q(pk=model.pk)
    else:
        chosen = Q(agents__memberships__crew=crew) | Q(agents__tasks__crew=crew) | Q(pk=crew.manager_llm_model_id)
        chosen |= Q(agents=crew.manager_agent_id) if crew.manager_agent_id else Q()
    embedded = LLMProvider.Kind.EMBEDDED
    return (
        LLMModel.objects.filter(chosen)
        .filter(Q(provider__kind=embedded) | Q(fallbacks__provider__kind=embedded))
        .exists()
    )


class RunHere:
    """A run, from starting what it needs to the exit code. Call `run` in the main thread, outside any event loop."""

    def __init__(self, request: Request, *, as_json: bool, out: OutputWrapper, err: OutputWrapper) -> None:
        self.request, self.as_json, self.out = request, as_json, out
        err.style_func = None
        self.err = err
        self.progress = Progress(sys.stderr)
        self.logs = Path(settings.PORTAL_DATA_DIR) / "logs"
        self.supervisor = Supervisor(log_folder=self.logs, on_end=self._died)
        self.started: list[str] = []
        self.deaths: dict[str, int] = {}
        self.execution: Execution | None = None
        self._trouble = asyncio.Event()
        self._stopping: asyncio.Task[None] | None = None

    def run(self) -> int:
        """The exit code. Raises `Unstartable`, and what `actions.kickoff` raises."""
        names = ["gateway", "worker"]
        if needs_embedded(self.request.crew, self.request.model):
            names.append("model")
            if running("model") is None:
                self._fetch()
        ports = choose_ports(settings.PORTAL_HOST, settings.PORTAL_PORT, with_web=False)
        return asyncio.run(self._run(names, ports))

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
                return await self._follow()
            finally:
                keeping.cancel()
        except asyncio.CancelledError:
            self._say(_("Stopped before the run began.") if self.execution is None else _("Left at once."))
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
            self._say(_("Starting %(parts)s; logs in %(folder)s") % {"parts": ", ".join(missing), "folder": self.logs})

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
        self._say(_("%(name)s ended (%(how)s) and is started again.") % {"name": name, "how": describe_exit(code)})
        if self.deaths[name] >= MANY_DEATHS:
            self._trouble.set()

    # --- The run ---------------------------------------------------------------------------------

    async def _follow(self) -> int:
        wanted = self.request
        kicking = asyncio.ensure_future(
            sync_to_async(actions.kickoff)(
                crew=wanted.crew, inputs=wanted.inputs, by=wanted.by, model=wanted.model, priority=wanted.priority
            )
        )
        try:
            execution = self.execution = await asyncio.shield(kicking)
        except asyncio.CancelledError:
            # Ctrl-C in this very moment: the run may be stored already, and nobody would stop it.
            self.execution = await kicking
            await self._stop_run()
            raise
        self._say(_("Run %(id)s of “%(crew)s”") % {"id": execution.pk, "crew": wanted.crew.name})
        following = asyncio.create_task(self._print_events(execution))
        trouble = asyncio.create_task(self._trouble.wait())
        try:
            await asyncio.wait({following, trouble}, return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                await self._stop_run()
                raise self._unstartable()
            following.result()
        finally:
            following.cancel()
            trouble.cancel()
        return await self._outcome(execution)

    async def _print_events(self, execution: Execution) -> None:
        """Until the run has ended, or rests: one that somebody answers in that moment goes on, and is followed on."""
        last = 0
        while not (last and await sync_to_async(_rests)(execution)):
            async for event in live.follow(execution.stream_id, last, deltas=False, poll_seconds=FOLLOW_EVERY):
                last = event["seq"]
                if self.as_json:
                    self._print(event)
                else:
                    self._tell(event)
                if event["type"] in HALTS:
                    break

    async def _outcome(self, execution: Execution) -> int:
        await sync_to_async(execution.refresh_from_db)()
        status = Status(execution.status)
        if self.as_json:
            self._print(await sync_to_async(_outcome)(execution))
            return EXIT_CODES[status]
        self._say(str(status.label))
        if execution.failure is not None:
            self._say(execution.failure.sentence)
            for step in execution.failure.code.steps if status is Status.FAILED else ():
                self._say(f"  - {step}")
        if execution.final_output:
            self.out.write(execution.final_output)
        for line in await sync_to_async(_what_next)(execution):
            self._say(line)
        return EXIT_CODES[status]

    def _interrupted(self, main: "asyncio.Task[int]") -> None:
        """Ctrl-C: before the run it ends the command, during it stops the run; a second one ends all at once."""
        if self._stopping is not None:
            self.supervisor.kill_all()
            main.cancel()
        elif self.execution is None:
            main.cancel()
        else:
            self._say(_("Stopping the run …"))
            self._stopping = asyncio.ensure_future(self._stop_run())

    async def _stop_run(self) -> None:
        if self.execution is None:
            return
        fresh = await Execution.objects.aget(pk=self.execution.pk)
        with suppress(InvalidTransition):  # it ended by itself in this moment
            await sync_to_async(actions.stop)(execution=fresh, by=self.request.by)

    # --- Words -----------------------------------------------------------------------------------

    def _tell(self, event: dict[str, Any]) -> None:
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
            self._say(f"{event['at'][11:19]}  {words}")

    def _say(self, text: str) -> None:
        self.progress.clear()
        self.err.write(text)
        self.err.flush()

    def _print(self, value: dict[str, Any]) -> None:
        self.out.write(json.dumps(value, ensure_ascii=False))
        self.out.flush()


def _rests(execution: Execution) -> bool:
    """Whether nothing happens in the run until somebody does something. Reads it again."""
    execution.refresh_from_db()
    return execution.status in EXIT_CODES


def _addresses(execution: Execution) -> list[str]:
    """Where a run that rests can be helped on: its questions, else its page."""
    questions = execution.approvals.filter(status=Approval.Status.OPEN)
    if execution.status == Status.WAITING and execution.waiting_for == WaitingFor.APPROVAL:
        paths = [reverse("executions:approval-detail", args=[question.pk]) for question in questions]
    else:
        paths = [reverse("executions:run-detail", args=[execution.pk])]
    return [settings.PORTAL_URL + path for path in paths]


def _what_next(execution: Execution) -> list[str]:
    """For what a run that rests waits, and where to help it on; empty when it has ended."""
    if execution.status == Status.PAUSED:
        words = _("It was paused. Let it go on at %(where)s")
    elif execution.status != Status.WAITING:
        return []
    elif execution.waiting_for == WaitingFor.BUDGET:
        words = _("It waits for a larger budget. Raise it at %(where)s")
    else:
        words = _("It waits for an answer. Answer at %(where)s")
    lines = [words % {"where": ", ".join(_addresses(execution))}]
    if running("web") is None:
        lines.append(_("The portal does not run: start it with “python manage.py up”."))
    return lines


def _outcome(execution: Execution) -> dict[str, Any]:
    waits = {"waiting_for": execution.waiting_for or "resume", "continue_at": _addresses(execution)}
    return {
        "execution": str(execution.pk),
        "status": execution.status,
        "final_output": execution.final_output,
        "llm_calls": LLMCall.objects.filter(execution=execution).count(),
        "prompt_tokens": execution.prompt_tokens,
        "completion_tokens": execution.completion_tokens,
        # A sum that leaves out calls without a known price would look like a price.
        "cost_usd": None if execution.unpriced_calls else float(execution.cost_usd),
        **(waits if execution.status in {Status.WAITING, Status.PAUSED} else {}),
    }
