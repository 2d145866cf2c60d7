"""The page of one project.

It is rendered whole with everything stored so far. While something may still happen the browser watches the
project's WebSocket, and those of the runs that are at work for what their models write; on news it asks
`project_live` for the same fragments again, so that one set of templates says how a project looks.
"""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from executions.models import Worker
from portal.accounts.models import Role
from portal.accounts.permissions import Action, allow, can, find, person
from portal.accounts.views.access import panel_of
from projects import analytics
from projects.deliverables import access
from projects.forms import AttachForm, ReviewForm
from projects.models import Deliverable, DeliverableAccess, Project, Stage
from projects.status import PROJECT_ENDED, ProjectStatus, StageStatus
from projects.views import shown

STARTABLE = {ProjectStatus.PLANNING, ProjectStatus.PAUSED, ProjectStatus.FAILED}
GOES_ON = {ProjectStatus.IN_PROGRESS, ProjectStatus.REVIEW}


def project_of(request: HttpRequest, pk: Any, action: Action = Action.SEE) -> Project:
    """The project of an address, if the person may do `action` with it."""
    rows = Project.objects.select_related("access__owner", "stream", "template", "crew")
    return find(rows, request.user, action, pk=pk)


@allow(Role.VIEWER)
@require_GET
@never_cache
def project_detail(request: HttpRequest, pk: Any) -> HttpResponse:
    """A project: its stages, what waits for a decision, what came out, who works, what it cost."""
    return page(request, project_of(request, pk))


def page(request: HttpRequest, project: Project, gate: tuple[Stage, ReviewForm] | None = None) -> HttpResponse:
    """The whole page; `gate`: the stage and form of a decision that was refused, which are shown with what was typed.

    The texts that wait for a decision stand on it whole, so whoever is shown them has read them.
    """
    context = context_of(request, project) | {
        "panel": panel_of(request, project),
        "attachments": list(project.attachments.defer("content")),
        "attach_form": AttachForm(),
    }
    access.log_all(at_gates(context), person(request), DeliverableAccess.Kind.READ)
    if gate is not None:
        stage, form = gate
        asking = next((step.gate for step in context["gates"] if step.stage.pk == stage.pk and step.gate.form), None)
        if asking is not None:
            asking.form = form
        else:
            context["overtaken"] = form
    return render(request, "projects/project_detail.html", context, status=200 if gate is None else 422)


def at_gates(context: dict[str, Any]) -> list[Deliverable]:
    """The deliverables that the page shows whole, since they wait for a decision."""
    return [piece.deliverable for step in context["gates"] for piece in step.gate.pieces]


@allow(Role.VIEWER)
@require_GET
@never_cache
def project_live(request: HttpRequest, pk: Any) -> HttpResponse:
    """The page's fragments as they stand now, for htmx to put in place."""
    context = context_of(request, project_of(request, pk)) | {"oob": True}
    access.log_unread(at_gates(context), person(request))
    return render(request, "projects/project_live.html", context)


@allow(Role.VIEWER)
@require_GET
@never_cache
def project_numbers(request: HttpRequest, pk: Any) -> HttpResponse:
    """What each role made with each model, what was decided about it, and what it cost."""
    project = project_of(request, pk)
    numbers = analytics.of_project(project)
    context = {
        "project": project,
        "numbers": numbers,
        "cost_usd": sum(row["cost_usd"] for row in numbers["models"]),
        "unpriced": sum(row["unpriced_calls"] for row in numbers["models"]),
    }
    return render(request, "projects/project_numbers.html", context)


def context_of(request: HttpRequest, project: Project) -> dict[str, Any]:
    """What changes on the page; the number of queries does not grow with the project."""
    user = person(request)
    may_own = can(user, Action.CHANGE, project)
    may_change = may_own and not project.is_archived
    may_answer = can(user, Action.ANSWER, project)
    steps = shown.steps_of(project, user, may_answer=may_answer)
    mappings = shown.mappings_of(project)
    at_work = [step for step in steps if step.stage.is_at_work]
    is_cancelled = project.status == ProjectStatus.CANCELLED
    # In progress, and yet nothing goes on by itself: a fork, or a project whose stages are started one by one.
    rests = project.status in GOES_ON and not at_work and not any(step.gate for step in steps)
    rests = rests and any(step.is_waiting_for_a_start for step in steps)
    is_queued = any(step.execution and step.execution.status == "pending" for step in at_work)
    return {
        "project": project,
        "steps": steps,
        "gates": [step for step in steps if step.gate],
        "at_work": at_work,
        "mappings": mappings,
        "is_all_local": bool(mappings) and all(row.llm_model.is_local for row in mappings),
        "numbers": shown.numbers_of(project),
        "history": shown.history_of(project),
        "is_late": shown.is_late(project),
        "no_worker": is_queued and not Worker.objects.alive().exists(),
        "done": sum(step.stage.is_done for step in steps),
        "stale": [step for step in steps if step.stage.is_stale],
        "may_change": may_change,
        "may_archive": may_own,
        "may_delete": can(user, Action.DELETE, project),
        "may_make": user.has_role(Role.USER),
        "may_start": may_change and (project.status in STARTABLE or rests),
        "may_pause": may_change and project.status in GOES_ON,
        "may_cancel": may_change and project.status not in PROJECT_ENDED | {ProjectStatus.PLANNING},
        "may_restart": may_change
        and (is_cancelled or any(step.stage.stage_status != StageStatus.PENDING for step in steps)),
        "is_live": project.status not in PROJECT_ENDED and not project.is_archived,
    }
