"""Starting a run from a snapshot that somebody else froze."""

import uuid
from decimal import Decimal
from typing import Any

import pytest
from django.db import transaction

from crews.models import LLMModel
from executions import actions, budgets, events, tasks
from executions.budgets import ModelUnpriced
from executions.models import EventStream, Execution
from executions.snapshot import Role, Snapshot
from executions.status import Status
from portal.accounts.models import AccessList, AuditEntry, User
from tests.factories.accounts import AccessListFactory, UserFactory
from tests.factories.crews import LLMModelFactory
from tests.factories.executions import execution_in

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def rings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(tasks, "_enqueue_ring", lambda: found.append("ring"))
    return found


def snapshot(model: LLMModel) -> Snapshot:
    spec: dict[str, Any] = {
        "name": "Project: Plan",
        "engine": "crewai",
        "process": "sequential",
        "agents": [{"key": "planner", "role": "Planner"}],
        "tasks": [{"key": "planning", "name": "Plan", "agent": "planner"}],
        "stage": {"name": "planning", "round": 1, "deliverables": [], "instructions": ""},
    }
    limits = {"max_duration_seconds": 60, "task_timeout_seconds": 60}
    return Snapshot(spec, limits, [Role("planner", "Planner", model)], {}, [])


def launch(by: User, model: LLMModel | None = None, **changes: Any) -> Execution:
    values: dict[str, Any] = {
        "snapshot": snapshot(model or LLMModelFactory()),
        "name": "Project: Plan",
        "engine": "crewai",
        "by": by,
        "trigger": Execution.Trigger.PROJECT,
        **changes,
    }
    return actions.launch(**values)


def test_a_run_without_a_crew_is_stored_and_queued() -> None:
    user, model = UserFactory(), LLMModelFactory(price_in=1, price_out=1)
    made = Execution.objects.get(pk=launch(user, model, priority=7, budget_usd=Decimal("0.5"), max_llm_calls=9).pk)
    assert (made.status, made.crew, made.trigger, made.priority, made.max_llm_calls, made.budget_usd) == (
        *(Status.PENDING, None, "project", 7, 9, Decimal("0.5")),
    )
    assert (made.access.owner, made.created_by, made.stream_id, made.inputs) == (user, user, made.pk, {})
    assert made.snapshot["spec"]["stage"]["name"] == "planning"
    assert [(row.task, row.name, row.role) for row in made.task_runs.all()] == [("planning", "Plan", "Planner")]
    assert [(row.key, row.role, row.llm_model) for row in made.role_models.all()] == [("planner", "Planner", model)]
    (queued,) = events.read(made.stream_id)
    assert (queued["type"], queued["data"]) == (
        "execution.queued",
        {"name": "Project: Plan", "priority": 7, "trigger": "project"},
    )
    assert AuditEntry.objects.filter(action="execution.started", target_id=str(made.pk)).count() == 1


def test_a_run_may_be_guarded_by_the_list_of_something_else() -> None:
    access = AccessListFactory()
    user = UserFactory()
    before = AccessList.objects.count()
    assert launch(user, access=access).access_id == access.pk
    assert AccessList.objects.count() == before


@pytest.mark.django_db(transaction=True)
def test_within_a_transaction_it_is_stored_and_told_with_the_rest(rings: list[str]) -> None:
    user, model = UserFactory(), LLMModelFactory()
    with transaction.atomic():
        launch(user, model)
        transaction.set_rollback(True)
    assert not Execution.objects.exists()
    assert not EventStream.objects.exists()
    assert rings == []
    with transaction.atomic():
        launch(user, model)
        assert rings == []
    assert rings == ["ring"]


@pytest.mark.django_db(transaction=True)
def test_a_key_that_came_twice_at_once_gives_the_first_run() -> None:
    user, model = UserFactory(), LLMModelFactory()
    with transaction.atomic():
        first = launch(user, model, idempotency_key="k", request_hash="h")
        again = launch(user, model, idempotency_key="k", request_hash="h")
        assert User.objects.filter(pk=user.pk).exists()  # the transaction goes on
    assert first.pk == again.pk
    assert Execution.objects.count() == EventStream.objects.count() == 1


def test_under_a_budget_of_its_access_list_every_model_needs_a_price() -> None:
    access, unpriced = AccessListFactory(), LLMModelFactory()
    budgets.set_for_access(access.pk, limit_usd=Decimal(1), by=None)
    with pytest.raises(ModelUnpriced):
        launch(UserFactory(), unpriced, access=access)
    assert not Execution.objects.exists()
    priced = LLMModelFactory(price_in=Decimal(1), price_out=Decimal(1))
    made = launch(UserFactory(), priced, access=access)
    with pytest.raises(ModelUnpriced):
        actions.set_role_models(made, made.created_by, {"Planner": unpriced})
    assert (
        actions.set_role_models(made, made.created_by, {"planner": LLMModelFactory(is_local=True)}).roles_version == 1
    )


def test_an_access_list_goes_with_the_last_that_it_guards() -> None:
    access = AccessListFactory()
    one, other = (execution_in(Status.COMPLETED, access=access) for _ in range(2))
    actions.delete(execution=one, by=access.owner)
    assert AccessList.objects.filter(pk=access.pk).exists()
    actions.delete(execution=other, by=access.owner)
    assert not AccessList.objects.filter(pk=access.pk).exists()


def test_an_access_list_that_guards_something_else_stays() -> None:
    from projects.models import Project

    access, project_id = AccessListFactory(), uuid.uuid4()
    project = Project.objects.create(
        id=project_id, stream=EventStream.objects.create(id=project_id), access=access, name="Shop"
    )
    execution = execution_in(Status.COMPLETED, access=access)
    actions.delete(execution=execution, by=access.owner)
    assert Project.objects.get(pk=project.pk).access == access
