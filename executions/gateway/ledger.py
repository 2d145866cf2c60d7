"""The gateway's writing: two short transactions an upstream request, opening and closing its row.

Everything here is synchronous and runs on the database threads.
"""

import math
import uuid
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from crews.models import LLMModel
from executions import budgets, events, reserves
from executions.budgets import Amount
from executions.errors import ErrorCode
from executions.gateway import journal
from executions.gateway.catalog import Caller, Run, StaleRun, Target, alive, dead_token, hold
from executions.gateway.faults import Fault
from executions.models import Budget, GatewayInstance, LLMCall
from executions.models.calls import cost_of
from executions.status import ACTIVE
from portal.lib import rows

CHARACTERS_A_TOKEN = 4  # where a provider does not say how many tokens there were


def estimated_tokens(characters: int) -> int:
    return math.ceil(characters / CHARACTERS_A_TOKEN)


def gateway_name() -> str:
    """This gateway, among all that write to the database: no two processes have the same port of a machine."""
    return f"{settings.WORKER_NAME}:{settings.GATEWAY_PORT}"


class NoRoom(Exception):
    """Calls under way hold what this one needs of a limit: it may be tried again when one of them is settled.

    `key` names the row of the limit: the execution, or a budget.
    """

    def __init__(self, key: uuid.UUID) -> None:
        super().__init__(str(key))
        self.key = key


@dataclass(frozen=True)
class Closing:
    """How an upstream request ended. Times in milliseconds; no fault and not cancelled: it was answered."""

    prompt_tokens: int
    completion_tokens: int
    is_estimated: bool
    latency_ms: int
    first_token_ms: int | None
    text: str
    http_status: int | None
    fault: Fault | None = None
    is_cancelled: bool = False
    retry_in_ms: int | None = None

    @property
    def status(self) -> LLMCall.Status:
        if self.is_cancelled:
            return LLMCall.Status.CANCELLED
        return LLMCall.Status.FAILED if self.fault else LLMCall.Status.COMPLETED


def open_call(row: LLMCall, caller: Caller, run: Run, entry: journal.Entry | None = None) -> None:
    """Check token and limits, count the call, reserve what it may cost, take its entry of the journal, and store
    its row and `llm.started`: one transaction.

    What to reserve, and on which budgets, stands in `row`; `run` is what is known of the caller's. Raises
    `Refusal` when the token is dead, `Fault` (budget_exceeded) when the call would pass a limit, `NoRoom`
    when it would not once the calls under way are settled, `StaleRun` when the run has other models or
    limits by now, and `journal.Taken` when somebody else carries the request out. Without a run there are
    the budgets and the row alone.
    """
    if _is_stored(row):
        return
    most = reserved_by(row)
    if caller.execution is None:
        _open_without_run(row, most)
        return
    with transaction.atomic():
        if found := reserves.reserve_own(caller.execution, caller.attempt, most):
            roles_version, has_limits = found
            if roles_version != run.roles_version or (has_limits and not run.limits):
                raise StaleRun
            if entry is not None:
                journal.take(entry)
            rows.insert([row])
            if reserves.reserve(row.budgets, most):
                started = {**_names(row), "queued_ms": row.queue_ms}
                events.append(caller.execution, [_event("llm.started", row, started)])
                return
            transaction.set_rollback(True)
    raise _why_not_opened(row, caller, most)


def _open_without_run(row: LLMCall, most: Amount) -> None:
    with transaction.atomic():
        rows.insert([row])
        if reserves.reserve(row.budgets, most):
            return
        row.pk = None
        transaction.set_rollback(True)
    limits = Budget.objects.filter(pk__in=row.budgets)
    if len(limits) < len(row.budgets):
        raise StaleRun
    raise _passes(budgets.rooms_of(limits), most) or _no_room(budgets.rooms_of(limits), most)


def _is_stored(row: LLMCall) -> bool:
    """Whether an earlier try at opening was committed, and only the word of it lost with the connection."""
    if row.pk is None:
        return False
    stored = LLMCall.objects.filter(pk=row.pk, call_id=row.call_id, try_number=row.try_number)
    if stored.exists():
        return True
    row.pk = None
    return False


def _why_not_opened(row: LLMCall, caller: Caller, most: Amount) -> Exception:
    """Why `open_call` counted nothing; the run's log is told when it was a limit."""
    with transaction.atomic():
        execution = alive(caller).select_for_update(no_key=True).first()
        if execution is None:
            return dead_token()
        fault = None
        if execution.llm_calls_count - execution.calls_before_restart >= execution.max_llm_calls:
            sentence = _("The run reached its limit of %(count)s LLM calls.") % {"count": execution.max_llm_calls}
            fault = Fault(ErrorCode.BUDGET_EXCEEDED, sentence=sentence, data={"limit": "calls"})
        limits = Budget.objects.filter(pk__in=row.budgets)
        if len(limits) < len(row.budgets):
            return StaleRun()
        rooms = budgets.rooms(execution, limits)
        fault = fault or _passes(rooms, most)
        if fault is not None:
            tell_failure(row, caller, fault)
            return fault
    return _no_room(rooms, most) if rooms else NoRoom(execution.pk)


def _passes(rooms: list[budgets.Room], most: Amount) -> Fault | None:
    """The fault of a call that passes a limit even when nothing else is under way."""
    over = next((room for room in rooms if room.lacks(most)), None)
    if over is None:
        return None
    needs = {"limit": over.kind, "needs_usd": f"{most.usd:f}", "needs_tokens": most.tokens}
    return Fault(ErrorCode.BUDGET_EXCEEDED, sentence=over.sentence(most), data=needs)


def _no_room(rooms: list[budgets.Room], most: Amount) -> NoRoom:
    """That calls under way hold it; where none does any more, the first limit is as good to wait for."""
    return NoRoom(next((room for room in rooms if not room.fits(most)), rooms[0]).key)


def reserved_by(row: LLMCall) -> Amount:
    """What a call holds while it is open."""
    return Amount(row.reserved_usd, row.reserved_tokens)


def tell_failure(row: LLMCall, caller: Caller, fault: Fault) -> None:
    """Add `llm.failed` for a request that was not sent. Raises `Refusal` when the token is dead."""
    if caller.execution is None:
        return  # there is no log, and the caller is told
    with transaction.atomic():
        hold(caller)
        data = {**_names(row), **_failure(fault)}
        events.append(caller.execution, [_event("llm.failed", row, data)])


def tell_waiting(row: LLMCall, caller: Caller, kind: str, message: str) -> None:
    """Say in the run's log what a request waits for. Raises `Refusal` when the token is dead."""
    if caller.execution is None:
        return
    with transaction.atomic():
        hold(caller)
        data = {"kind": kind, "message": message, "call": str(row.call_id), "model": row.model}
        events.append(caller.execution, [_event("log", row, data)])


def close_call(row: LLMCall, target: Target, closing: Closing, record: journal.Record | None = None) -> None:
    """Store how a request ended, its answer, the run's totals and the log: one transaction, safe to repeat."""
    cost = cost_of(closing.prompt_tokens, closing.completion_tokens, target.price_in, target.price_out)
    _close(row, closing, None if cost is None else round(cost, 8), record)


def _close(row: LLMCall, closing: Closing, cost: Any, record: journal.Record | None = None) -> None:
    fault = closing.fault
    with transaction.atomic():
        changes = {
            "status": closing.status,
            "error_code": fault.code if fault else "",
            "error_detail": fault.detail if fault else "",
            "http_status": closing.http_status,
            "prompt_tokens": closing.prompt_tokens,
            "completion_tokens": closing.completion_tokens,
            "is_estimated": closing.is_estimated,
            "cost_usd": cost,
            "first_token_ms": closing.first_token_ms,
            "latency_ms": closing.latency_ms,
            "text": closing.text,
            "closed_at": timezone.now(),
        }
        won = rows.update(LLMCall, changes, "id = %s AND status = %s", [row.pk, LLMCall.Status.OPEN])
        if not won:
            return
        # A request that used nothing cost nothing, whatever its model's price.
        used = Amount(cost or Decimal(0), closing.prompt_tokens + closing.completion_tokens)
        if row.execution_id is None:  # a call without a run, or of one that was deleted meanwhile
            reserves.settle(row.budgets, reserved_by(row), used)
            return
        status = reserves.settle_own(
            row.execution_id,
            reserved_by(row),
            prompt_tokens=closing.prompt_tokens,
            completion_tokens=closing.completion_tokens,
            cost_usd=used.usd,
            is_unpriced=bool(used.tokens) and cost is None,
        )
        if status is not None and record is not None:
            journal.record(record)
        reserves.settle(row.budgets, reserved_by(row), used)
        if status not in ACTIVE:
            return  # the run was deleted meanwhile, or has ended, and its log rests
        measured = {
            "prompt_tokens": closing.prompt_tokens,
            "completion_tokens": closing.completion_tokens,
            "is_estimated": closing.is_estimated,
            "cost_usd": None if cost is None else f"{cost:f}",
            "latency_ms": closing.latency_ms,
            "first_token_ms": closing.first_token_ms,
        }
        data = {**_names(row), **measured}
        if closing.status == LLMCall.Status.COMPLETED:
            events.append(row.execution_id, [_event("llm.completed", row, {**data, "error_code": None})])
            return
        data |= _failure(fault) if fault else {"error_code": None, "is_cancelled": True}
        if closing.retry_in_ms is not None:
            data["retry_in_ms"] = closing.retry_in_ms
        events.append(row.execution_id, [_event("llm.failed", row, data)])


def _names(row: LLMCall) -> dict[str, Any]:
    return {"call": str(row.call_id), "model": row.model, "provider": row.provider, "try": row.try_number}


def _failure(fault: Fault) -> dict[str, Any]:
    failure = {"error_code": fault.code.value, "error_message": fault.message, "http_status": fault.http_status}
    return {**failure, **fault.data}


def _event(kind: str, row: LLMCall, data: dict[str, Any]) -> events.NewEvent:
    return events.NewEvent(kind, data, task=row.task, role=row.role, attempt=row.attempt)


def save_text(call: int, text: str) -> None:
    """Keep the text of an open call so far, for watchers that come late and runs that are stopped."""
    LLMCall.objects.filter(pk=call, status=LLMCall.Status.OPEN).update(text=text)


def close_orphans() -> int:
    """Close what no living gateway carries out, and return how many calls that were.

    What was read is known by estimate since the opening; what was written, by the text that was saved.
    """
    living = GatewayInstance.objects.values("instance")
    orphans = LLMCall.objects.filter(status=LLMCall.Status.OPEN).exclude(gateway__in=living)
    closed = 0
    for row in orphans:
        fault = Fault(ErrorCode.LLM_UNAVAILABLE, _("The gateway ended during this request."))
        age = (timezone.now() - row.opened_at).total_seconds()
        closing = Closing(
            prompt_tokens=row.prompt_tokens,
            completion_tokens=estimated_tokens(len(row.text)),
            is_estimated=True,
            latency_ms=min(round(age * 1000), 2**31 - 1),
            first_token_ms=row.first_token_ms,
            text=row.text,
            http_status=None,
            fault=fault,
        )
        _close(row, closing, _todays_cost(row, closing))
        closed += 1
    return closed


def _todays_cost(row: LLMCall, closing: Closing) -> Any:
    model = LLMModel.objects.select_related("provider").filter(pk=row.model).first()
    prices = budgets.prices_of(model) if model else (None, None)
    cost = cost_of(closing.prompt_tokens, closing.completion_tokens, *prices)
    return None if cost is None else round(cost, 8)
