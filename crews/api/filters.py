"""Field filters of lists."""

import uuid
from typing import Any

from django_filters import rest_framework as filters

from crews.models import Agent, Crew, LLMModel, LLMProvider, Task, Tool


class OwnedFilter(filters.FilterSet):
    owner_id = filters.UUIDFilter(field_name="access__owner_id", label="Owner")
    visibility = filters.CharFilter(field_name="access__visibility", label="private or shared")


class AgentFilter(OwnedFilter):
    llm_model = filters.CharFilter(field_name="llm_model_id", label="Catalog id")
    crew_id = filters.UUIDFilter(method="of_crew", label="Members of this crew")

    class Meta:
        model = Agent
        fields = ["role", "llm_model", "crew_id", "owner_id", "visibility"]

    def of_crew(self, agents: Any, name: str, crew: uuid.UUID) -> Any:
        """Who may not see a crew does not learn who works in it, either."""
        visible = Crew.objects.visible_to(self.request.user).filter(pk=crew)
        return agents.filter(memberships__crew__in=visible)


class CrewFilter(OwnedFilter):
    agent_id = filters.UUIDFilter(field_name="members__agent_id", label="Crews with this member")

    class Meta:
        model = Crew
        fields = ["name", "process", "crew_type", "engine", "status", "agent_id", "owner_id", "visibility"]


class TaskFilter(filters.FilterSet):
    crew_id = filters.UUIDFilter(field_name="crew_id", label="Tasks of this crew")
    agent_id = filters.UUIDFilter(field_name="agent_id", label="Tasks of this agent")

    class Meta:
        model = Task
        fields = ["crew_id", "agent_id", "name", "async_execution", "human_input"]


class ToolFilter(filters.FilterSet):
    class Meta:
        model = Tool
        fields = ["name", "kind", "enabled"]


class LLMProviderFilter(filters.FilterSet):
    class Meta:
        model = LLMProvider
        fields = ["name", "kind", "enabled"]


class LLMModelFilter(filters.FilterSet):
    provider_id = filters.UUIDFilter(field_name="provider_id", label="Models of this provider")

    class Meta:
        model = LLMModel
        fields = ["provider_id", "enabled", "is_local", "native_tools", "health"]
