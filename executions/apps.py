from django.apps import AppConfig


class ExecutionsConfig(AppConfig):
    """Everything that happens when a crew runs."""

    name = "executions"

    def ready(self) -> None:
        from crews import extensions as crews
        from executions import extensions
        from executions.models import Budget
        from portal.accounts import audit
        from portal.accounts.signals import user_deactivated

        crews.guard_crew_deletion(extensions.refuse_while_running)
        crews.provide_task_statuses(extensions.latest_statuses)
        user_deactivated.connect(extensions.stop_runs_of_the_deactivated)
        kept_up_to_date = ["spent_usd", "spent_tokens", "reserved_usd", "reserved_tokens"]
        audit.follow(Budget, noun="budget", ignore=kept_up_to_date)
