"""The journal of tools: what they gave is given again, and what they do happens once."""

import threading
import uuid
from pathlib import Path
from typing import Any

import pytest

from crews.builtin_tools import BUILTIN, BuiltinTool
from executions.gateway import journal
from executions.models import Execution, ExecutionEvent, JournalEntry, ToolCall
from tests.deadlines import wait_for
from tests.factories.crews import LLMModelFactory, ToolFactory
from tests.fakes.gateway import GatewayServer, client, error_of, next_attempt, running

pytestmark = pytest.mark.django_db(transaction=True)
ELSEWHERE = "send_letter"


class Letters:
    """What a tool has done elsewhere; `hold` keeps it from answering."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.hold = threading.Event()
        self.hold.set()

    def send(self, arguments: dict[str, Any], folder: Path) -> str:
        self.sent.append(arguments["text"])
        self.hold.wait(60)
        return f"Letter {len(self.sent)}"


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> Letters:
    sent = Letters()
    tool = BuiltinTool(name=ELSEWHERE, description="", parameters={}, run=sent.send, has_effects=True)
    monkeypatch.setitem(BUILTIN, ELSEWHERE, tool)
    return sent


@pytest.fixture
def run() -> tuple[Execution, str]:
    names = ("calculator", "leave_note", ELSEWHERE)
    for name in names:
        ToolFactory(name=name)
    return running(LLMModelFactory(), snapshot={"spec": {"tools": [{"name": name} for name in names]}})


def call(gateway: GatewayServer, token: str, tool: str, *, ordinal: int | None = 0, **arguments: Any) -> Any:
    with client(gateway, token, ordinal=ordinal) as http:
        return http.post(f"/tools/{tool}", json={"arguments": arguments})


def notes() -> list[str]:
    return [event.data["message"] for event in ExecutionEvent.objects.filter(type="log", data__kind="note")]


def test_a_result_is_given_again(gateway: GatewayServer, run: tuple[Execution, str]) -> None:
    execution, token = run
    first = call(gateway, token, "calculator", expression="2 * 21")
    again = call(gateway, next_attempt(execution), "calculator", expression="2 * 21")
    assert first.json() == again.json() == {"result": "42"}
    assert ToolCall.objects.count() == 1
    assert JournalEntry.objects.get().kind == "tool"


def test_a_failure_is_given_again(gateway: GatewayServer, run: tuple[Execution, str]) -> None:
    execution, token = run
    first = call(gateway, token, "calculator", expression="1 / 0")
    again = call(gateway, next_attempt(execution), "calculator", expression="1 / 0")
    assert (first.status_code, error_of(first)) == (again.status_code, error_of(again))
    assert first.status_code == 422
    assert ToolCall.objects.count() == 1


def test_without_an_ordinal_every_call_is_another(gateway: GatewayServer, run: tuple[Execution, str]) -> None:
    _, token = run
    for _ in range(2):
        assert call(gateway, token, "leave_note", ordinal=None, message="Look!").status_code == 200
    assert notes() == ["Look!", "Look!"]
    assert not JournalEntry.objects.exists()


def test_a_note_is_left_once(gateway: GatewayServer, run: tuple[Execution, str]) -> None:
    execution, token = run
    first = call(gateway, token, "leave_note", message=" Look here. ")
    again = call(gateway, next_attempt(execution), "leave_note", message=" Look here. ")
    assert first.json() == again.json()
    assert call(gateway, next_attempt(execution), "leave_note", ordinal=1, message=" Look here. ").is_success
    assert notes() == ["Look here."] * 2
    note = ExecutionEvent.objects.filter(type="log").order_by("seq")[0]
    assert (note.task, note.role, note.attempt) == ("task-1", "Writer", 1)


def test_calls_at_once_leave_one_note(gateway: GatewayServer, run: tuple[Execution, str]) -> None:
    _, token = run
    statuses: list[int] = []

    def one() -> None:
        statuses.append(call(gateway, token, "leave_note", message="Once.").status_code)

    threads = [threading.Thread(target=one) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 5
    assert notes() == ["Once."]


@pytest.mark.parametrize("message", ["", "   ", "x" * 2001])
def test_what_is_no_note_is_refused(gateway: GatewayServer, run: tuple[Execution, str], message: str) -> None:
    assert call(gateway, run[1], "leave_note", message=message).status_code == 422
    assert not notes()


def test_an_effect_elsewhere_happens_once(gateway: GatewayServer, run: tuple[Execution, str], letters: Letters) -> None:
    execution, token = run
    first = call(gateway, token, ELSEWHERE, text="Dear")
    again = call(gateway, next_attempt(execution), ELSEWHERE, text="Dear")
    assert first.json() == again.json() == {"result": "Letter 1"}
    assert letters.sent == ["Dear"]


def test_an_effect_under_way_is_waited_for(
    gateway: GatewayServer, run: tuple[Execution, str], letters: Letters
) -> None:
    execution, token = run
    letters.hold.clear()
    first = threading.Thread(target=call, args=(gateway, token, ELSEWHERE), kwargs={"text": "Dear"})
    first.start()
    wait_for(lambda: letters.sent, "the letter is sent")
    current = next_attempt(execution)  # its engine died meanwhile
    results: list[Any] = []
    second = threading.Thread(target=lambda: results.append(call(gateway, current, ELSEWHERE, text="Dear").json()))
    second.start()
    letters.hold.set()
    first.join()
    second.join()
    assert results == [{"result": "Letter 1"}]
    assert letters.sent == ["Dear"]


def test_an_effect_that_was_lost_is_refused_and_not_repeated(
    gateway: GatewayServer, run: tuple[Execution, str], letters: Letters
) -> None:
    execution, _ = run
    key = journal.Key(execution.pk, "tool", "task-1", journal.tool_hash(ELSEWHERE, {"text": "Dear"}, "agent"), 0)
    entry = journal.Entry(key, "elsewhere#1", 1, "agent", uuid.uuid4())
    journal.take(entry, again=False)
    journal.let_go(entry)
    response = call(gateway, next_attempt(execution), ELSEWHERE, text="Dear")
    assert (response.status_code, error_of(response)["code"]) == (422, "tool_failed")
    assert "not known" in error_of(response)["message"]
    assert not letters.sent


def test_an_effect_that_took_too_long_is_not_repeated(
    gateway: GatewayServer, run: tuple[Execution, str], letters: Letters, settings: Any
) -> None:
    settings.TOOL_TIMEOUT = 0.2
    execution, token = run
    letters.hold.clear()
    assert call(gateway, token, ELSEWHERE, text="Dear").status_code == 504
    letters.hold.set()
    assert call(gateway, next_attempt(execution), ELSEWHERE, text="Dear").status_code == 422
    assert letters.sent == ["Dear"]


def test_an_attempt_that_is_over_leaves_no_note(
    gateway: GatewayServer, run: tuple[Execution, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    execution, token = run
    note, asked, may_go_on = BUILTIN["leave_note"], threading.Event(), threading.Event()

    def slow(arguments: dict[str, Any], folder: Path) -> str:
        asked.set()
        may_go_on.wait(60)
        return note.run(arguments, folder)

    tool = BuiltinTool(name=note.name, description="", parameters={}, run=slow, has_effects=True)
    monkeypatch.setitem(BUILTIN, "leave_note", tool)
    answers: list[Any] = []
    late = threading.Thread(target=lambda: answers.append(call(gateway, token, "leave_note", message="Late")))
    late.start()
    asked.wait(60)
    current = next_attempt(execution)
    may_go_on.set()
    late.join()
    assert answers[0].status_code == 401
    assert not notes()
    assert call(gateway, current, "leave_note", message="Late").status_code == 200
    assert notes() == ["Late"]
