from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from executions.models import Execution, Worker
from executions.status import Status
from executions.tasks import ring_soon


class Command(BaseCommand):
    """A worker before its machine goes down: what it carries ends in peace, the rest waits or goes elsewhere."""

    help = (
        "Let a worker finish the runs it carries and take no new ones, until --undo, or until it has "
        "ended in good order and is started again."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", nargs="?", default=settings.WORKER_NAME, help="the worker; without: this machine's")
        parser.add_argument("--undo", action="store_true", help="let it take runs again")

    def handle(self, *args: Any, **options: Any) -> None:
        name, is_draining = options["name"], not options["undo"]
        if not Worker.objects.filter(name=name).update(is_draining=is_draining):
            known = ", ".join(Worker.objects.values_list("name", flat=True)) or "none"
            raise CommandError(f"There is no worker {name}. Known: {known}.")
        carried = Execution.objects.filter(status=Status.RUNNING, lease_worker=name).count()
        if is_draining:
            self.stdout.write(f"{name} takes no new runs; it carries {carried}.")
        else:
            ring_soon()
            self.stdout.write(f"{name} takes runs again; it carries {carried}.")
