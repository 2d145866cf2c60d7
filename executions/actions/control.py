"""Stopping, pausing and going on."""

from django.db import transaction
from django.db.models import QuerySet

from crews.models import Crew
from executions.errors import InvalidTransition, TransitionLost
from executions.models import Execution
from executions.tasks import ring_soon
from portal.accounts import audit
from portal.accounts.models import User


def stop(execution: Execution, by: User | None) -> Execution:
    """Ask for a stop; the runner obeys within a second, and the gateway refuses the run's tokens from now on.

    Asking again changes nothing. `by` is None when the portal itself does it.

    Raises `InvalidTransition` when the execution has ended.
    """
    with transaction.atomic():
        execution.request_stop(by=by)
        audit.record("execution.stopped", by=by, target=execution)
    ring_soon()
    return execution


def stop_all(by: User, *, crew: Crew | None = None) -> list[Execution]:
    """Ask every active run (of `crew`) that `by` may stop to stop: for admins all of them. Returns those asked."""
    runs = Execution.objects.editable_by(by).active()
    return _stop_each(runs.filter(crew=crew) if crew else runs, by)


def stop_runs_of(user: User, *, by: User | None) -> list[Execution]:
    """Ask every active run that `user` started to stop, those that wait or are paused too. Returns those asked."""
    return _stop_each(Execution.objects.active().filter(created_by=user), by)


def stop_runs_of_inactive() -> list[Execution]:
    """Ask the runs of people who are deactivated to stop, which nobody has asked yet: of one that was started in
    the moment of the deactivation, say. Returns those asked."""
    runs = Execution.objects.active().filter(created_by__is_active=False, stop_requested_at=None)
    return _stop_each(runs, None)


def _stop_each(runs: QuerySet[Execution], by: User | None) -> list[Execution]:
    asked = []
    for execution in runs:
        try:
            asked.append(stop(execution, by))
        except (InvalidTransition, TransitionLost, Execution.DoesNotExist):
            continue  # it ended, or was deleted, in this moment
    return asked


def pause(execution: Execution, by: User, *, at_once: bool = False) -> Execution:
    """Ask a running execution to pause: when its current tasks are finished, or `at_once`. Safe to repeat.

    At once, the tasks under way are cut off and done again later; what models have answered is kept.
    Raises `InvalidTransition` when it does not run, `TransitionLost` when it ends in this moment.
    """
    with transaction.atomic():
        execution.request_pause(by=by, at_once=at_once)
        audit.record("execution.paused", by=by, target=execution, after={"at_once": at_once})
    ring_soon()
    return execution


def resume(execution: Execution, by: User) -> Execution:
    """Let a paused execution go on from its last finished task; one that was asked to pause and still runs goes on.

    Raises `InvalidTransition` when it is neither.
    """
    with transaction.atomic():
        execution.resume(by=by)
        audit.record("execution.resumed", by=by, target=execution)
    ring_soon()
    return execution


def retry(execution: Execution, by: User) -> Execution:
    """Start a failed or stopped execution again from its last finished task; time and calls count anew.

    Raises `InvalidTransition` when it has neither failed nor been stopped.
    """
    with transaction.atomic():
        execution.retry(by=by)
        audit.record("execution.retried", by=by, target=execution)
    ring_soon()
    return execution
