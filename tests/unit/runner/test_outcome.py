"""Why an attempt failed."""

import signal
from decimal import Decimal

import pytest

from executions import events
from executions.engines.client import Exit
from executions.engines.isolation import FILE_SIZE
from executions.engines.protocol import EXIT_NO_OUTPUT
from executions.errors import ErrorCode, Failure
from executions.models import TaskRun
from executions.runner import outcome
from executions.status import Status
from tests.factories.executions import LLMCallFactory, TaskRunFactory, execution_in

pytestmark = pytest.mark.django_db


@pytest.fixture
def execution():
    return execution_in(Status.RUNNING)


def told(execution, type_, task="t1", attempt=1, **data):
    events.append(execution.stream_id, [events.NewEvent(type_, data, task=task, role="Writer", attempt=attempt)])


def code_of(execution, closing):
    return outcome.problem_of(execution, closing, Exit(code=1)).code


ENGINE_SAYS = {"kind": "failure", "reason": "error", "message": "it did not work"}


def test_the_code_is_that_of_the_gateways_last_failed_call(execution):
    told(execution, "llm.failed", error_code="llm_timeout", model="m")
    told(execution, "llm.failed", error_code="llm_auth", model="m")
    failure = outcome.problem_of(execution, ENGINE_SAYS, Exit(code=1))
    assert failure.code == ErrorCode.LLM_AUTH
    assert failure.sentence == f"{ErrorCode.LLM_AUTH.label} (m, Writer)"


def test_a_failure_that_an_answer_followed_is_no_reason(execution):
    told(execution, "llm.failed", error_code="llm_timeout")
    told(execution, "llm.completed", error_code=None)
    assert code_of(execution, ENGINE_SAYS) == ErrorCode.INTERNAL


def test_an_answer_of_another_task_excuses_nothing(execution):
    told(execution, "llm.failed", error_code="llm_timeout")
    told(execution, "llm.completed", task="t2", error_code=None)
    assert code_of(execution, ENGINE_SAYS) == ErrorCode.LLM_TIMEOUT


def test_a_recorded_answer_excuses_a_failure_too(execution):
    told(execution, "llm.failed", error_code="llm_timeout")
    told(execution, "llm.replayed")
    assert code_of(execution, ENGINE_SAYS) == ErrorCode.INTERNAL


def test_a_call_cut_off_with_its_engine_is_no_reason(execution):
    told(execution, "llm.failed", error_code=None, is_cancelled=True)
    assert code_of(execution, ENGINE_SAYS) == ErrorCode.INTERNAL


def test_an_earlier_attempt_is_no_reason(execution):
    told(execution, "llm.failed", attempt=0, error_code="llm_timeout")
    assert code_of(execution, ENGINE_SAYS) == ErrorCode.INTERNAL


@pytest.mark.parametrize(
    ("exited", "says"),
    [(Exit(signal=9), "killed (signal 9)"), (Exit(code=70), "exit code 70"), (Exit(), "that had started it")],
)
def test_an_engine_without_a_last_word_has_crashed_whatever_its_calls_did(execution, exited, says):
    told(execution, "llm.failed", error_code="llm_timeout")
    crash = outcome.problem_of(execution, None, exited)
    assert isinstance(crash, outcome.Crash)
    assert says in crash.sentence


@pytest.mark.parametrize("exited", [Exit(code=EXIT_NO_OUTPUT), Exit(signal=signal.SIGXFSZ)])
def test_an_engine_that_wrote_all_it_may_would_do_so_again(execution, exited):
    found = outcome.problem_of(execution, None, exited, FILE_SIZE - 1000)
    assert isinstance(found, Failure)
    assert (found.code, "200 MB" in found.sentence) == (ErrorCode.ENGINE_CRASHED, True)
    assert isinstance(outcome.problem_of(execution, None, exited, 1000), outcome.Crash)  # the disk is full
    assert isinstance(outcome.problem_of(execution, None, Exit(signal=9), FILE_SIZE - 1000), outcome.Crash)


def test_a_limit_of_money_that_a_call_would_pass_is_no_failure(execution):
    sentence = "The budget of US$ 1 has US$ 0.10 left."
    data = {"error_code": "budget_exceeded", "error_message": sentence, "limit": "usd", "needs_usd": "0.25"}
    told(execution, "llm.failed", **data, needs_tokens=700)
    found = outcome.problem_of(execution, ENGINE_SAYS, Exit(code=1))
    assert found == outcome.Shortage(sentence, Decimal("0.25"), 700)


def test_the_limit_of_calls_is_one(execution):
    told(execution, "llm.failed", error_code="budget_exceeded", error_message="Two calls at most.", limit="calls")
    found = outcome.problem_of(execution, ENGINE_SAYS, Exit(code=1))
    assert found == Failure(ErrorCode.BUDGET_EXCEEDED, "Two calls at most.")


def test_an_engine_may_say_that_an_answer_was_unusable(execution):
    assert code_of(execution, {"kind": "failure", "reason": "bad_output"}) == ErrorCode.LLM_BAD_OUTPUT


def test_what_was_written_before_the_end_is_kept(execution):
    TaskRunFactory(execution=execution, task="t1", name="One", status=TaskRun.Status.COMPLETED, output="Done.")
    TaskRunFactory(execution=execution, task="t2", name="Two", status=TaskRun.Status.RUNNING)
    TaskRunFactory(execution=execution, task="t3", name="Three")
    LLMCallFactory(execution=execution, attempt=1, task="t2", text="Half a")
    outcome.keep_partial_texts(execution)
    assert outcome.partial_output(execution) == "## One\n\nDone.\n\n## Two\n\nHalf a"
