"""How an attempt ended, and what it left behind."""

import signal
from dataclasses import dataclass
from decimal import Decimal

from django.utils.translation import gettext as _

from executions.engines.client import Exit
from executions.engines.isolation import FILE_SIZE
from executions.engines.protocol import EXIT_NO_OUTPUT, MAX_LINE_BYTES, Line
from executions.errors import ErrorCode, Failure
from executions.models import Execution, ExecutionEvent, LLMCall, TaskRun


@dataclass(frozen=True)
class Crash:
    """The engine died without a last word: the run may go on with another attempt. `sentence` is for people."""

    sentence: str


@dataclass(frozen=True)
class Shortage:
    """A limit in money or tokens leaves no room for the next call, which needs `usd` and `tokens`."""

    sentence: str
    usd: Decimal | None = None
    tokens: int | None = None


Problem = Failure | Crash | Shortage


def problem_of(
    execution: Execution, closing: Line | None, exited: Exit, written: int = 0
) -> Failure | Crash | Shortage:
    """Why an attempt without a result ended; `written` bytes are in its events file.

    The code comes from the gateway's last failed call, or from what the runner itself saw; never
    from an engine's text.
    """
    if closing is None:
        if _wrote_too_much(exited, written):
            # It would again.
            sentence = _("The engine wrote more about the run than the %(limit)s MB that may be kept.")
            return Failure(ErrorCode.ENGINE_CRASHED, sentence % {"limit": FILE_SIZE >> 20})
        return Crash(crash_sentence(exited))
    if failed := _last_failed_call(execution):
        return _problem_of_call(failed)
    reason = closing.get("reason")
    if reason == "gateway":
        return Crash(_("The gateway, which carries the calls of models and tools, went away during a call."))
    if reason == "bad_output":
        return Failure(ErrorCode.LLM_BAD_OUTPUT)
    if reason == "missing":
        return Failure(ErrorCode.ENGINE_MISSING)
    detail = (closing.get("message") or "").strip()[:500]
    return Failure(ErrorCode.INTERNAL, f"{ErrorCode.INTERNAL.label} ({detail})" if detail else "")


def _wrote_too_much(exited: Exit, written: int) -> bool:
    could_not_write = exited.code == EXIT_NO_OUTPUT or exited.signal == signal.SIGXFSZ
    return could_not_write and written > FILE_SIZE - MAX_LINE_BYTES


def crash_sentence(exited: Exit) -> str:
    """How the engine process ended, in plain words."""
    if exited.code == EXIT_NO_OUTPUT:
        return _("The engine could not write down what it did: is the disk full?")
    if exited.signal:
        return _("The engine process was killed (signal %(number)s).") % {"number": exited.signal}
    if exited.code is not None:
        return _("The engine process ended unexpectedly (exit code %(code)s).") % {"code": exited.code}
    return _("The engine process ended with the program that had started it.")


def _problem_of_call(failed: ExecutionEvent) -> Failure | Shortage:
    data = failed.data
    code = ErrorCode(data.get("error_code") or ErrorCode.INTERNAL)
    if code == ErrorCode.BUDGET_EXCEEDED:
        sentence = str(data.get("error_message") or code.label)
        if data.get("limit") in {"usd", "tokens"}:
            usd, tokens = data.get("needs_usd"), data.get("needs_tokens")
            return Shortage(sentence, None if usd is None else Decimal(str(usd)), tokens)
        return Failure(code, sentence)
    where = ", ".join(filter(None, [str(data.get("model") or ""), failed.role]))
    return Failure(code, f"{code.label} ({where})" if where else "")


def _last_failed_call(execution: Execution) -> ExecutionEvent | None:
    """The attempt's last `llm.failed` that no answer of the same task followed.

    A call that was cancelled because its engine went away is no reason: it has no code.
    """
    told = ExecutionEvent.objects.filter(
        stream_id=execution.stream_id,
        attempt=execution.attempt,
        type__in=["llm.failed", "llm.completed", "llm.replayed"],
    )
    failed = told.filter(type="llm.failed").exclude(data__error_code=None).order_by("-seq").first()
    if failed is None or told.exclude(type="llm.failed").filter(task=failed.task, seq__gt=failed.seq).exists():
        return None
    return failed


def keep_partial_texts(execution: Execution) -> None:
    """Give tasks that were cut off the text that their last call had written so far."""
    cut = execution.task_runs.filter(status=TaskRun.Status.RUNNING, output="")
    for run in cut:
        calls = LLMCall.objects.filter(execution=execution, attempt=execution.attempt, task=run.task)
        if text := calls.exclude(text="").order_by("-id").values_list("text", flat=True).first():
            run.output = text
            run.save(update_fields=["output"])


def partial_output(execution: Execution) -> str:
    """What the tasks gave before the end, as one Markdown text."""
    parts = [f"## {run.name}\n\n{run.output}" for run in execution.task_runs.all() if run.output]
    return "\n\n".join(parts)
