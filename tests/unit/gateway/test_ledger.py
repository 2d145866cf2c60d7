"""Opening and closing calls where the database or the run's end comes between."""

from decimal import Decimal

import pytest
from django.utils import timezone

from executions import events
from executions.gateway import ledger
from executions.gateway.catalog import Caller, Target, read_run
from executions.models import Execution, LLMCall
from executions.status import Status
from tests.factories.crews import LLMModelFactory
from tests.factories.executions import execution_in

pytestmark = pytest.mark.django_db


def call_of(execution: Execution) -> LLMCall:
    return LLMCall(
        execution=execution, attempt=execution.attempt, model="fake", provider="Fake",
        reserved_tokens=30, opened_at=timezone.now(),
    )  # fmt: skip


def types(execution: Execution) -> list[str]:
    return [event["type"] for event in events.read(execution.stream_id)]


ANSWERED = ledger.Closing(
    prompt_tokens=10, completion_tokens=5, is_estimated=False, latency_ms=1, first_token_ms=1, text="", http_status=200
)


def test_an_opening_whose_word_was_lost_is_not_made_twice() -> None:
    execution = execution_in(Status.RUNNING, budget_tokens=100)
    caller = Caller(execution.pk, execution.attempt)
    run, row = read_run(caller), call_of(execution)
    ledger.open_call(row, caller, run)
    ledger.open_call(row, caller, run)  # committed, but the connection broke before anybody heard of it
    execution.refresh_from_db()
    assert (execution.llm_calls_count, execution.reserved_tokens) == (1, 30)
    assert LLMCall.objects.count() == 1
    assert types(execution).count("llm.started") == 1


def test_an_opening_that_was_rolled_back_is_made_again() -> None:
    execution = execution_in(Status.RUNNING)
    caller = Caller(execution.pk, execution.attempt)
    run, row = read_run(caller), call_of(execution)
    row.pk = 10_000  # as the rolled-back insert left it
    ledger.open_call(row, caller, run)
    assert LLMCall.objects.get().pk == row.pk != 10_000


def test_a_call_that_outlives_its_run_is_accounted_for_and_leaves_the_log_at_rest() -> None:
    execution = execution_in(Status.RUNNING)
    caller = Caller(execution.pk, execution.attempt)
    row = call_of(execution)
    ledger.open_call(row, caller, read_run(caller))
    execution.stop()
    ledger.close_call(row, Target.of(LLMModelFactory(price_in=Decimal(2), price_out=Decimal(2))), ANSWERED)
    execution.refresh_from_db()
    assert (execution.prompt_tokens, execution.completion_tokens, execution.reserved_tokens) == (10, 5, 0)
    assert types(execution)[-1] == "execution.stopped"
