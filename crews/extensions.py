"""What this room needs to hear from higher ones, under neutral names.

A higher room registers in its `AppConfig.ready`; with nobody registered every answer is neutral.
"""

import uuid
from collections.abc import Callable, Iterable

from crews.models import Crew, Task
from portal.accounts.models import User

TaskStatuses = Callable[[Iterable[uuid.UUID], User], dict[uuid.UUID, str]]
DeletionGuard = Callable[[Crew], None]

_deletion_guards: list[DeletionGuard] = []
_task_statuses: list[TaskStatuses] = []


def guard_crew_deletion(guard: DeletionGuard) -> None:
    """Have `guard` asked before a crew is deleted; it raises `portal.lib.problems.Conflict` to refuse."""
    if guard not in _deletion_guards:
        _deletion_guards.append(guard)


def require_deletable(crew: Crew) -> None:
    """Raise what the first guard that objects raises."""
    for guard in _deletion_guards:
        guard(crew)


def provide_task_statuses(source: TaskStatuses) -> None:
    """Have `source` asked for the status of the latest run of tasks, many at once."""
    _task_statuses[:] = [source]


def with_statuses(tasks: Iterable[Task], user: User) -> list[Task]:
    """The tasks, each with its `status` in the latest run that `user` may see (None: there is none). One query."""
    listed = list(tasks)
    known = _task_statuses[0]([task.pk for task in listed], user) if _task_statuses and listed else {}
    for task in listed:
        task.status = known.get(task.pk)
    return listed
