"""An engine's page: whether this machine has it, its roles, its projects and runs."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from executions.engines.registry import ENGINES
from executions.models import Execution
from executions.status import Status
from executions.views.lists import HEAVY
from portal.accounts.models import Role
from portal.accounts.permissions import allow
from projects import mapping
from projects.models import Project
from projects.views import planned
from projects.views.lists import with_stages
from projects.views.new import why_not

PROJECTS = 6
RUNS = 6


@allow(Role.VIEWER)
@require_GET
def crewai(request: HttpRequest) -> HttpResponse:
    """CrewAI: Researcher, Writer and Planner, or a crew of one's own."""
    return _page(request, Project.Engine.CREW_AI, "crewai")


@allow(Role.VIEWER)
@require_GET
def metagpt(request: HttpRequest) -> HttpResponse:
    """MetaGPT: a software company, from the requirement to tested code."""
    return _page(request, Project.Engine.META_GPT, "metagpt")


def _page(request: HttpRequest, engine: Project.Engine, key: str) -> HttpResponse:
    found = ENGINES.get(key)
    seen = Execution.objects.visible_to(request.user).filter(engine=key)
    projects = Project.objects.visible_to(request.user).current().filter(selected_ai=engine)
    context: dict[str, Any] = {
        "engine": engine,
        "key": key,
        "version": found.version() if found else None,
        "running": seen.filter(status=Status.RUNNING).count(),
        "plan": planned.stages(engine),
        "recommended": mapping.recommended(engine),
        "unusable": why_not(),
        "projects": list(with_stages(projects).order_by("-created_at", "-id")[:PROJECTS]),
        "runs": list(seen.select_related("created_by").defer(*HEAVY)[:RUNS]),
    }
    return render(request, "projects/engine.html", context)
