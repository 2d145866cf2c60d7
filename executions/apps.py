from django.apps import AppConfig


class ExecutionsConfig(AppConfig):
    """Everything that happens when a crew runs."""

    name = "executions"

    def ready(self) -> None:
        from crews import extensions as crews
        from executions import extensions

        crews.guard_crew_deletion(extensions.refuse_while_running)
        crews.provide_task_statuses(extensions.latest_statuses)
