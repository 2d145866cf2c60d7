"""The life cycle: every move that is allowed, every move that is not, and who wins when two move at once."""

import contextlib
import threading
from collections.abc import Callable

import pytest
from django.db import IntegrityError, OperationalError, connection, transaction

from executions import events
from executions.errors import ErrorCode, Failure, InvalidTransition, TransitionLost
from executions.models import Execution, TaskRun
from executions.status import ACTIVE, ENDED, TRANSITIONS, Status
from tests.deadlines import DEADLINE
from tests.factories.executions import LEASE, ExecutionFactory, TaskRunFactory, execution_in

# SPEC's table, written out once more: the code must agree with it, not with itself.
ALLOWED = {
    "pending": {"running", "stopped", "failed"},
    "running": {"completed", "failed", "stopped", "waiting", "paused", "pending"},
    "waiting": {"pending", "stopped", "failed"},
    "paused": {"pending", "stopped", "failed"},
    "failed": {"pending"},
    "stopped": {"pending"},
    "completed": set(),
}
FAILURE = Failure(ErrorCode.ENGINE_CRASHED)
MOVES: dict[Status, Callable[[Execution], None]] = {
    Status.RUNNING: lambda execution: execution.start(worker="machine", lease=LEASE),
    Status.COMPLETED: lambda execution: execution.complete("The result."),
    Status.FAILED: lambda execution: execution.fail(FAILURE),
    Status.STOPPED: lambda execution: execution.stop(),
    Status.PENDING: lambda execution: execution.recover(reason="The worker disappeared."),
}
PAIRS = [(old, new) for old in Status for new in MOVES]


def types(execution: Execution) -> list[str]:
    return [event["type"] for event in events.read(execution.stream_id)]


def test_the_table_is_the_specified_one() -> None:
    assert {old.value: {new.value for new in moves} for old, moves in TRANSITIONS.items()} == ALLOWED


def test_every_status_is_either_active_or_ended() -> None:
    assert {status.value for status in ENDED} == {"completed", "failed", "stopped"}
    assert set(Status) == ACTIVE | ENDED
    assert not ACTIVE & ENDED


@pytest.mark.parametrize("status", Status)
def test_every_status_has_a_tone_and_an_icon(status: Status) -> None:
    assert status.tone
    assert status.icon


@pytest.mark.django_db
@pytest.mark.parametrize(("old", "new"), [(old, new) for old, new in PAIRS if new in ALLOWED[old] and old in ACTIVE])
def test_an_allowed_move_is_made_with_its_event(old: Status, new: Status) -> None:
    execution = execution_in(old)
    before = types(execution)
    MOVES[new](execution)
    stored = Execution.objects.get(pk=execution.pk)
    assert stored.status == execution.status == new
    named = "execution.recovered" if new == Status.PENDING else f"execution.{new.value}"
    expected = {"execution.running": "execution.started"}.get(named, named)
    assert types(execution) == [*before, expected]


@pytest.mark.django_db
@pytest.mark.parametrize(("old", "new"), [(old, new) for old, new in PAIRS if new not in ALLOWED[old]])
def test_a_forbidden_move_is_refused_and_leaves_no_trace(old: Status, new: Status) -> None:
    execution = execution_in(old)
    before = types(execution)
    with pytest.raises(InvalidTransition):
        MOVES[new](execution)
    assert Execution.objects.get(pk=execution.pk).status == old
    assert types(execution) == before


@pytest.mark.django_db
@pytest.mark.parametrize("new", [Status.COMPLETED, Status.FAILED, Status.STOPPED, Status.PENDING])
def test_who_read_it_before_somebody_else_moved_it_loses(new: Status) -> None:
    execution = execution_in(Status.RUNNING)
    late = Execution.objects.get(pk=execution.pk)
    execution.complete("First.")
    seen = types(execution)
    with pytest.raises(TransitionLost):
        MOVES[new](late)
    stored = Execution.objects.get(pk=execution.pk)
    assert (stored.status, stored.final_output) == (Status.COMPLETED, "First.")
    assert types(execution) == seen


@pytest.mark.django_db
def test_a_runner_of_an_earlier_attempt_is_fenced_off() -> None:
    late = execution_in(Status.RUNNING)
    current = Execution.objects.get(pk=late.pk)
    current.recover(reason="The machine was silent.")
    current.start(worker="another machine", lease=LEASE)
    with pytest.raises(TransitionLost):
        late.complete("Too late.")
    assert Execution.objects.all().renew_leases("machine", LEASE) == {}
    current.refresh_from_db()
    assert (current.status, current.attempt, current.final_output) == (Status.RUNNING, 2, "")
    assert Execution.objects.all().renew_leases("another machine", LEASE) == {current.pk: 2}


@pytest.mark.django_db(transaction=True)
def test_of_many_runners_that_claim_at_once_exactly_one_wins() -> None:
    execution = ExecutionFactory()
    copies = [Execution.objects.get(pk=execution.pk) for _ in range(6)]
    ready, won, lost = threading.Barrier(len(copies)), [], []

    def claim(copy: Execution, name: str) -> None:
        try:
            ready.wait(DEADLINE)
            copy.start(worker=name, lease=LEASE)
            won.append(name)
        except TransitionLost:
            lost.append(name)
        finally:
            connection.close()

    threads = [threading.Thread(target=claim, args=(copy, f"m{n}")) for n, copy in enumerate(copies)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert (len(won), len(lost)) == (1, len(copies) - 1)
    execution.refresh_from_db()
    assert (execution.lease_worker, execution.attempt) == (won[0], 1)
    assert types(execution) == ["execution.started"]
    assert execution.attempts.count() == 1


@pytest.mark.django_db
def test_a_move_that_cannot_be_written_whole_is_not_written_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    execution = execution_in(Status.RUNNING)

    def broken(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(events, "append", broken)
    with pytest.raises(OSError, match="disk full"):
        execution.complete("The result.")
    assert Execution.objects.get(pk=execution.pk).status == Status.RUNNING


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("end", "task_status"), [(Status.STOPPED, TaskRun.Status.STOPPED), (Status.FAILED, TaskRun.Status.FAILED)]
)
def test_the_end_closes_open_tasks_and_keeps_finished_ones(end: Status, task_status: TaskRun.Status) -> None:
    execution = execution_in(Status.RUNNING)
    finished = TaskRunFactory(execution=execution, status=TaskRun.Status.COMPLETED, output="kept")
    under_way = TaskRunFactory(execution=execution, status=TaskRun.Status.RUNNING)
    never_begun = TaskRunFactory(execution=execution)
    MOVES[end](execution)
    for task in (finished, under_way, never_begun):
        task.refresh_from_db()
    assert (finished.status, finished.output) == (TaskRun.Status.COMPLETED, "kept")
    assert under_way.status == task_status
    assert under_way.ended_at is not None
    assert never_begun.status == TaskRun.Status.PENDING
    attempt = execution.attempts.get()
    assert attempt.outcome == end
    assert attempt.ended_at is not None


@pytest.mark.django_db
def test_a_failure_is_told_by_its_code_and_sentence() -> None:
    execution = execution_in(Status.RUNNING)
    execution.fail(Failure(ErrorCode.LLM_TIMEOUT, "No answer within 60 s."), partial_output="Half of it.")
    assert execution.failure == Failure(ErrorCode.LLM_TIMEOUT, "No answer within 60 s.")
    assert execution.final_output == "Half of it."
    last = events.read(execution.stream_id)[-1]
    assert last["data"] == {"error_code": "llm_timeout", "error_message": "No answer within 60 s."}


@pytest.mark.parametrize("code", ErrorCode)
def test_every_error_code_has_a_sentence_and_steps(code: ErrorCode) -> None:
    assert str(code.label).endswith(".")
    assert code.steps
    assert Failure(code).sentence == str(code.label)


# --- Asking to stop -----------------------------------------------------------------------------


@pytest.mark.django_db
def test_what_waits_to_start_stops_at_once() -> None:
    execution = ExecutionFactory()
    execution.request_stop(by=execution.created_by)
    assert execution.status == Status.STOPPED
    assert types(execution) == ["execution.stopped"]


@pytest.mark.django_db
def test_what_runs_is_asked_and_goes_on_until_the_runner_obeys() -> None:
    execution = execution_in(Status.RUNNING)
    execution.request_stop(by=execution.created_by)
    assert (execution.status, execution.is_stopping) == (Status.RUNNING, True)
    asked_at = execution.stop_requested_at
    execution.request_stop(by=None)
    assert execution.stop_requested_at == asked_at
    assert execution.stop_requested_by == execution.created_by


@pytest.mark.django_db
@pytest.mark.parametrize("ended", sorted(ENDED))
def test_what_has_ended_cannot_be_stopped(ended: Status) -> None:
    with pytest.raises(InvalidTransition):
        execution_in(ended).request_stop(by=None)


@pytest.mark.django_db
def test_no_runner_starts_what_was_asked_to_stop() -> None:
    execution = ExecutionFactory()
    late = Execution.objects.get(pk=execution.pk)
    Execution.objects.filter(pk=execution.pk).update(stop_requested_at=execution.created_at)
    with pytest.raises(TransitionLost):
        late.start(worker="machine", lease=LEASE)


@pytest.mark.django_db
@pytest.mark.parametrize("status", [Status.PENDING, Status.WAITING, Status.PAUSED])
def test_a_stop_is_there_whole_or_not_at_all(status: Status, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for, but not carried out, it would keep every runner away and never end."""
    execution = execution_in(status)

    def broken(*_: object) -> None:
        raise OperationalError("the database is away")

    monkeypatch.setattr(events, "append", broken)
    with pytest.raises(OperationalError):
        execution.request_stop(by=None)
    execution.refresh_from_db()
    assert (execution.status, execution.stop_requested_at) == (status, None)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("status", [Status.WAITING, Status.PAUSED])
def test_a_stop_and_a_word_to_go_on_in_one_moment_leave_nothing_that_waits_for_ever(status: Status) -> None:
    for _ in range(8):
        execution = execution_in(status)
        ready = threading.Barrier(2)

        def go_on(run: Execution = execution, ready: threading.Barrier = ready) -> None:
            late = Execution.objects.get(pk=run.pk)
            ready.wait(DEADLINE)
            with contextlib.suppress(TransitionLost, InvalidTransition):
                late.answered(by=None) if status == Status.WAITING else late.resume(by=None)
            connection.close()

        thread = threading.Thread(target=go_on)
        thread.start()
        asked = Execution.objects.get(pk=execution.pk)
        ready.wait(DEADLINE)
        asked.request_stop(by=None)
        thread.join(DEADLINE)
        execution.refresh_from_db()
        assert execution.status == Status.STOPPED


# --- A runner that is gone ------------------------------------------------------------------------


@pytest.mark.django_db
def test_recovery_gives_unfinished_tasks_back_and_keeps_finished_ones() -> None:
    execution = execution_in(Status.RUNNING)
    finished = TaskRunFactory(execution=execution, status=TaskRun.Status.COMPLETED)
    under_way = TaskRunFactory(execution=execution, status=TaskRun.Status.RUNNING)
    execution.recover(reason="The machine was silent.")
    finished.refresh_from_db()
    under_way.refresh_from_db()
    assert execution.status == Status.PENDING
    assert (finished.status, under_way.status) == (TaskRun.Status.COMPLETED, TaskRun.Status.PENDING)
    assert execution.attempts.get().outcome == Status.FAILED


@pytest.mark.django_db
def test_what_is_lost_again_and_again_is_quarantined_until_a_person_retries_it() -> None:
    execution = execution_in(Status.RUNNING, max_attempts=1)
    execution.recover(reason="The machine was silent.")
    assert (execution.status, execution.recoveries) == (Status.PENDING, 1)
    execution.start(worker="machine", lease=LEASE)
    execution.recover(reason="The machine was silent.")
    assert (execution.status, execution.error_code) == (Status.FAILED, ErrorCode.WORKER_LOST)
    assert "The machine was silent." in execution.quarantine_reason
    execution.retry(by=execution.created_by)
    assert (execution.status, execution.recoveries, execution.quarantine_reason) == (Status.PENDING, 0, "")


@pytest.mark.django_db
def test_each_further_recovery_waits_longer() -> None:
    execution = execution_in(Status.RUNNING)
    execution.recover(reason="The machine was silent.")
    assert list(Execution.objects.queued()) == [execution]  # the first at once
    execution.start(worker="machine", lease=LEASE)
    execution.recover(reason="The machine was silent.")
    assert not Execution.objects.queued().exists()


@pytest.mark.django_db
def test_recovery_of_what_was_asked_to_stop_stops_it() -> None:
    execution = execution_in(Status.RUNNING)
    execution.request_stop(by=None)
    execution.recover(reason="The machine was silent.")
    assert execution.status == Status.STOPPED


# --- The database agrees ----------------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.parametrize(
    "wrong",
    [
        {"status": "lost"},
        {"status": "completed"},  # without an end
        {"status": "running"},  # without a lease
        {"priority": 0},
        {"priority": 10},
    ],
)
def test_the_database_refuses_what_the_machine_does_not_know(wrong: dict[str, object]) -> None:
    execution = ExecutionFactory()
    with pytest.raises(IntegrityError), transaction.atomic():
        Execution.objects.filter(pk=execution.pk).update(**wrong)


@pytest.mark.django_db
def test_the_queue_is_by_priority_then_age() -> None:
    old, urgent, young = ExecutionFactory(), ExecutionFactory(priority=9), ExecutionFactory()
    execution_in(Status.RUNNING)
    assert list(Execution.objects.queued()) == [urgent, old, young]
    assert [execution.place_in_queue() for execution in (urgent, old, young)] == [1, 2, 3]
    assert execution_in(Status.COMPLETED).place_in_queue() is None
