"""One request of a client, from its model's name to the last byte of the answer.

    journal ─► for each model: wait for a place ─► tries ─► upstream request (open, stream, close)
       │            │ fault                          │ passing fault, nothing forwarded yet
       ▼            ▼                                ▼
    replay      next model                       pause, next try

Each upstream request is one `LLMCall`. A request that has an ordinal is journalled: its entry is taken
with the opening of the first call and recorded with the closing of the last. The end of an answer goes
to the client only after that, so that what an engine has seen complete is in ledger and journal.

When the task of an exchange is cancelled the upstream request ends at once, its row is closed and
its entry lost. An exchange that `may_go_on` can do without its client: see `executions.gateway.app`.
"""

import asyncio
import logging
import random
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from functools import cached_property
from time import perf_counter
from typing import Any, TypeAlias

from django.conf import settings
from django.db import DatabaseError, InterfaceError
from django.utils import timezone
from django.utils.translation import gettext as _

from executions.errors import ErrorCode
from executions.gateway import answers, bounds, journal, ledger
from executions.gateway.accounts import Measured, characters_of, closing_of, sum_of, usage_of, verdict_on, what_was_slow
from executions.gateway.answers import Answer, Piece
from executions.gateway.catalog import StaleRun, Target, is_wanted
from executions.gateway.client import Client
from executions.gateway.echoes import Echoes
from executions.gateway.faults import Fault, Refusal
from executions.gateway.livetext import LiveText
from executions.gateway.orders import Order, Reply
from executions.gateway.state import State
from executions.gateway.tool_shim import NoDecision, Shim, Step
from executions.models import LLMCall

logger = logging.getLogger(__name__)

DECISION = "decision"  # the part of a request in which a model without tools chooses its next step
QUEUE_PATIENCE = 0.5  # seconds in a model's line after which the run's log says so


class Abandoned(Exception):
    """The client has gone, and there is no answer under way that would be worth waiting for."""


# What of a finished answer belongs in the journal.
Recording: TypeAlias = Callable[[Answer, dict[str, Any]], journal.Record | None]


class Exchange:
    """Carries one order out and answers its client. `run` never raises for what a model may do wrong."""

    def __init__(self, state: State, order: Order, client: Client) -> None:
        self._state = state
        self._order = order
        self._client = client
        self._run = order.run
        self._queue_ms = 0
        # Waiting for room under a limit: for which rows, how long, and whether the log has been told.
        self._waited_for: set[uuid.UUID] = set()
        self._room_ms = 0
        self._told_room = False
        self._is_upstream = False
        self._entry: journal.Entry | None = None
        self._is_taken = self._is_recorded = False
        self._settling: list[asyncio.Future[None]] = []  # what has to be stored before the entry may be let go
        body = {key: value for key, value in order.body.items() if key not in {"model", "stream"} and value is not None}
        self._body = body
        self._prompt_tokens = ledger.estimated_tokens(characters_of(body))

    @cached_property
    def _key(self) -> journal.Key:
        return self._order.key()

    @property
    def may_go_on(self) -> bool:
        """Whether an answer is on its way that somebody may still ask for when the client is gone."""
        return self._is_upstream and self._entry is not None

    async def is_wanted(self) -> bool:
        """Whether a later attempt may ask for the answer that is under way."""
        execution = self._order.caller.execution
        try:
            return execution is not None and await self._state.db(is_wanted, execution)
        except (DatabaseError, InterfaceError):
            return True  # nobody knows; it is looked again in a second

    async def run(self, chain: list[Target]) -> None:
        """Answer from the journal, or with the first model of `chain` that can."""
        try:
            reply = await self._carry_out(chain) if self._order.ordinal is None else await self._once(chain)
            await self._client.finish(reply.answer, reply.usage)
        except (Fault, Refusal) as problem:
            await self._client.fail(problem.status, problem.body())
        except Abandoned:
            pass
        except (DatabaseError, InterfaceError):
            logger.exception("the ledger could not be written")
            fault = Fault(ErrorCode.INTERNAL)
            await self._client.fail(fault.status, fault.body())

    # --- The journal ----------------------------------------------------------------------------

    async def _once(self, chain: list[Target]) -> Reply:
        """The answer of this request, whoever gave it. Raises `Fault` and `Refusal`."""
        order, holds = self._order, self._state.holds
        is_known = self._run.has_past
        while True:
            is_known = await holds.take(self._key) or is_known
            self._entry = journal.Entry(
                self._key, self._state.instance, order.caller.attempt, order.agent, order.call_id
            )
            try:
                found = await self._state.recorded(self._key) if is_known else None
                if found is None:
                    return await self._carry_out(chain)
            except journal.Taken:
                is_known = True
                continue
            finally:
                self._let_go(self._entry)
            return await self._replay(found, self._entry)

    def _let_go(self, entry: journal.Entry) -> None:
        """Have the entry lost unless its answer was recorded; equal requests go on when that is stored."""
        if self._is_recorded or (all(work.done() for work in self._settling) and not self._is_taken):
            self._state.holds.free(entry.key)
        else:
            self._state.background(self._release(entry, self._settling))
        self._settling = []

    async def _release(self, entry: journal.Entry, settling: list[asyncio.Future[None]]) -> None:
        try:
            if settling:
                await asyncio.wait(settling)
            await self._state.write(journal.let_go, entry)
        finally:
            self._state.holds.free(entry.key)

    async def _replay(self, found: journal.Found, entry: journal.Entry) -> Reply:
        """The recorded answer, as if it came from a model now. Raises `Refusal` when the token is dead."""
        await self._tell_replayed(found, entry)
        self._client.call_id = str(found.call_id)
        return await self._passed_on(found.answer)

    async def _tell_replayed(self, found: journal.Found, entry: journal.Entry) -> None:
        order = self._order
        await self._state.write(journal.tell_replayed, entry, found, order.caller, order.role)

    async def _passed_on(self, completion: dict[str, Any]) -> Reply:
        answer = Answer()
        passed, _text = answer.take(answers.pieces_of(completion))
        if self._client.streams:
            await self._client.forward(passed)
        return Reply(answer, completion["usage"])

    def _recording(self, target: Target, *, more: dict[str, Any] | None = None) -> Recording:
        """Has the answer of `target` recorded, its usage with `more` added."""

        def record(answer: Answer, usage: dict[str, Any]) -> journal.Record | None:
            if self._entry is None:
                return None
            return journal.Record(self._entry, target.id, answer.completion(sum_of(more, usage) if more else usage))

        return record

    # --- Models ---------------------------------------------------------------------------------

    async def _carry_out(self, chain: list[Target]) -> Reply:
        while True:
            try:
                return await self._first_that_can(chain)
            except StaleRun:
                directory = self._state.directory
                self._run = await directory.run_anew(self._order.caller)
                chain = await directory.resolve(self._run, self._order.model)

    async def _first_that_can(self, chain: list[Target]) -> Reply:
        fault: Fault | None = None
        for target in chain:
            try:
                return await self._with(target)
            except Fault as exc:
                fault = exc
                if self._client.started or self._client.gone or not exc.may_fall_back:
                    raise
        raise fault or Fault(ErrorCode.INTERNAL)

    async def _look_again(self) -> None:
        """Raise `StaleRun` if the run has other models or limits by now, which only opening a call would notice."""
        now = await self._state.directory.run_anew(self._order.caller)
        if (now.roles_version, now.limits) != (self._run.roles_version, self._run.limits):
            raise StaleRun

    async def _with(self, target: Target) -> Reply:
        """The answer of one model. Raises `Fault`."""
        if target.why_not_runnable:
            await self._look_again()
            code = ErrorCode.LLM_AUTH if not target.api_key else ErrorCode.LLM_UNAVAILABLE
            fault = Fault(code, sentence=f"{code.label} {target.why_not_runnable}", is_passing=False)
            await self._state.write(ledger.tell_failure, self._row(target, 1), self._order.caller, fault)
            raise fault
        try:
            bounds.require_price(target, self._run.limits)
        except Fault as unpriced:
            await self._look_again()
            await self._state.write(ledger.tell_failure, self._row(target, 1), self._order.caller, unpriced)
            raise

        async def tell(kind: str, message: str) -> None:
            await self._state.write(ledger.tell_waiting, self._row(target, 1), self._order.caller, kind, message)

        async def tell_queue(ahead: int) -> None:
            message = _("Waiting for the model %(model)s: %(ahead)s requests are ahead.")
            await tell("model_queue", message % {"model": target.id, "ahead": ahead})

        await self._state.ready(target.kind, tell)
        place = self._state.slots.hold(
            target.id, target.max_concurrency, patience=QUEUE_PATIENCE, on_wait=tell_queue, owner=self._run.user
        )
        async with place as self._queue_ms:
            if target.native_tools:
                return await self._tries(target, self._body, self._recording(target))
            return await self._shimmed(target)

    # --- Tools for models without them --------------------------------------------------------

    async def _shimmed(self, target: Target) -> Reply:
        shim = Shim(self._body)
        if not shim.has_choice:
            return await self._tries(target, shim.answer_request(), self._recording(target))
        decision, step = await self._decision(target, shim)
        if not step.tool:
            record = self._recording(target, more=decision.usage)
            reply = await self._tries(target, shim.answer_request(), record)
            return Reply(reply.answer, sum_of(decision.usage, reply.usage))
        return await self._passed_on(self._as_tool_call(decision.answer, decision.usage, step))

    async def _decision(self, target: Target, shim: Shim) -> tuple[Reply, Step]:
        """What the model does next; what is no decision is asked for once more. Raises `Fault`."""
        if self._entry is not None and (decision := await self._earlier_decision(self._entry)):
            return decision, shim.decide(decision.answer.text)

        def record(answer: Answer, usage: dict[str, Any]) -> journal.Record | None:
            try:
                step = shim.decide(answer.text)
            except NoDecision:
                return None
            if self._entry is None:
                return None
            if step.tool:
                return journal.Record(self._entry, target.id, self._as_tool_call(answer, usage, step))
            return journal.Record(self._entry, target.id, answer.completion(usage), part=DECISION)

        for again in (True, False):
            try:
                decision = await self._tries(target, shim.decision_request(), record, forward=False)
                return decision, shim.decide(decision.answer.text)
            except NoDecision as exc:
                if not again:
                    raise Fault(ErrorCode.LLM_BAD_OUTPUT, str(exc)) from exc
            except Fault as fault:
                if not again or fault.code != ErrorCode.LLM_BAD_OUTPUT:
                    raise
        raise AssertionError("unreachable")

    async def _earlier_decision(self, entry: journal.Entry) -> Reply | None:
        """The decision of an exchange that ended before its answer."""
        found = await self._state.write(journal.find, entry.key.part(DECISION))
        if found is None or not found.is_done:
            return None
        await self._tell_replayed(found, entry)
        answer = Answer()
        answer.take(answers.pieces_of(found.answer))
        return Reply(answer, found.answer["usage"])

    def _as_tool_call(self, decision: Answer, usage: dict[str, Any], step: Step) -> dict[str, Any]:
        # The same request gives the same id, or a later attempt would ask with another conversation.
        call_id = f"call_{self._key.part(str(self._key.ordinal)).request_hash[:12]}"
        message = {"role": "assistant", "content": None, "tool_calls": [step.as_call(call_id)]}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
        return {**decision.head, "object": "chat.completion", "choices": [choice], "usage": usage}

    # --- Tries ----------------------------------------------------------------------------------

    async def _tries(self, target: Target, body: dict[str, Any], record: Recording, *, forward: bool = True) -> Reply:
        """The answer of `target`, tried again after passing faults. Raises the last `Fault`."""
        number = 1
        while True:
            try:
                return await self._call(target, body, number, record, forward)
            except ledger.NoRoom as full:
                await self._wait_for_room(target, full.key)
                continue
            except Fault as fault:
                pause = self._pause(fault, number)
                if pause is None:
                    raise
            await asyncio.sleep(pause)
            number += 1

    async def _wait_for_room(self, target: Target, limit: uuid.UUID) -> None:
        """Let calls under way be settled; meanwhile others may have the place. The run's log is told once."""
        if not self._told_room and self._room_ms >= QUEUE_PATIENCE * 1000:
            self._told_room = True
            message = _("Waiting for other LLM calls to end: until then they may use up what the budget has left.")
            row = self._row(target, 1)
            await self._state.write(ledger.tell_waiting, row, self._order.caller, "budget_queue", message)
        began = perf_counter()
        self._waited_for.add(limit)
        async with self._state.slots.lent(target.id, target.max_concurrency, owner=self._run.user):
            await self._state.room.wait(limit)
        waited_ms = round((perf_counter() - began) * 1000)
        self._room_ms += waited_ms
        self._queue_ms += waited_ms

    def _pause(self, fault: Fault, number: int) -> float | None:
        """Seconds before the next try, the same each time it is asked; None when there is none."""
        is_last = number >= settings.LLM_MAX_TRIES or self._client.started or self._client.gone
        if is_last or not fault.is_passing:
            return None
        if fault.retry_after is not None and fault.retry_after > settings.LLM_RETRY_MAX_WAIT:
            return None
        jitter = random.Random(f"{self._order.call_id}{number}").uniform(0.5, 1.0)  # noqa: S311 - no secret
        backoff = min(settings.LLM_RETRY_MILLISECONDS / 1000 * 2 ** (number - 1), settings.LLM_RETRY_MAX_WAIT) * jitter
        return max(backoff, fault.retry_after or 0)

    # --- One upstream request -------------------------------------------------------------------

    async def _call(self, target: Target, body: dict[str, Any], number: int, record: Recording, forward: bool) -> Reply:
        """Send, pass on, account for. Raises `Fault`, with the row closed."""
        if self._client.gone:
            raise Abandoned
        row = self._row(target, number)
        if limits := self._run.limits:
            body, most = bounds.limited(target, body, limits)
            row.reserved_usd, row.reserved_tokens, row.budgets = most.usd, most.tokens, bounds.names_of(limits)
        answer = Answer()
        opening = self._open(row)
        measured = Measured(perf_counter())
        live = LiveText(self._state, row, is_shown=forward)
        try:
            # Shielded: the row may be stored in the very moment in which the client goes away.
            await asyncio.shield(opening)
            self._is_taken = self._is_upstream = True
            self._queue_ms = 0  # counted once
            self._state.room.freed(self._waited_for)  # there may be more of it
            measured.sent, measured.is_sent = perf_counter(), True
            try:
                await self._receive(target, body, answer, measured, live if forward else None)
                fault = verdict_on(body, answer)
            except Fault as exc:
                fault = exc
                fault.hide(target.api_key)
            live.stop()
            closing = self._closing(answer, measured, fault, forward)
            if fault is not None and (pause := self._pause(fault, number)) is not None:
                closing = replace(closing, retry_in_ms=round(pause * 1000))
            usage = usage_of(answer, closing)
            recorded = None if fault else record(answer, usage)
        except asyncio.CancelledError:
            live.stop()
            closing = replace(self._closing(answer, measured, None, forward), is_cancelled=True)
            self._settle(opening, row, target, closing, None)
            raise
        except Exception:
            # Nobody foresaw this, and what the row reserves must not be held until the gateway ends. What was refused
            # before it was opened has no row.
            if self._is_upstream:
                live.stop()
                closing = self._closing(answer, measured, Fault(ErrorCode.INTERNAL), forward)
                await asyncio.shield(self._settle(opening, row, target, closing, None))
            raise
        finally:
            self._is_upstream = False
        await asyncio.shield(self._settle(opening, row, target, closing, recorded))
        self._is_recorded = recorded is not None and not recorded.part
        if fault is not None:
            raise fault
        return Reply(answer, usage)

    def _open(self, row: LLMCall) -> asyncio.Future[None]:
        """Have the row stored, and with the first one the entry of the journal."""
        entry = None if self._is_taken else self._entry
        if entry is not None:
            entry.holder = row.gateway  # who has stood in a long line may live another life by now
        write = self._state.write(ledger.open_call, row, self._order.caller, self._run, entry)
        opening = self._state.background(write)
        self._settling.append(opening)
        return opening

    async def _receive(
        self, target: Target, body: dict[str, Any], answer: Answer, measured: Measured, live: LiveText | None
    ) -> None:
        """Take the answer in, and pass it on as it comes. Raises `Fault`."""
        loop = asyncio.get_running_loop()
        end = loop.time() + settings.LLM_TOTAL_TIMEOUT
        pieces: AsyncGenerator[list[Piece], None] = self._state.upstream(target.kind).stream(target, body)
        patience = settings.LLM_FIRST_TOKEN_TIMEOUT
        echoes = Echoes(target.api_key)
        try:
            async with asyncio.timeout_at(min(end, loop.time() + patience)) as limit, aclosing(pieces):
                async for batch in pieces:
                    passed, text = answer.take(echoes.clean(batch))
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
            raise Fault(ErrorCode.LLM_TIMEOUT, what_was_slow(answer, loop.time() >= end)) from None
        if not answer.ended:
            raise answers.bad_stream("the answer broke off")

    def _settle(
        self,
        opening: asyncio.Future[None],
        row: LLMCall,
        target: Target,
        closing: ledger.Closing,
        record: journal.Record | None,
    ) -> asyncio.Future[None]:
        """Have the row closed, if it came to be opened, and the answer recorded with it."""

        async def settle() -> None:
            try:
                await opening
            except (Refusal, Fault, StaleRun, journal.Taken, ledger.NoRoom):
                return
            await self._state.write(ledger.close_call, row, target, closing, record)
            freed = (self._order.caller.execution, *self._run.limits.budgets)
            self._state.room.freed(key for key in freed if key is not None)

        settling = self._state.background(settle())
        self._settling.append(settling)
        return settling

    def _closing(self, answer: Answer, measured: Measured, fault: Fault | None, keep_text: bool) -> ledger.Closing:
        return closing_of(answer, measured, fault, prompt_tokens=self._prompt_tokens, keep_text=keep_text)

    def _row(self, target: Target, number: int) -> LLMCall:
        order = self._order
        return LLMCall(
            call_id=order.call_id,
            try_number=number,
            execution_id=order.caller.execution,
            user_id=order.run.user,
            api_key_id=order.run.api_key,
            attempt=order.caller.attempt,
            task=order.task,
            role=order.role,
            model=target.id,
            provider=target.provider,
            gateway=self._state.instance,
            streamed=self._client.streams,
            # What it will have read, by estimate, should this process die before the provider says.
            prompt_tokens=self._prompt_tokens,
            is_estimated=True,
            queue_ms=self._queue_ms,
            opened_at=timezone.now(),
        )
