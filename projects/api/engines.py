"""The API of an engine (whether it is there, its projects), and of what admins see of all projects."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from executions.engines.registry import ENGINES
from executions.models import Execution
from executions.status import Status
from portal.accounts.models import Role
from portal.accounts.permissions import person
from projects import analytics
from projects.api.analytics_serializers import DashboardSerializer


class EngineStatusSerializer(serializers.Serializer[Any]):
    """Whether an engine can carry runs on this machine."""

    engine = serializers.CharField()
    name = serializers.CharField()
    installed = serializers.BooleanField()
    version = serializers.CharField(allow_null=True)
    running_executions = serializers.IntegerField(help_text="Those that you may see.")
    command = serializers.CharField(allow_blank=True, help_text="What installs it; empty when it is there.")


class EngineStatusView(APIView):
    """An engine's state."""

    read_role = Role.VIEWER
    write_role = Role.USER
    key = ""

    @extend_schema(responses=EngineStatusSerializer)
    def get(self, request: Request) -> Response:
        """Whether the engine is installed, in which version, and how many runs it carries now."""
        engine = ENGINES[self.key]
        running = Execution.objects.visible_to(person(request)).filter(engine=self.key, status=Status.RUNNING)
        body = {
            "engine": engine.key,
            "name": engine.label,
            "installed": engine.is_installed(),
            "version": engine.version(),
            "running_executions": running.count(),
            "command": "" if engine.is_installed() else f"manage.py engine install {engine.key}",
        }
        return Response(EngineStatusSerializer(body).data)


class DashboardView(APIView):
    """All projects in numbers, for admins."""

    read_role = write_role = Role.ADMIN

    @extend_schema(operation_id="admin_dashboard", responses=DashboardSerializer)
    def get(self, request: Request) -> Response:
        """How many projects and deliverables there are, and at which stages the projects are."""
        return Response(DashboardSerializer(analytics.dashboard(person(request))).data)
