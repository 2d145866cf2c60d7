"""Forks on real engines: exactly the edited task and what depends on it call the model."""

import json
import random
from typing import Any

import pytest

from tests import graphs
from tests.fakes.llm import FakeLLM
from tests.stack import Stack

SAMPLE = (1, 2, 3)


def calls_of(stack: Stack, run: str) -> list[str]:
    """The keys of the tasks that called the model, one for each call."""
    answer = stack.client().get(f"/api/executions/{run}/llm-calls?page_size=200")
    assert answer.status_code == 200, answer.text
    assert answer.json()["next"] is None
    return [call["task_id"] for call in answer.json()["results"]]


def prompts(fake: FakeLLM, seed: int, tasks: dict[str, dict[str, Any]], after: int = 0) -> dict[str, list[str]]:
    """What the model was really sent for each task of a seed's graph, by the task's key."""
    found: dict[str, list[str]] = {}
    for request in fake.ledger[after:]:
        asked = request.body["messages"][-1]["content"].strip()
        for key, task in tasks.items():
            start = f"Current Task: Write {task['name'].lower()}"  # “Part 3” writes “part 3 of graph 1.”
            if asked.startswith((f"{start} of graph {seed}.", f"{start} otherwise ({seed}).")):
                found.setdefault(key, []).append(json.dumps(request.body["messages"]))
    return found


def dependants(fake: FakeLLM, seed: int, tasks: dict[str, dict[str, Any]], key: str) -> set[str]:
    """Who was given the output of `key`, and so on, as the prompts that the model got have it.

    The fake's answers are all different, so that an output in a prompt tells whose it is.
    """
    sent = {task: texts[0] for task, texts in prompts(fake, seed, tasks).items()}
    assert set(sent) == set(tasks)
    found, reached = set(), {key}
    while reached:
        marks = [json.dumps(tasks[one]["output"][:15])[1:-1] for one in reached]
        reached = {task for task, prompt in sent.items() if any(mark in prompt for mark in marks)} - found - {key}
        found |= reached
    return found


def started(stack: Stack, seeds: tuple[int, ...]) -> dict[int, str]:
    """A run of a crew with each seed's graph."""
    stack.make_crews({f"model of {seeds}": {}})  # makes the model `fake-ok`
    shapes = {f"graph {seed}": graphs.shape(seed) for seed in seeds}
    crews = stack.run_module("tests.graphs", json.dumps(shapes))
    return {seed: stack.kickoff(crews[f"graph {seed}"]) for seed in seeds}


def fork_and_check(stack: Stack, fake: FakeLLM, seed: int, run: str) -> None:
    source = stack.wait_for_status(run, "completed")
    tasks = {task["task_id"]: task for task in source["tasks"]}
    assert sorted(calls_of(stack, run)) == sorted(tasks)
    assert len({task["output"] for task in tasks.values()}) == len(tasks)
    edited = random.Random(seed).choice(list(tasks))
    again = {edited} | dependants(fake, seed, tasks, edited)

    before = len(fake.ledger)
    text = f"Write {tasks[edited]['name'].lower()} otherwise ({seed})."
    edit = {"task_id": edited, "tasks": [{"task_id": edited, "description": text}]}
    answer = stack.client().post(f"/api/executions/{run}/fork", json=edit)
    assert answer.status_code == 202, answer.text
    fork = stack.wait_for_status(answer.json()["execution_id"], "completed")

    assert sorted(calls_of(stack, fork["id"])) == sorted(again), f"seed {seed}"
    assert fork["llm_calls"] == len(again)
    asked = prompts(fake, seed, tasks, after=before)
    assert {key: len(texts) for key, texts in asked.items()} == dict.fromkeys(again, 1), f"seed {seed}"
    assert text in asked[edited][0]
    for task in fork["tasks"]:
        key = task["task_id"]
        assert task["is_inherited"] == (key not in again), f"seed {seed}"
        assert (task["output"] == tasks[key]["output"]) == (key not in again), f"seed {seed}"
        assert task["status"] == "completed"
    assert (fork["forked_from_id"], fork["forked_task_id"]) == (run, edited)


def test_only_the_edited_task_and_what_depends_on_it_call_the_model(stack: Stack, fake_llm: FakeLLM):
    for seed, run in started(stack, SAMPLE).items():
        fork_and_check(stack, fake_llm, seed, run)


@pytest.mark.slow
def test_thirty_random_graphs(stack: Stack, fake_llm: FakeLLM):
    seeds = tuple(range(100, 130))
    shapes = [graphs.shape(seed) for seed in seeds]
    assert {shape["process"] for shape in shapes} == {"sequential", "parallel"}
    assert any(task["is_async"] for shape in shapes for task in shape["tasks"])
    for seed, run in started(stack, seeds).items():
        fork_and_check(stack, fake_llm, seed, run)
