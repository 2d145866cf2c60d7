"""Budgets of people, for admins."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from executions import budgets
from executions.forms import BudgetForm
from executions.models import Budget
from executions.views.shown import gauges_of
from portal.accounts.models import Role, User
from portal.accounts.permissions import allow, person
from portal.lib.pages import page_of


@allow(Role.ADMIN)
@require_GET
def budget_list(request: HttpRequest) -> HttpResponse:
    """Every budget, with whom it is for and how much of it is used in the current period."""
    page = page_of(Budget.objects.filter(subject_kind=Budget.Subject.USER), request, ordering="created_at")
    people = User.objects.in_bulk([budget.subject_id for budget in page.rows])
    current = {budget.pk: budget for budget in budgets.current(Budget.objects.filter(pk__in=[b.pk for b in page.rows]))}
    shown = [
        (current[row.pk], people.get(row.subject_id), gauges_of(current[row.pk]))
        for row in page.rows
        if row.pk in current
    ]
    return render(request, "executions/budget_list.html", {"page": page, "budgets": shown})


@allow(Role.ADMIN)
@require_http_methods(["GET", "POST"])
def budget_create(request: HttpRequest) -> HttpResponse:
    """Give somebody a budget; `?user=` names whom."""
    return _form(request, None)


@allow(Role.ADMIN)
@require_http_methods(["GET", "POST"])
def budget_edit(request: HttpRequest, pk: Any) -> HttpResponse:
    """Change a budget. What has been spent in its period stays counted."""
    return _form(request, get_object_or_404(Budget, pk=pk, subject_kind=Budget.Subject.USER))


def _form(request: HttpRequest, budget: Budget | None) -> HttpResponse:
    form = BudgetForm(request.POST or None, instance=budget, initial={"user": request.GET.get("user")})
    if request.method == "POST" and form.is_valid():
        saved = form.save_budget()
        budgets.go_on(user=saved.subject_id, by=person(request))
        messages.success(request, _("The budget was saved. Runs that waited for it go on."))
        return redirect("executions:budget-list")
    who = User.objects.filter(pk=budget.subject_id).first() if budget else None
    context = {"form": form, "budget": budget, "who": who}
    return render(request, "executions/budget_form.html", context, status=422 if request.method == "POST" else 200)


@allow(Role.ADMIN)
@require_POST
def budget_delete(request: HttpRequest, pk: Any) -> HttpResponse:
    """Take a budget away: there is no such limit any more."""
    budget = get_object_or_404(Budget, pk=pk, subject_kind=Budget.Subject.USER)
    budget.delete()
    budgets.go_on(user=budget.subject_id, by=person(request))
    messages.success(request, _("The budget was deleted."))
    return redirect("executions:budget-list")
