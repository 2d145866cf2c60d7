"""Pausing, going on, and changing what a run under way uses."""

import threading
from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import connection

from executions import actions, events
from executions.budgets import ModelUnpriced
from executions.errors import InvalidTransition
from executions.models import Execution, RoleModel
from executions.status import Status, WaitingFor
from portal.accounts.models import AccessGrant
from portal.lib.problems import Conflict, InvalidValues
from tests.deadlines import DEADLINE
from tests.factories.accounts import AccessListFactory, UserFactory
from tests.factories.crews import LLMModelFactory, LLMProviderFactory, runnable_crew
from tests.factories.executions import ExecutionFactory, execution_in

pytestmark = pytest.mark.django_db
ENDED = [Status.COMPLETED, Status.FAILED, Status.STOPPED]


def logged(execution: Execution, kind: str) -> list[dict]:
    told = [event["data"] for event in events.read(execution.stream_id) if event["type"] == "log"]
    return [data for data in told if data["kind"] == kind]


def priced(**fields):
    return LLMModelFactory(price_in=Decimal(1), price_out=Decimal(2), **fields)


class TestGoingOn:
    @pytest.mark.parametrize("at_once", [False, True])
    def test_a_running_run_is_asked_to_pause(self, at_once):
        run = execution_in(Status.RUNNING)
        actions.pause(run, run.owner, at_once=at_once)
        run.refresh_from_db()
        assert (run.status, run.is_pausing, run.pause_at_once) == (Status.RUNNING, True, at_once)
        assert run.pause_requested_by == run.owner

    @pytest.mark.parametrize("status", [Status.PENDING, Status.WAITING, Status.PAUSED, *ENDED])
    def test_nothing_else_can_be_paused(self, status):
        run = execution_in(status)
        with pytest.raises(InvalidTransition):
            actions.pause(run, run.owner)

    def test_a_paused_run_goes_on(self):
        run = execution_in(Status.PAUSED)
        actions.resume(run, run.owner)
        assert (run.status, run.pause_requested_at) == (Status.PENDING, None)
        with pytest.raises(InvalidTransition):
            actions.resume(run, run.owner)

    @pytest.mark.parametrize("status", [Status.FAILED, Status.STOPPED])
    def test_a_failed_or_stopped_run_is_tried_again(self, status):
        run = execution_in(status)
        actions.retry(run, run.owner)
        assert (run.status, run.error_code, run.restarted_attempt) == (Status.PENDING, "", 1)

    @pytest.mark.parametrize("status", [Status.RUNNING, Status.PAUSED, Status.COMPLETED])
    def test_no_other_run_is_tried_again(self, status):
        run = execution_in(status)
        with pytest.raises(InvalidTransition):
            actions.retry(run, run.owner)

    def test_everything_of_ones_own_is_stopped_and_admins_stop_all(self):
        owner = UserFactory()
        mine = [execution_in(status, access=AccessListFactory(owner=owner)) for status in Status]
        editors, other = execution_in(Status.PAUSED), execution_in(Status.WAITING)
        AccessGrant.objects.create(access=editors.access, user=owner, level="editor")
        AccessGrant.objects.create(access=other.access, user=owner, level="viewer")
        asked = {run.pk for run in actions.stop_all(owner)}
        assert asked == {run.pk for run in mine if run.is_active} | {editors.pk}
        running = next(run for run in mine if run.status == Status.RUNNING)
        running.refresh_from_db()
        assert running.is_stopping
        assert actions.stop_all(UserFactory(viewer=True)) == []
        assert {run.pk for run in actions.stop_all(UserFactory(admin=True))} == {running.pk, other.pk}


class TestRoleModels:
    def run(self, status=Status.RUNNING, roles=("Writer", "Critic"), **fields):
        run = execution_in(status, **fields)
        for number, role in enumerate(roles):
            RoleModel.objects.create(execution=run, key=f"agent-{number}", role=role, llm_model=LLMModelFactory())
        return run

    def models(self, run):
        return dict(run.role_models.values_list("key", "llm_model_id"))

    @pytest.mark.parametrize("name", ["Critic", "agent-1"])
    def test_a_named_role_gets_another_model_and_the_others_keep_theirs(self, name):
        run, model = self.run(), LLMModelFactory()
        before = self.models(run)
        actions.set_role_models(run, run.owner, {name: model})
        assert self.models(run) == {**before, "agent-1": model.pk}
        assert run.roles_version == 1
        [told] = logged(run, "role_model")
        assert f"Critic now works with {model.pk} instead of {before['agent-1']}" in told["message"]

    def test_a_name_of_several_agents_means_all_of_them(self):
        run, model = self.run(roles=("Writer", "Writer")), LLMModelFactory()
        actions.set_role_models(run, run.owner, {"Writer": model})
        assert set(self.models(run).values()) == {model.pk}

    def test_the_same_model_again_changes_nothing(self):
        run = self.run()
        actions.set_role_models(run, run.owner, {"Writer": run.role_models.first().llm_model})
        assert (run.roles_version, logged(run, "role_model")) == (0, [])

    def test_what_cannot_be_used_is_named_and_changes_nothing(self):
        run, off = self.run(), LLMModelFactory(provider=LLMProviderFactory(enabled=False))
        before = self.models(run)
        with pytest.raises(InvalidValues) as refused:
            actions.set_role_models(run, run.owner, {"Nobody": LLMModelFactory(), "Writer": off})
        assert {error.code for error in refused.value.errors} == {"unknown_role", "model_not_runnable"}
        assert self.models(run) == before

    def test_under_a_budget_of_money_a_model_needs_a_price(self):
        run = self.run(budget_usd=Decimal(1))
        with pytest.raises(ModelUnpriced):
            actions.set_role_models(run, run.owner, {"Writer": LLMModelFactory()})
        actions.set_role_models(run, run.owner, {"Writer": priced()})

    @pytest.mark.parametrize("status", ENDED)
    def test_a_run_that_has_ended_keeps_its_models(self, status):
        run = self.run(status)
        before = self.models(run)
        with pytest.raises(Conflict):
            actions.set_role_models(run, run.owner, {"Writer": LLMModelFactory()})
        assert self.models(run) == before


@pytest.mark.django_db(transaction=True)
def test_changes_at_once_all_happen():
    run = execution_in(Status.RUNNING)
    row = RoleModel.objects.create(execution=run, key="agent-0", role="Writer", llm_model=LLMModelFactory())
    models = [LLMModelFactory() for _ in range(6)]
    ready, failed = threading.Barrier(6), []

    def change(model):
        try:
            ready.wait(DEADLINE)
            actions.set_role_models(Execution.objects.get(pk=run.pk), run.owner, {"Writer": model})
        except Exception as exc:  # noqa: BLE001 - reported by the test's own thread
            failed.append(exc)
        finally:
            connection.close()

    threads = [threading.Thread(target=change, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert failed == []
    run.refresh_from_db()
    row.refresh_from_db()
    assert run.roles_version == 6
    assert logged(run, "role_model")[-1]["model"] == row.llm_model_id


class TestBudgets:
    def waiting(self, **fields):
        run = execution_in(Status.RUNNING, **fields)
        run.wait_for_budget(sentence="It is used up.", usd=Decimal("0.5"), tokens=100)
        return run

    def test_a_run_that_waits_goes_on_when_there_is_room(self):
        run = self.waiting(budget_usd=Decimal(1), cost_usd=Decimal("0.9"))
        actions.set_budget(run, run.owner, budget_usd=Decimal("1.3"))
        assert (run.status, run.waiting_for) == (Status.WAITING, WaitingFor.BUDGET)
        actions.set_budget(run, run.owner, budget_usd=Decimal("1.4"))
        assert (run.status, run.budget_usd) == (Status.PENDING, Decimal("1.4"))
        assert len(logged(run, "budget")) == 2

    def test_a_limit_of_tokens_is_set_and_taken_away_by_itself(self):
        run = self.waiting(budget_tokens=50, budget_usd=Decimal(5))
        actions.set_budget(run, run.owner, budget_tokens=None)
        assert (run.status, run.budget_tokens, run.budget_usd) == (Status.PENDING, None, Decimal(5))

    def test_a_run_that_waits_for_an_answer_goes_on_waiting(self):
        run = execution_in(Status.WAITING)
        actions.set_budget(run, run.owner, budget_tokens=1_000_000)
        assert run.status == Status.WAITING

    def test_a_limit_is_not_negative(self):
        run = execution_in(Status.RUNNING)
        with pytest.raises(InvalidValues):
            actions.set_budget(run, run.owner, budget_tokens=-1)

    def test_a_model_without_a_price_refuses_a_budget_of_money(self):
        run = execution_in(Status.RUNNING)
        RoleModel.objects.create(execution=run, key="a", role="Writer", llm_model=LLMModelFactory())
        with pytest.raises(ModelUnpriced):
            actions.set_budget(run, run.owner, budget_usd=Decimal(1))
        run.refresh_from_db()
        assert run.budget_usd is None

    def test_a_failed_run_gets_a_larger_one_before_it_is_tried_again_and_a_completed_one_none(self):
        failed, done = execution_in(Status.FAILED), execution_in(Status.COMPLETED)
        actions.set_budget(failed, failed.owner, budget_tokens=5)
        assert failed.budget_tokens == 5
        assert events.read(failed.stream_id)[-1]["type"] == "execution.failed"  # after which nobody listens
        with pytest.raises(Conflict):
            actions.set_budget(done, done.owner, budget_tokens=5)

    def test_kickoff_keeps_both_limits_and_asks_for_prices(self):
        crew = runnable_crew(model=priced())
        started = actions.kickoff(crew=crew, inputs={}, by=crew.owner, budget_usd=Decimal(2), budget_tokens=900)
        assert (started.budget_usd, started.budget_tokens) == (Decimal(2), 900)
        crew = runnable_crew()
        with pytest.raises(ModelUnpriced):
            actions.kickoff(crew=crew, inputs={}, by=crew.owner, budget_usd=Decimal(2))
        assert Execution.objects.count() == 1


class TestPriority:
    def order(self):
        return list(Execution.objects.queued())

    def test_a_run_moves_in_the_queue_and_its_age_counts_on(self):
        first, second = ExecutionFactory(), ExecutionFactory()
        assert self.order() == [first, second]
        actions.set_priority(second, second.owner, 9)
        assert self.order() == [second, first]
        assert second.queue_rank == Execution.rank(9, second.created_at)
        actions.set_priority(second, second.owner, 5)
        assert self.order() == [first, second]
        assert abs(second.queue_rank - Execution.rank(5, second.created_at)) < timedelta(milliseconds=1)
        assert len(logged(second, "priority")) == 2

    @pytest.mark.parametrize("wrong", [0, 10])
    def test_there_are_nine(self, wrong):
        run = ExecutionFactory()
        with pytest.raises(InvalidValues):
            actions.set_priority(run, run.owner, wrong)

    def test_what_has_ended_has_no_place(self):
        run = execution_in(Status.COMPLETED)
        with pytest.raises(Conflict):
            actions.set_priority(run, run.owner, 9)
