"""Templates: the gallery, one template, and a project from it in one action."""

from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import Avg, Count, OuterRef, Q, Subquery
from django.db.models.functions import Coalesce
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from crews.views.crews import as_fragment_or_page
from portal.accounts.models import Role
from portal.accounts.permissions import Action, allow, can, person, require
from portal.lib.pages import asked_for
from portal.lib.problems import Problem
from projects import actions, mapping
from projects.library import outline
from projects.models import Project, Template
from projects.status import ProjectStatus
from projects.templatetags.projects import template_description, template_name
from projects.views import planned
from projects.views.new import language_of_reader, started, why_not


def with_numbers(templates: Any, user: Any) -> Any:
    """The templates with how many projects that the reader sees were made from each, and what became of those."""
    seen = Project.objects.visible_to(user).filter(template=OuterRef("pk")).order_by().values("template")
    done = seen.filter(status=ProjectStatus.COMPLETED)
    return templates.select_related("access__owner").annotate(
        made=Coalesce(Subquery(seen.annotate(n=Count("pk")).values("n")), 0),
        completed=Coalesce(Subquery(done.annotate(n=Count("pk")).values("n")), 0),
        hours=Subquery(done.annotate(mean=Avg("actual_hours")).values("mean")),
    )


@allow(Role.VIEWER)
@require_GET
def template_list(request: HttpRequest) -> HttpResponse:
    """Templates that the person may use; `?q=`, `?type=` and `?engine=` narrow."""
    templates = with_numbers(Template.objects.visible_to(request.user), request.user)
    asked = {name: asked_for(request, name) for name in ("q", "type", "engine")}
    if asked["q"]:
        wanted = Q(name__icontains=asked["q"]) | Q(description__icontains=asked["q"]) | Q(id__icontains=asked["q"])
        templates = templates.filter(wanted | Q(pk__in=builtin_like(asked["q"])))
    for name, field, known in (
        ("type", "project_type", Project.Type.values),
        ("engine", "selected_ai", Project.Engine.values),
    ):
        if asked[name] in known:
            templates = templates.filter(**{field: asked[name]})
        else:
            asked[name] = ""
    context = {
        "templates": list(templates),
        "asked": asked,
        "is_narrowed": any(asked.values()),
        "engines": Project.Engine.choices,
        "types": Project.Type.choices,
    }
    template = "projects/template_list.html"
    if request.headers.get("HX-Target") == "template-cards":
        template += "#cards"
    return as_fragment_or_page(request, template, context)


def builtin_like(words: str) -> list[str]:
    """The templates that came along and say `words` in the reader's language. One query."""
    rows = Template.objects.filter(is_builtin=True)
    sought = words.casefold()
    return [row.pk for row in rows if sought in f"{template_name(row)}\n{template_description(row)}".casefold()]


def template_of(request: HttpRequest, pk: str) -> Template:
    """The template of an address, if the person may see it."""
    template = with_numbers(Template.objects.visible_to(request.user), request.user).filter(pk=pk).first()
    if template is None:
        raise Http404
    return template


@allow(Role.VIEWER)
@require_GET
def template_detail(request: HttpRequest, pk: str) -> HttpResponse:
    """Its stages, outline, models and folders, and what became of projects made from it."""
    template = template_of(request, pk)
    context = {
        "template": template,
        "engine": Project.Engine(template.selected_ai),
        "plan": planned.stages(template.selected_ai, template),
        "recommended": mapping.recommended(
            template.selected_ai, template, planned.roles(template.selected_ai, template)
        ),
        "unusable": why_not(),
        "outline": outline(template, language_of_reader()),
        "may_delete": not template.is_builtin and can(request.user, Action.DELETE, template),
    }
    return render(request, "projects/template_detail.html", context)


@allow(Role.USER)
@require_POST
def template_run(request: HttpRequest, pk: str) -> HttpResponse:
    """A project from it, as recommended, and started: all in one action."""
    template = template_of(request, pk)
    name = request.POST.get("name", "").strip() or template_name(template)
    values: dict[str, Any] = {"description": template_description(template), "language": language_of_reader()}
    try:
        project = actions.create(by=person(request), name=name[:200], template=template, **values)
    except Problem as problem:
        messages.error(request, problem.sentence)
        return redirect(template)
    return started(request, project)


@allow(Role.USER)
@require_http_methods(["GET", "POST"])
def template_delete(request: HttpRequest, pk: str) -> HttpResponse:
    """Ask, then delete a template of one's own; projects made from it stay."""
    template = template_of(request, pk)
    if template.is_builtin:
        raise PermissionDenied(_("This template came along and stays."))
    require(request.user, Action.DELETE, template)
    if request.method == "POST":
        try:
            actions.delete_template(template, person(request))
        except Problem as problem:
            messages.error(request, problem.sentence)
            return redirect(template)
        messages.success(request, _("The template “%(name)s” was deleted.") % {"name": template.name})
        return redirect("projects:template-list")
    return render(request, "projects/template_delete.html", {"template": template})
