"""What crews hear from runs (`crews.extensions`)."""

import uuid
from collections.abc import Iterable

from django.db.models import Max

from crews.models import Crew
from executions.models import Execution, TaskRun
from portal.lib.problems import Conflict


def refuse_while_running(crew: Crew) -> None:
    """Raise `Conflict` while the crew has an active run."""
    if Execution.objects.active().filter(crew=crew).exists():
        raise Conflict(
            "This crew has a run that is still active.", code="run_active", hint="Stop its runs first, then delete it."
        )


def latest_statuses(tasks: Iterable[uuid.UUID]) -> dict[uuid.UUID, str]:
    """The status of each task's latest run; tasks that never ran are left out. One query."""
    keys = [str(task) for task in tasks]
    newest = TaskRun.objects.filter(task__in=keys).values("task").annotate(last=Max("id")).values("last")
    rows = TaskRun.objects.filter(pk__in=newest).values_list("task", "status")
    return {uuid.UUID(task): status for task, status in rows}
