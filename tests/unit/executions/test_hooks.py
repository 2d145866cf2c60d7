"""What higher rooms hear from runs: each move once it is stored, and never at the run's cost."""

import asyncio
import logging
from typing import Any

import pytest
from django.db import transaction

from executions import actions, hooks
from executions.models import Execution
from executions.runner.supervisor import Supervisor
from executions.status import Status
from portal.lib.problems import Conflict
from tests.factories.executions import LEASE, ExecutionFactory, execution_in

pytestmark = pytest.mark.django_db(transaction=True)
Heard = list[tuple[Any, Status]]


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is registered but by the test."""
    for name in ("_receivers", "_chores", "_deletion_guards"):
        monkeypatch.setattr(hooks, name, [])


@pytest.fixture
def heard() -> Heard:
    found: Heard = []

    def receiver(execution_id: Any, status: Status) -> None:
        assert not transaction.get_connection().in_atomic_block
        stored = Execution.objects.values_list("status", flat=True).get(pk=execution_id)
        assert stored == status
        found.append((execution_id, status))

    hooks.on_move(receiver)
    hooks.on_move(receiver)  # once is enough
    return found


def test_every_move_is_told_after_its_commit(heard: Heard) -> None:
    execution = ExecutionFactory()
    execution.start(worker="machine", lease=LEASE)
    with transaction.atomic():
        execution.request_pause(by=execution.created_by)
        execution.pause()
        assert [status for _pk, status in heard] == [Status.RUNNING]
    execution.resume(by=execution.created_by)
    execution.start(worker="machine", lease=LEASE)
    execution.complete("Done.")
    wanted = [Status.RUNNING, Status.PAUSED, Status.PENDING, Status.RUNNING, Status.COMPLETED]
    assert heard == [(execution.pk, status) for status in wanted]


def test_a_move_that_is_rolled_back_is_told_to_nobody(heard: Heard) -> None:
    execution = ExecutionFactory()
    with transaction.atomic():
        execution.start(worker="machine", lease=LEASE)
        transaction.set_rollback(True)
    assert heard == []


def test_a_receiver_that_fails_breaks_neither_the_move_nor_the_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    heard: Heard = []

    def failing(execution_id: Any, status: Status) -> None:
        Execution.objects.filter(pk="no uuid").first()

    hooks.on_move(failing)
    hooks.on_move(lambda *told: heard.append(told))
    execution = ExecutionFactory()
    with caplog.at_level(logging.ERROR):
        execution.start(worker="machine", lease=LEASE)
        with transaction.atomic():
            execution.stop()
    assert Execution.objects.get(pk=execution.pk).status == Status.STOPPED
    assert [status for _pk, status in heard] == [Status.RUNNING, Status.STOPPED]
    assert caplog.text.count("no uuid") >= 2


def test_chores_have_their_turn_in_a_database_thread_whatever_others_do(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[int] = []

    def failing() -> None:
        raise RuntimeError("the chore broke")

    hooks.add_chore(failing)
    hooks.add_chore(lambda: seen.append(Execution.objects.count()))
    ExecutionFactory()
    supervisor = Supervisor()
    try:
        for _ in range(2):
            asyncio.run(supervisor._do_others_chores())
    finally:
        supervisor.db.close()
        supervisor.mail.close()
    assert seen == [1, 1]
    assert caplog.text.count("the chore broke") >= 2


def test_what_somebody_still_needs_is_not_deleted() -> None:
    execution = execution_in(Status.COMPLETED)

    def guard(asked: Execution) -> None:
        if asked.pk == execution.pk:
            raise Conflict("It belongs to something.", code="needed")

    hooks.guard_deletion(guard)
    with pytest.raises(Conflict, match="belongs"):
        actions.delete(execution=execution, by=execution.created_by)
    assert Execution.objects.filter(pk=execution.pk).exists()
    other = execution_in(Status.FAILED)
    actions.delete(execution=other, by=other.created_by)
    assert not Execution.objects.filter(pk=other.pk).exists()
