"""`POST /v1/tools/{name}`: tools are called here, by the gateway, and never by an engine.

A call that has an ordinal is journalled: a later attempt that makes it again gets the result of the
first. What a tool does in the portal itself is stored in one transaction with its result, so it happens
once. What it does elsewhere cannot be: its entry is taken before, and if it is lost then, nobody knows
whether it happened; such a call is refused rather than repeated.
"""

import asyncio
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from crews.builtin_tools import BUILTIN, ToolError
from crews.models import Tool
from executions import events
from executions.gateway import effects, journal
from executions.gateway.catalog import Caller, alive, dead_token, hold
from executions.gateway.faults import Refusal
from executions.gateway.state import State
from executions.models import JournalEntry, ToolCall

THREADS = 4
MAX_RESULT = 100_000  # characters
FAILED = "tool_failed"


@dataclass(frozen=True)
class ToolOrder:
    """Which tool is called, by whom, and on whose behalf; the fields are those of an `exchange.Order`."""

    caller: Caller
    name: str
    arguments: dict[str, Any]
    task: str
    role: str
    agent: str
    ordinal: int | None
    has_past: bool

    def key(self) -> journal.Key:
        digest = journal.tool_hash(self.name, self.arguments, self.agent)
        return journal.Key(self.caller.run, JournalEntry.Kind.TOOL.value, self.task, digest, self.ordinal or 0)


@dataclass(frozen=True)
class _Outcome:
    """What a tool gave: `text` is its result, or why it could not do it. Is it not `is_final`, it may yet happen."""

    text: str
    is_ok: bool
    is_final: bool = True

    def answer(self) -> dict[str, Any]:
        return {"text": self.text, "is_ok": self.is_ok}

    def given(self) -> str:
        """The result. Raises `Refusal` when there is none."""
        if not self.is_ok:
            raise Refusal(422 if self.is_final else 504, FAILED, self.text)
        return self.text


class Tools:
    """Runs tools on threads of their own, each within `TOOL_TIMEOUT` seconds."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="tool")

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def call(self, order: ToolOrder) -> str:
        """The tool's result, recorded. Raises `Refusal`: also when the tool itself could not do it (422, 504)."""
        await self._state.write(_allow, order.caller, order.name)
        if order.ordinal is None:
            return (await self._carry_out(order, None)).given()
        key, holds = order.key(), self._state.holds
        is_known = order.has_past
        while True:
            is_known = await holds.take(key) or is_known
            try:
                if is_known and (found := await self._state.recorded(key)) is not None:
                    return _Outcome(**found.answer).given()
                entry = journal.Entry(key, self._state.instance, order.caller.attempt, order.agent, uuid.uuid4())
                return (await self._carry_out(order, entry)).given()
            except journal.Taken:
                is_known = True
            finally:
                holds.free(key)

    async def _carry_out(self, order: ToolOrder, entry: journal.Entry | None) -> _Outcome:
        """Call the tool. Raises `journal.Taken` when it has been called meanwhile, and `Refusal`."""
        is_elsewhere = BUILTIN[order.name].has_effects and order.name not in effects.OWN
        if entry is not None and is_elsewhere:
            await self._state.write(_take_once, entry)
        at, began = timezone.now(), perf_counter()
        outcome = await self._run(order)
        row = ToolCall(
            execution_id=order.caller.execution,
            attempt=order.caller.attempt,
            task=order.task,
            role=order.role,
            tool=order.name,
            arguments=events.plain(order.arguments),
            result=events.plain(outcome.text),
            is_ok=outcome.is_ok,
            latency_ms=round((perf_counter() - began) * 1000),
            at=at,
        )
        await self._state.write(_store, order, entry, row, outcome)
        return outcome

    async def _run(self, order: ToolOrder) -> _Outcome:
        folder = Path(settings.MEDIA_ROOT) / "executions" / str(order.caller.execution)
        try:
            async with asyncio.timeout(settings.TOOL_TIMEOUT):
                loop = asyncio.get_running_loop()
                run = BUILTIN[order.name].run
                result = await loop.run_in_executor(self._threads, run, order.arguments, folder)
        except ToolError as exc:
            return _Outcome(str(exc), is_ok=False)
        except TimeoutError:  # an OSError too, so it comes first
            sentence = _("The tool took longer than %(seconds)s seconds.") % {"seconds": settings.TOOL_TIMEOUT}
            return _Outcome(sentence, is_ok=False, is_final=False)
        except OSError:
            return _Outcome(_("The tool could not read what it needed."), is_ok=False)
        return _Outcome(result[:MAX_RESULT], is_ok=True)


def _allow(caller: Caller, name: str) -> None:
    """Raise `Refusal` unless the run is alive, was given the tool at its kickoff, and the tool is still enabled."""
    snapshot = alive(caller).values_list("snapshot", flat=True).first()
    if snapshot is None:
        raise dead_token()
    given = {tool["name"] for tool in snapshot.get("spec", {}).get("tools", ())}
    if name not in BUILTIN or name not in given:
        raise Refusal(404, "tool_not_found", _("This run has no tool “%(name)s”.") % {"name": name})
    if not Tool.objects.filter(name=name, enabled=True).exists():
        raise Refusal(403, "tool_disabled", _("The tool “%(name)s” is switched off.") % {"name": name})


def _take_once(entry: journal.Entry) -> None:
    """Take the entry of a call whose effect must not come twice.

    Raises `journal.Taken` while it is under way or once it is done, and `Refusal` when it was lost.
    """
    with transaction.atomic():
        try:
            journal.take(entry, again=False)
        except journal.Taken:
            found = journal.find(entry.key)
            # What this process itself left open is as lost: only one of equal requests comes so far.
            if found is not None and (found.is_lost or (found.holder == entry.holder and not found.is_done)):
                raise Refusal(
                    422, FAILED, _("The tool was called before, and whether it happened is not known.")
                ) from None
            raise


def _store(order: ToolOrder, entry: journal.Entry | None, row: ToolCall, outcome: _Outcome) -> None:
    """Record the result, and what the tool does in the portal with it: one transaction.

    Raises `journal.Taken` when the call has been recorded already, and `Refusal` when its token is dead by now.
    """
    effect = effects.OWN.get(order.name) if outcome.is_ok else None
    with transaction.atomic():
        # Locked first, as everywhere: nothing may happen in the name of an attempt that is over.
        if effect:
            hold(order.caller)
        if entry is not None and not outcome.is_final:
            journal.let_go(entry)
        elif entry is not None:
            record = journal.Record(entry, order.name, outcome.answer())
            if not journal.record(record) and entry.pk is None:
                raise journal.Taken
        row.save(force_insert=True)
        if effect:
            effect(order.caller, order.task, order.role, order.arguments)
