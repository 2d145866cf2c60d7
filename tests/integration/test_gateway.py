"""The gateway's conformance: real HTTP on both sides, and a fake provider whose ledger must equal ours."""

import json
import socket
import uuid
from decimal import Decimal
from typing import Any

import httpx
import pytest

from crews.models import LLMModel
from crews.models.catalog import LLMFallback
from executions.errors import ErrorCode, Failure
from executions.gateway import tokens
from executions.gateway.state import needs_litellm
from executions.models import Execution, ExecutionEvent, LLMCall
from tests.factories.crews import LLMModelFactory, LLMProviderFactory
from tests.fakes.gateway import (
    CALCULATOR,
    HELLO,
    SCHEMA,
    GatewayServer,
    ask,
    assert_ledgers_agree,
    chunks_of,
    client,
    error_of,
    impatient,
    running,
    text_of,
    types,
    usage_of,
)
from tests.fakes.llm import FakeLLM

pytestmark = pytest.mark.django_db(transaction=True)


# --- Answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("mode", ["ok", "long-300", "plain-json", "slow-5"])
def test_an_answer_passes_through_and_is_accounted_for(
    fake: FakeLLM, gateway: GatewayServer, mode: str, stream: bool
) -> None:
    model = LLMModelFactory(
        id="m", route=f"openai/{mode}", api_base=fake.url, price_in=Decimal(2), price_out=Decimal(10)
    )
    execution, token = running(model)
    direct = httpx.post(f"{fake.url}/chat/completions", json={"model": mode, "messages": HELLO}).json()
    fake.reset()
    with client(gateway, token) as http:
        response = ask(http, stream=stream)

    assert response.status_code == 200
    assert text_of(response) == direct["choices"][0]["message"]["content"]
    assert usage_of(response) == direct["usage"]
    if stream:
        assert response.text.endswith("data: [DONE]\n\n")
    row = LLMCall.objects.get()
    assert (row.status, row.task, row.role, row.model) == ("completed", "task-1", "Writer", "m")
    assert row.text == direct["choices"][0]["message"]["content"]
    assert row.cost_usd == (2 * row.prompt_tokens + Decimal(10) * row.completion_tokens) / 1_000_000
    assert not row.is_estimated
    assert row.first_token_ms is not None
    assert row.latency_ms >= row.first_token_ms
    assert_ledgers_agree(fake, execution)
    assert execution.cost_usd == row.cost_usd
    assert types(execution) == ["llm.started", "llm.completed"]
    completed = ExecutionEvent.objects.get(type="llm.completed")
    assert completed.data["cost_usd"] == str(row.cost_usd)
    assert completed.role == "Writer"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_gets_usage_even_when_the_provider_sends_none(
    fake: FakeLLM, gateway: GatewayServer, stream: bool
) -> None:
    execution, token = running(LLMModelFactory(route="openai/no-usage", api_base=fake.url))
    with client(gateway, token) as http:
        usage = usage_of(ask(http, stream=stream))
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == fake.tokens()
    assert LLMCall.objects.get().is_estimated
    assert_ledgers_agree(fake, execution)


def test_a_model_without_a_price_is_unpriced_and_not_free(fake: FakeLLM, gateway: GatewayServer) -> None:
    execution, token = running(LLMModelFactory(route="openai/ok", api_base=fake.url))
    with client(gateway, token) as http:
        ask(http, stream=False)
    execution.refresh_from_db()
    assert LLMCall.objects.get().cost_usd is None
    assert execution.unpriced_calls == 1


def test_defaults_stand_beneath_what_the_caller_asks(fake: FakeLLM, gateway: GatewayServer) -> None:
    defaults = {"temperature": 0.4, "top_k": 40}
    _, token = running(LLMModelFactory(route="openai/ok", api_base=fake.url, defaults=defaults))
    with client(gateway, token) as http:
        ask(http, stream=True, temperature=0.9)
    body = fake.ledger[0].body
    assert (body["model"], body["temperature"], body["top_k"]) == ("ok", 0.9, 40)
    assert body["stream_options"] == {"include_usage": True}


def test_the_key_of_the_provider_is_used_and_the_callers_token_stays_here(
    fake: FakeLLM, gateway: GatewayServer
) -> None:
    provider = LLMProviderFactory(api_base=fake.url, api_key="sk-secret")
    _, token = running(LLMModelFactory(route="openai/ok", provider=provider))
    with client(gateway, token) as http:
        response = ask(http, stream=False, model=LLMModel.objects.get().pk)
    assert response.status_code == 200
    assert fake.ledger[0].authorization == "Bearer sk-secret"


def test_a_key_that_is_refused_is_not_repeated(fake: FakeLLM, gateway: GatewayServer) -> None:
    _, token = running(LLMModelFactory(route="openai/401", provider__api_key="sk-secret", api_base=fake.url))
    with client(gateway, token) as http:
        message = error_of(ask(http, stream=True))["message"]
    assert "Incorrect API key provided: [hidden]" in message
    assert "sk-secret" not in LLMCall.objects.get().error_detail
    assert not ExecutionEvent.objects.filter(data__icontains="sk-secret").exists()


def test_native_tool_calls_pass_through(fake: FakeLLM, gateway: GatewayServer) -> None:
    execution, token = running(LLMModelFactory(route="openai/tools", api_base=fake.url))
    with client(gateway, token) as http:
        whole = ask(http, stream=False, tools=[CALCULATOR]).json()["choices"][0]
        streamed = chunks_of(ask(http, stream=True, tools=[CALCULATOR]))
    call = whole["message"]["tool_calls"][0]
    assert (call["id"], call["type"], call["function"]["name"]) == ("call_0", "function", "calculator")
    assert json.loads(call["function"]["arguments"]) == {"expression": "2"}
    assert whole["finish_reason"] == "tool_calls"
    assert any(choice["delta"].get("tool_calls") for chunk in streamed for choice in chunk["choices"])
    assert_ledgers_agree(fake, execution)


# --- Faults -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("mode", "code", "status", "requests"),
    [
        ("429", ErrorCode.LLM_RATE_LIMITED, 429, 2),
        ("500", ErrorCode.LLM_UNAVAILABLE, 502, 2),
        ("401", ErrorCode.LLM_AUTH, 502, 1),
        ("too-long", ErrorCode.CONTEXT_TOO_LONG, 400, 1),
        ("hang-first", ErrorCode.LLM_TIMEOUT, 504, 2),
        ("hang-silent", ErrorCode.LLM_TIMEOUT, 504, 2),
        ("empty", ErrorCode.LLM_BAD_OUTPUT, 502, 1),
    ],
)
def test_a_fault_before_the_first_token_has_its_code(
    fake: FakeLLM,
    gateway: GatewayServer,
    mode: str,
    code: ErrorCode,
    status: int,
    requests: int,
    stream: bool,
    settings: Any,
) -> None:
    impatient(settings, mode)
    execution, token = running(LLMModelFactory(route=f"openai/{mode}", api_base=fake.url))
    with client(gateway, token) as http:
        response = ask(http, stream=stream)
    assert response.status_code == status
    assert response.headers["x-should-retry"] == "false"
    assert error_of(response)["code"] == code
    assert str(code.label) in error_of(response)["message"]
    rows = list(LLMCall.objects.all())
    assert len(rows) == len(fake.ledger) == requests
    assert {row.error_code for row in rows} == {code}
    assert {row.status for row in rows} == {"failed"}
    assert len({row.call_id for row in rows}) == 1
    assert [row.try_number for row in rows] == list(range(1, requests + 1))
    assert types(execution) == ["llm.started", "llm.failed"] * requests
    last = ExecutionEvent.objects.filter(type="llm.failed").order_by("seq").last()
    assert last is not None
    assert last.data["error_code"] == code
    assert "retry_in_ms" not in last.data


@pytest.mark.parametrize(
    ("mode", "code"),
    [
        ("hang-between", ErrorCode.LLM_TIMEOUT),
        ("malformed", ErrorCode.LLM_UNAVAILABLE),
        ("truncated", ErrorCode.LLM_UNAVAILABLE),
    ],
)
def test_a_fault_in_the_middle_ends_a_stream_and_is_tried_again_for_a_client_that_waits(
    fake: FakeLLM, gateway: GatewayServer, mode: str, code: ErrorCode, settings: Any
) -> None:
    impatient(settings, mode)
    execution, token = running(LLMModelFactory(route=f"openai/{mode}", api_base=fake.url))
    with client(gateway, token) as http:
        streamed = ask(http, stream=True)
        assert len(fake.ledger) == 1
        whole = ask(http, stream=False)
        assert len(fake.ledger) == 3
    assert error_of(streamed)["code"] == error_of(whole)["code"] == code
    assert "[DONE]" not in streamed.text
    for row in LLMCall.objects.all():
        assert (row.status, row.error_code, row.is_estimated) == ("failed", code, True)
        assert row.prompt_tokens == fake.ledger[0].prompt_tokens
    execution.refresh_from_db()
    assert execution.prompt_tokens == sum(row.prompt_tokens for row in LLMCall.objects.all())


@pytest.mark.parametrize("stream", [True, False])
def test_prose_instead_of_json_is_bad_output(fake: FakeLLM, gateway: GatewayServer, stream: bool) -> None:
    execution, token = running(LLMModelFactory(route="openai/prose", api_base=fake.url))
    with client(gateway, token) as http:
        response = ask(http, stream=stream, response_format=SCHEMA)
    assert error_of(response)["code"] == ErrorCode.LLM_BAD_OUTPUT
    assert_ledgers_agree(fake, execution)


def test_a_json_answer_to_a_schema_is_good(fake: FakeLLM, gateway: GatewayServer) -> None:
    _, token = running(LLMModelFactory(route="openai/ok", api_base=fake.url))
    with client(gateway, token) as http:
        assert json.loads(text_of(ask(http, stream=True, response_format=SCHEMA))) == {"a": 1}


@pytest.mark.parametrize("mode", ["429-1", "500-1", "retry-after-1"])
def test_a_passing_fault_is_tried_again(fake: FakeLLM, gateway: GatewayServer, mode: str) -> None:
    execution, token = running(LLMModelFactory(route=f"openai/{mode}", api_base=fake.url))
    with client(gateway, token) as http:
        response = ask(http, stream=True)
    assert response.status_code == 200
    assert [row.status for row in LLMCall.objects.all()] == ["failed", "completed"]
    if mode == "retry-after-1":
        assert fake.ledger[1].at - fake.ledger[0].at >= 1
    failed = ExecutionEvent.objects.get(type="llm.failed")
    assert failed.data["retry_in_ms"] >= (1000 if mode == "retry-after-1" else 0)
    assert_ledgers_agree(fake, execution)


def test_a_pause_that_is_too_long_is_not_waited_for(fake: FakeLLM, gateway: GatewayServer, settings: Any) -> None:
    settings.LLM_RETRY_MAX_WAIT = 5
    _, token = running(LLMModelFactory(route="openai/retry-after-60", api_base=fake.url))
    with client(gateway, token) as http:
        assert error_of(ask(http, stream=True))["code"] == ErrorCode.LLM_RATE_LIMITED
    assert len(fake.ledger) == 1


def test_a_provider_that_cannot_be_reached_used_nothing(gateway: GatewayServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    execution, token = running(LLMModelFactory(api_base=f"http://127.0.0.1:{port}/v1"))
    with client(gateway, token) as http:
        response = ask(http, stream=True)
    assert (response.status_code, error_of(response)["code"]) == (502, ErrorCode.LLM_UNAVAILABLE)
    execution.refresh_from_db()
    assert (execution.prompt_tokens, execution.unpriced_calls) == (0, 0)
    assert LLMCall.objects.count() == 2


def test_fallbacks_are_tried_in_order(fake: FakeLLM, gateway: GatewayServer) -> None:
    first, second, third = (
        LLMModelFactory(id=name, route=f"openai/{mode}", api_base=fake.url)
        for name, mode in (("first", "401"), ("second", "500"), ("third", "ok"))
    )
    LLMFallback.objects.create(model=first, fallback=third, position=2)
    LLMFallback.objects.create(model=first, fallback=second, position=1)
    execution, token = running(first)
    with client(gateway, token) as http:
        response = ask(http, stream=True)
    assert response.status_code == 200
    assert [row.model for row in LLMCall.objects.all()] == ["first", "second", "second", "third"]
    assert_ledgers_agree(fake, execution)


def test_a_model_that_was_made_a_moment_ago_answers(fake: FakeLLM, gateway: GatewayServer, monkeypatch: Any) -> None:
    monkeypatch.setattr("executions.gateway.catalog.FRESH_SECONDS", 3600.0)
    _, token = running(LLMModelFactory(id="old", route="openai/ok", api_base=fake.url))
    with client(gateway, token) as http:
        assert ask(http, stream=False).status_code == 200
    _, token = running(LLMModelFactory(id="new", route="openai/ok", api_base=fake.url))
    with client(gateway, token) as http:
        assert ask(http, stream=False).status_code == 200
    assert LLMCall.objects.filter(model="new", status="completed").exists()


def test_a_model_without_its_key_says_so_and_falls_back(fake: FakeLLM, gateway: GatewayServer) -> None:
    keyless = LLMModelFactory(provider=LLMProviderFactory(needs_key=True, api_base=fake.url))
    execution, token = running(keyless)
    with client(gateway, token) as http:
        assert error_of(ask(http, stream=False))["code"] == ErrorCode.LLM_AUTH
    assert types(execution) == ["llm.failed"]
    assert not fake.ledger


@pytest.mark.parametrize("kind", ["openai_compatible", "litellm"])
def test_a_key_that_cannot_be_opened_stops_its_own_models_alone(
    fake: FakeLLM, quick: None, kind: str, settings: Any
) -> None:
    keys = settings.ENCRYPTION_KEYS
    settings.ENCRYPTION_KEYS = ["lost"]
    locked = LLMModelFactory(id="locked", provider=LLMProviderFactory(kind=kind, api_base=fake.url, api_key="sk-old"))
    settings.ENCRYPTION_KEYS = keys
    fine = LLMModelFactory(id="fine", route="openai/ok", api_base=fake.url)
    assert not needs_litellm()
    with GatewayServer() as gateway:
        with client(gateway, running(locked)[1]) as http:
            refused = error_of(ask(http, stream=False))
            assert [model["id"] for model in http.get("/models").json()["data"]] == ["fine"]
        with client(gateway, running(fine)[1]) as http:
            assert ask(http, stream=False).status_code == 200
    assert refused["code"] == ErrorCode.LLM_AUTH
    assert "cannot be opened" in refused["message"]
    assert len(fake.ledger) == 1


# --- Tokens and limits --------------------------------------------------------------------------


def _stopping(execution: Execution) -> None:
    execution.request_stop(by=None)


def _ended(execution: Execution) -> None:
    execution.fail(Failure(ErrorCode.INTERNAL))


def _next_attempt(execution: Execution) -> None:
    Execution.objects.filter(pk=execution.pk).update(attempt=2)


@pytest.mark.parametrize("change", [_stopping, _ended, _next_attempt])
def test_a_token_is_dead_the_moment_its_attempt_is_over(fake: FakeLLM, gateway: GatewayServer, change: Any) -> None:
    execution, token = running(LLMModelFactory(route="openai/ok", api_base=fake.url))
    with client(gateway, token) as http:
        assert ask(http, stream=True).status_code == 200
        change(execution)
        response = ask(http, stream=True)  # at once, while what was read of the run is still remembered
    assert response.status_code == 401
    assert error_of(response)["code"] == "invalid_token"
    assert len(fake.ledger) == 1


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer run_forged", "Bearer ap_later", "Basic eDp5"])
def test_other_tokens_are_refused(gateway: GatewayServer, header: str) -> None:
    response = httpx.post(f"{gateway.url}/chat/completions", json={}, headers={"Authorization": header})
    assert response.status_code == 401
    assert set(response.json()["error"]) == {"message", "type", "code", "param"}


def test_a_token_of_an_execution_that_is_not_there_is_refused(gateway: GatewayServer) -> None:
    token = tokens.issue(Execution(pk=uuid.uuid4(), attempt=1))
    with client(gateway, token) as http:
        assert ask(http, stream=True).status_code == 401
        assert http.get("/models").status_code == 401


def test_a_run_cannot_exceed_its_calls(fake: FakeLLM, gateway: GatewayServer) -> None:
    execution, token = running(LLMModelFactory(route="openai/ok", api_base=fake.url), max_llm_calls=2)
    with client(gateway, token) as http:
        answers = [ask(http, stream=True) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 402]
    assert error_of(answers[2])["code"] == ErrorCode.BUDGET_EXCEEDED
    assert "2 LLM calls" in error_of(answers[2])["message"]
    assert types(execution)[-1] == "llm.failed"
    assert_ledgers_agree(fake, execution)


def test_retries_count_as_calls(fake: FakeLLM, gateway: GatewayServer) -> None:
    _, token = running(LLMModelFactory(route="openai/500", api_base=fake.url), max_llm_calls=1)
    with client(gateway, token) as http:
        assert error_of(ask(http, stream=True))["code"] == ErrorCode.BUDGET_EXCEEDED
    assert len(fake.ledger) == 1


def test_a_run_stops_at_its_budget(fake: FakeLLM, gateway: GatewayServer) -> None:
    model = LLMModelFactory(route="openai/ok", api_base=fake.url, price_in=Decimal(10), price_out=Decimal(10))
    _, token = running(model, budget_usd=Decimal("0.0011"))
    with client(gateway, token) as http:
        statuses = [ask(http, stream=True, max_tokens=90).status_code for _ in range(2)]
    assert statuses == [200, 402]


def test_requests_that_make_no_sense_are_refused(fake: FakeLLM, gateway: GatewayServer) -> None:
    _, token = running(LLMModelFactory(route="openai/ok", api_base=fake.url))
    with client(gateway, token) as http:
        assert http.post("/chat/completions", content=b"{").json()["error"]["code"] == "invalid_json"
        assert http.post("/chat/completions", json=[1]).json()["error"]["code"] == "invalid_json"
        assert http.post("/chat/completions", json={"model": "x"}).json()["error"]["param"] == "messages"
        assert ask(http, stream=True, model="nothing").status_code == 404
        assert ask(http, stream=True, model="role:nobody").status_code == 404
        assert http.get("/chat/completions").status_code == 405
        assert http.get("/models").json()["data"][0]["id"] == LLMModel.objects.get().pk
    assert not fake.ledger


@pytest.mark.parametrize("native_tools", [True, False])
@pytest.mark.parametrize("stream", [True, False])
def test_what_is_malformed_is_refused_before_anything_is_stored(
    fake: FakeLLM, gateway: GatewayServer, stream: bool, native_tools: bool
) -> None:
    model = LLMModelFactory(route="openai/ok", api_base=fake.url, price_in=1, price_out=1, native_tools=native_tools)
    execution, token = running(model, budget_tokens=10**6)
    deep: Any = {}
    for _ in range(400):
        deep = {"a": deep}
    bodies: list[dict[str, Any]] = [
        {"stream_options": "x"},
        {"response_format": "json_object"},
        {"messages": [{"role": "user", "content": 5}]},
        {"tools": [{"type": "function", "function": {}}]},
        {"n": 2**62},
        {"metadata": deep},
    ]
    with client(gateway, token) as http:
        for body in bodies:
            refused = ask(http, stream=stream, **body)
            assert refused.status_code == 400, (body, refused.text)
            assert error_of(refused)["type"] == "invalid_request_error"
            assert error_of(refused)["param"] in {*body, None}
    execution.refresh_from_db()
    assert (execution.reserved_tokens, execution.llm_calls_count) == (0, 0)
    assert not LLMCall.objects.exists()
    assert not fake.ledger


@pytest.mark.parametrize("place", ["verdict_on", "usage_of"])
def test_a_call_that_meets_what_nobody_foresaw_is_settled(
    fake: FakeLLM, gateway: GatewayServer, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: Any) -> None:
        raise LookupError("nobody foresaw this")

    model = LLMModelFactory(route="openai/ok", api_base=fake.url)
    execution, token = running(model, budget_tokens=10**6)
    with monkeypatch.context() as patched, client(gateway, token, ordinal=0) as http:
        patched.setattr(f"executions.gateway.exchange.{place}", breaks)
        assert ask(http, stream=False).status_code == 500
    row = LLMCall.objects.get()
    assert (row.status, row.error_code) == ("failed", ErrorCode.INTERNAL)
    assert types(execution) == ["llm.started", "llm.failed"]
    execution.refresh_from_db()
    assert execution.reserved_tokens == 0
    assert execution.prompt_tokens == row.prompt_tokens > 0
    with client(gateway, token, ordinal=0) as http:
        assert ask(http, stream=False).status_code == 200  # nor is its entry in the journal held


def test_health_needs_no_token(gateway: GatewayServer) -> None:
    assert httpx.get(f"{gateway.root}/health").json()["status"] == "healthy"
