"""What a person does with a run from its page: each asks an action and goes back to the page."""

from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_http_methods, require_POST

from executions import actions
from executions.forms import BudgetOfRunForm, RoleModelsForm
from executions.models import Execution
from executions.views.page import context_of, run_of
from portal.accounts.models import Role
from portal.accounts.permissions import Action, allow, person
from portal.lib.problems import Problem


def _do(request: HttpRequest, pk: Any, act: Callable[[Execution], Any], refused: str = "") -> HttpResponse:
    run = run_of(request, pk, Action.STOP)
    try:
        act(run)
    except Problem as problem:
        messages.info(request, refused or problem.sentence)
    return redirect("executions:run-detail", run.pk)


@allow(Role.USER)
@require_POST
def run_stop(request: HttpRequest, pk: Any) -> HttpResponse:
    """Ask for a stop; what was finished is kept."""
    refused = _("The run had ended already.")
    return _do(request, pk, lambda run: actions.stop(execution=run, by=person(request)), refused)


@allow(Role.USER)
@require_POST
def run_pause(request: HttpRequest, pk: Any) -> HttpResponse:
    """Ask for a pause: `at_once`, or when the current tasks are finished."""
    at_once = bool(request.POST.get("at_once"))
    return _do(request, pk, lambda run: actions.pause(execution=run, by=person(request), at_once=at_once))


@allow(Role.USER)
@require_POST
def run_resume(request: HttpRequest, pk: Any) -> HttpResponse:
    """Let a paused run go on."""
    return _do(request, pk, lambda run: actions.resume(execution=run, by=person(request)))


@allow(Role.USER)
@require_POST
def run_retry(request: HttpRequest, pk: Any) -> HttpResponse:
    """Start a failed or stopped run again from its last finished task."""
    return _do(request, pk, lambda run: actions.retry(execution=run, by=person(request)))


@allow(Role.USER)
@require_POST
def run_budget(request: HttpRequest, pk: Any) -> HttpResponse:
    """Set, change or lift the run's limits; a run that waits for a larger budget goes on."""
    run = run_of(request, pk, Action.CHANGE)
    form = BudgetOfRunForm(request.POST, run=run)
    if form.is_valid():
        try:
            actions.set_budget(execution=run, by=person(request), **form.cleaned_data)
        except Problem as problem:
            form.add_error(None, problem.sentence)
        else:
            messages.success(request, _("The limit was saved."))
            return redirect("executions:run-detail", run.pk)
    context = context_of(request, run) | {"budget_form": form}
    return render(request, "executions/run_detail.html", context, status=422)


@allow(Role.USER)
@require_POST
def run_models(request: HttpRequest, pk: Any) -> HttpResponse:
    """Give roles of the run other models; the next call uses them."""
    run = run_of(request, pk, Action.ANSWER)
    form = RoleModelsForm(request.POST, rows=run.role_models.select_related("llm_model").order_by("pk"))
    if form.is_valid():
        try:
            actions.set_role_models(execution=run, models=form.changed(), by=person(request))
        except Problem as problem:
            form.add_error(None, problem.sentence)
        else:
            messages.success(request, _("Saved. The next call uses it."))
            return redirect("executions:run-detail", run.pk)
    context = context_of(request, run) | {"models_form": form}
    return render(request, "executions/run_detail.html", context, status=422)


@allow(Role.USER)
@require_http_methods(["GET", "POST"])
def stop_all(request: HttpRequest) -> HttpResponse:
    """Ask, then stop every active run that the person may stop: for admins all of them."""
    user = person(request)
    if request.method == "POST":
        stopped = actions.stop_all(by=user)
        said = ngettext("%(n)s run was asked to stop.", "%(n)s runs were asked to stop.", len(stopped))
        messages.success(request, said % {"n": len(stopped)})
        return redirect("executions:run-list")
    runs = Execution.objects.editable_by(user).active().select_related("created_by")
    context = {"count": runs.count(), "runs": runs[:10], "is_everybody": user.has_role(Role.ADMIN)}
    return render(request, "executions/stop_all.html", context)
