"""What higher rooms hear from runs, and have done with them, under neutral names.

A higher room registers in its `AppConfig.ready`; with nobody registered nothing happens.
"""

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

from django.db import transaction

from executions.status import Status

if TYPE_CHECKING:
    from executions.models import Execution

Receiver = Callable[[uuid.UUID, Status], object]
Chore = Callable[[], object]
DeletionGuard = Callable[["Execution"], None]

_receivers: list[Receiver] = []
_chores: list[Chore] = []
_deletion_guards: list[DeletionGuard] = []


def on_move(receiver: Receiver) -> None:
    """Have `receiver` told of every move of an execution: its id and the status it has now, after the commit.

    In the process and thread that made the move. It may be told late or never, when that process ends in the
    moment after the commit: who must not miss a move also looks for it by a chore. What it raises is logged,
    and neither undoes the move nor keeps it from the other receivers.
    """
    if receiver not in _receivers:
        _receivers.append(receiver)


def moved(execution_id: uuid.UUID, status: Status) -> None:
    """Tell everybody of a move once the current transaction has committed (at once without one)."""
    for receiver in _receivers:

        def tell(receiver: Receiver = receiver) -> None:
            receiver(execution_id, status)

        transaction.on_commit(tell, robust=True)


def add_chore(chore: Chore) -> None:
    """Have every runner call `chore` every few seconds, in a thread for the database.

    Several runners may do so at the same time. What it raises is logged; it has its turn again.
    """
    if chore not in _chores:
        _chores.append(chore)


def chores() -> tuple[Chore, ...]:
    return tuple(_chores)


def guard_deletion(guard: DeletionGuard) -> None:
    """Have `guard` asked before an execution is deleted; it raises `portal.lib.problems.Conflict` to refuse."""
    if guard not in _deletion_guards:
        _deletion_guards.append(guard)


def require_deletable(execution: "Execution") -> None:
    """Raise what the first guard that objects raises."""
    for guard in _deletion_guards:
        guard(execution)
