"""The gateway's conformance: real HTTP on both sides, and a fake provider whose ledger must equal ours."""

import json
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx
import pytest
from django.utils import timezone

from crews.models import LLMModel, LLMProvider
from crews.models.catalog import LLMFallback
from executions.errors import ErrorCode, Failure
from executions.gateway import ledger, tokens
from executions.models import Execution, ExecutionEvent, LLMCall, ToolCall
from tests.deadlines import DEADLINE, wait_for
from tests.factories.crews import LLMModelFactory, LLMProviderFactory, ToolFactory
from tests.factories.executions import LLMCallFactory
from tests.fakes.gateway import GatewayServer, client, running
from tests.fakes.llm import FakeLLM

pytestmark = pytest.mark.django_db(transaction=True)

HELLO = [{"role": "user", "content": "hello there"}]
SCHEMA = {
    "type": "json_schema",
    "json_schema": {"name": "x", "schema": {"type": "object", "properties": {"a": {"type": "integer"}}}},
}
CALCULATOR = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "Computes.",
        "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]},
    },
}


@pytest.fixture(autouse=True)
def _quick(settings: Any) -> None:
    settings.LLM_FIRST_TOKEN_TIMEOUT = settings.LLM_NEXT_TOKEN_TIMEOUT = DEADLINE
    settings.LLM_RETRY_MILLISECONDS = 10
    settings.LLM_MAX_TRIES = 2


def _impatient(settings: Any, mode: str) -> None:
    """Where the model is to hang, no test waits for it long; elsewhere a slow machine is given its time."""
    if mode in {"hang-first", "hang-silent"}:
        settings.LLM_FIRST_TOKEN_TIMEOUT = 0.4
    elif mode == "hang-between":
        settings.LLM_NEXT_TOKEN_TIMEOUT = 0.4


@pytest.fixture
def fake() -> Iterator[FakeLLM]:
    with FakeLLM() as server:
        yield server


@pytest.fixture
def gateway() -> Iterator[GatewayServer]:
    with GatewayServer() as server:
        yield server


def ask(http: httpx.Client, *, stream: bool, model: str = "role:agent", **body: Any) -> httpx.Response:
    return http.post("/chat/completions", json={"model": model, "stream": stream, "messages": HELLO, **body})


def chunks_of(response: httpx.Response) -> list[dict[str, Any]]:
    lines = [line for line in response.text.splitlines() if line]
    return [json.loads(line.removeprefix("data: ")) for line in lines if line != "data: [DONE]"]


def text_of(response: httpx.Response) -> str:
    """The answer's text, streamed or not."""
    if "event-stream" in response.headers["content-type"]:
        parts = [choice["delta"].get("content") or "" for c in chunks_of(response) for choice in c["choices"]]
        return "".join(parts)
    return response.json()["choices"][0]["message"]["content"]


def usage_of(response: httpx.Response) -> dict[str, int]:
    if "event-stream" in response.headers["content-type"]:
        return chunks_of(response)[-1]["usage"]
    return response.json()["usage"]


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error, which stands in the last event of a stream that had begun."""
    if "event-stream" in response.headers["content-type"]:
        return chunks_of(response)[-1]["error"]
    return response.json()["error"]


def types(execution: Execution) -> list[str]:
    events = ExecutionEvent.objects.filter(stream_id=execution.stream_id, type__startswith="llm.")
    return list(events.order_by("seq").values_list("type", flat=True))


def assert_ledgers_agree(fake: FakeLLM, execution: Execution) -> None:
    """Every request of the provider's ledger is a row of ours, to the token; and the run's totals are their sum."""
    rows = list(LLMCall.objects.filter(execution=execution))
    assert [(r.prompt_tokens, r.completion_tokens) for r in rows] == [
        (r.prompt_tokens, r.completion_tokens) for r in fake.ledger
    ]
    execution.refresh_from_db()
    assert (execution.prompt_tokens, execution.completion_tokens) == fake.tokens()
    assert execution.llm_calls_count == len(rows)
    assert not any(row.status == LLMCall.Status.OPEN for row in rows)


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
    assert "Incorrect API key provided: …" in message
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
    _impatient(settings, mode)
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
    _impatient(settings, mode)
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


def test_a_model_without_its_key_says_so_and_falls_back(fake: FakeLLM, gateway: GatewayServer) -> None:
    keyless = LLMModelFactory(provider=LLMProviderFactory(needs_key=True, api_base=fake.url))
    execution, token = running(keyless)
    with client(gateway, token) as http:
        assert error_of(ask(http, stream=False))["code"] == ErrorCode.LLM_AUTH
    assert types(execution) == ["llm.failed"]
    assert not fake.ledger


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
    _, token = running(model, budget_usd=Decimal("0.0001"))
    with client(gateway, token) as http:
        statuses = [ask(http, stream=True).status_code for _ in range(2)]
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


def test_health_needs_no_token(gateway: GatewayServer) -> None:
    assert httpx.get(f"{gateway.root}/health").json()["status"] == "healthy"


# --- Clients that go away -----------------------------------------------------------------------


def _leave(gateway: GatewayServer, token: str, model: str, *, stream: bool, once: Any) -> None:
    """Ask over a bare socket and close it the moment `once()` holds."""
    body = json.dumps({"model": model, "stream": stream, "messages": HELLO}).encode()
    host = gateway.root.removeprefix("http://")
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    name, port = host.split(":")
    with socket.create_connection((name, int(port))) as connection:
        connection.sendall(head.encode() + body)
        wait_for(once, "the moment to leave", every=0.01)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("mode", ["hang-silent", "hang-first", "hang-between", "long-2000@5"])
def test_a_client_that_goes_away_ends_the_upstream_request(
    fake: FakeLLM, gateway: GatewayServer, mode: str, stream: bool
) -> None:
    execution, token = running(LLMModelFactory(id="m", route=f"openai/{mode}", api_base=fake.url))

    def under_way() -> bool:
        written = {"hang-between": 2, "long-2000@5": 5}.get(mode, 0)
        return bool(fake.ledger) and fake.ledger[0].completion_tokens >= written

    _leave(gateway, token, "m", stream=stream, once=under_way)
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
    _leave(gateway, token, "m", stream=True, once=lambda: LLMCall.objects.filter(status="failed").exists())
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
        _leave(gateway, token, "m", stream=True, once=lambda: queued() == 1)
        return bool(wait_for(lambda: queued() == 0, "the line is empty again", every=0.01) is True)

    _leave(gateway, token, "m", stream=True, once=lambda: fake.ledger and first_leaves())
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
    with client(gateway, token) as http:
        answer = text_of(ask(http, stream=False))
    watcher.join()
    text = ""
    for delta in pushed:
        assert delta["offset"] == len(text)
        text += delta["text"]
    assert text == answer
    assert 5 <= len(pushed) <= 60  # in two seconds
    assert saved
    assert answer.startswith(saved[0])
    assert {delta["role"] for delta in pushed} == {"Writer"}


# --- After a crash ------------------------------------------------------------------------------


def test_a_gateway_that_starts_closes_what_a_dead_one_left_open() -> None:
    execution, _ = running(LLMModelFactory(price_in=Decimal(1), price_out=Decimal(1)))
    common = {"execution": execution, "attempt": 1, "prompt_tokens": 10, "opened_at": timezone.now()}
    mine = LLMCallFactory(**common, text="x" * 8, gateway=ledger.gateway_name())
    other = LLMCallFactory(**common, gateway="elsewhere:8001")
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
    _impatient(settings, mode)
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
    _leave(gateway, token, "m", stream=True, once=lambda: fake.ledger and fake.ledger[0].completion_tokens >= 5)
    left = time.time()
    wait_for(lambda: fake.ledger[0].ended_at, "the upstream request ends", every=0.01)
    assert fake.ledger[0].client_gone
    assert fake.ledger[0].ended_at - left < 2
    wait_for(lambda: LLMCall.objects.get().status == "cancelled", "the row is closed", every=0.01)
