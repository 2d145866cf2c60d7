"""What an engine is given: the same, to the byte, however often a run was begun."""

import json
from datetime import timedelta

import pytest
from django.db import connection
from django.db.models.functions import Now

from executions.models import Approval, Execution, TaskRun
from executions.status import Status
from tests.factories.executions import LEASE, ApprovalFactory, TaskRunFactory, execution_in
from tests.unit.runner.test_end import run_of

pytestmark = pytest.mark.django_db
SPEC = {"tasks": [], "language": "en"}


def running(*keys):
    execution = execution_in(Status.RUNNING, snapshot={"spec": SPEC, "limits": {}})
    for position, key in enumerate(keys):
        TaskRunFactory(execution=execution, task=key, position=position)
    return execution


def finish(execution, *keys):
    for key in keys:
        execution.task_runs.filter(task=key).update(status=TaskRun.Status.COMPLETED, output=f"Output of {key}.")


def decided(execution, key, number, status, **texts):
    open_ = status == Approval.Status.OPEN
    ApprovalFactory(
        execution=execution, task=key, round=number, status=status, answered_at=None if open_ else Now(), **texts
    )


def spec_of(execution):
    return run_of(execution)._spec()


def test_finished_tasks_stand_in_the_order_of_the_tasks_whichever_was_done_first():
    one, other = running("a", "b", "c"), running("a", "b", "c")
    finish(one, "a", "b")
    finish(other, "b", "a")
    assert json.dumps(spec_of(one)["finished"]) == json.dumps(spec_of(other)["finished"])
    assert list(spec_of(one)["finished"]) == ["a", "b"]


def test_the_next_attempt_differs_in_its_number_and_token_alone():
    execution = running("a", "b")
    finish(execution, "a")
    first = spec_of(execution)
    execution.recover(reason="The engine was killed.")
    execution.start(worker="machine", lease=LEASE)
    second = spec_of(Execution.objects.get(pk=execution.pk))
    assert {key for key in first if first[key] != second[key]} == {"attempt", "gateway"}


def test_open_questions_wait_and_work_that_was_sent_back_comes_with_its_reviews():
    execution = running("asked", "sent back", "approved", "asked again", "new")
    decided(execution, "asked", 1, Approval.Status.OPEN)
    decided(execution, "sent back", 2, Approval.Status.REJECTED, output="Second.", feedback="Longer.")
    decided(execution, "sent back", 1, Approval.Status.REJECTED, output="First.", feedback="Shorter.")
    decided(execution, "approved", 1, Approval.Status.REJECTED, output="Draft.", feedback="Better.")
    decided(execution, "approved", 2, Approval.Status.APPROVED)
    finish(execution, "approved")
    decided(execution, "asked again", 1, Approval.Status.REJECTED, output="Draft.", feedback="No.")
    decided(execution, "asked again", 2, Approval.Status.OPEN)
    spec = spec_of(execution)
    assert spec["waiting"] == ["asked", "asked again"]
    assert spec["reviews"] == {
        "sent back": [
            {"output": "First.", "feedback": "Shorter."},
            {"output": "Second.", "feedback": "Longer."},
        ],
        "asked again": [{"output": "Draft.", "feedback": "No."}],
    }


def test_what_was_spent_counts_since_a_person_last_started_it():
    execution = running()
    Execution.objects.filter(pk=execution.pk).update(restarted_attempt=1)
    execution.refresh_from_db()
    for number in (2, 3):
        execution.recover(reason="The engine was killed.", is_blameless=True)
        execution.start(worker="machine", lease=LEASE)
        assert execution.attempt == number
    seconds = {1: 100, 2: 20, 3: 3}
    for attempt in execution.attempts.all():
        attempt.ended_at = attempt.started_at + timedelta(seconds=seconds[attempt.number])
        attempt.outcome = Status.FAILED
        attempt.save()
    assert run_of(execution)._spent_before() == pytest.approx(23)


def test_nothing_was_spent_before_the_first_attempt():
    assert run_of(running())._spent_before() == 0


def test_a_task_that_is_approved_while_the_spec_is_read_is_not_done_again():
    execution = running("a")
    decided(execution, "a", 1, Approval.Status.OPEN)
    answers = iter([lambda: (_approve(execution), finish(execution, "a"))])

    def answer_after_the_first_read(execute, sql, params, many, context):
        found = execute(sql, params, many, context)
        if sql.startswith("SELECT") and ("_approval" in sql or "_taskrun" in sql):
            next(answers, lambda: None)()
        return found

    with connection.execute_wrapper(answer_after_the_first_read):
        spec = spec_of(execution)
    assert "a" in {*spec["finished"], *spec["waiting"]}


def _approve(execution):
    execution.approvals.update(status=Approval.Status.APPROVED, answered_at=Now())


def test_what_was_sent_back_before_the_run_began_comes_before_what_was_sent_back_since():
    before = {"output": "Draft 0.", "feedback": "Shorter."}
    execution = execution_in(
        Status.RUNNING, snapshot={"spec": {**SPEC, "reviews": {"a": [before], "b": [before]}}, "limits": {}}
    )
    for position, key in enumerate("abc"):
        TaskRunFactory(execution=execution, task=key, position=position)
    finish(execution, "b")
    decided(execution, "a", 1, Approval.Status.REJECTED, output="Draft 1.", feedback="Plainer.")
    assert spec_of(execution)["reviews"] == {"a": [before, {"output": "Draft 1.", "feedback": "Plainer."}]}
