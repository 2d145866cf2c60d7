"""The page of one run.

It is rendered whole with everything stored so far. While the run is active the browser watches the
WebSocket; on news it asks `run_live` for the same fragments again, so that one set of templates
says how a run looks. Only streamed text is put in by the browser.
"""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.http import content_disposition_header
from django.utils.text import slugify
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods

from executions import actions
from executions.forms import AnswerForm, BudgetOfRunForm, RoleModelsForm
from executions.models import Approval, Execution, LLMCall, Worker
from executions.status import Status, WaitingFor
from executions.views import shown
from portal.accounts.models import Role
from portal.accounts.permissions import Action, allow, can, find, person
from portal.lib.problems import Problem


def run_of(request: HttpRequest, pk: Any, action: Action = Action.SEE) -> Execution:
    """The run of an address, if the person may do `action` with it."""
    rows = Execution.objects.select_related(
        "access__owner",
        "created_by",
        "crew__access",
        "stop_requested_by",
        "pause_requested_by",
        "stream",
        "forked_from",
    )
    return find(rows, request.user, action, pk=pk)


@allow(Role.VIEWER)
@require_GET
@never_cache
def run_detail(request: HttpRequest, pk: Any) -> HttpResponse:
    """A run: status, tasks, result, usage, events; live while it is active."""
    return render(request, "executions/run_detail.html", context_of(request, run_of(request, pk)))


@allow(Role.VIEWER)
@require_GET
@never_cache
def run_live(request: HttpRequest, pk: Any) -> HttpResponse:
    """The page's fragments as they stand now, and the events after `?after=`, for htmx to put in place."""
    return render(request, "executions/run_live.html", {**context_of(request, run_of(request, pk)), "oob": True})


@allow(Role.VIEWER)
@require_GET
@never_cache
def run_state(request: HttpRequest, pk: Any) -> HttpResponse:
    """What the run waits for, as it stands now: asked again while the answer is a matter of time."""
    return render(request, "executions/_run_state.html", context_of(request, run_of(request, pk)))


@allow(Role.VIEWER)
@require_GET
@never_cache
def run_events(request: HttpRequest, pk: Any) -> HttpResponse:
    """The event list: `?group=` narrows, `?before=` goes back."""
    run = run_of(request, pk)
    context = {"run": run, "log": shown.log_of(request, run), "groups": shown.groups()}
    return render(request, "executions/_events.html", context)


@allow(Role.USER)
@require_http_methods(["GET", "POST"])
def run_delete(request: HttpRequest, pk: Any) -> HttpResponse:
    """Ask, then delete a run that has ended."""
    run = run_of(request, pk, Action.DELETE)
    if request.method == "POST":
        try:
            actions.delete(execution=run, by=person(request))
        except Problem as problem:
            messages.error(request, problem.sentence)
            return redirect("executions:run-detail", run.pk)
        messages.success(request, _("The run was deleted. What it used stays in the ledger."))
        return redirect("executions:run-list")
    return render(request, "executions/run_delete.html", {"run": run})


@allow(Role.VIEWER)
@require_GET
def run_result(request: HttpRequest, pk: Any) -> HttpResponse:
    """The result as a Markdown file."""
    run = run_of(request, pk)
    name = slugify(run.name, allow_unicode=True) or "result"
    response = HttpResponse(run.final_output, content_type="text/markdown; charset=utf-8")
    response.headers["Content-Disposition"] = content_disposition_header(
        as_attachment=True, filename=f"{name}-{str(run.pk)[:8]}.md"
    )
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def context_of(request: HttpRequest, run: Execution) -> dict[str, Any]:
    """All that the page shows; the number of queries does not grow with the run."""
    task_runs = list(run.task_runs.all())
    calls = list(run.llm_calls.order_by("-pk").defer("text")[: shown.CALLS])
    questions = list(run.approvals.select_related("answered_by").order_by("requested_at", "round"))
    tries = shown.attempts_of(run, task_runs)
    names = {row.task: row.name for row in task_runs}
    is_pending = run.status == Status.PENDING
    labels = {field.field_name: field.label for field in run.crew.inputs.all()} if run.crew else {}
    models = list(run.role_models.select_related("llm_model").order_by("pk"))
    workers = list(Worker.objects.alive()) if is_pending else []
    may_control = can(request.user, Action.STOP, run)
    may_answer = can(request.user, Action.ANSWER, run)
    asking = [question for question in questions if question.status == Approval.Status.OPEN]
    for question in asking:
        question.form = AnswerForm(question=question)  # type: ignore[attr-defined]
    return {
        "run": run,
        "steps": shown.steps_of(run, task_runs, questions),
        "tries": tries,
        "next_try": shown.next_try(run, tries, task_runs),
        "goes_on_after": shown.last_finished(task_runs),
        "calls": shown.calls_of(run, calls, names),
        "open_calls": sum(call.status == LLMCall.Status.OPEN for call in calls),
        "models": models,
        "models_form": RoleModelsForm(rows=models) if may_answer and run.is_active else None,
        "is_all_local": bool(models) and all(row.llm_model.is_local for row in models),
        "inputs": [(labels.get(name, name), value) for name, value in run.inputs.items()],
        "log": shown.log_of(request, run),
        "groups": shown.groups(),
        "place": run.place_in_queue() if is_pending else None,
        "workers": workers,
        "is_draining": bool(workers) and all(worker.is_draining for worker in workers),
        "asking": asking,
        "may_answer": may_answer,
        "gauges": shown.gauges_of_run(run),
        "shared_gauges": shown.gauges_of_project(run),
        "budget_form": BudgetOfRunForm(run=run) if may_control and run.status != Status.COMPLETED else None,
        "waits_for_budget": run.waiting_for == WaitingFor.BUDGET,
        "may_control": may_control,
        "may_stop": run.is_active and may_control,
        "may_pause": run.status == Status.RUNNING and not run.is_stopping and may_control,
        "may_resume": run.status == Status.PAUSED and may_control,
        "may_retry": run.status in {Status.FAILED, Status.STOPPED} and may_control,
        "may_fork": can(request.user, Action.RUN, run),
        "may_delete": not run.is_active and can(request.user, Action.DELETE, run),
        "may_run": bool(run.crew) and can(request.user, Action.RUN, run.crew),
        "is_partial": run.status in {Status.FAILED, Status.STOPPED},
    }
