"""The gateway's conformance, continued: who goes away, who waits, tools, live text, crashes, litellm."""

import json
import threading
import time
from decimal import Decimal
from typing import Any

import httpx
import pytest
from django.utils import timezone

from crews.models import LLMModel, LLMProvider
from executions.errors import ErrorCode
from executions.gateway import ledger, presence
from executions.gateway.livetext import PUSH_SECONDS
from executions.models import Execution, ExecutionEvent, LLMCall, ToolCall
from tests.deadlines import wait_for
from tests.factories.crews import LLMModelFactory, LLMProviderFactory, ToolFactory
from tests.factories.executions import LLMCallFactory
from tests.fakes.gateway import (
    CALCULATOR,
    GatewayServer,
    ask,
    assert_ledgers_agree,
    chunks_of,
    client,
    error_of,
    impatient,
    leave,
    running,
    text_of,
    types,
    usage_of,
)
from tests.fakes.llm import FakeLLM

pytestmark = pytest.mark.django_db(transaction=True)


# --- Clients that go away -----------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("mode", ["hang-silent", "hang-first", "hang-between", "long-2000@5"])
def test_a_client_that_goes_away_ends_the_upstream_request(
    fake: FakeLLM, gateway: GatewayServer, mode: str, stream: bool
) -> None:
    execution, token = running(LLMModelFactory(id="m", route=f"openai/{mode}", api_base=fake.url))

    def under_way() -> bool:
        written = {"hang-between": 2, "long-2000@5": 5}.get(mode, 0)
        return bool(fake.ledger) and fake.ledger[0].completion_tokens >= written

    leave(gateway, token, stream=stream, once=under_way)
    left = time.time()
    wait_for(lambda: fake.ledger[0].ended_at, "the upstream request ends", every=0.01)
    assert fake.ledger[0].client_gone
    assert fake.ledger[0].ended_at - left < 2
    wait_for(lambda: not LLMCall.objects.filter(status="open").exists(), "the row is closed", every=0.01)
    row = LLMCall.objects.get()
    assert (row.status, row.error_code, row.is_estimated) == ("cancelled", "", True)
    assert row.prompt_tokens == fake.ledger[0].prompt_tokens
    # What was still on its way when the connection broke was written but never seen.
    assert 0 <= fake.ledger[0].completion_tokens - row.completion_tokens <= 3
    assert types(execution) == ["llm.started", "llm.failed"]
    assert ExecutionEvent.objects.get(type="llm.failed").data["is_cancelled"] is True
    execution.refresh_from_db()
    assert execution.prompt_tokens == row.prompt_tokens


def test_a_client_that_goes_away_while_a_retry_is_due_is_not_asked_for_again(
    fake: FakeLLM, gateway: GatewayServer
) -> None:
    _, token = running(LLMModelFactory(id="m", route="openai/retry-after-20", api_base=fake.url))
    leave(gateway, token, stream=True, once=lambda: LLMCall.objects.filter(status="failed").exists())
    wait_for(lambda: httpx.get(f"{gateway.root}/health").json()["busy"] == 0, "the place is free again")
    assert len(fake.ledger) == 1


# --- The line in front of a model ---------------------------------------------------------------


def test_a_model_takes_so_many_requests_at_once_and_the_rest_wait_their_turn(
    fake: FakeLLM, gateway: GatewayServer
) -> None:
    model = LLMModelFactory(id="m", route="openai/delay-350", api_base=fake.url, max_concurrency=2)
    execution, token = running(model)
    done: list[int] = []

    def one() -> None:
        with client(gateway, token) as http:
            done.append(ask(http, stream=True).status_code)

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [200] * 6
    spans = [(entry.at, entry.ended_at or 0) for entry in fake.ledger]
    assert max(sum(begin < at + 1e-9 < end for begin, end in spans) for at, _ in spans) <= 2
    rows = list(LLMCall.objects.order_by("queue_ms"))
    assert [row.queue_ms for row in rows[:2]] == [0, 0]
    assert rows[-1].queue_ms >= 600
    # The line is not the model's slowness.
    assert all(row.first_token_ms is not None and row.first_token_ms < row.queue_ms for row in rows[-2:])
    waited = ExecutionEvent.objects.filter(type="log", data__kind="model_queue")
    assert 1 <= waited.count() <= 3
    assert "m" in waited[0].data["message"]
    started = ExecutionEvent.objects.filter(type="llm.started")
    assert sorted(event.data["queued_ms"] for event in started) == [row.queue_ms for row in rows]
    assert_ledgers_agree_unordered(fake, execution)


def assert_ledgers_agree_unordered(fake: FakeLLM, execution: Execution) -> None:
    execution.refresh_from_db()
    assert (execution.prompt_tokens, execution.completion_tokens) == fake.tokens()


def test_who_leaves_the_line_frees_no_place_and_takes_none(fake: FakeLLM, gateway: GatewayServer) -> None:
    model = LLMModelFactory(id="m", route="openai/hang-silent", api_base=fake.url, max_concurrency=1)
    _, token = running(model)

    def queued() -> int:
        return int(httpx.get(f"{gateway.root}/health").json()["queued"])

    def first_leaves() -> bool:
        # The second comes and goes while the first has the only place.
        leave(gateway, token, stream=True, once=lambda: queued() == 1)
        return bool(wait_for(lambda: queued() == 0, "the line is empty again", every=0.01) is True)

    leave(gateway, token, stream=True, once=lambda: fake.ledger and first_leaves())
    fake.modes["hang-silent"] = "ok"
    with client(gateway, token) as http:
        assert ask(http, stream=True).status_code == 200
    assert len(fake.ledger) == 2


# --- Tools for models without them --------------------------------------------------------------


def _without_tools(fake: FakeLLM, mode: str = "ok", **fields: Any) -> LLMModel:
    return LLMModelFactory(id="local", route=f"local/{mode}", api_base=fake.url, native_tools=False, **fields)


@pytest.mark.parametrize("stream", [True, False])
def test_tools_become_a_schema_and_its_answer_a_tool_call(fake: FakeLLM, gateway: GatewayServer, stream: bool) -> None:
    execution, token = running(_without_tools(fake))
    messages = [{"role": "user", "content": "Use the calculator."}]
    with client(gateway, token) as http:
        first = ask(http, stream=stream, tools=[CALCULATOR], messages=messages)
        assert len(fake.ledger) == 1
        shape = fake.ledger[0].body["response_format"]["json_schema"]["schema"]
        assert shape["properties"]["tool"] == {"const": "calculator"}
        assert shape["properties"]["arguments"]["properties"]["expression"]["maxLength"] > 0
        assert "tools" not in fake.ledger[0].body
        if stream:
            deltas = [choice["delta"] for chunk in chunks_of(first) for choice in chunk["choices"]]
            calls = next(delta["tool_calls"] for delta in deltas if delta.get("tool_calls"))
            finish = [choice["finish_reason"] for chunk in chunks_of(first) for choice in chunk["choices"]][-1]
        else:
            calls = first.json()["choices"][0]["message"]["tool_calls"]
            finish = first.json()["choices"][0]["finish_reason"]
        assert finish == "tool_calls"
        assert json.loads(calls[0]["function"]["arguments"]) == {"expression": "2"}
        assert usage_of(first)["prompt_tokens"] == fake.ledger[0].prompt_tokens

        call = {"id": calls[0]["id"], "type": "function", "function": calls[0]["function"]}
        messages += [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call["id"], "content": "2"},
        ]
        second = ask(http, stream=stream, tools=[CALCULATOR], messages=messages)
    # The fake decides for the same call again, which is not made twice: the answer follows.
    assert len(fake.ledger) == 3
    assert "calculator(2): 2" in fake.ledger[2].body["messages"][0]["content"]
    assert text_of(second).startswith("Answer")
    assert usage_of(second)["completion_tokens"] == sum(e.completion_tokens for e in fake.ledger[1:])
    rows = list(LLMCall.objects.all())
    assert [row.text == "" for row in rows] == [True, True, False]
    assert rows[1].call_id == rows[2].call_id != rows[0].call_id
    assert_ledgers_agree(fake, execution)


def test_a_decision_that_is_no_json_is_asked_for_once_more(fake: FakeLLM, gateway: GatewayServer) -> None:
    _, token = running(_without_tools(fake, "prose"))
    with client(gateway, token) as http:
        response = ask(http, stream=True, tools=[CALCULATOR])
    assert (response.status_code, error_of(response)["code"]) == (502, ErrorCode.LLM_BAD_OUTPUT)
    assert len(fake.ledger) == 2


def test_without_a_choice_there_is_one_request(fake: FakeLLM, gateway: GatewayServer) -> None:
    _, token = running(_without_tools(fake))
    with client(gateway, token) as http:
        assert ask(http, stream=True, tools=[CALCULATOR], tool_choice="none").status_code == 200
        assert ask(http, stream=True).status_code == 200
    assert len(fake.ledger) == 2


# --- Tools --------------------------------------------------------------------------------------


@pytest.fixture
def snapshot() -> dict[str, Any]:
    return {"spec": {"tools": [{"name": "calculator"}, {"name": "read_input_file"}]}}


def test_a_tool_is_called_and_recorded(gateway: GatewayServer, snapshot: dict[str, Any]) -> None:
    ToolFactory(name="calculator")
    execution, token = running(LLMModelFactory(), snapshot=snapshot)
    with client(gateway, token) as http:
        good = http.post("/tools/calculator", json={"arguments": {"expression": "2 * (3 + 4)"}})
        bad = http.post("/tools/calculator", json={"arguments": {"expression": "import os"}})
    assert good.json() == {"result": "14"}
    assert (bad.status_code, error_of(bad)["code"]) == (422, "tool_failed")
    rows = list(ToolCall.objects.all())
    assert [(row.tool, row.is_ok, row.role, row.task) for row in rows] == [
        ("calculator", True, "Writer", "task-1"),
        ("calculator", False, "Writer", "task-1"),
    ]
    assert rows[0].result == "14"
    assert rows[0].execution == execution


def test_a_tool_reads_only_the_runs_own_files(
    gateway: GatewayServer, snapshot: dict[str, Any], settings: Any, tmp_path: Any
) -> None:
    settings.MEDIA_ROOT = tmp_path
    ToolFactory(name="read_input_file")
    execution, token = running(LLMModelFactory(), snapshot=snapshot)
    mine = tmp_path / "executions" / str(execution.pk) / "notes"
    mine.mkdir(parents=True)
    (mine / "a.txt").write_text("안녕하세요")
    (tmp_path / "secret.txt").write_text("secret")
    with client(gateway, token) as http:
        read = http.post("/tools/read_input_file", json={"arguments": {"name": "a.txt"}})
        out = http.post("/tools/read_input_file", json={"arguments": {"name": "../../secret.txt"}})
    assert read.json() == {"result": "안녕하세요"}
    assert out.status_code == 422
    assert "a.txt" in error_of(out)["message"]


def test_tools_that_a_run_was_not_given_are_refused(gateway: GatewayServer, snapshot: dict[str, Any]) -> None:
    ToolFactory(name="calculator", enabled=False)
    execution, token = running(LLMModelFactory(), snapshot=snapshot)
    _, stranger = running(LLMModelFactory())
    with client(gateway, token) as http, client(gateway, stranger) as other:
        assert http.post("/tools/calculator", json={"arguments": {}}).status_code == 403
        assert http.post("/tools/nothing", json={"arguments": {}}).status_code == 404
        assert other.post("/tools/calculator", json={"arguments": {}}).status_code == 404
        execution.request_stop(by=None)
        assert http.post("/tools/calculator", json={"arguments": {}}).status_code == 401
    assert not ToolCall.objects.exists()


# --- Live ---------------------------------------------------------------------------------------


def test_text_is_pushed_as_it_grows_and_saved_for_those_who_come_late(
    fake: FakeLLM, gateway: GatewayServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed: list[dict[str, Any]] = []
    monkeypatch.setattr("executions.live.publish_delta", lambda stream, delta: pushed.append(delta))
    _, token = running(LLMModelFactory(route="openai/long-250@8", api_base=fake.url))
    saved: list[str] = []

    def watch() -> None:
        while not (row := LLMCall.objects.first()) or row.status == "open":
            if row and row.text:
                saved.append(row.text)
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.monotonic()
    with client(gateway, token) as http:
        answer = text_of(ask(http, stream=False))
    took = time.monotonic() - began
    watcher.join()
    text = ""
    for delta in pushed:
        assert delta["offset"] == len(text)
        text += delta["text"]
    assert text == answer
    # Not each of the 250 pieces: at most every 50 ms, however long it took, and what is left at the end.
    assert 5 <= len(pushed) <= took / PUSH_SECONDS + 2
    assert saved
    assert answer.startswith(saved[0])
    assert {delta["role"] for delta in pushed} == {"Writer"}


# --- After a crash ------------------------------------------------------------------------------


def test_a_gateway_that_starts_closes_what_a_dead_one_left_open() -> None:
    execution, _ = running(LLMModelFactory(price_in=Decimal(1), price_out=Decimal(1)))
    common = {"execution": execution, "attempt": 1, "prompt_tokens": 10, "opened_at": timezone.now()}
    earlier, other_life = presence.register(ledger.gateway_name()), presence.register("elsewhere:8001")
    mine = LLMCallFactory(**common, text="x" * 8, gateway=earlier)
    other = LLMCallFactory(**common, gateway=other_life)
    with GatewayServer():
        pass
    mine.refresh_from_db()
    other.refresh_from_db()
    assert (mine.status, mine.error_code, mine.is_estimated) == ("failed", ErrorCode.LLM_UNAVAILABLE, True)
    assert (mine.prompt_tokens, mine.completion_tokens) == (10, 2)
    assert other.status == "open"
    execution.refresh_from_db()
    assert (execution.prompt_tokens, execution.completion_tokens) == (10, 2)


# --- litellm ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("mode", "code"),
    [
        ("ok", None),
        ("tools", None),
        ("429", ErrorCode.LLM_RATE_LIMITED),
        ("500", ErrorCode.LLM_UNAVAILABLE),
        ("401", ErrorCode.LLM_AUTH),
        ("too-long", ErrorCode.CONTEXT_TOO_LONG),
        ("hang-first", ErrorCode.LLM_TIMEOUT),
        ("truncated", ErrorCode.LLM_UNAVAILABLE),
    ],
)
def test_litellm_translates_and_its_faults_have_their_codes(
    fake: FakeLLM, gateway: GatewayServer, mode: str, code: ErrorCode | None, stream: bool, settings: Any
) -> None:
    provider = LLMProviderFactory(kind=LLMProvider.Kind.LITELLM, api_base=fake.url, api_key="sk-x", needs_key=True)
    execution, token = running(LLMModelFactory(route=f"openai/{mode}", provider=provider))
    impatient(settings, mode)
    with client(gateway, token) as http:
        response = ask(http, stream=stream, tools=[CALCULATOR])
    if code is not None:
        assert error_of(response)["code"] == code
        assert {row.error_code for row in LLMCall.objects.all()} == {code}
        assert len(fake.ledger) == LLMCall.objects.count()
    else:
        assert response.status_code == 200
        assert (usage_of(response)["prompt_tokens"], usage_of(response)["completion_tokens"]) == fake.tokens()
        assert_ledgers_agree(fake, execution)


@pytest.mark.slow
def test_a_client_that_goes_away_ends_litellms_request(fake: FakeLLM, gateway: GatewayServer) -> None:
    provider = LLMProviderFactory(kind=LLMProvider.Kind.LITELLM, api_base=fake.url, api_key="sk-x")
    _, token = running(LLMModelFactory(id="m", route="openai/long-2000@10", provider=provider))
    leave(gateway, token, stream=True, once=lambda: fake.ledger and fake.ledger[0].completion_tokens >= 5)
    left = time.time()
    wait_for(lambda: fake.ledger[0].ended_at, "the upstream request ends", every=0.01)
    assert fake.ledger[0].client_gone
    assert fake.ledger[0].ended_at - left < 2
    wait_for(lambda: LLMCall.objects.get().status == "cancelled", "the row is closed", every=0.01)
