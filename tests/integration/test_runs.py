"""Whole runs on the portal's real processes: limits, stops and places in the queue."""

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deadlines import wait_for
from tests.fakes.llm import FakeLLM
from tests.stack import Stack

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[Stack, FakeLLM]]:
    """Processes with little room: of this module alone."""
    with tempfile.TemporaryDirectory(prefix="portal-runs-") as folder, FakeLLM() as fake:
        Path(folder).chmod(0o711)
        with Stack(Path(folder) / "data", llm_url=fake.url, max_runs=2) as stack:
            yield stack, fake


def crew(stack: Stack, name: str, **wanted) -> str:
    return stack.make_crews({name: wanted})[name]


def task_states(stack: Stack, run: str) -> Counter[str]:
    return Counter(task["status"] for task in stack.execution(run)["tasks"])


def wait_for_text(fake: FakeLLM, mode: str) -> None:
    """Until the model of this mode has begun to write."""
    wait_for(lambda: any(r.mode == mode and r.completion_tokens > 2 for r in fake.ledger), f"{mode} writes")


def test_a_run_that_takes_too_long_is_ended(world):
    stack, _ = world
    run = stack.kickoff(crew(stack, "too long", mode="hang-silent", crew={"max_duration_seconds": 2}))
    ended = stack.wait_for_status(run, "failed")
    assert ended["error_code"] == "timed_out"
    assert stack.engine_processes() == []


def test_a_task_that_takes_too_long_ends_the_run(world):
    stack, _ = world
    run = stack.kickoff(crew(stack, "slow task", mode="hang-silent", crew={"task_timeout_seconds": 2}))
    ended = stack.wait_for_status(run, "failed")
    assert (ended["error_code"], ended["tasks"][0]["status"]) == ("timed_out", "failed")


def test_the_limit_of_calls_ends_the_run_and_keeps_what_was_done(world):
    stack, _ = world
    run = stack.kickoff(crew(stack, "many calls", mode="ok", tasks=4, crew={"max_llm_calls": 2}))
    ended = stack.wait_for_status(run, "failed")
    assert (ended["error_code"], ended["llm_calls"]) == ("budget_exceeded", 2)
    assert task_states(stack, run)["completed"] == 2
    assert ended["final_output"]


def test_a_stop_keeps_what_was_written(world):
    stack, fake = world
    run = stack.kickoff(crew(stack, "stopped", models=["ok", "long-2000@40"], agents=2, tasks=2))
    wait_for_text(fake, "long-2000@40")
    wait_for(lambda: task_states(stack, run)["completed"] == 1, "the first task is done")
    assert stack.request_stop(run).status_code == 202
    ended = stack.wait_for_status(run, "stopped")
    first, second = ended["tasks"]
    assert (first["status"], second["status"]) == ("completed", "stopped")
    assert second["output"].startswith("Answer ")
    assert first["output"] in ended["final_output"]
    assert second["output"] in ended["final_output"]


def test_runs_beyond_the_room_wait_and_the_urgent_one_goes_first(world):
    stack, _ = world
    slow, quick = crew(stack, "filling", mode="long-2000@42"), crew(stack, "waiting", mode="ok")
    filling = [stack.kickoff(slow) for _ in range(2)]
    for run in filling:
        stack.wait_for_status(run, "running")
    later, urgent = stack.kickoff(quick, priority=2), stack.kickoff(quick, priority=9)
    assert (stack.execution(later)["place_in_queue"], stack.execution(urgent)["place_in_queue"]) == (2, 1)
    for run in filling:
        stack.request_stop(run)
        stack.wait_for_status(run, "stopped")
    ends = [stack.wait_for_status(run, "completed") for run in (later, urgent)]
    assert ends[1]["started_at"] < ends[0]["started_at"]
