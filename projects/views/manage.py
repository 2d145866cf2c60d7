"""What a person does with a project as a whole."""

from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.http import content_disposition_header
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from crews.views.crews import status_of
from portal.accounts.models import Role
from portal.accounts.permissions import Action, allow, person
from portal.lib.forms import errors_on
from portal.lib.problems import Problem
from projects import actions, export
from projects.forms import AttachForm, MappingForm, ProjectForm, SaveTemplateForm
from projects.models import Project
from projects.views.new import why_not
from projects.views.page import project_of


def do(request: HttpRequest, project: Project, act: Callable[[], Any], said: str = "") -> HttpResponse:
    """Ask an action, say what it refused, and go back to the project."""
    try:
        act()
    except Problem as problem:
        messages.error(request, problem.sentence)
    else:
        if said:
            messages.success(request, said)
    return redirect(project)


@allow(Role.USER)
@require_POST
def project_start(request: HttpRequest, pk: Any) -> HttpResponse:
    """Start it; a paused one goes on."""
    project = project_of(request, pk, Action.CHANGE)
    return do(request, project, lambda: actions.start(project, person(request)))


@allow(Role.USER)
@require_POST
def project_pause(request: HttpRequest, pk: Any) -> HttpResponse:
    """No new stage starts; what is at work pauses."""
    project = project_of(request, pk, Action.CHANGE)
    return do(request, project, lambda: actions.pause(project, person(request)))


@allow(Role.USER)
@require_http_methods(["GET", "POST"])
def project_cancel(request: HttpRequest, pk: Any) -> HttpResponse:
    """Ask, then cancel it: runs are stopped, what is finished stays."""
    project = project_of(request, pk, Action.CHANGE)
    if request.method == "POST":
        return do(request, project, lambda: actions.cancel(project, person(request)), _("The project was cancelled."))
    return render(request, "projects/project_cancel.html", {"project": project})


@allow(Role.USER)
@require_http_methods(["GET", "POST"])
def project_restart(request: HttpRequest, pk: Any) -> HttpResponse:
    """Ask, then begin a new round from the first stage."""
    project = project_of(request, pk, Action.CHANGE)
    if request.method == "POST":
        return do(request, project, lambda: actions.restart(project, person(request)), _("A new round has begun."))
    return render(request, "projects/project_restart.html", {"project": project})


@allow(Role.USER)
@require_POST
def project_duplicate(request: HttpRequest, pk: Any) -> HttpResponse:
    """A project of one's own, made like this one; `until` keeps the approved work of the stages before that one."""
    project = project_of(request, pk, Action.RUN)
    until = project.stages.filter(stage_name=request.POST.get("until", "")).first()
    try:
        made = actions.duplicate(project, person(request), until=until)
    except Problem as problem:
        messages.error(request, problem.sentence)
        return redirect(project)
    messages.success(request, _("This is a project of your own. Change it as you like, then start it."))
    return redirect(made)


@allow(Role.USER)
@require_POST
def project_archive(request: HttpRequest, pk: Any) -> HttpResponse:
    """Put it away (`archived=1`), or take it out again."""
    project = project_of(request, pk, Action.CHANGE)
    archived = bool(request.POST.get("archived"))
    said = _("It is in the archive now.") if archived else _("It is out of the archive again.")
    return do(request, project, lambda: actions.archive(project, person(request), archived=archived), said)


@allow(Role.USER)
@require_http_methods(["GET", "POST"])
def project_edit(request: HttpRequest, pk: Any) -> HttpResponse:
    """Change what it is about, and its options."""
    project = project_of(request, pk, Action.CHANGE)
    form = ProjectForm(request.POST or None, instance=project)
    if request.method == "POST" and form.is_valid():
        with errors_on(form):
            actions.update(Project.objects.get(pk=pk), person(request), **form.values())
            messages.success(request, _("Saved."))
            return redirect(project)
    context = {"project": Project.objects.get(pk=pk), "form": form}
    return render(request, "projects/project_edit.html", context, status=status_of(request))


@allow(Role.USER)
@require_http_methods(["GET", "POST"])
def project_models(request: HttpRequest, pk: Any) -> HttpResponse:
    """Which model each role works with; a run that is at work uses another from its next call on."""
    project = project_of(request, pk, Action.CHANGE)
    now = {row.role_name: (row.llm_model_id, row.llm_config) for row in project.mappings.all()}
    form = MappingForm(request.POST or None, roles=list(now), now=now)
    if request.method == "POST" and form.is_valid():
        with errors_on(form):
            actions.set_mappings(project, person(request), form.mappings())
            messages.success(request, _("Saved. The next call uses it."))
            return redirect(project)
    context = {"project": project, "form": form, "unusable": why_not()}
    return render(request, "projects/project_models.html", context, status=status_of(request))


@allow(Role.USER)
@require_POST
def project_attach(request: HttpRequest, pk: Any) -> HttpResponse:
    """Add files to the requirement."""
    project = project_of(request, pk, Action.CHANGE)
    form = AttachForm(request.POST, request.FILES)
    if not form.is_valid():
        messages.error(request, " ".join(str(error) for errors in form.errors.values() for error in errors))
        return redirect(project)
    return do(request, project, lambda: actions.attach(project, person(request), form.input_files()), _("Saved."))


@allow(Role.USER)
@require_POST
def project_detach(request: HttpRequest, pk: Any, file_pk: Any) -> HttpResponse:
    """Take a file away from the requirement."""
    project = project_of(request, pk, Action.CHANGE)
    attachment = get_object_or_404(project.attachments, pk=file_pk)
    return do(request, project, lambda: actions.detach(attachment, person(request)), _("Saved."))


@allow(Role.USER)
@require_http_methods(["GET", "POST"])
def project_template(request: HttpRequest, pk: Any) -> HttpResponse:
    """Save it as a template of one's own."""
    project = project_of(request, pk, Action.RUN)
    form = SaveTemplateForm(request.POST or None, initial={"name": project.name, "description": project.description})
    if request.method == "POST" and form.is_valid():
        with errors_on(form):
            template = actions.save_as_template(project, person(request), **form.values())
            messages.success(request, _("The template was made."))
            return redirect(template)
    context = {"project": project, "form": form}
    return render(request, "projects/project_template.html", context, status=status_of(request))


@allow(Role.VIEWER)
@require_GET
def project_export(request: HttpRequest, pk: Any) -> HttpResponse:
    """The project as a program that runs without the portal, zipped."""
    project = project_of(request, pk)
    response = HttpResponse(export.archive(project, by=person(request)), content_type="application/zip")
    response.headers["Content-Disposition"] = content_disposition_header(
        as_attachment=True, filename=export.file_name(project)
    )
    return response


@allow(Role.USER)
@require_http_methods(["GET", "POST"])
def project_delete(request: HttpRequest, pk: Any) -> HttpResponse:
    """Ask, then delete it with its deliverables."""
    project = project_of(request, pk, Action.DELETE)
    if request.method == "POST":
        try:
            actions.delete(project, person(request))
        except Problem as problem:
            messages.error(request, problem.sentence)
            return redirect(project)
        messages.success(request, _("The project “%(name)s” was deleted.") % {"name": project.name})
        return redirect("projects:project-list")
    return render(request, "projects/project_delete.html", {"project": project})
