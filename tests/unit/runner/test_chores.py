"""What runners do beside their runs."""

from datetime import timedelta

import pytest
from django.db.models.functions import Now

from executions.errors import ErrorCode
from executions.models import Approval, Execution
from executions.runner import chores
from executions.status import Status
from tests.factories.executions import ApprovalFactory, execution_in

pytestmark = pytest.mark.django_db


def asked(status=Status.WAITING, **due):
    execution = execution_in(status)
    if status != Status.WAITING:
        ApprovalFactory(execution=execution)
    Approval.objects.filter(execution=execution).update(**due)
    return execution


@pytest.mark.parametrize("status", [Status.WAITING, Status.RUNNING, Status.PAUSED])
def test_a_question_that_nobody_answered_in_time_ends_its_run(status):
    execution = asked(status, expires_at=Now() - timedelta(seconds=1))
    assert chores.expire_approvals() == 1
    execution.refresh_from_db()
    approval = execution.approvals.get()
    assert (execution.status, execution.error_code) == (Status.FAILED, ErrorCode.TIMED_OUT)
    assert approval.name in execution.error_message
    assert approval.status == Approval.Status.EXPIRED
    assert chores.expire_approvals() == 0


def test_a_question_that_has_time_or_no_limit_stays_open():
    asked(expires_at=Now() + timedelta(hours=1))
    asked()
    assert chores.expire_approvals() == 0
    assert set(Approval.objects.values_list("status", flat=True)) == {Approval.Status.OPEN}
    assert set(Execution.objects.values_list("status", flat=True)) == {Status.WAITING}


def test_an_answer_that_came_first_stands():
    execution = asked(expires_at=Now() - timedelta(seconds=1), status=Status.WAITING)
    late = execution.approvals.get()
    Approval.objects.update(status=Approval.Status.APPROVED, answered_at=Now())
    assert not chores._expire(late)
    execution.refresh_from_db()
    assert execution.status == Status.WAITING
