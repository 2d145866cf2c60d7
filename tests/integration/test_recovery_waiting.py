"""Runs that wait hold no process, and go on from where they were: paused, asked, out of budget."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deadlines import wait_for
from tests.fakes.llm import FakeLLM
from tests.stack import Stack

pytestmark = pytest.mark.slow
WRITER = "long-100@40"


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[Stack, FakeLLM]]:
    """Processes with little room: of this module alone."""
    with tempfile.TemporaryDirectory(prefix="portal-waiting-") as folder, FakeLLM() as fake:
        Path(folder).chmod(0o711)
        with Stack(Path(folder) / "data", llm_url=fake.url, max_runs=2) as stack:
            yield stack, fake


def crew(stack: Stack, name: str, **wanted: Any) -> str:
    return stack.make_crews({name: wanted})[name]


def post(stack: Stack, path: str, **body: Any) -> dict[str, Any]:
    answer = stack.client().post(f"/api/{path}", json=body)
    assert answer.status_code < 300, answer.text
    return answer.json()


def types(stack: Stack, run: str) -> list[str]:
    found = stack.events_of(run)
    assert [seq for seq, _ in found] == list(range(1, len(found) + 1))
    return [name for _, name in found]


def writing(stack: Stack, fake: FakeLLM, run: str, first: int) -> None:
    def there() -> bool:
        return any(r.mode == WRITER and r.completion_tokens > 5 for r in fake.ledger[first:])

    wait_for(there, f"{run} writes", on_timeout=stack.logs)


@pytest.mark.parametrize("at_once", [False, True])
def test_a_pause_keeps_what_is_paid_for_and_a_resumed_run_goes_on(world: tuple[Stack, FakeLLM], at_once: bool) -> None:
    stack, fake = world
    first = len(fake.ledger)
    run = stack.kickoff(crew(stack, f"paused {at_once}", models=[WRITER, "ok"], agents=2, tasks=2))
    writing(stack, fake, run, first)
    post(stack, f"executions/{run}/pause", at_once=at_once)
    paused = stack.wait_for_status(run, "paused")
    wait_for(lambda: not stack.engine_processes(), "no process is held")
    assert [task["status"] for task in paused["tasks"]] == ["pending" if at_once else "completed", "pending"]
    assert paused["tasks"][0]["output"] == "" or not at_once
    post(stack, f"executions/{run}/resume")
    ended = stack.wait_for_status(run, "completed")
    assert [request.mode for request in fake.ledger[first:]] == [WRITER, "ok"], "nothing was asked for twice"
    assert ended["attempt"] == 2
    assert types(stack, run).count("execution.paused") == 1


def test_a_question_holds_no_process_and_its_answer_decides_once(world: tuple[Stack, FakeLLM]) -> None:
    stack, fake = world
    first = len(fake.ledger)
    run = stack.kickoff(crew(stack, "asks", models=["ok", "delay-2"], agents=2, tasks=2, asks=[1]))
    asked = stack.wait_for_status(run, "waiting")
    wait_for(lambda: not stack.engine_processes(), "no process is held")
    (question,) = open_questions(stack, run)
    assert (question["round"], asked["tasks"][0]["status"]) == (1, "pending")

    post(stack, f"approvals/{question['id']}/answer", decision="reject", feedback="Be brief.")
    again = wait_for(lambda: open_questions(stack, run), "it asks again", on_timeout=stack.logs)
    assert again[0]["round"] == 2
    stack.wait_for_status(run, "waiting")
    post(stack, f"approvals/{again[0]['id']}/answer", decision="edit", text="What a person wrote.")
    ended = stack.wait_for_status(run, "completed")

    assert ended["tasks"][0]["output"] == "What a person wrote."
    asked_of_model = [json.dumps(request.body) for request in fake.ledger[first:]]
    assert len(asked_of_model) == 3
    assert "Be brief." in asked_of_model[1]
    assert "What a person wrote." in asked_of_model[2]
    assert types(stack, run).count("approval.answered") == 2


def open_questions(stack: Stack, run: str) -> list[dict[str, Any]]:
    found = stack.client().get(f"/api/executions/{run}/approvals").json()
    rows = found["results"] if isinstance(found, dict) else found
    return [row for row in rows if row["status"] == "open"]


def test_a_run_that_meets_its_budget_waits_and_goes_on_when_it_is_raised(world: tuple[Stack, FakeLLM]) -> None:
    stack, fake = world
    first = len(fake.ledger)
    small = crew(stack, "budgeted", models=["ok", "delay-3"], agents=2, tasks=2, llm={"max_tokens": 200})
    run = stack.kickoff(small, budget_tokens=450)
    waiting = stack.wait_for_status(run, "waiting")
    assert (waiting["waiting_for"], waiting["tasks"][0]["status"]) == ("budget", "completed")
    assert [request.mode for request in fake.ledger[first:]] == ["ok"]
    answer = stack.client().patch(f"/api/executions/{run}", json={"budget_tokens": 5000})
    assert answer.status_code < 300, answer.text
    ended = stack.wait_for_status(run, "completed")
    assert [request.mode for request in fake.ledger[first:]] == ["ok", "delay-3"], "finished tasks are not redone"
    assert ended["attempt"] == 2
