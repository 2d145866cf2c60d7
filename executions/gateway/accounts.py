"""What an upstream request came to: whether its answer is usable, what it used, and how long it took."""

from dataclasses import dataclass
from time import perf_counter
from typing import Any

from django.conf import settings
from django.utils.translation import gettext as _

from executions import events
from executions.errors import ErrorCode
from executions.gateway import answers, ledger
from executions.gateway.answers import Answer
from executions.gateway.faults import Fault


@dataclass
class Measured:
    """The moments of one upstream request, by `perf_counter`."""

    sent: float
    first: float | None = None  # token
    is_sent: bool = False  # what was never sent has used nothing

    def since(self, moment: float | None) -> int | None:
        """Milliseconds since it was sent."""
        return None if moment is None else max(0, round((moment - self.sent) * 1000))


def closing_of(
    answer: Answer, measured: Measured, fault: Fault | None, *, prompt_tokens: int, keep_text: bool
) -> ledger.Closing:
    """How a request ended that ends now; `prompt_tokens` by estimate, for when the provider does not say."""
    now = perf_counter()
    usage = answer.usage or {}
    read, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
    is_known = isinstance(read, int) and isinstance(written, int)
    if not is_known:
        refused = fault is not None and fault.http_status is not None
        unreached = fault is not None and not answer.chunks and fault.code == ErrorCode.LLM_UNAVAILABLE
        read = 0 if refused or unreached or not measured.is_sent else prompt_tokens
        # A chunk is a token with most providers; those that send several at once are counted by length.
        written = max(answer.chunks, ledger.estimated_tokens(answer.characters))
    return ledger.Closing(
        prompt_tokens=read or 0,
        completion_tokens=written or 0,
        is_estimated=not is_known and bool(read or written),
        latency_ms=measured.since(now) or 0,
        first_token_ms=measured.since(measured.first),
        text=events.plain(answer.text) if keep_text else "",
        http_status=fault.http_status if fault else (200 if answer.started else None),
        fault=fault,
    )


def verdict_on(body: dict[str, Any], answer: Answer) -> Fault | None:
    """What is wrong with an answer that arrived whole."""
    if answer.is_empty:
        return Fault(ErrorCode.LLM_BAD_OUTPUT, _("the answer was empty"))
    wants_json = (body.get("response_format") or {}).get("type") in {"json_object", "json_schema"}
    if wants_json and not answer.tool_calls and not answers.is_json(answer.text):
        return Fault(ErrorCode.LLM_BAD_OUTPUT, _("JSON was asked for, and something else came"))
    return None


def what_was_slow(answer: Answer, is_total: bool) -> str:
    if is_total:
        return _("no end within %(seconds)s s") % {"seconds": settings.LLM_TOTAL_TIMEOUT}
    if answer.started:
        return _("nothing more within %(seconds)s s") % {"seconds": settings.LLM_NEXT_TOKEN_TIMEOUT}
    return _("no answer within %(seconds)s s") % {"seconds": settings.LLM_FIRST_TOKEN_TIMEOUT}


def characters_of(body: dict[str, Any]) -> int:
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


def usage_of(answer: Answer, closing: ledger.Closing) -> dict[str, Any]:
    """For the client, which always gets one."""
    if answer.usage and not closing.is_estimated:
        return answer.usage
    read, written = closing.prompt_tokens, closing.completion_tokens
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def sum_of(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return {name: (first.get(name) or 0) + (second.get(name) or 0) for name in names}
