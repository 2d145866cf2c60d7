"""Routes of definitions under /api."""

from django.urls import path
from rest_framework.routers import SimpleRouter

from crews.api import views
from crews.models import Agent, Crew
from portal.accounts.rest import access

router = SimpleRouter(trailing_slash=False, use_regex_path=False)
router.register("agents", views.AgentViewSet, basename="agent")
router.register("crews", views.CrewViewSet, basename="crew")
router.register("tasks", views.TaskViewSet, basename="task")
router.register("tools", views.ToolViewSet, basename="tool")
router.register("llm/providers", views.LLMProviderViewSet, basename="llm-provider")
router.register("llm/models", views.LLMModelViewSet, basename="llm-model")

_inputs = views.CrewInputViewSet.as_view({"get": "list", "post": "create", "put": "replace_all"})
_input = views.CrewInputViewSet.as_view(
    {"get": "retrieve", "put": "update", "patch": "partial_update", "delete": "destroy"}
)

urlpatterns = [
    path("crews/<uuid:crew_id>/inputs", _inputs, name="crew-inputs"),
    path("crews/<uuid:crew_id>/inputs/<uuid:input_id>", _input, name="crew-input"),
    *access.routes("crews", Crew, "crew"),
    *access.routes("agents", Agent, "agent"),
    *router.urls,
]
