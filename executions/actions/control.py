"""Stopping, pausing and going on."""

from crews.models import Crew
from executions.errors import InvalidTransition
from executions.models import Execution
from executions.tasks import ring_soon
from portal.accounts.models import User


def stop(execution: Execution, by: User) -> Execution:
    """Ask for a stop; the runner obeys within a second. Asking again changes nothing.

    Raises `InvalidTransition` when the execution has ended.
    """
    execution.request_stop(by=by)
    ring_soon()
    return execution


def stop_all(by: User, *, crew: Crew | None = None) -> list[Execution]:
    """Ask every active run (of `crew`) that `by` may stop to stop: for admins all of them. Returns those asked."""
    asked = []
    runs = Execution.objects.editable_by(by).active()
    for execution in runs.filter(crew=crew) if crew else runs:
        try:
            asked.append(stop(execution, by))
        except InvalidTransition:
            continue  # it ended in this moment
    return asked


def pause(execution: Execution, by: User, *, at_once: bool = False) -> Execution:
    """Ask a running execution to pause: when its current tasks are finished, or `at_once`. Safe to repeat.

    At once, the tasks under way are cut off and done again later; what models have answered is kept.
    Raises `InvalidTransition` when it does not run, `TransitionLost` when it ends in this moment.
    """
    execution.request_pause(by=by, at_once=at_once)
    ring_soon()
    return execution


def resume(execution: Execution, by: User) -> Execution:
    """Let a paused execution go on from its last finished task.

    Raises `InvalidTransition` when it is not paused.
    """
    execution.resume(by=by)
    ring_soon()
    return execution


def retry(execution: Execution, by: User) -> Execution:
    """Start a failed or stopped execution again from its last finished task; time and calls count anew.

    Raises `InvalidTransition` when it has neither failed nor been stopped.
    """
    execution.retry(by=by)
    ring_soon()
    return execution
