"""Projects as cards, and the deliverables of one."""

from typing import Any

from django.db.models import Count, OuterRef, Prefetch, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from crews.views.crews import as_fragment_or_page
from portal.accounts.models import Role
from portal.accounts.permissions import Action, allow, find, person
from portal.lib.pages import asked_for, page_of
from projects.deliverables.search import search
from projects.models import Deliverable, Project, Stage
from projects.status import ProjectStatus, StageStatus

WHOSE = ("all", "own", "archived")
CARDS = 18
# What lists do not show of a project, however long it is.
HEAVY = ("requirement", "technical_requirements")


def with_stages(projects: QuerySet[Project]) -> QuerySet[Project]:
    """The projects as cards show them: whose, the stages, and how many of those wait for a decision."""
    # A query beside each row that is shown: joined and grouped, all rows would be counted before the first is.
    waiting = Stage.objects.filter(project=OuterRef("pk"), stage_status=StageStatus.REVIEW).order_by()
    asking = Subquery(waiting.values("project").annotate(n=Count("pk")).values("n"))
    stages = Stage.objects.only("project", "stage_name", "stage_order", "stage_status", "is_stale", "responsible_role")
    return (
        projects.select_related("access__owner")
        .defer(*HEAVY)
        .annotate(asking=Coalesce(asking, 0))
        .prefetch_related(Prefetch("stages", stages))
    )


@allow(Role.VIEWER)
@require_GET
@never_cache
def project_list(request: HttpRequest) -> HttpResponse:
    """Projects that the person may see, newest first; `?q=`, `?status=`, `?engine=`, `?type=` and `?whose=` narrow."""
    asked = {name: asked_for(request, name) for name in ("q", "status", "engine", "type", "whose")}
    projects = narrowed(Project.objects.visible_to(request.user), request, asked)
    context = {
        "page": page_of(with_stages(projects), request, size=CARDS),
        "asked": asked,
        "is_narrowed": any(asked.values()),
        "statuses": list(ProjectStatus),
        "engines": Project.Engine.choices,
        "types": Project.Type.choices,
    }
    template = "projects/project_list.html"
    if request.headers.get("HX-Target") == "project-cards":
        template += "#cards"
    return as_fragment_or_page(request, template, context)


def narrowed(projects: Any, request: HttpRequest, asked: dict[str, str]) -> Any:
    """The projects that match; a value that is none of the choices is forgotten."""
    if asked["q"]:
        projects = projects.filter(Q(name__icontains=asked["q"]) | Q(description__icontains=asked["q"]))
    for name, field, known in (
        ("status", "status", ProjectStatus.values),
        ("engine", "selected_ai", Project.Engine.values),
        ("type", "project_type", Project.Type.values),
    ):
        if asked[name] in known:
            projects = projects.filter(**{field: asked[name]})
        else:
            asked[name] = ""
    if asked["whose"] not in WHOSE or asked["whose"] == "all":
        asked["whose"] = ""
    if asked["whose"] == "archived":
        return projects.exclude(archived_at=None)
    if asked["whose"] == "own":
        projects = projects.filter(access__owner=person(request))
    return projects.filter(archived_at=None)


@allow(Role.VIEWER)
@require_GET
@never_cache
def deliverable_list(request: HttpRequest, pk: Any) -> HttpResponse:
    """The latest version of each deliverable of a project; `?q=` looks into their texts, `?type=` narrows."""
    project = find(Project.objects.all(), request.user, Action.SEE, pk=pk)
    rows: QuerySet[Deliverable] = project.deliverables.filter(is_latest=True)
    query, kind = asked_for(request, "q"), request.GET.get("type", "")
    if query:
        rows = search(rows, query)
    if kind in Deliverable.Type.values:
        rows = rows.filter(deliverable_type=kind)
    else:
        kind = ""
    context = {
        "project": project,
        "page": page_of(rows.select_related("stage", "created_by").defer(*Deliverable.HEAVY), request),
        "query": query,
        "kind": kind,
        "types": Deliverable.Type.choices,
    }
    template = "projects/deliverable_list.html"
    if request.headers.get("HX-Target") == "deliverable-rows":
        template += "#rows"
    return as_fragment_or_page(request, template, context)
