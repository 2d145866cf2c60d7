"""Runs whose runner is gone."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import settings
from django.db.models.functions import Now

from executions.errors import ErrorCode, Failure
from executions.models import Execution, TaskRun
from executions.runner import lost
from executions.runner.intake import Intake, LeaseLost
from executions.status import Status
from tests.factories.executions import LEASE, TaskRunFactory, execution_in

pytestmark = pytest.mark.django_db


def expired(**fields):
    execution = execution_in(Status.RUNNING, **fields)
    Execution.objects.filter(pk=execution.pk).update(lease_until=Now() - timedelta(seconds=1))
    return execution


def events_file(execution) -> Path:
    path = Path(settings.RUNS_DIR) / str(execution.pk) / str(execution.attempt) / "events.jsonl"
    path.parent.mkdir(parents=True)
    return path


def test_a_run_under_a_lease_is_left_alone():
    execution = execution_in(Status.RUNNING)
    assert lost.recover_expired("another machine", LEASE) == 0
    execution.refresh_from_db()
    assert (execution.status, execution.lease_worker) == (Status.RUNNING, "machine")


def test_a_run_whose_lease_is_over_comes_again_and_says_why():
    execution = expired()
    assert lost.recover_expired("another machine", LEASE) == 1
    execution.refresh_from_db()
    assert (execution.status, execution.recoveries) == (Status.PENDING, 1)
    assert execution.attempts.get().reason == "The worker that carried the run disappeared."


def test_what_its_engine_had_written_is_read_first():
    execution = expired()
    run = TaskRunFactory(execution=execution, task="t1")
    line = {"kind": "event", "type": "task.completed", "task": "t1", "data": {"output": "A text."}}
    events_file(execution).write_text(json.dumps(line) + "\n")
    lost.recover_expired("another machine", LEASE)
    run.refresh_from_db()
    assert (run.status, run.output) == (TaskRun.Status.COMPLETED, "A text.")


def test_a_runner_that_comes_back_after_its_lease_stores_nothing():
    execution = expired()
    path = events_file(execution)
    late = Intake(execution, path)
    lost.recover_expired("another machine", LEASE)
    path.write_text('{"kind": "event", "type": "log"}\n')
    with pytest.raises(LeaseLost):
        late.read()


def test_a_lease_that_was_renewed_in_this_moment_is_not_taken():
    """Between the look for expired leases and the step that takes one over."""
    seen = Execution.objects.get(pk=expired().pk)
    Execution.objects.all().renew_leases("machine", LEASE)
    assert not lost.take_over(seen, "another machine", LEASE)
    assert seen.lease_worker == "machine"


def test_a_runner_that_was_held_up_leaves_its_own_runs_alone_and_renews_them():
    execution = expired()
    assert lost.recover_expired("machine", LEASE, [execution.pk]) == 0
    assert Execution.objects.all().renew_leases("machine", LEASE) == {execution.pk: 1}
    assert lost.recover_expired("another machine", LEASE) == 0


def test_of_two_that_take_a_lease_over_one_wins():
    first = expired()
    second = Execution.objects.get(pk=first.pk)
    assert lost.take_over(first, "another machine", LEASE)
    assert not lost.take_over(second, "a third machine", LEASE)


def test_a_worker_that_was_told_to_end_is_no_fault_of_the_run():
    execution = execution_in(Status.RUNNING)
    assert lost.recover_mine("machine", is_blameless=True) == 1
    execution.refresh_from_db()
    assert (execution.status, execution.recoveries) == (Status.PENDING, 0)


def test_a_worker_that_died_counts():
    execution = execution_in(Status.RUNNING, max_attempts=0)
    lost.recover_mine("machine", is_blameless=False)
    execution.refresh_from_db()
    assert (execution.status, execution.error_code) == (Status.FAILED, ErrorCode.WORKER_LOST)
    assert execution.quarantine_reason


def test_another_runners_runs_are_not_mine():
    execution_in(Status.RUNNING)
    assert lost.recover_mine("another machine", is_blameless=False) == 0


def test_what_was_to_fail_when_its_runner_died_fails():
    execution = expired()
    execution.will_fail(Failure(ErrorCode.TIMED_OUT, "It took too long."))
    lost.recover_expired("another machine", LEASE)
    execution.refresh_from_db()
    assert (execution.status, execution.error_code) == (Status.FAILED, ErrorCode.TIMED_OUT)
    assert execution.error_message == "It took too long."


def test_a_runner_that_starts_removes_what_a_killed_one_left():
    path = events_file(execution_in(Status.RUNNING))
    path.write_text("")
    work = path.parent / "work"
    work.mkdir()
    (work / "draft.md").write_text("half")
    lost.remove_leftovers()
    assert not work.exists()
    assert path.exists(), "events and log stay"
