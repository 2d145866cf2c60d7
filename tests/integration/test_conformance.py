"""Conformance of each engine, gateway and event log together: real processes, real HTTP, a model that misbehaves.

Whatever the model does, the run ends, with the right code and a plain sentence; its history has no
holes; and the ledger says to the token what the model saw.
"""

import contextlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from executions.engines.protocol import ENGINE_EVENTS
from executions.errors import ErrorCode
from executions.events import LAST, TYPES
from tests.deadlines import wait_for
from tests.engines import FRAMEWORKS
from tests.fakes.llm import FakeLLM, Request
from tests.stack import Stack

pytestmark = pytest.mark.slow

# Mode of the fake model → how a run on it must end.
GOOD = ["ok", "delay-50", "slow-5", "429-1", "500-1", "retry-after-1", "plain-json", "long-200"]
BAD = {
    "429": ErrorCode.LLM_RATE_LIMITED,
    "500": ErrorCode.LLM_UNAVAILABLE,
    "401": ErrorCode.LLM_AUTH,
    "too-long": ErrorCode.CONTEXT_TOO_LONG,
    "hang-silent": ErrorCode.LLM_TIMEOUT,
    "hang-first": ErrorCode.LLM_TIMEOUT,
    "hang-between": ErrorCode.LLM_TIMEOUT,
    "malformed": ErrorCode.LLM_UNAVAILABLE,
    "truncated": ErrorCode.LLM_UNAVAILABLE,
    "empty": ErrorCode.LLM_BAD_OUTPUT,
}
# Of a model without native tool calls, which the gateway asks for JSON: on prose it can only give up.
SHIMMED = {"ok": None, "prose": ErrorCode.LLM_BAD_OUTPUT}
QUICK = {
    "LLM_FIRST_TOKEN_TIMEOUT": "5",
    "LLM_NEXT_TOKEN_TIMEOUT": "5",
    "LLM_RETRY_MILLISECONDS": "20",
    "LLM_MAX_TRIES": "2",
}


# What an engine's tasks are besides words, where that is its framework's own affair.
WITH_TOOLS = {"crewai"}


class World(NamedTuple):
    stack: Stack
    fake: FakeLLM
    engine: str
    runs: dict[str, dict[str, Any]]  # how each of the runs side by side ended
    asked: list[Request]  # by all of these


@contextlib.contextmanager
def _all_runs(engine: str, **backend: str) -> Iterator[World]:
    """Run every mode once, side by side, and hand out how each ended."""
    with tempfile.TemporaryDirectory(prefix="portal-conformance-") as folder, FakeLLM() as fake:
        Path(folder).chmod(0o711)
        wanted: dict[str, dict[str, Any]] = {f"good {mode}": {"mode": mode, "tasks": 2} for mode in GOOD}
        wanted |= {f"bad {mode}": {"mode": mode, "tasks": 2} for mode in BAD}
        if engine in WITH_TOOLS:
            wanted["good tools"] = {"mode": "tools", "tools": ["calculator"]}
            wanted |= {f"shim {m}": {"mode": m, "tools": ["calculator"], "native_tools": False} for m in SHIMMED}
        for crew in wanted.values():
            crew["crew"] = {"engine": engine}
        with Stack(Path(folder) / "data", llm_url=fake.url, max_runs=8, environment=QUICK, **backend) as stack:
            crews = stack.make_crews(wanted)
            started = {name: stack.kickoff(crew) for name, crew in crews.items()}
            runs = {name: stack.wait_for_status(run) for name, run in started.items()}
            yield World(stack, fake, engine, runs, list(fake.ledger))


@pytest.fixture(scope="module", params=FRAMEWORKS)
def world(request) -> Iterator[World]:
    with _all_runs(request.param) as found:
        yield found


def run_of(world: World, name: str) -> dict[str, Any]:
    if name not in world.runs:
        pytest.skip("its framework has no tools")
    return world.runs[name]


def calls_of(stack: Stack, run: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    url = f"/api/executions/{run['id']}/llm-calls?page_size=200"
    while url:
        page = stack.client().get(url).json()
        found, url = found + page["results"], page["next"]
    return found


def events_of(stack: Stack, run: dict[str, Any]) -> list[dict[str, Any]]:
    return stack.client().get(f"/api/executions/{run['id']}/events").json()["results"]


@pytest.mark.parametrize("name", [f"good {mode}" for mode in [*GOOD, "tools"]] + ["shim ok"])
def test_a_model_that_answers_in_the_end_completes_the_run(world, name):
    run = run_of(world, name)
    assert (run["status"], run["error_code"]) == ("completed", ""), run["error_message"]
    assert run["final_output"]
    assert {task["status"] for task in run["tasks"]} == {"completed"}


@pytest.mark.parametrize(
    ("name", "code"),
    [(f"bad {mode}", code) for mode, code in BAD.items()] + [(f"shim {m}", c) for m, c in SHIMMED.items() if c],
)
def test_every_fault_ends_in_its_code_with_a_plain_sentence(world, name, code):
    run = run_of(world, name)
    assert (run["status"], run["error_code"]) == ("failed", code.value), run["error_message"]
    assert run["error_message"].startswith(str(code.label))
    assert run["error_steps"]


def test_the_ledger_says_to_the_token_what_the_model_saw(world):
    stack, _, _, runs, asked = world
    ours: Counter[tuple[str, int, int]] = Counter()
    for run in runs.values():
        calls = calls_of(stack, run)
        assert {call["status"] for call in calls} <= {"completed", "failed", "cancelled"}, "a call was left open"
        ours += Counter(
            (
                call["model"].removeprefix("fake-").removesuffix("-shim"),
                call["prompt_tokens"],
                call["completion_tokens"],
            )
            for call in calls
        )
        assert run["llm_calls"] == len(calls)
        assert run["prompt_tokens"] == sum(call["prompt_tokens"] for call in calls)
        assert run["completion_tokens"] == sum(call["completion_tokens"] for call in calls)
    theirs = Counter((entry.mode, entry.prompt_tokens, entry.completion_tokens) for entry in asked)
    assert ours == theirs


def test_every_history_is_whole_and_ends_with_its_end(world):
    stack = world.stack
    for name, run in world.runs.items():
        events = events_of(stack, run)
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1)), name
        assert events[0]["type"] == "execution.queued"
        assert [event["type"] for event in events if event["type"] in LAST] == [events[-1]["type"]], name
        assert {event["type"] for event in events} <= TYPES
        opened = Counter(event["data"]["call"] for event in events if event["type"] == "llm.started")
        closed = Counter(event["data"]["call"] for event in events if event["type"] in {"llm.completed", "llm.failed"})
        assert opened == closed, name
        assert {event["type"] for event in events} & ENGINE_EVENTS


def test_no_engine_process_is_left(world):
    assert world.stack.engine_processes() == []


# --- What people and accidents do to a run --------------------------------------------------------------


def begin(world: World, name: str, **wanted: Any) -> tuple[str, list[Request]]:
    """Start a run whose second task is written slowly, and wait until it is; the run, and what it asks for."""
    stack, fake = world.stack, world.fake
    slow = {"models": ["ok", "long-150@40", "ok"], "agents": 3, "tasks": 3, "crew": {"engine": world.engine}}
    crew = stack.make_crews({name: {**slow, **wanted}})[name]
    first = len(fake.ledger)
    run = stack.kickoff(crew)
    wait_for(
        lambda: any(r.mode == "long-150@40" and r.completion_tokens > 10 for r in fake.ledger[first:]),
        "the second task is being written",
        on_timeout=stack.logs,
    )
    return run, fake.ledger[first:]


def statuses(run: dict[str, Any]) -> list[str]:
    return [task["status"] for task in run["tasks"]]


def asked_since(world: World, first: Request) -> list[str]:
    return [json.dumps(entry.body, sort_keys=True) for entry in world.fake.ledger[first.n - 1 :]]


def test_a_stop_keeps_what_was_written_and_leaves_no_process(world):
    run, _ = begin(world, "stopped")
    assert world.stack.request_stop(run).status_code == 202
    ended = world.stack.wait_for_status(run, "stopped")
    assert statuses(ended)[0] == "completed"
    assert ended["tasks"][0]["output"] in ended["final_output"]
    wait_for(lambda: not world.stack.engine_processes(), "its process is gone")


def test_a_run_that_was_paused_goes_on_and_asks_nothing_twice(world):
    run, asked = begin(world, "paused")
    client = world.stack.client()
    assert client.post(f"/api/executions/{run}/pause").status_code == 202
    assert statuses(world.stack.wait_for_status(run, "paused")) == ["completed", "completed", "pending"]
    assert client.post(f"/api/executions/{run}/resume").status_code == 202
    ended = world.stack.wait_for_status(run, "completed")
    bodies = asked_since(world, asked[0])
    assert len(bodies) == len(set(bodies)) == ended["llm_calls"] == 3


@pytest.mark.parametrize("part", ["engine", "host", "runner"])
def test_whatever_is_killed_no_call_is_paid_for_twice(world, part):
    run, asked = begin(world, f"killed {part}")
    stack = world.stack
    if part == "engine":
        for process in stack.engine_processes():
            process.kill()
    else:
        stack.part("worker", world.engine if part == "host" else part).kill()
    ended = stack.wait_for_status(run, "completed")
    assert ended["attempt"] > 1
    assert statuses(ended) == ["completed"] * 3
    bodies = asked_since(world, asked[0])
    assert len(bodies) == len(set(bodies)) == 3
    done = [event["task"] for event in events_of(stack, ended) if event["type"] == "task.completed"]
    assert done == [task["task_id"] for task in ended["tasks"]], "each task is finished once"


def test_the_limit_of_calls_ends_a_run_and_keeps_what_was_done(world):
    crew = {"engine": world.engine, "max_llm_calls": 2}
    run, _ = begin(world, "limited", crew=crew)
    ended = world.stack.wait_for_status(run, "failed")
    assert (ended["error_code"], ended["llm_calls"]) == ("budget_exceeded", 2)
    assert statuses(ended)[:2] == ["completed", "completed"]


@pytest.mark.postgres
@pytest.mark.redis
@pytest.mark.parametrize("engine", FRAMEWORKS)
def test_the_same_on_postgresql_and_redis(postgres_server, redis_server, engine):
    from tests import services

    url = services.create_database(postgres_server, "portal_conformance")
    try:
        with _all_runs(engine, database_url=url, redis_url=redis_server) as world:
            ends = {name: (run["status"], run["error_code"]) for name, run in world.runs.items()}
            expected = {f"good {mode}": ("completed", "") for mode in [*GOOD, "tools"]}
            expected |= {f"bad {mode}": ("failed", code.value) for mode, code in BAD.items()}
            expected |= {f"shim {m}": ("failed", c.value) if c else ("completed", "") for m, c in SHIMMED.items()}
            assert ends == {name: expected[name] for name in world.runs}
            test_the_ledger_says_to_the_token_what_the_model_saw(world)
            test_every_history_is_whole_and_ends_with_its_end(world)
    finally:
        services.drop_database(postgres_server, "portal_conformance")
