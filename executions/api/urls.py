"""Routes of runs under /api."""

from django.urls import include, path
from rest_framework.routers import SimpleRouter

from executions.api import approvals, budgets, views

router = SimpleRouter(trailing_slash=False)
router.register("executions", views.ExecutionViewSet, basename="execution")
router.register("approvals", approvals.ApprovalViewSet, basename="approval")
router.register("budgets", budgets.BudgetViewSet, basename="budget")

_crew = [
    path("kickoff", views.KickoffView.as_view(), name="crew-kickoff"),
    path("stop", views.CrewStopView.as_view(), name="crew-stop"),
    path("estimate", budgets.EstimateView.as_view(), name="crew-estimate"),
    path("status", views.CrewStatusView.as_view(), name="crew-status"),
    path("result", views.CrewResultView.as_view(), name="crew-result"),
    path("executions", views.CrewExecutionViewSet.as_view({"get": "list"}), name="crew-executions"),
    path(
        "executions/<uuid:exec_id>",
        views.CrewExecutionViewSet.as_view({"get": "retrieve", "delete": "destroy"}),
        name="crew-execution",
    ),
]
urlpatterns = [
    path("crews/<uuid:crew_id>/", include(_crew)),
    path("budgets/mine", budgets.MyBudgetsView.as_view(), name="budgets-mine"),
    *router.urls,
]
