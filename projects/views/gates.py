"""What a person does with a stage: start it, decide about its work, set its gate, go back to it."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST

from crews.views.crews import status_of
from portal.accounts.models import Role
from portal.accounts.permissions import Action, allow, person, require
from portal.lib.forms import errors_on
from portal.lib.problems import Problem
from projects import actions
from projects.forms import CompleteForm, DelegateForm, RollBackForm, StageForm
from projects.models import Project, Stage
from projects.views import shown
from projects.views.manage import do
from projects.views.page import page, project_of

DECISIONS = {"approve": "approved", "edit": "approved", "reject": "rejected"}


def stage_of(request: HttpRequest, pk: Any, stage_pk: Any, action: Action) -> tuple[Project, Stage]:
    """The project and the stage of an address, if the person may do `action` with the project."""
    project = project_of(request, pk, action)
    stage = get_object_or_404(project.stages.select_related("project__access__owner", "escalate_to"), pk=stage_pk)
    return project, stage


@allow(Role.USER)
@require_POST
def stage_start(request: HttpRequest, pk: Any, stage_pk: Any) -> HttpResponse:
    """Put its role to work."""
    project, stage = stage_of(request, pk, stage_pk, Action.CHANGE)
    return do(request, project, lambda: actions.start_stage(stage, person(request)))


@allow(Role.USER)
@require_http_methods(["GET", "POST"])
def stage_settings(request: HttpRequest, pk: Any, stage_pk: Any) -> HttpResponse:
    """Its gate, and what its role is asked beside."""
    project, stage = stage_of(request, pk, stage_pk, Action.CHANGE)
    people = shown.members_of(project)
    form = StageForm(request.POST or None, instance=stage, people=people, lookers=shown.who_only_look(project, people))
    if request.method == "POST" and form.is_valid():
        with errors_on(form):
            actions.set_stage(Stage.objects.get(pk=stage.pk), person(request), **form.options())
            messages.success(request, _("Saved."))
            return redirect(project)
    context = {"project": project, "stage": stage, "form": form}
    return render(request, "projects/stage_settings.html", context, status=status_of(request))


@allow(Role.USER)
@require_http_methods(["GET", "POST"])
def stage_complete(request: HttpRequest, pk: Any, stage_pk: Any) -> HttpResponse:
    """Ask for hours and notes, then close it by hand."""
    project, stage = stage_of(request, pk, stage_pk, Action.CHANGE)
    form = CompleteForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        with errors_on(form):
            actions.complete_stage(
                stage,
                person(request),
                actual_hours=form.cleaned_data["actual_hours"],
                notes=form.cleaned_data["notes"] or None,
            )
            messages.success(request, _("The stage was closed."))
            return redirect(project)
    context = {"project": project, "stage": stage, "form": form}
    return render(request, "projects/stage_complete.html", context, status=status_of(request))


@allow(Role.USER)
@require_POST
def stage_review(request: HttpRequest, pk: Any, stage_pk: Any) -> HttpResponse:
    """Decide about all the work of the stage that waits for a decision."""
    project, stage = stage_of(request, pk, stage_pk, Action.SEE)
    user = person(request)
    if not actions.may_review(user, stage):
        require(user, Action.ANSWER, project)
    waiting = [piece.deliverable for piece in shown.pieces_of([stage])]
    form = shown.review_form(stage, user, waiting, request.POST)
    if form.is_valid():
        given = form.cleaned_data
        seen = given["seen"].split()
        try:
            if given["decision"] == "edit":
                actions.review(
                    waiting[0],
                    user,
                    decision="approved",
                    comments=given["comments"],
                    content=given["content"],
                    sha256=next(iter(seen), ""),
                )
            else:
                decision = DECISIONS[given["decision"]]
                actions.review_stage(stage, user, decision=decision, comments=given["comments"], seen=seen)
        except Problem as problem:
            form.show(problem)
        else:
            messages.success(request, _("Your decision was taken."))
            return redirect(project)
    return page(request, project_of(request, pk), (stage, form))


@allow(Role.USER)
@require_POST
def stage_delegate(request: HttpRequest, pk: Any, stage_pk: Any) -> HttpResponse:
    """Let a member decide too."""
    project, stage = stage_of(request, pk, stage_pk, Action.ANSWER)
    form = DelegateForm(request.POST, people=shown.members_of(project))
    if not form.is_valid():
        messages.error(request, _("Choose somebody who is a member of the project."))
        return redirect(project)
    to = form.cleaned_data["to"]
    said = _("%(name)s may decide too.") % {"name": to}
    return do(request, project, lambda: actions.delegate(stage, person(request), to=to), said)


@allow(Role.USER)
@require_http_methods(["GET", "POST"])
def stage_roll_back(request: HttpRequest, pk: Any, stage_pk: Any) -> HttpResponse:
    """Show what would be done again, then go back to the stage."""
    project, stage = stage_of(request, pk, stage_pk, Action.CHANGE)
    form = RollBackForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        with errors_on(form):
            actions.roll_back(stage, person(request), reason=form.cleaned_data["reason"])
            messages.success(request, _("The work goes on from “%(name)s”.") % {"name": stage.label})
            return redirect(project)
    context = {"project": project, "stage": stage, "form": form, "again": after(stage)}
    return render(request, "projects/stage_roll_back.html", context, status=status_of(request))


def after(stage: Stage) -> list[Stage]:
    """The stages that depend on it, over others too, in order. Two queries."""
    stages = list(stage.project.stages.prefetch_related("depends_on"))
    found = {stage.pk}
    for other in stages:
        if found & {needed.pk for needed in other.depends_on.all()}:
            found.add(other.pk)
    return [other for other in stages if other.pk in found and other.pk != stage.pk]
