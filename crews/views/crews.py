"""The list of crews, and the page of one: all of it can be edited in place."""

from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.db.models import Count, F, IntegerField, OuterRef, Prefetch, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.forms import BaseForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.cache import patch_vary_headers
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from crews import actions
from crews.drawing import draw
from crews.forms import CrewForm
from crews.models import Agent, Crew, CrewMember, Task
from crews.validation import problems_of
from portal.accounts.models import Role
from portal.accounts.permissions import Action, allow, can, find, person
from portal.accounts.views.access import panel_of
from portal.lib.pages import asked_for, page_of
from portal.lib.problems import FieldError, Problem

AVATARS = 5  # agents shown beside a crew in lists
WHOSE = ("all", "own", "shared")


def with_counts(crews: QuerySet[Crew]) -> QuerySet[Crew]:
    """The crews with `agents_count`, `tasks_count` and their members, whatever their number in three queries."""

    def count_of(rows: QuerySet[Any]) -> Coalesce:
        counted = rows.filter(crew=OuterRef("pk")).order_by().values("crew").annotate(n=Count("pk")).values("n")
        return Coalesce(Subquery(counted), 0, output_field=IntegerField())

    members = CrewMember.objects.select_related("agent")
    return (
        crews.select_related("access__owner")
        .annotate(agents_count=count_of(CrewMember.objects.all()), tasks_count=count_of(Task.objects.all()))
        .prefetch_related(Prefetch("members", members))
    )


@allow(Role.VIEWER)
@require_GET
def crew_list(request: HttpRequest) -> HttpResponse:
    """Crews that the person may see, by name; `?q=` searches, `?whose=own|shared` narrows."""
    crews = with_counts(Crew.objects.visible_to(request.user))
    query = asked_for(request, "q")
    if query:
        crews = crews.filter(Q(name__icontains=query) | Q(description__icontains=query))
    whose = request.GET.get("whose", "all")
    if whose == "own":
        crews = crews.filter(access__owner=person(request))
    elif whose == "shared":
        crews = crews.filter(access__visibility="shared").exclude(access__owner=person(request))
    page = page_of(crews, request, ordering="name")
    context = {"page": page, "query": query, "whose": whose if whose in WHOSE else "all", "avatars": AVATARS}
    template = "crews/crew_list.html"
    if request.headers.get("HX-Target") == "crew-rows":
        template += "#rows"
    return as_fragment_or_page(request, template, context)


@allow(Role.USER)
@require_http_methods(["GET", "POST"])
def crew_create(request: HttpRequest) -> HttpResponse:
    """A new crew; its page is where agents and tasks are added."""
    user = person(request)
    form = CrewForm(request.POST or None, user=user)
    if request.method == "POST" and form.is_valid():
        crew = form.create(by=user)
        messages.success(request, _("The crew was made. Give it agents, and then tasks."))
        return redirect("crews:crew-detail", crew.pk)
    return render(request, "crews/crew_create.html", {"form": form}, status=status_of(request))


@allow(Role.VIEWER)
@require_GET
def crew_detail(request: HttpRequest, pk: str) -> HttpResponse:
    """A crew: its tasks, agents and inputs, what keeps it from running, its last runs."""
    return show(request, find(Crew.objects.all(), request.user, Action.SEE, pk=pk))


@allow(Role.USER)
@require_http_methods(["GET", "POST"])
def crew_settings(request: HttpRequest, pk: str) -> HttpResponse:
    """The crew's own settings, edited in place."""
    user = person(request)
    crew = find(Crew.objects.all(), user, Action.CHANGE, pk=pk)
    form = CrewForm(request.POST or None, instance=crew, user=user)
    if request.method == "POST" and form.is_valid():
        form.save_settings()
        messages.success(request, _("Saved."))
        return redirect("crews:crew-detail", crew.pk)
    return show(request, Crew.objects.get(pk=crew.pk), OpenForm("settings", form))


@allow(Role.USER)
@require_POST
def crew_copy(request: HttpRequest, pk: str) -> HttpResponse:
    """A crew of one's own, made like this one."""
    crew = find(Crew.objects.all(), request.user, Action.SEE, pk=pk)
    made = actions.copy_crew(crew=crew, by=person(request))
    messages.success(request, _("This is your own copy. Change it as you like."))
    return redirect("crews:crew-detail", made.pk)


@allow(Role.USER)
@require_http_methods(["GET", "POST"])
def crew_delete(request: HttpRequest, pk: str) -> HttpResponse:
    """Ask, then delete. The crew's agents and finished runs stay."""
    crew = find(Crew.objects.all(), request.user, Action.DELETE, pk=pk)
    if request.method == "POST":
        try:
            actions.delete_crew(crew=crew)
        except Problem as problem:
            messages.error(request, problem.sentence)
            return redirect("crews:crew-detail", crew.pk)
        messages.success(request, _("The crew “%(name)s” was deleted.") % {"name": crew.name})
        return redirect("crews:crew-list")
    return render(request, "crews/crew_delete.html", {"crew": crew})


@dataclass(frozen=True)
class OpenForm:
    """A form that stands in the place of a card: both have the same element id."""

    id: str
    form: BaseForm
    existing: QuerySet[Agent] | None = None  # agents that could be chosen instead of making one


@dataclass(frozen=True)
class Finding:
    """What is wrong with a crew, and the id of the card where it can be mended."""

    detail: str
    anchor: str


def show(request: HttpRequest, crew: Crew, open_form: OpenForm | None = None) -> HttpResponse:
    """The crew page, or only its editor for htmx; with `open_form`, one card is a form."""
    crew = (
        Crew.objects.select_related("access__owner", "manager_agent", "manager_llm_model")
        .prefetch_related("inputs")
        .get(pk=crew.pk)
    )
    tasks = list(
        crew.tasks.select_related("agent").prefetch_related(
            Prefetch("context", Task.objects.order_by(F("execution_order"))), "tools"
        )
    )
    members = list(
        crew.members.select_related("agent__llm_model__provider", "agent__access__owner").prefetch_related(
            "agent__tools"
        )
    )
    may_change = can(request.user, Action.CHANGE, crew)
    own_agents = set(
        Agent.objects.editable_by(request.user).filter(memberships__crew=crew).values_list("pk", flat=True)
        if may_change
        else ()
    )
    findings = [Finding(error.detail, anchor_of(error)) for error in problems_of(crew)]
    context = {
        "crew": crew,
        "tasks": tasks,
        "members": members,
        "inputs": list(crew.inputs.all()),
        "findings": findings,
        "faulty": {finding.anchor for finding in findings},
        "drawing": draw(crew, tasks),
        "may_change": may_change,
        "may_delete": can(request.user, Action.DELETE, crew),
        "may_make": person(request).has_role(Role.USER),
        "own_agents": own_agents,
        "open": open_form,
        "panel": panel_of(request, crew),
    }
    template = "crews/crew_detail.html"
    if request.headers.get("HX-Target") == "editor":
        template += "#editor"
    is_faulty = open_form is not None and request.method == "POST"
    return as_fragment_or_page(request, template, context, status=422 if is_faulty else 200)


def as_fragment_or_page(
    request: HttpRequest, template: str, context: dict[str, Any], status: int = 200
) -> HttpResponse:
    """An answer that is a fragment for htmx and a page else: caches must not take one for the other."""
    response = render(request, template, context, status=status)
    patch_vary_headers(response, ["HX-Target"])
    return response


def anchor_of(error: FieldError) -> str:
    """The id of the card that an error of `problems_of` is about."""
    kind, _dot, rest = error.field.partition(".")
    key = rest.partition(".")[0]
    if key:
        return f"{kind.removesuffix('s')}-{key}"
    return kind if kind in {"tasks", "agents", "inputs"} else "settings"


def status_of(request: HttpRequest) -> int:
    """422 when a form comes back with errors."""
    return 422 if request.method == "POST" else 200
