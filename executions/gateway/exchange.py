"""One request of a client, from its model's name to the last byte of the answer.

    resolve ─► for each model: wait for a place ─► tries ─► upstream request (open, stream, close)
                    │ fault                          │ passing fault, nothing forwarded yet
                    ▼                                ▼
                next model                       pause, next try

Each upstream request is one `LLMCall`. The end of an answer goes to the client only after its row
is closed, so that what an engine has seen complete is in the ledger. When the client goes away the
task of the exchange is cancelled: the upstream request ends at once, and its row is closed.
"""

import asyncio
import logging
import random
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from django.conf import settings
from django.db import DatabaseError
from django.utils import timezone
from django.utils.translation import gettext as _

from executions.errors import ErrorCode
from executions.gateway import answers, ledger
from executions.gateway.answers import Answer, Piece
from executions.gateway.catalog import Caller, Run, Target
from executions.gateway.client import Client
from executions.gateway.faults import Fault, Refusal
from executions.gateway.livetext import LiveText
from executions.gateway.state import State
from executions.gateway.tool_shim import NoDecision, Shim, Step
from executions.models import LLMCall

logger = logging.getLogger(__name__)

QUEUE_PATIENCE = 0.5  # seconds in a model's line after which the run's log says so


@dataclass(frozen=True)
class Order:
    """What is asked, by whom, and on whose behalf. `role` is the agent's role, `task` a RunSpec key."""

    caller: Caller
    run: Run
    task: str
    role: str
    body: dict[str, Any]
    call_id: uuid.UUID


@dataclass
class Reply:
    """A finished upstream answer, and the usage that the client is told."""

    answer: Answer
    usage: dict[str, Any]


@dataclass
class _Measured:
    """Of one upstream request; times by `perf_counter`."""

    sent: float
    first: float | None = None

    def since(self, moment: float | None) -> int | None:
        return None if moment is None else max(0, round((moment - self.sent) * 1000))


class Exchange:
    """Carries one order out and answers its client. `run` never raises for what a model may do wrong."""

    def __init__(self, state: State, order: Order, client: Client) -> None:
        self._state = state
        self._order = order
        self._client = client
        self._queue_ms = 0
        body = {key: value for key, value in order.body.items() if key not in {"model", "stream"} and value is not None}
        self._body = body
        self._prompt_tokens = ledger.estimated_tokens(_characters(body))

    async def run(self, chain: list[Target]) -> None:
        """Answer with the first model of `chain` that can."""
        try:
            await self._run(chain)
        except (Fault, Refusal) as problem:
            await self._client.fail(problem.status, problem.body())
        except DatabaseError:
            logger.exception("the ledger could not be written")
            fault = Fault(ErrorCode.INTERNAL)
            await self._client.fail(fault.status, fault.body())

    async def _run(self, chain: list[Target]) -> None:
        fault: Fault | None = None
        for target in chain:
            try:
                reply = await self._with(target)
            except Fault as exc:
                fault = exc
                if self._client.started or not exc.may_fall_back:
                    raise
            else:
                await self._client.finish(reply.answer, reply.usage)
                return
        raise fault or Fault(ErrorCode.INTERNAL)

    async def _with(self, target: Target) -> Reply:
        """The answer of one model. Raises `Fault`."""
        if target.why_not_runnable:
            code = ErrorCode.LLM_AUTH if not target.api_key else ErrorCode.LLM_UNAVAILABLE
            fault = Fault(code, sentence=f"{code.label} {target.why_not_runnable}", is_passing=False)
            await self._state.write(ledger.tell_failure, self._row(target, 1), self._order.caller, fault)
            raise fault

        async def tell(kind: str, message: str) -> None:
            await self._state.write(ledger.tell_waiting, self._row(target, 1), self._order.caller, kind, message)

        async def tell_queue(ahead: int) -> None:
            message = _("Waiting for the model %(model)s: %(ahead)s requests are ahead.")
            await tell("model_queue", message % {"model": target.id, "ahead": ahead})

        await self._state.ready(target.kind, tell)
        place = self._state.slots.hold(target.id, target.max_concurrency, patience=QUEUE_PATIENCE, on_wait=tell_queue)
        async with place as self._queue_ms:
            if target.native_tools:
                return await self._tries(target, self._body)
            return await self._shimmed(target)

    # --- Tools for models without them --------------------------------------------------------

    async def _shimmed(self, target: Target) -> Reply:
        shim = Shim(self._body)
        if not shim.has_choice:
            return await self._tries(target, shim.answer_request())
        decision, step = await self._decision(target, shim)
        if not step.tool:
            reply = await self._tries(target, shim.answer_request())
            return Reply(reply.answer, _sum(decision.usage, reply.usage))
        call = Answer()
        passed, _text = call.take(answers.pieces_of(_as_tool_call(decision.answer, step)))
        if self._client.streams:
            await self._client.forward(passed)
        return Reply(call, decision.usage)

    async def _decision(self, target: Target, shim: Shim) -> tuple[Reply, Step]:
        """What the model does next; what is no decision is asked for once more. Raises `Fault`."""
        for again in (True, False):
            try:
                decision = await self._tries(target, shim.decision_request(), forward=False)
                return decision, shim.decide(decision.answer.text)
            except NoDecision as exc:
                if not again:
                    raise Fault(ErrorCode.LLM_BAD_OUTPUT, str(exc)) from exc
            except Fault as fault:
                if not again or fault.code != ErrorCode.LLM_BAD_OUTPUT:
                    raise
        raise AssertionError("unreachable")

    # --- Tries ----------------------------------------------------------------------------------

    async def _tries(self, target: Target, body: dict[str, Any], *, forward: bool = True) -> Reply:
        """The answer of `target`, tried again after passing faults. Raises the last `Fault`."""
        number = 1
        while True:
            try:
                return await self._call(target, body, number, forward)
            except Fault as fault:
                pause = self._pause(fault, number)
                if pause is None:
                    raise
            await asyncio.sleep(pause)
            number += 1

    def _pause(self, fault: Fault, number: int) -> float | None:
        """Seconds before the next try, the same each time it is asked; None when there is none."""
        if not fault.is_passing or number >= settings.LLM_MAX_TRIES or self._client.started:
            return None
        if fault.retry_after is not None and fault.retry_after > settings.LLM_RETRY_MAX_WAIT:
            return None
        jitter = random.Random(f"{self._order.call_id}{number}").uniform(0.5, 1.0)  # noqa: S311 - no secret
        backoff = min(settings.LLM_RETRY_MILLISECONDS / 1000 * 2 ** (number - 1), settings.LLM_RETRY_MAX_WAIT) * jitter
        return max(backoff, fault.retry_after or 0)

    # --- One upstream request -------------------------------------------------------------------

    async def _call(self, target: Target, body: dict[str, Any], number: int, forward: bool) -> Reply:
        """Send, pass on, account for. Raises `Fault`, with the row closed."""
        row = self._row(target, number)
        answer = Answer()
        opening = self._state.background(self._state.write(ledger.open_call, row, self._order.caller))
        measured = _Measured(perf_counter())
        live = LiveText(self._state, row, is_shown=forward)
        fault: Fault | None = None
        try:
            # Shielded: the row may be stored in the very moment in which the client goes away.
            await asyncio.shield(opening)
            self._queue_ms = 0  # counted once
            measured.sent = perf_counter()
            await self._receive(target, body, answer, measured, live if forward else None)
            fault = _verdict(body, answer)
        except asyncio.CancelledError:
            live.stop()
            closing = self._closing(answer, measured, None, is_cancelled=True, keep_text=forward)
            self._state.background(self._settle(opening, row, target, closing))
            raise
        except Fault as exc:
            if not row.pk:
                raise  # refused before it was opened: it has no row
            fault = exc
            fault.hide(target.api_key)
        live.stop()
        pause = self._pause(fault, number) if fault else None
        closing = self._closing(answer, measured, fault, keep_text=forward, pause=pause)
        await asyncio.shield(self._state.background(self._settle(opening, row, target, closing)))
        if fault is not None:
            raise fault
        return Reply(answer, _usage(answer, closing))

    async def _receive(
        self, target: Target, body: dict[str, Any], answer: Answer, measured: _Measured, live: LiveText | None
    ) -> None:
        """Take the answer in, and pass it on as it comes. Raises `Fault`."""
        loop = asyncio.get_running_loop()
        end = loop.time() + settings.LLM_TOTAL_TIMEOUT
        pieces: AsyncGenerator[list[Piece], None] = self._state.upstream(target.kind).stream(target, body)
        patience = settings.LLM_FIRST_TOKEN_TIMEOUT
        try:
            async with asyncio.timeout_at(min(end, loop.time() + patience)) as limit, aclosing(pieces):
                async for batch in pieces:
                    passed, text = answer.take(batch)
                    if measured.first is None and answer.started:
                        measured.first = perf_counter()
                        patience = settings.LLM_NEXT_TOKEN_TIMEOUT
                    if live is not None:
                        if text:
                            live.add(text)
                        if passed and self._client.streams:
                            limit.reschedule(None)  # a client that reads slowly is not the model's fault
                            await self._client.forward(passed)
                    if answer.started:
                        limit.reschedule(min(end, loop.time() + patience))
        except TimeoutError:
            raise Fault(ErrorCode.LLM_TIMEOUT, _what_was_slow(answer, loop.time() >= end)) from None
        if not answer.ended:
            raise answers.bad_stream("the answer broke off")

    async def _settle(
        self, opening: asyncio.Future[Any], row: LLMCall, target: Target, closing: ledger.Closing
    ) -> None:
        """Close the row, if it came to be opened."""
        try:
            await opening
        except (Refusal, Fault):
            return
        await self._state.write(ledger.close_call, row, target, closing)

    def _closing(
        self,
        answer: Answer,
        measured: _Measured,
        fault: Fault | None,
        *,
        is_cancelled: bool = False,
        keep_text: bool,
        pause: float | None = None,
    ) -> ledger.Closing:
        now = perf_counter()
        usage = answer.usage or {}
        read, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
        is_known = isinstance(read, int) and isinstance(written, int)
        if not is_known:
            refused = fault is not None and fault.http_status is not None
            unreached = fault is not None and not answer.chunks and fault.code == ErrorCode.LLM_UNAVAILABLE
            read = 0 if refused or unreached else self._prompt_tokens
            # A chunk is a token with most providers; those that send several at once are counted by length.
            written = max(answer.chunks, ledger.estimated_tokens(answer.characters))
        return ledger.Closing(
            prompt_tokens=read or 0,
            completion_tokens=written or 0,
            is_estimated=not is_known and bool(read or written),
            latency_ms=measured.since(now) or 0,
            first_token_ms=measured.since(measured.first),
            text=answer.text if keep_text else "",
            http_status=fault.http_status if fault else (200 if answer.started else None),
            fault=fault,
            is_cancelled=is_cancelled,
            retry_in_ms=None if pause is None else round(pause * 1000),
        )

    def _row(self, target: Target, number: int) -> LLMCall:
        order = self._order
        return LLMCall(
            call_id=order.call_id,
            try_number=number,
            execution_id=order.caller.execution,
            user_id=order.run.user,
            attempt=order.caller.attempt,
            task=order.task,
            role=order.role,
            model=target.id,
            provider=target.provider,
            gateway=self._state.name,
            streamed=self._client.streams,
            # What it will have read, by estimate, should this process die before the provider says.
            prompt_tokens=self._prompt_tokens,
            is_estimated=True,
            queue_ms=self._queue_ms,
            opened_at=timezone.now(),
        )


def _verdict(body: dict[str, Any], answer: Answer) -> Fault | None:
    """What is wrong with an answer that arrived whole."""
    if answer.is_empty:
        return Fault(ErrorCode.LLM_BAD_OUTPUT, _("the answer was empty"))
    wants_json = (body.get("response_format") or {}).get("type") in {"json_object", "json_schema"}
    if wants_json and not answer.tool_calls and not answers.is_json(answer.text):
        return Fault(ErrorCode.LLM_BAD_OUTPUT, _("JSON was asked for, and something else came"))
    return None


def _what_was_slow(answer: Answer, is_total: bool) -> str:
    if is_total:
        return _("no end within %(seconds)s s") % {"seconds": settings.LLM_TOTAL_TIMEOUT}
    if answer.started:
        return _("nothing more within %(seconds)s s") % {"seconds": settings.LLM_NEXT_TOKEN_TIMEOUT}
    return _("no answer within %(seconds)s s") % {"seconds": settings.LLM_FIRST_TOKEN_TIMEOUT}


def _characters(body: dict[str, Any]) -> int:
    """How much there is to read in a conversation; its tools' schemas are left out."""
    total = 0
    for message in body.get("messages") or ():
        content = message.get("content") or ""
        if isinstance(content, str):
            total += len(content)
        else:
            total += sum(len(part.get("text") or "") for part in content if isinstance(part, dict))
        for call in message.get("tool_calls") or ():
            total += len((call.get("function") or {}).get("arguments") or "")
    return total


def _usage(answer: Answer, closing: ledger.Closing) -> dict[str, Any]:
    """For the client, which always gets one."""
    if answer.usage and not closing.is_estimated:
        return answer.usage
    read, written = closing.prompt_tokens, closing.completion_tokens
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _sum(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return {name: (first.get(name) or 0) + (second.get(name) or 0) for name in names}


def _as_tool_call(decision: Answer, step: Step) -> dict[str, Any]:
    message = {"role": "assistant", "content": None, "tool_calls": [step.as_call()]}
    return {**decision.head, "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
