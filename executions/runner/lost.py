"""Runs that lost their runner: found by their lease, and queued again from their last finished task."""

import contextlib
import logging
import shutil
import uuid
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from django.conf import settings
from django.db.models import Q
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from executions.errors import InvalidTransition, TransitionLost
from executions.models import Execution
from executions.models.execution import ExecutionQuerySet
from executions.runner import outcome
from executions.runner.intake import BadLine, Intake, LeaseLost
from executions.status import Status

logger = logging.getLogger(__name__)

RUNNER_LOST = _("The worker that carried the run disappeared.")
RUNNER_DIED = _("The worker that carried the run ended unexpectedly and was started again.")
RUNNER_RESTARTED = _("The worker was told to end, so another one takes over.")


def recover_expired(worker: str, lease: timedelta, carried: Sequence[uuid.UUID] = ()) -> int:
    """Queue again what no runner holds any more; how many runs that were. `carried` are this runner's own.

    First the lease is taken over, by the database's clock and one compare-and-set: from then on its
    last holder is refused, should it come back, and no other runner does the same.
    """
    own = Q(lease_worker=worker, pk__in=carried)
    lost = [execution for execution in list(_expired().exclude(own)) if take_over(execution, worker, lease)]
    return sum(_recover(execution, str(RUNNER_LOST)) for execution in lost)


def take_over(execution: Execution, worker: str, lease: timedelta) -> bool:
    """Take an execution's lease if it is over and still with the runner that `execution` names."""
    still_lost = _expired().filter(pk=execution.pk, attempt=execution.attempt, lease_worker=execution.lease_worker)
    won = still_lost.update(lease_worker=worker, lease_until=Now() + lease)
    execution.refresh_from_db()
    return bool(won)


def _expired() -> ExecutionQuerySet:
    return Execution.objects.filter(status=Status.RUNNING, lease_until__lt=Now())


def recover_mine(worker: str, *, is_blameless: bool) -> int:
    """Queue again what a runner of this name carries: at its start an earlier one's, at its end its own."""
    reason = str(RUNNER_RESTARTED if is_blameless else RUNNER_DIED)
    mine = Execution.objects.filter(status=Status.RUNNING, lease_worker=worker)
    return sum(_recover(execution, reason, is_blameless=is_blameless) for execution in mine)


def remove_leftovers() -> None:
    """Remove the working folders of all attempts: for a runner that starts, and so carries nothing.

    What a killed runner left here is no use any more: its runs went on elsewhere, or were recovered.
    """
    for folder in Path(settings.RUNS_DIR).glob("*/*/work"):
        shutil.rmtree(folder, ignore_errors=True)


def _recover(execution: Execution, reason: str, *, is_blameless: bool = False) -> bool:
    # What the engine wrote before it died may still be in its file here: finished tasks need not run again.
    folder = Path(settings.RUNS_DIR) / str(execution.pk) / str(execution.attempt)
    with contextlib.suppress(LeaseLost, BadLine, OSError):
        intake = Intake(execution, folder / "events.jsonl")
        while intake.read().is_full:
            pass
    with contextlib.suppress(TransitionLost, InvalidTransition):
        partial_output = outcome.partial_output(execution)
        execution.recover(reason=reason, is_blameless=is_blameless, partial_output=partial_output)
        logger.warning("run %s recovered: %s", execution.pk, reason)
        shutil.rmtree(folder / "work", ignore_errors=True)
        return True
    return False
