"""A new project: first from what (a template, or blank with an engine), then one form for the rest."""

from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import get_language
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods

from crews.models import LLMModel
from executions.models import Worker
from portal.accounts.models import Role
from portal.accounts.permissions import allow, person
from portal.lib.forms import errors_on
from portal.lib.pages import asked_for
from portal.lib.problems import Problem
from projects import actions, mapping
from projects.forms import NewProjectForm
from projects.library import outline
from projects.models import Project, Template
from projects.views import planned


@allow(Role.USER)
@require_GET
def project_new(request: HttpRequest) -> HttpResponse:
    """What a project starts from: a template, or blank with one of the engines."""
    context = {"templates": Template.objects.visible_to(request.user), "engines": Project.Engine.choices}
    return render(request, "projects/project_new.html", context)


@allow(Role.USER)
@require_http_methods(["GET", "POST"])
def project_create(request: HttpRequest) -> HttpResponse:
    """The rest of it, from `?template=` or `?engine=`: what, files, models, options. `start` also starts it."""
    template, engine = start_of(request)
    roles = planned.roles(engine, template)
    recommended = mapping.recommended(engine, template, roles)
    form = NewProjectForm(
        request.POST or None,
        request.FILES or None,
        initial=first_values(template),
        roles=roles,
        recommended=recommended,
    )
    if request.method == "POST" and form.is_valid():
        with errors_on(form):
            project = actions.create(
                by=person(request),
                template=template,
                selected_ai=engine,
                mappings=form.mappings(),
                files=form.input_files(),
                **form.values(),
            )
            return started(request, project) if "start" in request.POST else redirect(project)
    context = {
        "form": form,
        "template": template,
        "engine": Project.Engine(engine),
        "plan": planned.stages(engine, template),
        "recommended": recommended,
        "unusable": why_not(),
        "lost_files": bool(request.FILES),
        "has_worker": Worker.objects.alive().exists(),
    }
    return render(request, "projects/project_create.html", context, status=422 if request.method == "POST" else 200)


def start_of(request: HttpRequest) -> tuple[Template | None, str]:
    """The template and the engine that the address names; 404 for what is not there."""
    wanted = asked_for(request, "template")
    if wanted:
        template = Template.objects.visible_to(request.user).filter(pk=wanted).first()
        if template is None:
            raise Http404
        return template, template.selected_ai
    engine = request.GET.get("engine", Project.Engine.CREW_AI)
    if engine not in Project.Engine.values:
        raise Http404
    return None, engine


def first_values(template: Template | None) -> dict[str, Any]:
    """What the form holds at first."""
    language = language_of_reader()
    if template is None:
        return {"language": language}
    return {
        "language": language,
        "project_type": template.project_type,
        "requirement": outline(template, language),
    }


def language_of_reader() -> str:
    """The language that a new project's deliverables are written in at first."""
    return "ko" if (get_language() or "").startswith("ko") else "en"


def why_not() -> dict[str, str]:
    """Why a model of the catalog cannot be used now, by its id. One query."""
    models = LLMModel.objects.select_related("provider")
    return {model.pk: why for model in models if (why := model.why_not_runnable)}


def started(request: HttpRequest, project: Project) -> HttpResponse:
    """The project is there whether it could be started or not: its page says which."""
    try:
        actions.start(project, person(request))
    except Problem as problem:
        said = _("The project was made, but not started.")
        messages.warning(request, f"{said} {problem.sentence}")
    return redirect(project)
