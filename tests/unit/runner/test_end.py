"""How the end of an attempt is written."""

import asyncio

import pytest

from executions.engines.protocol import Line
from executions.errors import ErrorCode, Failure, TransitionLost
from executions.models import Execution
from executions.runner.attempt import Run
from executions.status import Status
from portal.lib.dbthreads import DatabaseThreads
from tests.factories.executions import LEASE, execution_in

pytestmark = pytest.mark.django_db
SAYS: Line = {"kind": "failure", "reason": "error", "message": "The gateway refused the call."}
GIVES: Line = {"kind": "result", "output": "The result."}


def ended(execution: Execution, failure: Failure | None, closing: Line | None) -> Execution:
    run_of(execution)._end(failure, closing)
    return Execution.objects.get(pk=execution.pk)


def run_of(execution: Execution) -> Run:
    claimed = Execution.objects.get(pk=execution.pk)

    async def make() -> Run:
        return Run(claimed, DatabaseThreads(1))

    return asyncio.run(make())


def test_an_engine_that_fails_because_a_stop_was_asked_for_is_a_stopped_run() -> None:
    """The gateway refuses calls from the moment of the request, which may be before the runner hears of it."""
    execution = execution_in(Status.RUNNING)
    execution.request_stop(by=execution.created_by)
    found = ended(execution, Failure(ErrorCode.INTERNAL), SAYS)
    assert (found.status, found.error_code) == (Status.STOPPED, ErrorCode.STOPPED_BY_USER)


def test_an_engine_that_fails_by_itself_is_a_failed_run() -> None:
    found = ended(execution_in(Status.RUNNING), Failure(ErrorCode.LLM_TIMEOUT), SAYS)
    assert (found.status, found.error_code) == (Status.FAILED, ErrorCode.LLM_TIMEOUT)


def test_work_that_is_done_is_kept_also_when_a_stop_came_in_the_same_moment() -> None:
    execution = execution_in(Status.RUNNING)
    execution.request_stop(by=execution.created_by)
    found = ended(execution, None, GIVES)
    assert (found.status, found.final_output) == (Status.COMPLETED, "The result.")


def test_a_runner_that_stood_still_does_not_end_the_next_attempt() -> None:
    execution = execution_in(Status.RUNNING)
    late = run_of(execution)
    execution.recover(reason="The worker disappeared.")
    execution.start(worker="another", lease=LEASE)
    with pytest.raises(TransitionLost):
        late._end(None, GIVES)
    execution.refresh_from_db()
    assert (execution.status, execution.attempt) == (Status.RUNNING, 2)
