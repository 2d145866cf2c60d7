"""The journal: what has been answered is not asked for again, and what is under way is waited for."""

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from crews.models import LLMModel
from executions.errors import ErrorCode, Failure
from executions.models import Execution, ExecutionEvent, JournalEntry, LLMCall, RoleModel
from tests.deadlines import wait_for
from tests.factories.crews import LLMModelFactory
from tests.fakes.gateway import (
    CALCULATOR,
    HELLO,
    GatewayServer,
    ask,
    assert_ledgers_agree,
    chunks_of,
    client,
    error_of,
    leave,
    next_attempt,
    running,
    text_of,
    types,
    usage_of,
)
from tests.fakes.llm import FakeLLM

pytestmark = pytest.mark.django_db(transaction=True)
State = JournalEntry.State
SLOW = "long-60@20"  # more than a second of tokens


def model(fake: FakeLLM, mode: str = "ok", **fields: Any) -> LLMModel:
    return LLMModelFactory(route=f"openai/{mode}", api_base=fake.url, **fields)


def idle(gateway: GatewayServer) -> bool:
    return bool(httpx.get(f"{gateway.root}/health").json()["busy"] == 0)


def writing(fake: FakeLLM) -> Callable[[], bool]:
    return lambda: bool(fake.ledger) and fake.ledger[-1].completion_tokens >= 5


# --- Replay -------------------------------------------------------------------------------------


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_a_later_attempt_is_given_the_recorded_answer(
    fake: FakeLLM, gateway: GatewayServer, first: bool, again: bool
) -> None:
    execution, token = running(model(fake, "long-40", id="m"))
    with client(gateway, token, ordinal=0) as http:
        answer = ask(http, stream=first)
    with client(gateway, next_attempt(execution), ordinal=0) as http:
        replay = ask(http, stream=again)

    assert replay.status_code == 200
    assert text_of(replay).encode() == text_of(answer).encode()
    assert usage_of(replay) == usage_of(answer)
    assert replay.headers["x-portal-call"] == answer.headers["x-portal-call"]
    if again:
        assert replay.text.endswith("data: [DONE]\n\n")
        assert chunks_of(replay)[-2]["choices"][0]["finish_reason"] == "stop"
    if not first and not again:
        assert replay.json() == answer.json()
    assert len(fake.ledger) == 1
    assert_ledgers_agree(fake, execution)  # a replay is no call and costs nothing
    assert types(execution) == ["llm.started", "llm.completed", "llm.replayed"]
    told = ExecutionEvent.objects.get(type="llm.replayed")
    call = str(LLMCall.objects.get().call_id)
    assert told.data == {"call": call, "model": "m", "from_attempt": 1}
    assert (told.attempt, told.task, told.role) == (2, "task-1", "Writer")
    entry = JournalEntry.objects.get()
    assert (entry.state, entry.model, entry.role, entry.attempt) == ("done", "m", "agent", 1)


def test_calls_of_tools_are_replayed_with_their_ids(fake: FakeLLM, gateway: GatewayServer) -> None:
    execution, token = running(model(fake, "tools"))
    with client(gateway, token, ordinal=0) as http:
        answer = ask(http, stream=False, tools=[CALCULATOR]).json()
    with client(gateway, next_attempt(execution), ordinal=0) as http:
        assert ask(http, stream=False, tools=[CALCULATOR]).json() == answer
        streamed = chunks_of(ask(http, stream=True, tools=[CALCULATOR]))
    deltas = [choice["delta"] for chunk in streamed for choice in chunk["choices"]]
    calls = next(delta["tool_calls"] for delta in deltas if delta.get("tool_calls"))
    assert [{"index": 0, **call} for call in answer["choices"][0]["message"]["tool_calls"]] == calls
    assert len(fake.ledger) == 1


def test_an_answer_may_hold_any_character(fake: FakeLLM, gateway: GatewayServer) -> None:
    execution, token = running(model(fake))
    odd = [{"role": "user", "content": "nul \0, 안녕 🙂 \u2028 \\u0000"}]
    with client(gateway, token, ordinal=0) as http:
        answer = ask(http, stream=True, messages=odd)
    assert "\0" in text_of(answer)
    with client(gateway, next_attempt(execution), ordinal=0) as http:
        assert text_of(ask(http, stream=True, messages=odd)) == text_of(answer)
    assert len(fake.ledger) == 1


def test_equal_requests_are_told_apart_by_their_ordinal(fake: FakeLLM, gateway: GatewayServer) -> None:
    execution, token = running(model(fake))
    for ordinal in (0, 1):
        with client(gateway, token, ordinal=ordinal) as http:
            ask(http, stream=True)
    token = next_attempt(execution)
    for ordinal in (0, 1, 2):
        with client(gateway, token, ordinal=ordinal) as http:
            ask(http, stream=True)
    assert len(fake.ledger) == 3


def test_without_an_ordinal_every_request_is_another(fake: FakeLLM, gateway: GatewayServer) -> None:
    _, token = running(model(fake))
    with client(gateway, token) as http:
        ask(http, stream=True)
        ask(http, stream=True)
    assert len(fake.ledger) == 2
    assert not JournalEntry.objects.exists()


def test_a_replay_needs_no_model(fake: FakeLLM, gateway: GatewayServer) -> None:
    used = model(fake)
    execution, token = running(used)
    with client(gateway, token, ordinal=0) as http:
        answer = text_of(ask(http, stream=True))
    LLMModel.objects.filter(pk=used.pk).update(enabled=False)
    with client(gateway, next_attempt(execution), ordinal=0) as http:
        assert text_of(ask(http, stream=True)) == answer


def test_a_replay_is_refused_to_a_dead_token(fake: FakeLLM, gateway: GatewayServer) -> None:
    execution, token = running(model(fake))
    with client(gateway, token, ordinal=0) as http:
        ask(http, stream=True)
        current = next_attempt(execution)
        response = ask(http, stream=True)  # at once, while what was read of the run is still remembered
    assert (response.status_code, error_of(response)["code"]) == (401, "invalid_token")
    with client(gateway, current, ordinal=0) as http:
        assert ask(http, stream=True).status_code == 200
        execution.refresh_from_db()
        execution.request_stop(by=None)
        assert ask(http, stream=True).status_code == 401
    assert types(execution).count("llm.replayed") == 1


# --- What failed --------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_that_failed_is_carried_out_again(fake: FakeLLM, gateway: GatewayServer, stream: bool) -> None:
    execution, token = running(model(fake, "malformed", id="m"))
    with client(gateway, token, ordinal=0) as http:
        assert error_of(ask(http, stream=stream))
        asked = len(fake.ledger)
        fake.modes["malformed"] = "ok"
        assert text_of(ask(http, stream=stream)).startswith("Answer")
    assert len(fake.ledger) == asked + 1
    assert JournalEntry.objects.get().state == State.DONE
    with client(gateway, next_attempt(execution), ordinal=0) as http:
        ask(http, stream=stream)
    assert len(fake.ledger) == asked + 1


def test_a_try_that_failed_is_not_the_answer(fake: FakeLLM, gateway: GatewayServer) -> None:
    execution, token = running(model(fake, "500-1"))
    with client(gateway, token, ordinal=0) as http:
        answer = text_of(ask(http, stream=True))
    with client(gateway, next_attempt(execution), ordinal=0) as http:
        assert text_of(ask(http, stream=True)) == answer
    assert len(fake.ledger) == 2
    assert JournalEntry.objects.count() == 1


def test_a_refused_request_leaves_no_entry(fake: FakeLLM, gateway: GatewayServer) -> None:
    _, token = running(model(fake), max_llm_calls=1)
    for ordinal, status in ((0, 200), (1, 402)):
        with client(gateway, token, ordinal=ordinal) as http:
            assert ask(http, stream=True).status_code == status
    assert JournalEntry.objects.get().ordinal == 0


# --- Two at once --------------------------------------------------------------------------------


def test_of_equal_requests_at_once_one_goes_upstream(fake: FakeLLM, gateway: GatewayServer) -> None:
    execution, token = running(model(fake, "delay-300"))
    texts: list[str] = []

    def one(stream: bool) -> None:
        with client(gateway, token, ordinal=0) as http:
            texts.append(text_of(ask(http, stream=stream)))

    threads = [threading.Thread(target=one, args=(number % 2 == 0,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fake.ledger) == 1
    assert len(texts) == 6
    assert len(set(texts)) == 1
    assert types(execution).count("llm.replayed") == 5
    assert_ledgers_agree(fake, execution)


def test_who_waits_for_a_request_that_fails_carries_it_out(fake: FakeLLM, gateway: GatewayServer) -> None:
    execution, token = running(model(fake, "truncated"))  # two tokens; it breaks a moment later
    answers: list[httpx.Response] = []

    def one() -> None:
        with client(gateway, token, ordinal=0) as http:
            answers.append(ask(http, stream=True))

    first, second = threading.Thread(target=one), threading.Thread(target=one)
    first.start()
    wait_for(lambda: fake.ledger, "the first is under way")
    fake.modes["truncated"] = "ok"
    second.start()
    first.join()
    second.join()
    assert sorted("error" in chunks_of(answer)[-1] for answer in answers) == [False, True]
    assert len(fake.ledger) == 2
    assert types(execution) == ["llm.started", "llm.failed", "llm.started", "llm.completed"]


# --- When the engine dies -----------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_under_way_is_drained_and_joined_by_the_next_attempt(
    fake: FakeLLM, gateway: GatewayServer, stream: bool
) -> None:
    execution, token = running(model(fake, SLOW))
    leave(gateway, token, stream=stream, once=writing(fake), ordinal=0)
    with client(gateway, next_attempt(execution), ordinal=0) as http:
        answer = ask(http, stream=stream)
    assert len(fake.ledger) == 1
    assert not fake.ledger[0].client_gone
    assert answer.status_code == 200
    assert len(text_of(answer)) == 240
    assert types(execution) == ["llm.started", "llm.completed", "llm.replayed"]
    assert_ledgers_agree(fake, execution)


@pytest.mark.parametrize("status", ["pending", "paused"])
def test_an_answer_is_drained_while_its_run_waits(fake: FakeLLM, gateway: GatewayServer, status: str) -> None:
    execution, token = running(model(fake, SLOW))

    def waits() -> bool:
        if not writing(fake)():
            return False
        if status == "paused":
            execution.request_pause(by=None, at_once=True)
            execution.pause()
        else:
            execution.recover(reason="The engine died.", is_blameless=True)
        return True

    leave(gateway, token, once=waits, ordinal=0)
    wait_for(lambda: JournalEntry.objects.get().state == State.DONE, "the answer is recorded")
    assert not fake.ledger[0].client_gone
    assert LLMCall.objects.get().status == "completed"
    assert types(execution) == ["llm.started", "llm.completed"]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("mode", ["hang-silent", "hang-first", "hang-between", SLOW])
def test_a_stop_ends_the_upstream_request(fake: FakeLLM, gateway: GatewayServer, mode: str, stream: bool) -> None:
    execution, token = running(model(fake, mode))

    def stopped() -> bool:
        under_way = bool(fake.ledger) and fake.ledger[0].completion_tokens >= (5 if mode == SLOW else 0)
        if under_way:
            execution.request_stop(by=None)
        return under_way

    leave(gateway, token, stream=stream, once=stopped, ordinal=0)
    left = time.time()
    wait_for(lambda: fake.ledger[0].ended_at, "the upstream request ends", every=0.01)
    assert fake.ledger[0].client_gone
    assert (fake.ledger[0].ended_at or 0) - left < 2
    wait_for(lambda: JournalEntry.objects.get().state == State.LOST, "the entry is lost", every=0.01)
    assert LLMCall.objects.get().status == "cancelled"


def _stop(execution: Execution) -> None:
    execution.request_stop(by=None)


def _fail(execution: Execution) -> None:
    execution.fail(Failure(ErrorCode.INTERNAL))


def _be_about_to_fail(execution: Execution) -> None:
    execution.will_fail(Failure(ErrorCode.INTERNAL))


@pytest.mark.parametrize("end", [_stop, _fail, _be_about_to_fail])
def test_a_drain_ends_with_its_run(fake: FakeLLM, gateway: GatewayServer, end: Callable[[Execution], None]) -> None:
    execution, token = running(model(fake, "hang-between"))
    leave(gateway, token, once=lambda: fake.ledger and fake.ledger[0].completion_tokens >= 2, ordinal=0)
    end(execution)
    asked = time.time()
    wait_for(lambda: fake.ledger[0].ended_at, "the upstream request ends", every=0.01)
    assert (fake.ledger[0].ended_at or 0) - asked < 2


def test_who_leaves_the_line_before_its_turn_is_not_drained(fake: FakeLLM, gateway: GatewayServer) -> None:
    _, token = running(model(fake, "hang-silent", max_concurrency=1))

    def queued() -> int:
        return int(httpx.get(f"{gateway.root}/health").json()["queued"])

    def second_leaves() -> bool:
        leave(gateway, token, once=lambda: queued() == 1, ordinal=1)
        return bool(wait_for(lambda: queued() == 0, "the line is empty again", every=0.01))

    leave(gateway, token, once=lambda: fake.ledger and second_leaves())
    wait_for(lambda: idle(gateway), "nothing is under way")
    assert len(fake.ledger) == 1
    assert not JournalEntry.objects.exists()


# --- Models without tools -----------------------------------------------------------------------


def without_tools(fake: FakeLLM, mode: str = "ok") -> LLMModel:
    return LLMModelFactory(id="local", route=f"local/{mode}", api_base=fake.url, native_tools=False)


def test_a_call_that_a_schema_made_is_replayed_with_its_id(fake: FakeLLM, gateway: GatewayServer) -> None:
    execution, token = running(without_tools(fake))
    with client(gateway, token, ordinal=0) as http:
        first = ask(http, stream=False, tools=[CALCULATOR]).json()
    with client(gateway, token, ordinal=1) as http:
        second = ask(http, stream=False, tools=[CALCULATOR]).json()
    with client(gateway, next_attempt(execution), ordinal=0) as http:
        replay = ask(http, stream=False, tools=[CALCULATOR]).json()
    ids = [answer["choices"][0]["message"]["tool_calls"][0]["id"] for answer in (first, second, replay)]
    assert ids[0] == ids[2] != ids[1]
    assert replay == first
    assert len(fake.ledger) == 2


def decided_to_answer() -> list[dict[str, Any]]:
    """A conversation in which the call that the fake always decides for was made already: it answers."""
    call = {"id": "call_x", "type": "function", "function": {"name": "calculator", "arguments": '{"expression": "2"}'}}
    return [
        {"role": "user", "content": "Use the calculator."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_x", "content": "2"},
    ]


def test_a_decision_is_not_asked_for_again_when_its_answer_failed(fake: FakeLLM, gateway: GatewayServer) -> None:
    execution, token = running(without_tools(fake, "long-40"))
    messages = decided_to_answer()
    asked = {"messages": messages, "tools": [CALCULATOR]}

    def failed_in_the_answer() -> bool:
        # The decision's stream is whole; its answer hangs.
        if len(fake.ledger) == 1:
            fake.modes["long-40"] = "hang-between"
        return len(fake.ledger) == 2 and fake.ledger[1].completion_tokens >= 2

    fake.modes["long-40"] = "slow-20"
    leave(gateway, token, once=failed_in_the_answer, ordinal=0, **asked)
    Execution.objects.update(stop_requested_at=execution.created_at)
    wait_for(lambda: JournalEntry.objects.filter(state=State.LOST).exists(), "the answer is lost")
    Execution.objects.update(stop_requested_at=None)
    fake.modes["long-40"] = "ok"
    token = next_attempt(execution)
    with client(gateway, token, ordinal=0) as http:
        answer = ask(http, stream=True, **asked)
    assert text_of(answer).startswith("Answer")
    assert len(fake.ledger) == 3
    assert types(execution)[-3:] == ["llm.replayed", "llm.started", "llm.completed"]
    with client(gateway, next_attempt(execution), ordinal=0) as http:
        assert text_of(ask(http, stream=False, **asked)) == text_of(answer)
        assert usage_of(ask(http, stream=False, **asked)) == usage_of(answer)
    assert len(fake.ledger) == 3


# --- Another model ------------------------------------------------------------------------------


def test_another_model_of_a_role_takes_effect_at_the_very_next_call(fake: FakeLLM, gateway: GatewayServer) -> None:
    execution, token = running(model(fake, "ok", id="before"))
    after = model(fake, "ok", id="after")
    for ordinal in range(3):
        with client(gateway, token, ordinal=ordinal) as http:
            assert ask(http, stream=True, messages=[*HELLO, *HELLO]).status_code == 200
        if ordinal == 1:  # at once, while what was read of the run is still remembered
            RoleModel.objects.update(llm_model=after)
            Execution.objects.update(roles_version=execution.roles_version + 1)
    assert list(LLMCall.objects.order_by("pk").values_list("model", flat=True)) == ["before", "before", "after"]
    execution.refresh_from_db()
    assert execution.llm_calls_count == 3
    with client(gateway, next_attempt(execution), ordinal=0) as http:
        ask(http, stream=True, messages=[*HELLO, *HELLO])  # the model is not what tells requests apart
    assert LLMCall.objects.count() == 3
    assert json.loads(JournalEntry.objects.get(ordinal=2).answer)["usage"]


def test_a_role_leaves_a_model_that_cannot_run_at_the_very_next_call(fake: FakeLLM, gateway: GatewayServer) -> None:
    execution, token = running(model(fake, id="broken", enabled=False))
    after = model(fake, id="after")
    with client(gateway, token, ordinal=0) as http:
        assert ask(http, stream=True).status_code == 502
        RoleModel.objects.update(llm_model=after)
        Execution.objects.update(roles_version=execution.roles_version + 1)
        assert ask(http, stream=True).status_code == 200
    assert LLMCall.objects.get().model == "after"
