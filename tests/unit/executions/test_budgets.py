"""Reserving and settling, periods, prices, and who may go on."""

import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from crews.models import LLMProvider
from crews.models.catalog import LLMFallback
from executions import budgets, reserves
from executions.budgets import Amount, ModelUnpriced
from executions.models import Budget, Execution
from executions.status import Status
from tests.factories.accounts import AccessListFactory, UserFactory
from tests.factories.crews import LLMModelFactory
from tests.factories.executions import LEASE, ExecutionFactory

pytestmark = pytest.mark.django_db
PRICED = {"price_in": Decimal(2), "price_out": Decimal(10)}


def budget_of(user: Any, **fields: Any) -> Budget:
    return Budget.objects.create(subject_id=user.pk, **fields)


def running(**fields: Any) -> Execution:
    execution = ExecutionFactory(**fields)
    execution.start(worker="machine", lease=LEASE)
    return execution


def opened(execution: Execution, names: list[str], most: Amount) -> bool:
    """As the gateway opens a call: both reserves, or none."""
    with transaction.atomic():
        found = reserves.reserve_own(execution.pk, execution.attempt, most)
        if found and reserves.reserve(names, most):
            return True
        transaction.set_rollback(True)
    return False


def settled(execution: Execution, names: list[str], most: Amount, used: Amount) -> None:
    reserves.settle_own(
        execution.pk, most, prompt_tokens=used.tokens, completion_tokens=0, cost_usd=used.usd, is_unpriced=False
    )
    reserves.settle(names, most, used)


money = st.decimals(min_value=0, max_value=Decimal("0.4"), places=8)
steps = st.lists(
    st.tuples(st.booleans(), money, st.integers(0, 400), st.integers(0, 100), st.integers(0, 100)), max_size=30
)


@hypothesis(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
def test_what_is_spent_and_reserved_never_passes_a_limit_and_nothing_is_leaked(steps: list[Any]) -> None:
    execution = running(budget_usd=Decimal("1.5"), budget_tokens=2000, max_llm_calls=1000)
    user = execution.created_by
    rows = [
        budget_of(user, limit_usd=Decimal(1)),
        budget_of(user, limit_tokens=1000, period="day"),
        budget_of(user, limit_usd=Decimal("0.7"), limit_tokens=5000, period="month"),
    ]
    names = [str(row.pk) for row in rows]
    under_way: list[Amount] = []
    spent = Amount()
    for is_settling, usd, tokens, percent_usd, percent_tokens in steps:
        if is_settling and under_way:
            most = under_way.pop(0)
            used = Amount(round(most.usd * percent_usd / 100, 8), most.tokens * percent_tokens // 100)
            settled(execution, names, most, used)
            spent = Amount(spent.usd + used.usd, spent.tokens + used.tokens)
        else:
            most = Amount(usd, tokens)
            reserved = Amount(sum((a.usd for a in under_way), Decimal(0)), sum(a.tokens for a in under_way))
            fits_usd = not usd or spent.usd + reserved.usd + usd <= Decimal("0.7")
            fits = fits_usd and spent.tokens + reserved.tokens + tokens <= 1000
            assert opened(execution, names, most) == (fits or not (usd or tokens))
            if fits or not (usd or tokens):
                under_way.append(most)
        held = Amount(sum((a.usd for a in under_way), Decimal(0)), sum(a.tokens for a in under_way))
        execution.refresh_from_db()
        assert (execution.reserved_usd, execution.reserved_tokens) == (held.usd, held.tokens)
        for row in rows:
            row.refresh_from_db()
            assert (row.reserved_usd, row.reserved_tokens) == (held.usd, held.tokens)
            assert (row.spent_usd, row.spent_tokens) == (spent.usd, spent.tokens)
            assert row.limit_usd is None or row.spent_usd + row.reserved_usd <= row.limit_usd
            assert row.limit_tokens is None or row.spent_tokens + row.reserved_tokens <= row.limit_tokens
    for most in under_way:
        settled(execution, names, most, Amount())
    for row in [execution, *rows]:
        row.refresh_from_db()
        assert (row.reserved_usd, row.reserved_tokens) == (0, 0)
    assert (execution.cost_usd, execution.prompt_tokens) == (spent.usd, spent.tokens)


def test_what_costs_nothing_is_let_through_where_the_money_is_gone() -> None:
    execution = running(budget_usd=Decimal(1), cost_usd=Decimal("1.5"))
    over = budget_of(execution.created_by, limit_usd=Decimal(1), spent_usd=Decimal("1.5"))
    assert opened(execution, [str(over.pk)], Amount(Decimal(0), 100))
    assert not opened(execution, [str(over.pk)], Amount(Decimal("0.00000001"), 100))


def test_calls_count_from_where_a_person_started_the_run_again() -> None:
    execution = running(max_llm_calls=2, calls_before_restart=5, llm_calls_count=6)
    assert opened(execution, [], Amount())
    assert not opened(execution, [], Amount())


def test_no_call_is_counted_for_another_attempt_or_a_run_that_is_to_stop() -> None:
    execution = running(roles_version=3)
    assert reserves.reserve_own(execution.pk, execution.attempt + 1, Amount()) is None
    assert reserves.reserve_own(execution.pk, execution.attempt, Amount()) == (3, False)
    execution.request_stop(by=None)
    assert reserves.reserve_own(execution.pk, execution.attempt, Amount()) is None


def test_settling_the_call_of_a_deleted_run_gives_the_budget_its_reserve_back() -> None:
    budget = budget_of(UserFactory(), limit_usd=Decimal(1), reserved_usd=Decimal("0.5"), reserved_tokens=10)
    most, used = Amount(Decimal("0.5"), 10), Amount(Decimal("0.25"), 5)
    gone = reserves.settle_own(
        uuid.uuid4(), most, prompt_tokens=1, completion_tokens=1, cost_usd=used.usd, is_unpriced=False
    )
    reserves.settle([str(budget.pk), str(uuid.uuid4())], most, used)
    budget.refresh_from_db()
    assert not gone
    assert (budget.reserved_usd, budget.spent_usd, budget.spent_tokens) == (0, Decimal("0.25"), 5)


# --- Periods ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "period", "start"),
    [
        ("UTC", "day", datetime(2026, 3, 31, tzinfo=UTC)),
        ("Asia/Seoul", "day", datetime(2026, 3, 31, 15, tzinfo=UTC)),
        ("UTC", "month", datetime(2026, 3, 1, tzinfo=UTC)),
        ("Asia/Seoul", "month", datetime(2026, 3, 31, 15, tzinfo=UTC)),
        ("UTC", "total", None),
    ],
)
def test_a_period_begins_at_midnight_where_the_portal_is(zone: str, period: str, start: Any) -> None:
    with timezone.override(zone):
        assert budgets.period_start(period, datetime(2026, 3, 31, 20, tzinfo=UTC)) == start


@pytest.mark.parametrize(("period", "spent"), [("day", 0), ("month", 0), ("total", Decimal("0.9"))])
def test_a_new_period_begins_with_nothing_spent_and_keeps_what_is_reserved(period: str, spent: Any) -> None:
    user = UserFactory()
    long_ago = timezone.now() - timedelta(days=40)
    fields = {"spent_usd": Decimal("0.9"), "spent_tokens": 5, "reserved_usd": Decimal("0.05")}
    budget_of(user, limit_usd=Decimal(1), period=period, window_start=long_ago, **fields)
    budgets.of_user(user.pk)
    (row,) = budgets.of_user(user.pk)
    assert (row.spent_usd, row.reserved_usd) == (spent, Decimal("0.05"))
    assert (row.window_start == long_ago) == (period == "total")


# --- Prices -------------------------------------------------------------------------------------


def test_a_budget_of_money_needs_prices_of_models_and_of_what_they_fall_back_on() -> None:
    user = UserFactory()
    priced, unpriced, off = LLMModelFactory(**PRICED), LLMModelFactory(), LLMModelFactory(enabled=False)
    local = LLMModelFactory(is_local=True)
    embedded = LLMModelFactory(provider__kind=LLMProvider.Kind.EMBEDDED)
    LLMFallback.objects.create(model=priced, fallback=local)
    LLMFallback.objects.create(model=priced, fallback=off)

    budgets.require_priced(user=user, models=[unpriced], budget_usd=None)
    budgets.require_priced(user=user, models=[priced, local, embedded], budget_usd=Decimal(1))
    with pytest.raises(ModelUnpriced) as refused:
        budgets.require_priced(user=user, models=[priced, unpriced], budget_usd=Decimal(1))
    assert [unpriced.pk in error.detail for error in refused.value.errors] == [True]

    budget_of(user, limit_tokens=5)
    budgets.require_priced(user=user, models=[unpriced], budget_usd=None)
    budget_of(user, limit_usd=Decimal(5), period="day")
    LLMFallback.objects.create(model=priced, fallback=unpriced)
    with pytest.raises(ModelUnpriced):
        budgets.require_priced(user=user, models=[priced], budget_usd=None)


# --- Going on -----------------------------------------------------------------------------------


def waiting(user: Any = None, usd: str = "0.4", tokens: int = 100, **fields: Any) -> Execution:
    execution = running(**({"created_by": user} if user else {}), **fields)
    execution.wait_for_budget(sentence="Too little is left.", usd=Decimal(usd), tokens=tokens)
    return execution


def test_a_run_can_go_on_once_its_own_limit_is_raised() -> None:
    execution = waiting(budget_usd=Decimal("0.5"), cost_usd=Decimal("0.2"))
    assert not budgets.affordable(execution)
    assert budgets.go_on() == 0
    Execution.objects.update(budget_usd=Decimal("0.6"))
    assert budgets.affordable(execution)
    assert budgets.go_on() == 1
    execution.refresh_from_db()
    assert (execution.status, execution.needs_usd) == (Status.PENDING, None)


def test_runs_of_one_budget_go_on_as_far_as_it_reaches_and_a_period_later_the_rest() -> None:
    user = UserFactory()
    budget = budget_of(user, limit_usd=Decimal(1), period="day", spent_usd=Decimal("0.1"))
    runs = [waiting(user) for _ in range(3)]
    other = waiting(budget_tokens=50)
    assert budgets.go_on() == 2
    assert sum(Execution.objects.get(pk=run.pk).status == Status.PENDING for run in runs) == 2
    budget.refresh_from_db()
    Budget.objects.update(spent_usd=Decimal("0.9"))
    assert budgets.go_on() == 0
    Budget.objects.update(window_start=timezone.now() - timedelta(days=2))
    assert budgets.go_on(user=user.pk) == 1
    assert Execution.objects.get(pk=other.pk).status == Status.WAITING


# --- Budgets of what an access list guards together ------------------------------------------------


def test_a_budget_of_an_access_list_counts_for_its_runs_alone(django_assert_num_queries: Any) -> None:
    access, user = AccessListFactory(), UserFactory()
    budgets.set_for_access(access.pk, limit_usd=Decimal(1), by=user)
    (budget,) = budgets.of_access(access.pk)
    assert (budget.subject_kind, budget.period, budget.limit_usd) == ("access", "total", 1)
    assert budgets.of(user.pk, None, access.pk) == [budget]
    assert budgets.of_user(user.pk) == budgets.of_person(user.pk) == []
    assert budgets.owner_of(budget) == access.owner_id
    assert (budget.user_id, budget.api_key_id) == (None, None)
    mine, other = ExecutionFactory(access=access), ExecutionFactory()
    found = Execution.objects.annotate(has=budgets.HAS_BUDGET).values_list("pk", "has")
    assert dict(found) == {mine.pk: True, other.pk: False}
    with django_assert_num_queries(0):
        assert not budgets.limits_of(user.pk, access=access.pk, has_budget=False)
    assert budgets.limits_of(user.pk, access=access.pk).budgets == (budget.pk,)


def test_a_budget_of_an_access_list_counts_what_its_runs_have_used_already() -> None:
    access = AccessListFactory()
    for cost in ("0.25", "0.1"):
        ExecutionFactory(access=access, cost_usd=Decimal(cost), prompt_tokens=5, completion_tokens=2)
    ExecutionFactory(cost_usd=Decimal(3))
    budgets.set_for_access(access.pk, limit_usd=Decimal(1), by=None)
    budget = Budget.objects.get()
    assert (budget.spent_usd, budget.spent_tokens) == (Decimal("0.35"), 14)
    Budget.objects.update(spent_usd=Decimal("0.9"), reserved_usd=Decimal("0.05"))
    budgets.set_for_access(access.pk, limit_usd=Decimal(2), by=None)
    budget.refresh_from_db()
    assert (budget.limit_usd, budget.spent_usd, budget.reserved_usd) == (2, Decimal("0.9"), Decimal("0.05"))
    budgets.set_for_access(access.pk, limit_usd=None, by=None)
    budgets.set_for_access(access.pk, limit_usd=None, by=None)
    assert not Budget.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_runs_go_on_once_the_budget_of_their_access_list_is_raised() -> None:
    access, user = AccessListFactory(), UserFactory()
    budgets.set_for_access(access.pk, limit_usd=Decimal("0.5"), by=user)
    Budget.objects.update(spent_usd=Decimal("0.3"))
    runs = [waiting(access=access, usd="0.4") for _ in range(2)]
    elsewhere = waiting(budget_usd=Decimal("0.1"))
    assert not budgets.affordable(runs[0])
    assert budgets.go_on() == 0
    with transaction.atomic():
        budgets.set_for_access(access.pk, limit_usd=Decimal("0.8"), by=user)
        assert {run.status for run in Execution.objects.all()} == {Status.WAITING}
    statuses = [Execution.objects.get(pk=run.pk).status for run in (*runs, elsewhere)]
    assert sorted(statuses) == [Status.PENDING, Status.WAITING, Status.WAITING]
    assert statuses[2] == Status.WAITING  # and of its own two only as many as there is room for
    budgets.set_for_access(access.pk, limit_usd=None, by=user)
    assert {Execution.objects.get(pk=run.pk).status for run in runs} == {Status.PENDING}


def test_why_a_budget_of_an_access_list_is_too_small_names_the_project() -> None:
    access = AccessListFactory()
    budgets.set_for_access(access.pk, limit_usd=Decimal("0.5"), by=None)
    Budget.objects.update(limit_tokens=10)
    usd, tokens = budgets.rooms_of(budgets.of_access(access.pk))
    needs = Amount(Decimal("0.6"), 20)
    assert usd.lacks(needs)
    assert tokens.lacks(needs)
    assert "the project's budget of US$ 0.5 has 0.5 left" in usd.sentence(needs)
    assert "the project's budget of 10 has 10 left" in tokens.sentence(needs)
