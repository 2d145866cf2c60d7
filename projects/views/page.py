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
from projects.forms import AttachForm
from projects.models import Project
from projects.status import PROJECT_ENDED, ProjectStatus, StageStatus
from projects.views import shown

STARTABLE = {ProjectStatus.PLANNING, ProjectStatus.PAUSED, ProjectStatus.FAILED, ProjectStatus.CANCELLED}
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
    project = project_of(request, pk)
    context = context_of(request, project) | {
        "panel": panel_of(request, project),
        "attachments": list(project.attachments.defer("content")),
        "attach_form": AttachForm(),
    }
    return render(request, "projects/project_detail.html", context)


@allow(Role.VIEWER)
@require_GET
@never_cache
def project_live(request: HttpRequest, pk: Any) -> HttpResponse:
    """The page's fragments as they stand now, for htmx to put in place."""
    context = context_of(request, project_of(request, pk)) | {"oob": True}
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
    may_change = can(user, Action.CHANGE, project)
    may_answer = can(user, Action.ANSWER, project)
    steps = shown.steps_of(project, user, may_answer=may_answer)
    mappings = shown.mappings_of(project)
    at_work = [step for step in steps if step.stage.is_at_work]
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
        "may_delete": can(user, Action.DELETE, project),
        "may_make": user.has_role(Role.USER),
        "may_start": may_change and project.status in STARTABLE,
        "may_pause": may_change and project.status in GOES_ON,
        "may_cancel": may_change and project.status not in PROJECT_ENDED | {ProjectStatus.PLANNING},
        "may_restart": may_change and any(step.stage.stage_status != StageStatus.PENDING for step in steps),
        "is_live": project.status not in PROJECT_ENDED and not project.is_archived,
    }
