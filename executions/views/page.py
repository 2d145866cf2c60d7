"""The page of one run.

It is rendered whole with everything stored so far. While the run is active the browser watches the
WebSocket; on news it asks `run_live` for the same fragments again, so that one set of templates
says how a run looks. Only streamed text is put in by the browser.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.db.models import Count, Max, Q, Sum
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.http import content_disposition_header
from django.utils.text import slugify
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from executions import actions
from executions.models import Execution, ExecutionEvent, LLMCall, TaskRun, Worker
from executions.status import Status
from portal.accounts.models import Role, User
from portal.accounts.permissions import Action, allow, can, find
from portal.lib.problems import Problem

EVENTS = 200  # shown at once
CALLS = 200
GROUPS = {
    "runs": ("execution.",),
    "tasks": ("task.", "agent.", "approval.", "deliverable."),
    "llm": ("llm.",),
    "tools": ("tool.",),
    "log": ("log",),
}


def _run(request: HttpRequest, pk: Any, action: Action = Action.SEE) -> Execution:
    rows = Execution.objects.select_related(
        "access__owner", "created_by", "crew__access", "stop_requested_by", "stream"
    )
    return find(rows, request.user, action, pk=pk)


@allow(Role.VIEWER)
@require_GET
@never_cache
def run_detail(request: HttpRequest, pk: Any) -> HttpResponse:
    """A run: status, tasks, result, usage, events; live while it is active."""
    return render(request, "executions/run_detail.html", _context(request, _run(request, pk)))


@allow(Role.VIEWER)
@require_GET
@never_cache
def run_live(request: HttpRequest, pk: Any) -> HttpResponse:
    """The page's fragments as they stand now, and the events after `?after=`, for htmx to put in place."""
    return render(request, "executions/run_live.html", {**_context(request, _run(request, pk)), "oob": True})


@allow(Role.VIEWER)
@require_GET
@never_cache
def run_events(request: HttpRequest, pk: Any) -> HttpResponse:
    """The event list: `?group=` narrows, `?before=` goes back."""
    run = _run(request, pk)
    return render(request, "executions/_events.html", {"run": run, "log": _log(request, run), "groups": _groups()})


@allow(Role.USER)
@require_POST
def run_stop(request: HttpRequest, pk: Any) -> HttpResponse:
    """Ask for a stop; what was finished is kept."""
    run = _run(request, pk, Action.STOP)
    assert isinstance(request.user, User)  # noqa: S101 - tells the type checker
    try:
        actions.stop(execution=run, by=request.user)
    except Problem:
        messages.info(request, _("The run had ended already."))
    return redirect("executions:run-detail", run.pk)


@allow(Role.USER)
@require_http_methods(["GET", "POST"])
def run_delete(request: HttpRequest, pk: Any) -> HttpResponse:
    """Ask, then delete a run that has ended."""
    run = _run(request, pk, Action.DELETE)
    if request.method == "POST":
        try:
            actions.delete(execution=run)
        except Problem as problem:
            messages.error(request, f"{problem.detail} {problem.hint}".strip())
            return redirect("executions:run-detail", run.pk)
        messages.success(request, _("The run was deleted. What it used stays in the ledger."))
        return redirect("executions:run-list")
    return render(request, "executions/run_delete.html", {"run": run})


@allow(Role.VIEWER)
@require_GET
def run_result(request: HttpRequest, pk: Any) -> HttpResponse:
    """The result as a Markdown file."""
    run = _run(request, pk)
    name = slugify(run.name, allow_unicode=True) or "result"
    response = HttpResponse(run.final_output, content_type="text/markdown; charset=utf-8")
    response.headers["Content-Disposition"] = content_disposition_header(
        as_attachment=True, filename=f"{name}-{str(run.pk)[:8]}.md"
    )
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


@dataclass
class Step:
    """A task of the run, with what its model calls used and the text that is arriving."""

    row: TaskRun
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    stream: LLMCall | None = None

    @property
    def version(self) -> str:
        """Changes when the rendered step changes; streamed text is not part of it."""
        stream = f"{self.stream.call_id}.{self.stream.status}" if self.stream else ""
        return f"{self.row.status}.{self.row.attempt}.{self.calls}.{self.completion_tokens}.{stream}"


@dataclass(frozen=True)
class Log:
    """A piece of the event list, oldest first."""

    rows: list[ExecutionEvent]
    group: str
    last_seq: int  # of the stream as far as it was looked at
    has_earlier: bool

    @property
    def first_seq(self) -> int:
        return self.rows[0].seq if self.rows else 0


def _log(request: HttpRequest, run: Execution) -> Log:
    events = ExecutionEvent.objects.filter(stream_id=run.stream_id)
    group = request.GET.get("group", "")
    if group in GROUPS:
        wanted = Q()
        for start in GROUPS[group]:
            wanted |= Q(type__startswith=start)
        events = events.filter(wanted)
    else:
        group = ""
    after, before = _whole(request.GET.get("after")), _whole(request.GET.get("before"))
    if after is not None:
        rows = list(events.filter(seq__gt=after).order_by("seq")[:EVENTS])
        last = rows[-1].seq if len(rows) == EVENTS else max(run.stream.last_seq, after)
        return Log(rows, group, last, has_earlier=False)
    if before is not None:
        events = events.filter(seq__lt=before)
    rows = list(events.order_by("-seq")[: EVENTS + 1])
    return Log(rows[:EVENTS][::-1], group, run.stream.last_seq, has_earlier=len(rows) > EVENTS)


def _whole(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 18 else None


def _context(request: HttpRequest, run: Execution) -> dict[str, Any]:
    """All that the page shows; the number of queries does not grow with the run."""
    task_runs = list(run.task_runs.all())
    calls = list(run.llm_calls.order_by("-pk").defer("text")[:CALLS])
    spec = {task["key"]: task for task in run.snapshot.get("spec", {}).get("tasks", ())}
    names = {row.task: row.name for row in task_runs}
    for call in calls:
        call.task_name = names.get(call.task, "")  # type: ignore[attr-defined]
    is_pending = run.status == Status.PENDING
    labels = {field.field_name: field.label for field in run.crew.inputs.all()} if run.crew else {}
    models = list(run.role_models.select_related("llm_model").order_by("pk"))
    return {
        "run": run,
        "steps": _steps(run, task_runs),
        "spec": spec,
        "calls": calls,
        "open_calls": sum(call.status == LLMCall.Status.OPEN for call in calls),
        "models": models,
        "is_all_local": bool(models) and all(row.llm_model.is_local for row in models),
        "inputs": [(labels.get(name, name), value) for name, value in run.inputs.items()],
        "log": _log(request, run),
        "groups": _groups(),
        "place": run.place_in_queue() if is_pending else None,
        "workers": Worker.objects.alive().count() if is_pending else None,
        "may_stop": run.is_active and can(request.user, Action.STOP, run),
        "may_delete": not run.is_active and can(request.user, Action.DELETE, run),
        "may_run": bool(run.crew) and can(request.user, Action.RUN, run.crew),
        "is_partial": run.status in {Status.FAILED, Status.STOPPED},
    }


def _groups() -> list[tuple[str, str]]:
    return [
        ("", _("All")),
        ("runs", _("Run")),
        ("tasks", _("Tasks")),
        ("llm", _("Models")),
        ("tools", _("Tools")),
        ("log", _("Log")),
    ]


def _steps(run: Execution, task_runs: Iterable[TaskRun]) -> list[Step]:
    steps = {row.task: Step(row) for row in task_runs}
    # As in the run's totals, a call counts once it has closed: until then its tokens are a guess.
    closed = run.llm_calls.exclude(status=LLMCall.Status.OPEN)
    used = closed.values("task").annotate(
        calls=Count("pk"), read=Sum("prompt_tokens"), written=Sum("completion_tokens")
    )
    for row in used:
        if step := steps.get(row["task"]):
            step.calls, step.prompt_tokens, step.completion_tokens = row["calls"], row["read"] or 0, row["written"] or 0
    running = [key for key, step in steps.items() if step.row.status == TaskRun.Status.RUNNING]
    if running:
        newest = run.llm_calls.filter(task__in=running).order_by().values("task").annotate(newest=Max("pk"))
        for call in LLMCall.objects.filter(pk__in=newest.values("newest")):
            steps[call.task].stream = call
    return list(steps.values())
