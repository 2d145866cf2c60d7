from django.apps import AppConfig


class ExecutionsConfig(AppConfig):
    """Everything that happens when a crew runs."""

    name = "executions"
