"""`manage.py kickoff`: a run from the command line, with its exit codes and its JSON."""

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from portal.lib.processes import spawn, terminate
from portal.lib.supervisor import manage
from tests.deadlines import wait_for
from tests.fakes.llm import FakeLLM
from tests.stack import ROOT, Stack

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeLLM]:
    with FakeLLM() as server:
        yield server


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, fake: FakeLLM) -> Iterator[Stack]:
    """A data folder with crews, in which nothing runs."""
    with Stack(tmp_path_factory.mktemp("k"), llm_url=fake.url, processes=()) as stack:
        stack.make_crews(
            {
                "Quick": {"tasks": 2, "inputs": ["topic"], "description": "Say something about {topic}."},
                "Failing": {"mode": "401"},
                "Endless": {"mode": "hang-between"},
                "Twice": {},
                "Asking": {},
            }
        )
        yield stack


def kickoff(stack: Stack, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return stack.manage("kickoff", *arguments, "--user", "ann", check=False)


def lines_of(done: "subprocess.CompletedProcess[str]") -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_run_on_a_machine_where_nothing_runs(stack: Stack, fake: FakeLLM) -> None:
    done = kickoff(stack, "Quick", "--input", "topic=green tea", "--json")

    assert done.returncode == 0, done.stderr
    *events, outcome = lines_of(done)
    # Of this run alone: one that another test cut off may be taken up again beside it.
    asked = [request for request in fake.ledger if "green tea" in json.dumps(request.body)]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["type"] == "execution.completed"
    assert set(outcome) == {
        "execution", "status", "final_output", "llm_calls", "prompt_tokens", "completion_tokens", "cost_usd",
    }  # fmt: skip
    assert outcome["status"] == "completed"
    assert outcome["final_output"].startswith("Answer ")
    assert (outcome["llm_calls"], outcome["prompt_tokens"], outcome["completion_tokens"]) == (
        len(asked), sum(r.prompt_tokens for r in asked), sum(r.completion_tokens for r in asked),
    )  # fmt: skip
    assert "Starting gateway, worker; logs in" in done.stderr, "the model is not needed here"
    assert stack.processes() == [], "it ends what it started"


def test_without_json_the_result_alone_is_on_standard_output(stack: Stack) -> None:
    done = kickoff(stack, "Quick", "--input", "topic=tea")

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Answer ")
    assert done.stdout.count("\n") == 1
    assert "Task 1: done" in done.stderr


def test_a_failing_run_is_one(stack: Stack) -> None:
    done = kickoff(stack, "Failing", "--json")

    assert done.returncode == 1, done.stderr
    assert lines_of(done)[-1]["status"] == "failed"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["Nobody"], "There is no crew “Nobody”."),
        (["Quick"], "inputs.topic"),
        (["Quick", "--input", "topic=tea", "--input", "colour=red"], "inputs.colour"),
        (["Quick", "--input", "topic=tea", "--input", "topic=milk"], "given twice"),
        (["Quick", "--input", "topic"], "NAME=VALUE"),
        (["Quick", "--input", "topic=tea", "--model", "gpt-9"], "there is no model “gpt-9”"),
        (["Quick", "--input", "topic=tea", "--priority", "10"], "--priority"),
    ],
)
def test_bad_input_is_two_and_starts_nothing(stack: Stack, arguments: list[str], words: str) -> None:
    done = kickoff(stack, *arguments)

    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Starting" not in done.stderr
    assert done.stdout == ""


def test_an_unknown_user_is_two(stack: Stack) -> None:
    done = stack.manage("kickoff", "Quick", "--input", "topic=tea", "--user", "nobody", check=False)

    assert done.returncode == 2
    assert "there is no active user “nobody”" in done.stderr


def test_ctrl_c_stops_the_run(stack: Stack, fake: FakeLLM, tmp_path: Path) -> None:
    fake.reset()
    out, err = tmp_path / "out", tmp_path / "err"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = spawn(
            manage("kickoff", "Endless", "--json", "--user", "ann"),
            env=stack.environment, cwd=ROOT, stdout=stdout, stderr=stderr,
        )  # fmt: skip
    try:
        wait_for(lambda: fake.ledger or process.poll() is not None, "the model is asked", on_timeout=err.read_text)
        process.send_signal(signal.SIGINT)
        code = process.wait()
    finally:
        terminate(process)

    assert code == 4, err.read_text()
    outcome = json.loads(out.read_text().splitlines()[-1])
    assert outcome["status"] == "stopped"
    assert stack.processes() == []


def test_a_killed_kickoff_leaves_no_process(stack: Stack, fake: FakeLLM, tmp_path: Path) -> None:
    fake.reset()
    with (tmp_path / "said").open("wb") as said:
        process = spawn(
            manage("kickoff", "Endless", "--user", "ann"), env=stack.environment, cwd=ROOT, stdout=said, stderr=said
        )
    wait_for(lambda: fake.ledger or process.poll() is not None, "the model is asked")

    process.kill()
    process.wait()

    wait_for(lambda: not stack.processes(), "no process is left", on_timeout=lambda: str(stack.processes()))


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_run_that_asks_a_person_is_three_and_says_where_to_answer(stack: Stack, form: list[str]) -> None:
    stack.manage(
        "shell",
        "-c",
        "from crews.models import Task; Task.objects.filter(crew__name='Asking').update(human_input=True)",
    )
    done = kickoff(stack, "Asking", *form)

    assert done.returncode == 3, done.stderr
    if form:
        outcome = lines_of(done)[-1]
        assert (outcome["status"], outcome["waiting_for"]) == ("waiting", "approval")
        assert len(outcome["continue_at"]) == 1
    else:
        assert "It waits for an answer. Answer at http" in done.stderr
        assert "/approvals/" in done.stderr
        assert "manage.py up" in done.stderr
    assert stack.processes() == []
