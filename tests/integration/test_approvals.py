"""Questions to people on the portal's real processes: asked, answered, and what the next attempt makes of it."""

import json
from typing import Any

import pytest

from tests.deadlines import wait_for
from tests.fakes.llm import FakeLLM
from tests.stack import Stack

pytestmark = pytest.mark.slow
ASKS = "from crews.models import Task; Task.objects.filter(crew='{}', execution_order__in={}).update(human_input=True)"


def crew(stack: Stack, name: str, asking: list[int], **wanted: Any) -> str:
    made = stack.make_crews({name: {"description": f"Say something about {name}.", **wanted}})[name]
    stack.manage("shell", "-c", ASKS.format(made, asking))
    return made


def questions(stack: Stack, run: str) -> list[dict[str, Any]]:
    return stack.wait_for_status(run, "waiting")["open_approvals"]


def answer(stack: Stack, question: dict[str, Any], **decision: Any) -> None:
    said = stack.client().post(f"/api/approvals/{question['id']}/answer", json=decision)
    assert said.status_code == 200, said.text


def prompts(fake: FakeLLM, words: str) -> list[str]:
    """What the model was sent with `words` in it."""
    sent = [json.dumps(request.body["messages"]) for request in fake.ledger]
    return [prompt for prompt in sent if words in prompt]


def test_an_edited_text_is_what_later_tasks_get(stack: Stack, fake_llm: FakeLLM):
    run = stack.kickoff(crew(stack, "editing", [1], tasks=2))
    [question] = questions(stack, run)
    assert question["task_id"] == stack.execution(run)["tasks"][0]["task_id"]
    wait_for(lambda: not stack.engine_processes(), "a run that waits holds no process")
    answer(stack, question, decision="edit", text="What a person wrote.")
    ended = stack.wait_for_status(run, "completed")
    assert ended["tasks"][0]["output"] == "What a person wrote."
    first, second = prompts(fake_llm, "Say something about editing.")
    assert "What a person wrote." not in first
    assert "What a person wrote." in second
    assert question["output"] not in second
    assert ended["llm_calls"] == 2


def test_work_that_is_sent_back_is_done_again_with_the_feedback(stack: Stack, fake_llm: FakeLLM):
    run = stack.kickoff(crew(stack, "sent back", [1]))
    [first] = questions(stack, run)
    answer(stack, first, decision="reject", feedback="Mention the river Aare.")

    def next_round() -> list[dict[str, Any]]:
        return [question for question in stack.execution(run)["open_approvals"] if question["round"] == 2]

    [second] = wait_for(next_round, "it is asked again", on_timeout=stack.logs)
    assert "Mention the river Aare." in prompts(fake_llm, "Say something about sent back.")[-1]
    assert second["output"] != first["output"]
    answer(stack, second, decision="approve")
    ended = stack.wait_for_status(run, "completed")
    assert ended["final_output"] == second["output"]
    rounds = stack.client().get(f"/api/executions/{run}/approvals").json()["results"]
    assert [(row["round"], row["status"]) for row in rounds] == [(2, "approved"), (1, "rejected")]


def test_two_questions_of_a_parallel_crew_are_open_at_once(stack: Stack):
    run = stack.kickoff(crew(stack, "two", [1, 2], tasks=2, process="parallel"))
    wait_for(lambda: len(questions(stack, run)) == 2, "both are asked", on_timeout=stack.logs)
    for question in questions(stack, run):
        answer(stack, question, decision="approve")
    assert stack.wait_for_status(run, "completed")["llm_calls"] == 2


def test_a_led_crew_that_is_forked_pays_only_for_what_is_new(stack: Stack, fake_llm: FakeLLM):
    made = stack.make_crews({"led": {"tasks": 2, "description": "Say something, led."}})["led"]
    stack.manage(
        "shell",
        "-c",
        "from crews.models import Crew, LLMModel; Crew.objects.filter("
        f"pk='{made}').update(process='hierarchical', manager_llm_model=LLMModel.objects.get(pk='fake-ok'))",
    )
    run = stack.kickoff(made)
    source = stack.wait_for_status(run, "completed")
    first, second = (task["task_id"] for task in source["tasks"])
    before = len(fake_llm.ledger)
    same = stack.client().post(f"/api/executions/{run}/fork", json={"task_id": first}).json()["execution_id"]
    ended = stack.wait_for_status(same, "completed")
    assert (ended["llm_calls"], len(fake_llm.ledger)) == (0, before), "every request had been answered"
    assert [task["output"] for task in ended["tasks"]] == [task["output"] for task in source["tasks"]]
    told = [kind for _, kind in stack.events_of(same)]
    assert told.count("llm.replayed") == source["llm_calls"]
    edit = {"task_id": second, "tasks": [{"task_id": second, "description": "Say something else."}]}
    other = stack.client().post(f"/api/executions/{run}/fork", json=edit).json()["execution_id"]
    ended = stack.wait_for_status(other, "completed")
    assert {task["task_id"]: task["is_inherited"] for task in ended["tasks"]} == {first: True, second: False}
    assert len(fake_llm.ledger) > before
    assert all("Say something else." in json.dumps(request.body) for request in fake_llm.ledger[before:])
