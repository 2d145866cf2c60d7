from django.apps import AppConfig


class CrewsConfig(AppConfig):
    """What may run: agents, crews, tasks, inputs, tools and the LLM catalog."""

    name = "crews"
