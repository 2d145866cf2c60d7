"""Running a part of a run again, changed."""

from dataclasses import dataclass
from typing import Any

from django.forms import BoundField
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from executions import forks
from executions.forms import ForkForm
from executions.models import TaskRun
from executions.views.page import run_of
from portal.accounts.models import Role
from portal.accounts.permissions import Action, allow, person
from portal.lib.problems import Problem


@dataclass(frozen=True)
class Part:
    """A task or agent in the form."""

    key: str
    name: str
    fields: list[BoundField]
    model: BoundField | None
    is_open: bool


@allow(Role.USER)
@require_http_methods(["GET", "POST"])
def run_fork(request: HttpRequest, pk: Any) -> HttpResponse:
    """What the fork from `?task=` changes; which tasks it runs again, and which outputs it keeps."""
    run = run_of(request, pk, Action.RUN)
    rows = list(run.task_runs.all())
    chosen = next((row for row in rows if row.task == request.GET.get("task")), None)
    if chosen is None or chosen.status != TaskRun.Status.COMPLETED:
        raise Http404
    form = ForkForm(request.POST or None, request.FILES or None, run=run, task=chosen.task, task_runs=rows)
    if request.method == "POST" and form.is_valid():
        try:
            made = forks.fork(run, person(request), chosen.task, **form.edits())
        except Problem as problem:
            form.show(problem)
        else:
            return redirect("executions:run-detail", made.pk)
    context = {
        "run": run,
        "chosen": chosen,
        "form": form,
        "rows": [(row, row.task in form.again) for row in rows],
        "tasks": [
            Part(
                row.task,
                row.name,
                form.fields_of("tasks", row.task),
                None,
                row.task == chosen.task or form.is_faulty("tasks", row.task),
            )
            for row in rows
            if row.task in form.again and row.task in form.texts["tasks"]
        ],
        "agents": [
            Part(
                row.key,
                row.role,
                form.fields_of("agents", row.key),
                form.model_of(row.key),
                form.is_faulty("agents", row.key),
            )
            for row in form.rows
        ],
    }
    return render(request, "executions/run_fork.html", context, status=422 if request.method == "POST" else 200)
