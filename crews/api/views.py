"""The API of definitions: thin views over `crews.actions`."""

from typing import Any, cast

from django.shortcuts import get_object_or_404
from django_filters.rest_framework import FilterSet
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer
from rest_framework.viewsets import GenericViewSet, ModelViewSet

from crews import actions, catalog_actions, extensions
from crews.api import filters, serializers
from crews.models import Agent, Crew, CrewInput, LLMModel, LLMProvider, Task, Tool
from portal.accounts.api import SAFE
from portal.accounts.models import Role, User
from portal.accounts.permissions import Action, find, require


class DefinitionViewSet(ModelViewSet[Any]):
    """Base: whose routes take an id, and which roles may read and write."""

    read_role = Role.VIEWER
    write_role = Role.USER
    lookup_value_converter = "uuid"
    ordering_fields: tuple[str, ...] = ()
    search_fields: tuple[str, ...] = ()
    filterset_class: type[FilterSet] | None = None

    @property
    def person(self) -> User:
        return cast(User, self.request.user)


class OwnedViewSet(DefinitionViewSet):
    """Base of what has an owner: 404 for what a person may not see, 403 for what they may see but not do."""

    actions_by_method = {"PUT": Action.CHANGE, "PATCH": Action.CHANGE, "DELETE": Action.DELETE}

    def get_queryset(self) -> Any:
        return cast(Any, super().get_queryset()).visible_to(self.person)

    def get_object(self) -> Any:
        method = self.request.method or "GET"
        wanted = self.actions_by_method.get(method, Action.SEE)
        return find(super().get_queryset(), self.person, wanted, pk=self.kwargs["pk"])


class AgentViewSet(OwnedViewSet):
    """Agents of your own, and those that others share."""

    noun = "an agent"
    nouns = "agents"
    queryset = Agent.objects.select_related("access").prefetch_related("tools")
    serializer_class = serializers.AgentSerializer
    filterset_class = filters.AgentFilter
    search_fields = ("role", "goal", "backstory")
    ordering_fields = ("role", "created_at", "updated_at", "llm_model")
    ordering = "-created_at"

    def perform_destroy(self, instance: Agent) -> None:
        actions.delete_agent(agent=instance)

    @extend_schema(request=None, summary="Copy an agent", responses={201: serializers.AgentSerializer})
    @action(detail=True, methods=["post"], filter_backends=[])
    def copy(self, request: Request, pk: str) -> Response:
        """A private agent of your own, like this one."""
        made = actions.copy_agent(agent=self.get_object(), by=self.person)
        return Response(self.get_serializer(made).data, status=status.HTTP_201_CREATED)


class CrewViewSet(OwnedViewSet):
    """Crews of your own, and those that others share."""

    noun = "a crew"
    nouns = "crews"
    queryset = Crew.objects.select_related("access").prefetch_related("members")
    serializer_class = serializers.CrewSerializer
    filterset_class = filters.CrewFilter
    search_fields = ("name", "description")
    ordering_fields = ("name", "created_at", "updated_at", "process", "status")
    ordering = "-created_at"

    def perform_destroy(self, instance: Crew) -> None:
        actions.delete_crew(crew=instance)

    @extend_schema(request=None, summary="Copy a crew", responses={201: serializers.CrewSerializer})
    @action(detail=True, methods=["post"], filter_backends=[])
    def copy(self, request: Request, pk: str) -> Response:
        """A private crew of your own, like this one, with copies of the agents that are not yours."""
        made = actions.copy_crew(crew=self.get_object(), by=self.person)
        return Response(self.get_serializer(made).data, status=status.HTTP_201_CREATED)


class TaskViewSet(DefinitionViewSet):
    """Tasks of the crews that you see; who may change the crew may change its tasks."""

    noun = "a task"
    nouns = "tasks"
    queryset = Task.objects.select_related("crew__access").prefetch_related("context", "tools")
    serializer_class = serializers.TaskSerializer
    filterset_class = filters.TaskFilter
    search_fields = ("name", "description", "expected_output")
    ordering_fields = ("execution_order", "name")
    ordering = ("execution_order", "name")

    def get_queryset(self) -> Any:
        return super().get_queryset().filter(crew__in=Crew.objects.visible_to(self.person))

    def get_object(self) -> Task:
        task = get_object_or_404(self.get_queryset(), pk=self.kwargs["pk"])
        if self.request.method not in SAFE:
            require(self.person, Action.CHANGE, task.crew)
        extensions.with_statuses([task], self.person)
        return task

    def paginate_queryset(self, queryset: Any) -> Any:
        page = super().paginate_queryset(queryset)
        return extensions.with_statuses(page or [], self.person)

    def perform_create(self, serializer: BaseSerializer[Any]) -> None:
        extensions.with_statuses([serializer.save()], self.person)


class CrewInputViewSet(DefinitionViewSet):
    """The fields of a crew's run form."""

    noun = "an input of a crew"
    nouns = "the inputs of a crew"
    queryset = CrewInput.objects.all()
    serializer_class = serializers.CrewInputSerializer
    search_fields = ("field_name", "field_label")
    ordering_fields = ("display_order", "field_name")
    ordering = ("display_order", "field_name")
    lookup_url_kwarg = "input_id"

    @property
    def crew(self) -> Crew:
        wanted = Action.SEE if self.request.method in SAFE else Action.CHANGE
        return find(Crew.objects.all(), self.person, wanted, pk=self.kwargs["crew_id"])

    def get_queryset(self) -> Any:
        return super().get_queryset().filter(crew=self.crew)

    def get_object(self) -> CrewInput:
        return get_object_or_404(self.get_queryset(), pk=self.kwargs["input_id"])

    def get_serializer_context(self) -> dict[str, Any]:
        context = dict(super().get_serializer_context())
        if self.action == "create" and "crew_id" in self.kwargs:
            context["crew"] = self.crew
        return context

    def perform_destroy(self, instance: CrewInput) -> None:
        actions.delete_input(definition=instance)

    @extend_schema(
        operation_id="crews_inputs_replace_all",
        summary="Replace the inputs of a crew",
        request=serializers.CrewInputSerializer(many=True),
        responses=serializers.CrewInputSerializer(many=True),
    )
    def replace_all(self, request: Request, crew_id: str) -> Response:
        """Make the list the inputs of the crew. One whose `field_name` is known keeps its id; the others go."""
        crew = self.crew
        asked = self.get_serializer(data=request.data, many=True)
        asked.is_valid(raise_exception=True)
        serializers.refuse_repeated(asked.validated_data)
        made = actions.set_inputs(crew=crew, definitions=asked.validated_data)
        results = self.get_serializer(made, many=True).data
        return Response({"results": results, "next": None, "previous": None})


class ToolViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, mixins.UpdateModelMixin, GenericViewSet[Tool]):
    """What agents may call. These come along; admins switch them on and off."""

    noun = "a tool"
    nouns = "tools"
    read_role = Role.VIEWER
    write_role = Role.ADMIN
    lookup_value_converter = "uuid"
    queryset = Tool.objects.all()
    serializer_class = serializers.ToolSerializer
    filterset_class = filters.ToolFilter
    search_fields = ("name", "description")
    ordering_fields = ("name", "kind")
    ordering = "name"


class LLMProviderViewSet(DefinitionViewSet):
    """Where models are reached, for admins; a key is only ever written."""

    noun = "a provider"
    nouns = "providers"
    read_role = Role.ADMIN
    write_role = Role.ADMIN
    queryset = LLMProvider.objects.all()
    serializer_class = serializers.LLMProviderSerializer
    filterset_class = filters.LLMProviderFilter
    search_fields = ("name", "api_base")
    ordering_fields = ("name", "kind", "created_at")
    ordering = "name"

    def perform_destroy(self, instance: LLMProvider) -> None:
        catalog_actions.delete_provider(provider=instance)

    @extend_schema(
        operation_id="llm_providers_test",
        summary="Test a provider",
        request=None,
        responses={200: serializers.ReportSerializer},
    )
    @action(detail=True, methods=["post"], filter_backends=[])
    def test(self, request: Request, pk: str) -> Response:
        """Reach the provider with its key and ask what it serves; the health of its models follows."""
        report = catalog_actions.test_provider(self.get_object(), by=self.person)
        return Response(serializers.ReportSerializer(report).data)


class LLMModelViewSet(DefinitionViewSet):
    """The catalog: what roles can be mapped to. Admins change it."""

    noun = "a model"
    nouns = "models"
    write_role = Role.ADMIN
    lookup_value_converter = "str"
    queryset = LLMModel.objects.select_related("provider").prefetch_related("fallback_rows")
    serializer_class = serializers.LLMModelSerializer
    filterset_class = filters.LLMModelFilter
    search_fields = ("id", "name", "description", "route")
    ordering_fields = ("id", "name", "context_window", "price_in", "price_out", "created_at")
    ordering = "id"

    def perform_destroy(self, instance: LLMModel) -> None:
        catalog_actions.delete_model(model=instance)
