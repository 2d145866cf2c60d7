"""What crews hear from runs (`crews.extensions`), and what runs hear of people."""

import uuid
from collections.abc import Iterable

from django.db.models import Max

from crews.models import Crew
from executions import actions
from executions.models import Execution, TaskRun
from portal.accounts.models import User
from portal.lib.problems import Conflict


def refuse_while_running(crew: Crew) -> None:
    """Raise `Conflict` while the crew has an active run."""
    if Execution.objects.active().filter(crew=crew).exists():
        raise Conflict(
            "This crew has a run that is still active.", code="run_active", hint="Stop its runs first, then delete it."
        )


def latest_statuses(tasks: Iterable[uuid.UUID], user: User) -> dict[uuid.UUID, str]:
    """The status of each task in the latest run that `user` may see; tasks without one are left out. One query."""
    keys = [str(task) for task in tasks]
    runs = TaskRun.objects.filter(task__in=keys, execution__in=Execution.objects.visible_to(user))
    newest = runs.values("task").annotate(last=Max("id")).values("last")
    rows = TaskRun.objects.filter(pk__in=newest).values_list("task", "status")
    return {uuid.UUID(task): status for task, status in rows}


def stop_runs_of_the_deactivated(*, user: User, by: User | None, **_: object) -> None:
    """Receiver of `user_deactivated`: nothing goes on in the name of who may do nothing any more."""
    actions.stop_runs_of(user, by=by)
