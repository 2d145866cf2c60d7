"""The API of projects: thin views over `projects.actions`."""

from collections.abc import Mapping
from typing import Any, cast

from django.http import Http404, HttpResponse
from django.utils.http import content_disposition_header
from django.utils.translation import gettext as _
from django_filters.rest_framework import FilterSet
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import mixins, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet, ModelViewSet

from executions.api.serializers import ExecutionSummarySerializer
from executions.api.views import ExecutionFilter
from executions.models import Execution
from portal.accounts.api import key_id
from portal.accounts.models import Role, Scope, User
from portal.accounts.permissions import Action, find, person
from portal.lib.pagination import CursorPages
from portal.lib.problems import FieldError, InvalidValues
from projects import actions, analytics, export, mapping, plans
from projects.api import filters, serializers
from projects.api.analytics_serializers import AnalyticsSerializer
from projects.api.base import AsItIs, OfProject, checked, listed, referred, require_scope, shown_stages
from projects.api.deliverable_serializers import DeliverableSummarySerializer
from projects.api.template_serializers import TemplateSerializer
from projects.deliverables import access
from projects.models import Project, Stage

ROLE = OpenApiParameter("role", OpenApiTypes.STR, description="A role of the project.", required=True)
SELECTED_AI = OpenApiParameter(
    "selected_ai", OpenApiTypes.STR, enum=Project.Engine.values, description="Without it: the template's, or crew-ai."
)
TEMPLATE = OpenApiParameter("template_id", OpenApiTypes.STR, description="As this template recommends.")
# The texts and the frozen copy of a run, which no list shows.
HEAVY = ("snapshot", "inputs", "final_output")


class NewestFirst(CursorPages):
    ordering = "-created_at"


def status_of(project: Project) -> dict[str, Any]:
    """Where `project` stands, as the API says it. Five queries."""
    stages = list(shown_stages(Stage.objects.filter(project=project)))
    return dict(serializers.ProjectStateSerializer(project, context={"stages": stages}).data)


class ProjectViewSet(OfProject, ModelViewSet[Project]):
    """Projects of your own, those that you are a member of, and those that others share; all for admins."""

    noun = "a project"
    nouns = "projects"
    action_scopes = dict.fromkeys(("start", "pause", "cancel", "restart"), Scope.RUN)
    lookup_value_converter = "uuid"
    queryset = Project.objects.all()
    serializer_class = serializers.ProjectSerializer
    filterset_class: type[FilterSet] | None = filters.ProjectFilter
    search_fields = ("name", "description", "requirement")
    ordering_fields = ("name", "created_at", "updated_at", "status", "progress_percentage", "deadline", "actual_hours")
    ordering = "-created_at"
    methods = {"PUT": Action.CHANGE, "PATCH": Action.CHANGE, "DELETE": Action.DELETE}

    def get_queryset(self) -> Any:
        found = Project.objects.visible_to(person(self.request)).select_related("access")
        return found.defer("requirement", "technical_requirements")

    def get_serializer_class(self) -> Any:
        if self.action == "list":
            return serializers.ProjectSummarySerializer
        return serializers.NewProjectSerializer if self.action == "create" else serializers.ProjectSerializer

    def get_serializer_context(self) -> dict[str, Any]:
        return {**super().get_serializer_context(), "api_key_id": key_id(self.request)}

    def get_object(self) -> Project:
        return self.project(self.methods.get(self.request.method or "GET", Action.SEE))

    @extend_schema(request=serializers.NewProjectSerializer, responses={201: serializers.ProjectSerializer})
    def create(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Make a project, with a stage for each step of its engine and a model for each role."""
        asked = self.get_serializer(data=request.data)
        asked.is_valid(raise_exception=True)
        if asked.validated_data.get("start"):
            require_scope(request, Scope.RUN)
        return self._made(asked.save(**self.of_engine(asked.validated_data)))

    def of_engine(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What the address says about a new project, beside what was `given`. Raises `InvalidValues`."""
        return {}

    def perform_destroy(self, instance: Project) -> None:
        actions.delete(instance, person(self.request))

    def _made(self, project: Project) -> Response:
        body = serializers.ProjectSerializer(project, context=self.get_serializer_context()).data
        return Response(body, status=status.HTTP_201_CREATED, headers={"Location": f"/api/projects/{project.pk}"})

    # --- Its life ---------------------------------------------------------------------------------------

    @extend_schema(responses=serializers.ProjectStateSerializer, filters=False)
    @action(detail=True, filter_backends=[], pagination_class=None)
    def status(self, request: Request, pk: str) -> Response:
        """Where the project stands, with each of its stages and its latest run."""
        return Response(status_of(self.project(Action.SEE)))

    def _accepted(self, project: Project) -> Response:
        return Response(status_of(project), status=status.HTTP_202_ACCEPTED)

    @extend_schema(request=None, responses={202: serializers.ProjectStateSerializer})
    @action(detail=True, methods=["post"], filter_backends=[])
    def start(self, request: Request, pk: str) -> Response:
        """Start every stage that can start, and resume a paused project. 409 when there is nothing to start."""
        project = self.project(Action.CHANGE)
        return self._accepted(actions.start(project, person(request), api_key_id=key_id(request)))

    @extend_schema(request=None, responses={202: serializers.ProjectStateSerializer})
    @action(detail=True, methods=["post"], filter_backends=[])
    def pause(self, request: Request, pk: str) -> Response:
        """Start nothing more, and pause the runs that go on. 409 unless it is in progress or in review."""
        return self._accepted(actions.pause(self.project(Action.STOP), person(request)))

    @extend_schema(request=None, responses={202: serializers.ProjectStateSerializer})
    @action(detail=True, methods=["post"], filter_backends=[])
    def cancel(self, request: Request, pk: str) -> Response:
        """End it: runs are stopped, approved work stays. 409 when it is cancelled already."""
        return self._accepted(actions.cancel(self.project(Action.STOP), person(request)))

    @extend_schema(request=None, responses={202: serializers.ProjectStateSerializer})
    @action(detail=True, methods=["post"], filter_backends=[])
    def restart(self, request: Request, pk: str) -> Response:
        """Begin a new round: every stage is done again, and its deliverables get new versions."""
        project = self.project(Action.CHANGE)
        return self._accepted(actions.restart(project, person(request), api_key_id=key_id(request)))

    @extend_schema(request=serializers.ArchiveSerializer, responses=serializers.ProjectSerializer)
    @action(detail=True, methods=["post"], filter_backends=[])
    def archive(self, request: Request, pk: str) -> Response:
        """Put the project away, where it is read-only, or take it back. 409 while it is at work."""
        project = self.project(Action.CHANGE)
        asked = checked(serializers.ArchiveSerializer(data=request.data))
        project = actions.archive(project, person(request), **asked)
        return Response(self.get_serializer(project).data)

    @extend_schema(request=serializers.DuplicateSerializer, responses={201: serializers.ProjectSerializer})
    @action(detail=True, methods=["post"], filter_backends=[])
    def duplicate(self, request: Request, pk: str) -> Response:
        """A project of your own like this one, not started; with `until`, one that goes on from its approved work."""
        project = self.project(Action.RUN)
        asked = checked(serializers.DuplicateSerializer(data=request.data))
        until = referred(project, asked.pop("until"), "until") if "until" in asked else None
        return self._made(actions.duplicate(project, person(request), until=until, **asked))

    @extend_schema(request=serializers.SaveAsTemplateSerializer, responses={201: TemplateSerializer})
    @action(detail=True, methods=["post"], url_path="save-as-template", filter_backends=[])
    def save_as_template(self, request: Request, pk: str) -> Response:
        """A template of your own with the stages, gates, models and folders of the project."""
        project = self.project(Action.RUN)
        asked = checked(serializers.SaveAsTemplateSerializer(data=request.data))
        made = actions.save_as_template(project, person(request), **asked)
        return Response(TemplateSerializer(made).data, status=status.HTTP_201_CREATED)

    @extend_schema(
        operation_id="projects_recommended_models",
        summary="Recommended models",
        parameters=[SELECTED_AI, TEMPLATE],
        responses=serializers.RecommendedSerializer(many=True),
        filters=False,
    )
    @action(detail=False, url_path="recommended-models", filter_backends=[], pagination_class=None)
    def recommended_models(self, request: Request) -> Response:
        """What a new project's roles would work with: models that can be reached, else `embedded`."""
        asked = serializers.RecommendSerializer(data=request.query_params, context=self.get_serializer_context())
        found = mapping.preview(**checked(asked))
        return Response(serializers.RecommendedSerializer(found, many=True).data)

    # --- Roles and their models --------------------------------------------------------------------------

    @extend_schema(responses=serializers.ProjectMappingsSerializer, filters=False)
    @action(detail=True, url_path="role-llm-mapping", filter_backends=[], pagination_class=None)
    def role_llm_mapping(self, request: Request, pk: str) -> Response:
        """The model of each role, and what is recommended for it now."""
        return Response(self._mappings(self.project(Action.SEE)))

    @extend_schema(request=serializers.NewMappingsSerializer, responses=serializers.ProjectMappingsSerializer)
    @role_llm_mapping.mapping.post
    def set_role_llm_mapping(self, request: Request, pk: str) -> Response:
        """Give the named roles other models, from the very next call; the others keep theirs."""
        project = self.project(Action.CHANGE)
        asked = checked(serializers.NewMappingsSerializer(data=request.data))
        actions.set_mappings(project, person(request), asked["mappings"])
        return Response(self._mappings(project))

    def _mappings(self, project: Project) -> dict[str, Any]:
        recommended = mapping.preview(project.selected_ai, project.template, plans.roles_of(project))
        body = {"mappings": project.mappings.all(), "recommended": recommended}
        return dict(serializers.ProjectMappingsSerializer(body).data)

    # --- What came of it -----------------------------------------------------------------------------------

    @extend_schema(
        parameters=[ROLE], responses=DeliverableSummarySerializer(many=True), filters=False,
        operation_id="projects_accessible_deliverables",
    )  # fmt: skip
    @action(detail=True, url_path="accessible-deliverables", filter_backends=[])
    def accessible_deliverables(self, request: Request, pk: str) -> Response:
        """The latest versions of what a role may build on: of the stages before its own, and its own."""
        project = self.project(Action.SEE)
        found = listed(access.accessible(project, request.query_params.get("role", "")))
        pages = NewestFirst()
        page = pages.paginate_queryset(found, request)
        return pages.get_paginated_response(DeliverableSummarySerializer(page, many=True).data)

    @extend_schema(responses=AnalyticsSerializer, filters=False)
    @action(detail=True, filter_backends=[], pagination_class=None)
    def analytics(self, request: Request, pk: str) -> Response:
        """How far it is, how long its stages take, and what each role and each model did."""
        return Response(AnalyticsSerializer(analytics.of_project(self.project(Action.SEE))).data)

    @extend_schema(responses={(200, "application/zip"): OpenApiTypes.BINARY}, filters=False)
    @action(detail=True, filter_backends=[], pagination_class=None, content_negotiation_class=AsItIs)
    def export(self, request: Request, pk: str) -> HttpResponse:
        """A zip that runs without the portal: script, requirements, models, deliverables and how to run it."""
        project = self.project(Action.SEE)
        name = content_disposition_header(as_attachment=True, filename=export.file_name(project))
        archive = export.archive(project, by=person(request))
        return HttpResponse(archive, content_type="application/zip", headers={"Content-Disposition": name})


class EngineProjectViewSet(ProjectViewSet):
    """The projects of one engine that you see."""

    selected_ai = ""

    def get_queryset(self) -> Any:
        return super().get_queryset().filter(selected_ai=self.selected_ai)

    def get_object(self) -> Project:
        project = super().get_object()
        if project.selected_ai != self.selected_ai:
            raise Http404
        return project

    def of_engine(self, given: Mapping[str, Any]) -> dict[str, Any]:
        if given.get("selected_ai", self.selected_ai) != self.selected_ai:
            detail = _("Here are the projects of “%(engine)s” alone.") % {"engine": self.selected_ai}
            raise InvalidValues([FieldError("selected_ai", "other_engine", detail)])
        return {"selected_ai": self.selected_ai}


class ProjectExecutionsViewSet(OfProject, mixins.ListModelMixin, GenericViewSet[Execution]):
    """The runs of a project's stages."""

    noun = "a run of a project"
    nouns = "the runs of a project"
    queryset = Execution.objects.none()
    serializer_class = ExecutionSummarySerializer
    filterset_class = ExecutionFilter
    search_fields = ("name",)
    ordering_fields = ("created_at", "started_at", "ended_at", "name", "cost_usd")
    ordering = "-created_at"

    def get_queryset(self) -> Any:
        project = self.project(Action.SEE)
        runs = Execution.objects.visible_to(person(self.request)).filter(stage_run__stage__project=project)
        return runs.defer(*HEAVY)


class AdminProjectViewSet(ProjectViewSet):
    """All projects, for admins."""

    read_role = write_role = Role.ADMIN
    action_scopes: dict[str, Scope] = {}

    @extend_schema(
        operation_id="admin_projects_force_complete", request=None, responses=serializers.ProjectStateSerializer
    )
    def force_complete(self, request: Request, pk: str) -> Response:
        """Close the project as it is, whatever is open. 409 when it is completed already."""
        project = find(Project.objects.all(), cast(User, request.user), Action.CHANGE, pk=pk)
        return Response(status_of(actions.force_complete(project, person(request))))
