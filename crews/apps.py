from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class CrewsConfig(AppConfig):
    """What may run: agents, crews, tasks, inputs, tools and the LLM catalog."""

    name = "crews"

    def ready(self) -> None:
        from crews import provider_keys
        from crews.models import Agent, Crew, CrewInput, CrewMember, LLMFallback, LLMModel, LLMProvider, Task, Tool
        from portal.accounts import audit, sharing
        from portal.lib import redaction

        redaction.source(provider_keys.in_use)
        sharing.register(Crew, noun=_("Crew"))
        sharing.register(Agent, noun=_("Agent"))
        audit.follow(Crew, noun="crew")
        audit.follow(Agent, noun="agent")
        audit.follow(Task, noun="task")
        audit.follow(CrewMember, noun="crew_member")
        audit.follow(CrewInput, noun="crew_input")
        audit.follow(Tool, noun="tool")
        audit.follow(LLMProvider, noun="provider")
        audit.follow(LLMModel, noun="model", ignore=["health", "health_detail", "health_checked_at"])
        audit.follow(LLMFallback, noun="model_fallback")
