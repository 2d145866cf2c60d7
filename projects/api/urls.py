"""Routes of projects under /api."""

from typing import Any

from django.urls import include, path
from rest_framework.routers import SimpleRouter

from portal.accounts.rest import access
from projects.api import deliverables, engines, projects, stages, templates
from projects.models import Project

router = SimpleRouter(trailing_slash=False, use_regex_path=False)
router.register("projects", projects.ProjectViewSet, basename="project")
router.register("deliverables", deliverables.DeliverableViewSet, basename="deliverable")
router.register("templates", templates.TemplateViewSet, basename="template")

_stage = "stages/<str:stage>"
_stages = stages.StageViewSet.as_view
_project = [
    path("executions", projects.ProjectExecutionsViewSet.as_view({"get": "list"}), name="project-executions"),
    path("stages", _stages({"get": "list"}), name="project-stages"),
    path(_stage, _stages({"get": "retrieve", "patch": "partial_update"}), name="project-stage"),
    path(f"{_stage}/start", _stages({"put": "start"}), name="project-stage-start"),
    path(f"{_stage}/complete", _stages({"put": "complete"}), name="project-stage-complete"),
    path(f"{_stage}/review", _stages({"put": "review"}), name="project-stage-review"),
    path(f"{_stage}/delegate", _stages({"post": "delegate"}), name="project-stage-delegate"),
    path(f"{_stage}/roll-back", _stages({"post": "roll_back"}), name="project-stage-roll-back"),
    path(
        f"{_stage}/deliverables",
        deliverables.StageDeliverablesViewSet.as_view({"get": "list"}),
        name="project-stage-deliverables",
    ),
    path(
        "attachments",
        stages.AttachmentViewSet.as_view({"get": "list", "post": "create"}),
        name="project-attachments",
    ),
    path(
        "attachments/<uuid:attachment_id>",
        stages.AttachmentViewSet.as_view({"get": "retrieve", "delete": "destroy"}),
        name="project-attachment",
    ),
    path(
        "deliverables",
        deliverables.ProjectDeliverablesViewSet.as_view({"get": "list", "post": "create"}),
        name="project-deliverables",
    ),
    path(
        "deliverables/search",
        deliverables.FoundDeliverablesViewSet.as_view({"get": "list"}),
        name="project-deliverables-search",
    ),
]


_ONE = {"get": "retrieve", "put": "update", "patch": "partial_update", "delete": "destroy"}


def _engine(key: str, selected_ai: str) -> list[Any]:
    def projects_of(**methods: Any) -> Any:
        return projects.EngineProjectViewSet.as_view(methods, selected_ai=selected_ai)

    return [
        path(f"{key}/status", engines.EngineStatusView.as_view(key=key), name=f"{key}-status"),
        path(f"{key}/projects", projects_of(get="list", post="create"), name=f"{key}-projects"),
        path(f"{key}/projects/<uuid:pk>", projects_of(**_ONE), name=f"{key}-project"),
    ]


urlpatterns = [
    path("projects/<uuid:project_id>/", include(_project)),
    path(
        "deliverables/<uuid:pk>/access-log",
        deliverables.AccessLogViewSet.as_view({"get": "list"}),
        name="deliverable-access-log",
    ),
    *access.routes("projects", Project, "project"),
    *_engine("crewai", Project.Engine.CREW_AI),
    *_engine("metagpt", Project.Engine.META_GPT),
    path("admin/dashboard", engines.DashboardView.as_view(), name="admin-dashboard"),
    path("admin/projects", projects.AdminProjectViewSet.as_view({"get": "list"}), name="admin-projects"),
    path(
        "admin/projects/<uuid:pk>/force-complete",
        projects.AdminProjectViewSet.as_view({"post": "force_complete"}),
        name="admin-project-force-complete",
    ),
    *router.urls,
]
