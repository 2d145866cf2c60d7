"""How the end of an attempt is written."""

import asyncio
import contextlib
import shutil
import time
from decimal import Decimal
from typing import ClassVar

import pytest
from django.db import InterfaceError, OperationalError
from django.db.models.functions import Now

from executions.approvals import answer
from executions.engines.client import Exit
from executions.engines.protocol import Line
from executions.errors import ErrorCode, Failure, TransitionLost
from executions.models import Execution, LLMCall
from executions.runner import attempt
from executions.runner.attempt import REST_SECONDS, Run
from executions.runner.intake import Batch
from executions.runner.outcome import Crash, Problem, Shortage
from executions.runner.supervisor import Supervisor
from executions.status import Status, WaitingFor
from portal.lib.dbthreads import DatabaseThreads
from tests.deadlines import DEADLINE, wait_for_async
from tests.factories.executions import LEASE, ApprovalFactory, LLMCallFactory, TaskRunFactory, execution_in

pytestmark = pytest.mark.django_db
SAYS: Line = {"kind": "failure", "reason": "error", "message": "The gateway refused the call."}
GIVES: Line = {"kind": "result", "output": "The result."}
PAUSES: Line = {"kind": "paused"}
WAITS: Line = {"kind": "waiting"}
KILLED = Crash("The engine process was killed (signal 9).")


def ended(execution: Execution, problem: Problem | None, closing: Line | None) -> Execution:
    run_of(execution)._end(problem, closing)
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


def test_an_engine_that_died_comes_again_and_says_why() -> None:
    found = ended(execution_in(Status.RUNNING), KILLED, None)
    assert (found.status, found.recoveries, found.error_code) == (Status.PENDING, 1, "")
    assert found.attempts.get().reason == KILLED.sentence


def test_an_engine_that_dies_every_time_is_left_to_a_person() -> None:
    execution = execution_in(Status.RUNNING, max_attempts=1)
    TaskRunFactory(execution=execution, status="completed", name="Write", output="A text.")
    ended(execution, KILLED, None)
    execution.refresh_from_db()
    execution.start(worker="machine", lease=LEASE)
    found = ended(execution, KILLED, None)
    assert (found.status, found.error_code) == (Status.FAILED, ErrorCode.ENGINE_CRASHED)
    assert found.quarantine_reason.startswith(KILLED.sentence)
    assert "1 times" in found.quarantine_reason
    assert found.final_output == "## Write\n\nA text."


def test_an_engine_that_paused_as_it_was_asked_to_is_a_paused_run() -> None:
    execution = execution_in(Status.RUNNING)
    execution.request_pause(by=execution.created_by)
    found = ended(execution, None, PAUSES)
    assert (found.status, found.pause_requested_at) == (Status.PAUSED, None)
    assert found.attempts.get().outcome == Status.PAUSED


def test_an_engine_that_died_while_it_was_to_pause_has_paused() -> None:
    execution = execution_in(Status.RUNNING)
    execution.request_pause(by=execution.created_by)
    assert ended(execution, KILLED, None).status == Status.PAUSED


def test_a_pause_at_once_keeps_no_half_texts() -> None:
    execution = execution_in(Status.RUNNING)
    execution.request_pause(by=execution.created_by, at_once=True)
    TaskRunFactory(execution=execution, task="t1", status="running")
    LLMCallFactory(execution=execution, attempt=1, task="t1", text="Half a")
    assert ended(execution, None, None).status == Status.PAUSED
    assert execution.task_runs.get().output == ""


def test_a_stop_goes_before_a_pause() -> None:
    execution = execution_in(Status.RUNNING)
    execution.request_pause(by=execution.created_by)
    execution.request_stop(by=execution.created_by)
    assert ended(execution, None, PAUSES).status == Status.STOPPED


def test_a_pause_that_nobody_wants_any_more_costs_no_recovery() -> None:
    found = ended(execution_in(Status.RUNNING), None, PAUSES)
    assert (found.status, found.recoveries) == (Status.PENDING, 0)


def test_an_engine_that_can_do_no_more_without_an_answer_waits_for_people() -> None:
    execution = execution_in(Status.RUNNING)
    ApprovalFactory(execution=execution)
    found = ended(execution, None, WAITS)
    assert (found.status, found.waiting_for) == (Status.WAITING, WaitingFor.APPROVAL)


def test_an_answer_that_came_while_the_engine_ended_lets_it_go_on_at_once() -> None:
    execution = execution_in(Status.RUNNING)
    ApprovalFactory(execution=execution, status="approved", answered_at=Now())
    found = ended(execution, None, WAITS)
    assert (found.status, found.recoveries) == (Status.PENDING, 0)


def test_a_limit_that_leaves_no_room_lets_the_run_wait() -> None:
    found = ended(execution_in(Status.RUNNING), Shortage("No room.", Decimal("0.25"), 700), SAYS)
    assert (found.status, found.waiting_for) == (Status.WAITING, WaitingFor.BUDGET)
    assert (found.needs_usd, found.needs_tokens) == (Decimal("0.25"), 700)
    assert found.attempts.get().reason == "No room."


def test_a_run_that_was_asked_to_pause_before_it_began_pauses() -> None:
    execution = execution_in(Status.RUNNING)
    execution.request_pause(by=execution.created_by)
    execution.recover(reason="The worker disappeared.")
    execution.start(worker="machine", lease=LEASE)
    run = run_of(execution)
    problem, closing = asyncio.run(run._work())
    run._end(problem, closing)
    assert Execution.objects.get(pk=execution.pk).status == Status.PAUSED


def test_the_end_can_be_tried_again_when_the_database_was_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first try that was rolled back must not have changed what the second one compares with."""
    execution = execution_in(Status.RUNNING)
    run = run_of(execution)
    with monkeypatch.context() as patched:
        patched.setattr(Execution, "refresh_from_db", _away)
        with pytest.raises(OperationalError):
            run._end(None, GIVES)
    run._end(None, GIVES)
    assert Execution.objects.get(pk=execution.pk).status == Status.COMPLETED


def _away(self: Execution) -> None:
    raise OperationalError("the connection is lost")


@pytest.mark.django_db(transaction=True)
def test_a_failure_is_said_before_it_waits_for_the_calls_that_it_cuts_off() -> None:
    """The gateway would rather carry the answer of a run to its end that goes on."""
    execution = execution_in(Status.RUNNING)
    call = LLMCallFactory(execution=execution, attempt=1)
    run = run_of(execution)

    async def cut_off() -> None:
        waiting = asyncio.ensure_future(run._calls_closed(Failure(ErrorCode.TIMED_OUT)))
        told = Execution.objects.filter(error_code=ErrorCode.TIMED_OUT)
        await wait_for_async(lambda: run.db(told.exists), "the failure is told")
        assert not waiting.done()
        closed = {"status": LLMCall.Status.CANCELLED, "closed_at": Now()}
        await run.db(LLMCall.objects.filter(pk=call.pk).update, **closed)
        await waiting

    asyncio.run(cut_off())
    run.db.close()


def test_what_an_answer_lets_go_on_does_not_wait_for_another_question() -> None:
    execution = execution_in(Status.RUNNING)
    first, _second = (ApprovalFactory(execution=execution, task=key) for key in ("t1", "t2"))
    answer(first, execution.owner, "approve")
    found = ended(execution, None, WAITS)
    assert (found.status, found.approvals.filter(status="open").count()) == (Status.PENDING, 1)
    found.start(worker="machine", lease=LEASE)
    assert ended(found, None, WAITS).status == Status.WAITING  # the next attempt knew of that answer


class Flood:
    """Of an engine that writes faster than anybody can store."""

    running: ClassVar[dict[str, float]] = {}
    written = 0

    def read(self) -> Batch:
        time.sleep(0.01)
        return Batch(is_full=True, closing=None)


class Engine:
    """An engine process that does not end by itself."""

    def __init__(self) -> None:
        self.ended = False

    def kill(self) -> None:
        self.ended = True

    async def rang(self) -> None:
        """It has always just written."""

    async def wait(self) -> Exit:
        return Exit(signal=9)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("seconds", [0, 3600])
def test_neither_stop_nor_limit_waits_until_a_flood_is_stored(seconds: int) -> None:
    limits = {"max_duration_seconds": seconds, "task_timeout_seconds": 3600}
    run = run_of(execution_in(Status.RUNNING, snapshot={"limits": limits}))

    async def attend() -> tuple[Problem | None, Line | None]:
        attending = asyncio.ensure_future(run._attend(Engine(), Flood()))  # type: ignore[arg-type]
        if seconds:
            await asyncio.sleep(0)
            run.stop()
        return await asyncio.wait_for(attending, DEADLINE)

    began = time.monotonic()
    problem, _closing = asyncio.run(attend())
    run.db.close()
    assert problem == (None if seconds else Failure(ErrorCode.TIMED_OUT))
    assert time.monotonic() - began < 10 * REST_SECONDS


def test_the_work_folder_goes_even_when_something_still_writes_into_it(tmp_path, monkeypatch) -> None:
    run = run_of(execution_in(Status.RUNNING))
    run.folder = tmp_path
    work = tmp_path / "work"
    work.mkdir()
    tries = []

    def remove(folder, ignore_errors, remove=shutil.rmtree):
        remove(folder, ignore_errors)
        tries.append(folder)
        if len(tries) == 1:
            (work / "late").mkdir(parents=True)

    monkeypatch.setattr(attempt.shutil, "rmtree", remove)
    run.clean_up()
    assert (len(tries), work.exists()) == (2, False)


@pytest.mark.parametrize("fault", [InterfaceError("connection already closed"), OSError("no room"), ValueError()])
def test_whatever_ends_a_run_its_work_folder_goes(tmp_path, monkeypatch, fault) -> None:
    run = run_of(execution_in(Status.RUNNING))
    run.folder = tmp_path
    (tmp_path / "work").mkdir()

    async def carry() -> None:
        raise fault

    async def carried() -> Supervisor:
        supervisor = Supervisor()
        supervisor.runs[run] = asyncio.ensure_future(asyncio.sleep(0))
        with contextlib.suppress(ValueError):
            await supervisor._carry(run)
        return supervisor

    monkeypatch.setattr(run, "carry", carry)
    assert run not in asyncio.run(carried()).runs
    assert not (tmp_path / "work").exists()
