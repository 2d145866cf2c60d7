"""One run of a crew carried out from the command line."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.management.base import OutputWrapper
from django.db.models import Q
from django.urls import reverse
from django.utils.translation import gettext as _

from crews.models import Crew, LLMModel
from executions import actions, live
from executions.errors import InvalidTransition
from executions.models import Approval, Execution, LLMCall
from executions.status import Status, WaitingFor
from portal.accounts.models import User
from portal.site.here import (
    COMPLETED,
    FAILED,
    FOLLOW_EVERY,
    STOPPED,
    WAITING,
    Here,
    may_call_embedded,
    when_nothing_runs,
)

EXIT_CODES = {
    Status.COMPLETED: COMPLETED,
    Status.FAILED: FAILED,
    Status.STOPPED: STOPPED,
    Status.WAITING: WAITING,
    Status.PAUSED: WAITING,
}
# After these the run needs somebody; this command has nothing left to follow.
HALTS = frozenset({"execution.waiting", "execution.paused"})


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
    return may_call_embedded(chosen)


class RunHere(Here):
    """A run of a crew."""

    def __init__(self, request: Request, *, as_json: bool, out: OutputWrapper, err: OutputWrapper) -> None:
        super().__init__(as_json=as_json, out=out, err=err)
        self.request = request
        self.execution: Execution | None = None

    def needs_model(self) -> bool:
        return needs_embedded(self.request.crew, self.request.model)

    def engine(self) -> str:
        return self.request.crew.engine

    def has_begun(self) -> bool:
        return self.execution is not None

    async def carry(self) -> int:
        """Raises what `actions.kickoff` raises."""
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
            await self.stop()
            raise
        self.say(_("Run %(id)s of “%(crew)s”") % {"id": execution.pk, "crew": wanted.crew.name})
        await self.until_rest(self._print_events(execution))
        return await self._outcome(execution)

    async def stop(self) -> None:
        if self.execution is None:
            return
        fresh = await Execution.objects.aget(pk=self.execution.pk)
        with suppress(InvalidTransition):  # it ended by itself in this moment
            await sync_to_async(actions.stop)(execution=fresh, by=self.request.by)

    async def _print_events(self, execution: Execution) -> None:
        """Until the run has ended, or rests: one that somebody answers in that moment goes on, and is followed on."""
        last = 0
        while not (last and await sync_to_async(_rests)(execution)):
            async for event in live.follow(execution.stream_id, last, deltas=False, poll_seconds=FOLLOW_EVERY):
                last = event["seq"]
                if self.as_json:
                    self.print(event)
                else:
                    self.tell_of_run(event)
                if event["type"] in HALTS:
                    break

    async def _outcome(self, execution: Execution) -> int:
        await sync_to_async(execution.refresh_from_db)()
        status = Status(execution.status)
        if self.as_json:
            self.print(await sync_to_async(_outcome)(execution))
            return EXIT_CODES[status]
        self.say(str(status.label))
        if execution.failure is not None:
            self.say(execution.failure.sentence)
            for step in execution.failure.code.steps if status is Status.FAILED else ():
                self.say(f"  - {step}")
        if execution.final_output:
            self.out.write(execution.final_output)
        for line in await sync_to_async(_what_next)(execution):
            self.say(line)
        return EXIT_CODES[status]


def _rests(execution: Execution) -> bool:
    """Whether nothing happens in the run until somebody does something. Reads it again."""
    execution.refresh_from_db()
    return execution.status in EXIT_CODES


def addresses(execution: Execution) -> list[str]:
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
    return [words % {"where": ", ".join(addresses(execution))}, *when_nothing_runs()]


def _outcome(execution: Execution) -> dict[str, Any]:
    waits = {"waiting_for": execution.waiting_for or "resume", "continue_at": addresses(execution)}
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
