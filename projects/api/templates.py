"""The API of templates."""

from typing import Any

from django.core.exceptions import PermissionDenied
from django.shortcuts import get_object_or_404
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework import status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ModelViewSet

from portal.accounts.api import SAFE, key_id
from portal.accounts.models import Role, Scope
from portal.accounts.permissions import Action, person, require
from projects import actions, template_usage
from projects.api import filters, serializers, template_serializers
from projects.api.base import checked, require_scope
from projects.models import Template

_ACTIONS = {"PUT": Action.CHANGE, "PATCH": Action.CHANGE, "DELETE": Action.DELETE}


class TemplateViewSet(ModelViewSet[Template]):
    """What projects of a kind start with: those that come along, your own, and those that others share."""

    noun = "a template"
    nouns = "templates"
    read_role = Role.VIEWER
    write_role = Role.USER
    lookup_value_converter = "str"
    queryset = Template.objects.none()
    serializer_class = template_serializers.TemplateSerializer
    filterset_class = filters.TemplateFilter
    search_fields = ("id", "name", "description", "requirement_outline")
    ordering_fields = ("id", "name", "created_at", "updated_at", "project_type", "selected_ai")
    ordering = ("-is_builtin", "name")

    def get_queryset(self) -> Any:
        return Template.objects.visible_to(person(self.request)).select_related("access")

    def get_object(self) -> Template:
        template: Template = get_object_or_404(self.get_queryset(), pk=self.kwargs["pk"])
        wanted = _ACTIONS.get(self.request.method or "GET")
        if self.request.method in SAFE or wanted is None:
            return template
        if template.is_builtin:
            raise PermissionDenied(_("This template came along and stays as it is. Copy it."))
        require(person(self.request), wanted, template)
        return template

    def perform_destroy(self, instance: Template) -> None:
        actions.delete_template(instance, person(self.request))

    @extend_schema(
        operation_id="templates_search",
        summary="Search templates",
        responses=template_serializers.TemplateSerializer(many=True),
    )
    @action(detail=False)
    def search(self, request: Request) -> Response:
        """As the list: those that hold all words of `q`."""
        return self.list(request)

    @extend_schema(
        operation_id="templates_stats", responses=template_serializers.TemplateStatsSerializer, filters=False
    )
    @action(detail=False, filter_backends=[], pagination_class=None)
    def stats(self, request: Request) -> Response:
        """How many templates you see, and how many projects that you see were made from each."""
        return Response(template_serializers.TemplateStatsSerializer(template_usage.usage(person(request))).data)

    @extend_schema(
        request=template_serializers.CopyTemplateSerializer,
        responses={201: template_serializers.TemplateSerializer},
        summary="Copy a template",
    )
    @action(detail=True, methods=["post"], filter_backends=[])
    def copy(self, request: Request, pk: str) -> Response:
        """A private template of your own, like this one."""
        asked = checked(template_serializers.CopyTemplateSerializer(data=request.data))
        made = actions.copy_template(self.get_object(), person(request), **asked)
        return Response(self.get_serializer(made).data, status=status.HTTP_201_CREATED)

    @extend_schema(
        operation_id="templates_create_project",
        summary="Make a project from a template",
        request=serializers.FromTemplateSerializer,
        responses={201: serializers.ProjectSerializer},
    )
    @action(detail=True, methods=["post"], url_path="create-project", filter_backends=[])
    def create_project(self, request: Request, pk: str) -> Response:
        """Make a project with the template's stages, outline and recommended models; with `start`, at once at work."""
        template = self.get_object()
        context = {**self.get_serializer_context(), "api_key_id": key_id(request)}
        asked = serializers.FromTemplateSerializer(data=request.data, context=context)
        given = checked(asked)
        if given.get("start"):
            require_scope(request, Scope.RUN)
        project = actions.create(by=person(request), template=template, **asked.starting(given), **given)
        body = serializers.ProjectSerializer(project, context=context).data
        return Response(body, status=status.HTTP_201_CREATED, headers={"Location": f"/api/projects/{project.pk}"})
