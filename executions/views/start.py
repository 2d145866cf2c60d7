"""Starting a run of a crew."""

from typing import Any

from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from crews.models import Crew
from crews.validation import problems_of
from executions import actions, estimates
from executions.forms import RunForm
from executions.models import Execution, Worker
from portal.accounts.models import Role
from portal.accounts.permissions import Action, allow, can, find, person
from portal.lib.problems import Problem


@allow(Role.USER)
@require_http_methods(["GET", "POST"])
def crew_run(request: HttpRequest, pk: Any) -> HttpResponse:
    """The run form of a crew; `?from=<run>` fills in what an earlier run was given."""
    crew = find(Crew.objects.all(), request.user, Action.RUN, pk=pk)
    earlier = _earlier(request, crew)
    form = RunForm(request.POST or None, request.FILES or None, crew=crew, earlier=earlier)
    if request.method == "POST" and form.is_valid():
        try:
            run = actions.kickoff(
                crew=crew,
                inputs=form.raw_inputs(),
                by=person(request),
                model=form.cleaned_data["model"],
                priority=form.cleaned_data["priority"],
                budget_usd=form.cleaned_data["budget_usd"],
                budget_tokens=form.cleaned_data["budget_tokens"],
            )
        except Problem as problem:
            form.show(problem)
        else:
            return redirect("executions:run-detail", run.pk)
    context = {
        "crew": crew,
        "form": form,
        "earlier": earlier,
        "problems": problems_of(crew) if request.method == "GET" else [],
        "may_change": can(request.user, Action.CHANGE, crew),
        "has_worker": Worker.objects.alive().exists(),
        "tasks": crew.tasks.select_related("agent"),
        "estimate": estimates.of(crew, person(request)),
    }
    return render(request, "executions/crew_run.html", context, status=422 if request.method == "POST" else 200)


def _earlier(request: HttpRequest, crew: Crew) -> Execution | None:
    """The run whose inputs are taken again: one of this crew that the person may see."""
    wanted = request.GET.get("from")
    if not wanted:
        return None
    try:
        return Execution.objects.visible_to(request.user).filter(crew=crew, pk=wanted).first()
    except ValidationError:
        return None
