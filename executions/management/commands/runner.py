from typing import Any

from django.core.management.base import BaseCommand

from executions.runner.supervisor import run_forever


class Command(BaseCommand):
    """The runner of this machine; `worker` starts it beside the queue and the engine hosts."""

    help = "Carry out executions on this machine, up to PORTAL_MAX_RUNS at once."

    def handle(self, *args: Any, **options: Any) -> None:
        run_forever()
