"""How an attempt ended, and what it left behind."""

from executions.engines.protocol import Line
from executions.errors import ErrorCode, Failure
from executions.models import Execution, ExecutionEvent, LLMCall, TaskRun


def failure_of(execution: Execution, closing: Line | None, exit_text: str) -> Failure:
    """Why an attempt without a result ended.

    The code comes from the gateway's last failed call, or from what the runner itself saw; never
    from an engine's text. `exit_text` says how the process ended ("signal 9").
    """
    if failed := _last_failed_call(execution):
        code = ErrorCode(failed.data.get("error_code") or ErrorCode.INTERNAL)
        where = ", ".join(filter(None, [str(failed.data.get("model") or ""), failed.role]))
        return Failure(code, f"{code.label} ({where})" if where else "")
    if closing is None:
        return Failure(ErrorCode.ENGINE_CRASHED, f"{ErrorCode.ENGINE_CRASHED.label} ({exit_text})")
    reason = closing.get("reason")
    if reason == "bad_output":
        return Failure(ErrorCode.LLM_BAD_OUTPUT)
    if reason == "missing":
        return Failure(ErrorCode.ENGINE_MISSING)
    detail = (closing.get("message") or "").strip()[:500]
    return Failure(ErrorCode.INTERNAL, f"{ErrorCode.INTERNAL.label} ({detail})" if detail else "")


def _last_failed_call(execution: Execution) -> ExecutionEvent | None:
    """The attempt's last `llm.failed` that no answer of the same task followed.

    A call that was cancelled because its engine went away is no reason: it has no code.
    """
    told = ExecutionEvent.objects.filter(
        stream_id=execution.stream_id, attempt=execution.attempt, type__in=["llm.failed", "llm.completed"]
    )
    failed = told.filter(type="llm.failed").exclude(data__error_code=None).order_by("-seq").first()
    if failed is None or told.filter(type="llm.completed", task=failed.task, seq__gt=failed.seq).exists():
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
