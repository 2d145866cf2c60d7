"""The gateway's writing: two short transactions an upstream request, opening and closing its row.

Everything here is synchronous and runs on the database threads.
"""

import math
import uuid
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from executions import events
from executions.errors import ErrorCode
from executions.gateway.catalog import Caller, Target, alive, dead_token
from executions.gateway.faults import Fault
from executions.models import Execution, LLMCall, ToolCall
from executions.models.calls import cost_of
from executions.status import ACTIVE, Status
from portal.lib import rows

CHARACTERS_A_TOKEN = 4  # where a provider does not say how many tokens there were
# Counts a call of a run that may make it: the token's attempt is running, unstopped and within its limits.
_COUNT = (
    "UPDATE executions_execution SET llm_calls_count = llm_calls_count + 1 "
    "WHERE id = %s AND status = %s AND attempt = %s AND stop_requested_at IS NULL "
    "AND llm_calls_count < max_llm_calls AND (budget_usd IS NULL OR cost_usd < budget_usd)"
)


def estimated_tokens(characters: int) -> int:
    return math.ceil(characters / CHARACTERS_A_TOKEN)


def gateway_name() -> str:
    """This gateway, among all that write to the database: no two processes have the same port of a machine."""
    return f"{settings.WORKER_NAME}:{settings.GATEWAY_PORT}"


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


def open_call(row: LLMCall, caller: Caller) -> None:
    """Check token and limits, count the call, store its row and `llm.started`: one transaction.

    Raises `Refusal` when the token is dead, and `Fault` (budget_exceeded) when the run has reached a limit.
    """
    with transaction.atomic():
        if rows.execute(_COUNT, [rows.key(Execution, caller.execution), Status.RUNNING, caller.attempt]):
            rows.insert([row])
            started = {**_names(row), "queued_ms": row.queue_ms}
            events.append(caller.execution, [_event("llm.started", row, started)])
            return
    raise _limit_reached(row, caller)


def _limit_reached(row: LLMCall, caller: Caller) -> Fault:
    """Why `open_call` counted nothing; the run's log is told when it was a limit."""
    with transaction.atomic():
        limits = alive(caller).values_list("llm_calls_count", "max_llm_calls", "budget_usd").first()
        if limits is None:
            raise dead_token()
        count, most, budget = limits
        if count >= most:
            sentence = _("The run reached its limit of %(count)s LLM calls.") % {"count": most}
        else:
            sentence = _("The run has spent its budget of US$ %(budget)s.") % {"budget": f"{budget.normalize():f}"}
        fault = Fault(ErrorCode.BUDGET_EXCEEDED, sentence=sentence)
        tell_failure(row, caller, fault)
    return fault


def tell_failure(row: LLMCall, caller: Caller, fault: Fault) -> None:
    """Add `llm.failed` for a request that was not sent. Raises `Refusal` when the token is dead."""
    with transaction.atomic():
        if not alive(caller).exists():
            raise dead_token()
        data = {**_names(row), **_failure(fault)}
        events.append(caller.execution, [_event("llm.failed", row, data)])


def tell_waiting(row: LLMCall, caller: Caller, kind: str, message: str) -> None:
    """Say in the run's log what a request waits for. Raises `Refusal` when the token is dead."""
    with transaction.atomic():
        if not alive(caller).exists():
            raise dead_token()
        data = {"kind": kind, "message": message, "call": str(row.call_id), "model": row.model}
        events.append(caller.execution, [_event("log", row, data)])


def close_call(row: LLMCall, target: Target, closing: Closing) -> None:
    """Store how a request ended, add it to the run's totals and the log: one transaction, safe to repeat."""
    cost = cost_of(closing.prompt_tokens, closing.completion_tokens, target.price_in, target.price_out)
    _close(row, closing, None if cost is None else round(cost, 8))


def _close(row: LLMCall, closing: Closing, cost: Any) -> None:
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
        if not won or row.execution_id is None:
            return
        # A request that used nothing cost nothing, whatever its model's price.
        used = closing.prompt_tokens + closing.completion_tokens
        Execution(pk=row.execution_id).add_usage(
            prompt_tokens=closing.prompt_tokens,
            completion_tokens=closing.completion_tokens,
            cost_usd=cost,
            is_unpriced=bool(used) and cost is None,
        )
        if closing.status != LLMCall.Status.COMPLETED and not _is_active(row.execution_id):
            return  # the log of a run rests once it has ended
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


def _is_active(execution: uuid.UUID) -> bool:
    return Execution.objects.filter(pk=execution, status__in=ACTIVE).exists()


def _names(row: LLMCall) -> dict[str, Any]:
    return {"call": str(row.call_id), "model": row.model, "provider": row.provider, "try": row.try_number}


def _failure(fault: Fault) -> dict[str, Any]:
    return {"error_code": fault.code.value, "error_message": fault.message, "http_status": fault.http_status}


def _event(kind: str, row: LLMCall, data: dict[str, Any]) -> events.NewEvent:
    return events.NewEvent(kind, data, task=row.task, role=row.role, attempt=row.attempt)


def save_text(call: int, text: str) -> None:
    """Keep the text of an open call so far, for watchers that come late and runs that are stopped."""
    LLMCall.objects.filter(pk=call, status=LLMCall.Status.OPEN).update(text=text)


def close_orphans() -> int:
    """Close what a gateway of this name left open when it died, and return how many calls that were.

    What was read is known by estimate since the opening; what was written, by the text that was saved.
    """
    orphans = LLMCall.objects.filter(status=LLMCall.Status.OPEN, gateway=gateway_name())
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
    from crews.models import LLMModel

    prices = LLMModel.objects.filter(pk=row.model).values_list("price_in", "price_out").first()
    cost = cost_of(closing.prompt_tokens, closing.completion_tokens, *(prices or (None, None)))
    return None if cost is None else round(cost, 8)


def record_tool_call(row: ToolCall) -> None:
    row.save(force_insert=True)
