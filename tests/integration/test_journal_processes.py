"""Gateways that are killed, that stand still, and that take over from each other: real processes."""

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.db import connection

from crews.models import LLMModel
from executions.models import Execution, ExecutionEvent, GatewayInstance, JournalEntry, LLMCall, ToolCall
from tests.deadlines import DEADLINE, wait_for
from tests.factories.crews import LLMModelFactory, ToolFactory
from tests.fakes.gateway import (
    CALCULATOR,
    GatewayProcess,
    ask,
    client,
    next_attempt,
    running,
    text_of,
    types,
)
from tests.fakes.llm import FakeLLM

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]
SLOW = "long-40@100"  # four seconds: time to kill whoever passes it on


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayProcess]:
    with GatewayProcess(tmp_path / "one") as process:
        yield process


@pytest.fixture
def shared_database() -> None:
    if connection.vendor != "postgresql":
        pytest.skip("several gateways share a PostgreSQL database")


class Asking:
    """A client that asks in a thread of its own, for as long as the gateway lives."""

    def __init__(self, gateway: GatewayProcess, token: str, **body: Any) -> None:
        self.response: httpx.Response | None = None
        self._arguments = (gateway, token, body)
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        gateway, token, body = self._arguments
        try:
            with client(gateway, token, ordinal=0) as http:
                self.response = ask(http, stream=True, **body)
        except httpx.TransportError:
            pass

    def end(self) -> httpx.Response | None:
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()
        return self.response


def model(fake: FakeLLM, mode: str = SLOW, **fields: Any) -> LLMModel:
    return LLMModelFactory(route=f"openai/{mode}", api_base=fake.url, **fields)


def under_way(fake: FakeLLM, count: int = 1) -> bool:
    return len(fake.ledger) >= count and fake.ledger[count - 1].completion_tokens >= 3


def test_a_killed_gateways_call_is_closed_and_made_once_more(fake: FakeLLM, gateway: GatewayProcess) -> None:
    execution, token = running(model(fake))
    asking = Asking(gateway, token)
    wait_for(lambda: under_way(fake), "the answer is under way", every=0.01)
    gateway.kill()
    asking.end()
    assert JournalEntry.objects.get().state == "open"
    gateway.start()
    assert JournalEntry.objects.get().state == "lost"
    row = LLMCall.objects.get()
    assert (row.status, row.error_code, row.is_estimated) == ("failed", "llm_unavailable", True)
    assert GatewayInstance.objects.count() == 1
    with client(gateway, next_attempt(execution), ordinal=0) as http:
        answer = ask(http, stream=True)
    assert text_of(answer).startswith("Answer")
    assert len(fake.ledger) == 2
    assert types(execution) == ["llm.started", "llm.failed", "llm.started", "llm.completed"]


def test_the_same_attempt_may_ask_again_after_a_kill(fake: FakeLLM, gateway: GatewayProcess) -> None:
    _, token = running(model(fake, "ok"))
    with client(gateway, token, ordinal=0) as http:
        first = text_of(ask(http, stream=True))
    gateway.kill()
    gateway.start()
    with client(gateway, token, ordinal=0) as http:
        assert text_of(ask(http, stream=True)) == first
    assert len(fake.ledger) == 1


@pytest.mark.parametrize("killed_in", ["the decision", "the answer"])
def test_a_kill_repeats_one_request_of_a_model_without_tools(
    fake: FakeLLM, gateway: GatewayProcess, killed_in: str
) -> None:
    execution, token = running(model(fake, id="local", native_tools=False))
    call = {"id": "call_x", "type": "function", "function": {"name": "calculator", "arguments": '{"expression": "2"}'}}
    messages = [
        {"role": "user", "content": "Use the calculator."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_x", "content": "2"},
    ]
    number = 1 if killed_in == "the decision" else 2
    asking = Asking(gateway, token, tools=[CALCULATOR], messages=messages)
    wait_for(lambda: under_way(fake, number), killed_in, every=0.01)
    gateway.kill()
    asking.end()
    gateway.start()
    with client(gateway, next_attempt(execution), ordinal=0) as http:
        answer = text_of(ask(http, stream=True, tools=[CALCULATOR], messages=messages))
    assert answer.startswith("Answer")
    assert len(fake.ledger) == 3  # the decision, the answer, and whichever was killed
    with client(gateway, next_attempt(execution), ordinal=0) as http:
        assert text_of(ask(http, stream=False, tools=[CALCULATOR], messages=messages)) == answer
    assert len(fake.ledger) == 3


@pytest.mark.usefixtures("shared_database")
def test_another_gateway_takes_over_when_the_lease_runs_out(
    fake: FakeLLM, gateway: GatewayProcess, tmp_path: Path
) -> None:
    execution, token = running(model(fake))
    with (
        GatewayProcess(tmp_path / "two", lease_seconds=3) as doomed,
        GatewayProcess(tmp_path / "three", lease_seconds=3) as other,
    ):
        wait_for(lambda: GatewayInstance.objects.count() == 3, "three gateways")
        asking = Asking(doomed, token)
        wait_for(lambda: under_way(fake), "the answer is under way", every=0.01)
        waiting = Asking(other, next_attempt(execution))
        doomed.kill()
        asking.end()
        response = waiting.end()
        assert response is not None
        assert text_of(response).startswith("Answer")
        assert len(fake.ledger) == 2
        assert types(execution) == ["llm.started", "llm.failed", "llm.started", "llm.completed"]
        assert GatewayInstance.objects.count() == 2


@pytest.mark.usefixtures("shared_database")
def test_an_answer_under_way_at_another_gateway_is_waited_for(
    fake: FakeLLM, gateway: GatewayProcess, tmp_path: Path
) -> None:
    execution, token = running(model(fake))
    with GatewayProcess(tmp_path / "two") as other:
        first = Asking(gateway, token)
        wait_for(lambda: under_way(fake), "the answer is under way", every=0.01)
        second = Asking(other, next_attempt(execution)).end()
    first.end()
    assert second is not None
    assert text_of(second).startswith("Answer")
    assert len(fake.ledger) == 1
    assert types(execution) == ["llm.started", "llm.completed", "llm.replayed"]


@pytest.mark.usefixtures("shared_database")
def test_a_gateway_that_stood_still_begins_anew_and_changes_nothing_that_was_taken(
    fake: FakeLLM, gateway: GatewayProcess, tmp_path: Path
) -> None:
    execution, token = running(model(fake))
    with GatewayProcess(tmp_path / "two", lease_seconds=3) as frozen:
        before = GatewayInstance.objects.get(name__endswith=f":{frozen.port}").instance
        asking = Asking(frozen, token)
        wait_for(lambda: under_way(fake), "the answer is under way", every=0.01)
        frozen.send_signal(signal.SIGSTOP)
        with client(gateway, next_attempt(execution), ordinal=0) as http:
            answer = text_of(ask(http, stream=True))  # waits until the lease has run out
        entry = JournalEntry.objects.values().get()
        rows = list(LLMCall.objects.order_by("pk").values())
        frozen.send_signal(signal.SIGCONT)
        wait_for(
            lambda: GatewayInstance.objects.filter(name__endswith=f":{frozen.port}").exclude(pk=before).exists(),
            "the gateway begins anew",
        )
        asking.end()
    assert len(fake.ledger) == 2
    assert JournalEntry.objects.values().get() == entry
    assert list(LLMCall.objects.order_by("pk").values()) == rows
    assert [row["status"] for row in rows] == ["failed", "completed"]
    with client(gateway, next_attempt(execution), ordinal=0) as http:
        assert text_of(ask(http, stream=True)) == answer


def test_a_note_is_left_once_however_often_the_gateway_is_killed(gateway: GatewayProcess) -> None:
    ToolFactory(name="leave_note")
    execution, token = running(LLMModelFactory(), snapshot={"spec": {"tools": [{"name": "leave_note"}]}})
    left: list[int] = []
    stop = threading.Event()

    def leave_notes() -> None:
        number = 0
        while not stop.is_set():
            try:
                with client(gateway, token, ordinal=number) as http:
                    response = http.post("/tools/leave_note", json={"arguments": {"message": str(number)}})
            except httpx.TransportError:
                time.sleep(0.01)
                continue  # asks the same again
            assert response.status_code == 200, response.text
            left.append(number)
            number += 1

    engine = threading.Thread(target=leave_notes, daemon=True)
    engine.start()
    for kill in range(4):
        goal = len(left) + 3 + kill
        wait_for(lambda goal=goal: len(left) >= goal, "some more notes", every=0.001)  # type: ignore[misc]
        gateway.kill()
        gateway.start()
    stop.set()
    engine.join(DEADLINE)
    notes = ExecutionEvent.objects.filter(stream_id=execution.stream_id, type="log").order_by("seq")
    assert [note.data["message"] for note in notes] == [str(number) for number in left]
    assert ToolCall.objects.count() == len(left)
    assert Execution.objects.get().status == "running"
