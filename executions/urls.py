"""Addresses of this app's pages."""

from django.urls import path

from executions.views import approvals, budgets, compare, control, fork, lists, page, start

app_name = "executions"
urlpatterns = [
    path("crews/<uuid:pk>/run", start.crew_run, name="crew-run"),
    path("runs", lists.run_list, name="run-list"),
    path("runs/stop-all", control.stop_all, name="stop-all"),
    path("runs/<uuid:pk>", page.run_detail, name="run-detail"),
    path("runs/<uuid:pk>/live", page.run_live, name="run-live"),
    path("runs/<uuid:pk>/state", page.run_state, name="run-state"),
    path("runs/<uuid:pk>/events", page.run_events, name="run-events"),
    path("runs/<uuid:pk>/stop", control.run_stop, name="run-stop"),
    path("runs/<uuid:pk>/pause", control.run_pause, name="run-pause"),
    path("runs/<uuid:pk>/resume", control.run_resume, name="run-resume"),
    path("runs/<uuid:pk>/retry", control.run_retry, name="run-retry"),
    path("runs/<uuid:pk>/budget", control.run_budget, name="run-budget"),
    path("runs/<uuid:pk>/models", control.run_models, name="run-models"),
    path("runs/<uuid:pk>/delete", page.run_delete, name="run-delete"),
    path("runs/<uuid:pk>/result.md", page.run_result, name="run-result"),
    path("runs/<uuid:pk>/fork", fork.run_fork, name="run-fork"),
    path("runs/compare", compare.run_compare, name="run-compare"),
    path("approvals", approvals.approval_list, name="approval-list"),
    path("approvals/<uuid:pk>", approvals.approval_detail, name="approval-detail"),
    path("approvals/link/<str:token>", approvals.approval_link, name="approval-link"),
    path("settings/budgets", budgets.budget_list, name="budget-list"),
    path("settings/budgets/new", budgets.budget_create, name="budget-create"),
    path("settings/budgets/<uuid:pk>", budgets.budget_edit, name="budget-edit"),
    path("settings/budgets/<uuid:pk>/delete", budgets.budget_delete, name="budget-delete"),
]
