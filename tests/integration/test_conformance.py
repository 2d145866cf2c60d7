"""Conformance of engine, gateway and event log together: real processes, real HTTP, a model that misbehaves.

Whatever the model does, the run ends, with the right code and a plain sentence; its history has no
holes; and the ledger says to the token what the model saw.
"""

import contextlib
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from executions.engines.protocol import ENGINE_EVENTS
from executions.errors import ErrorCode
from executions.events import LAST, TYPES
from tests.fakes.llm import FakeLLM
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


@contextlib.contextmanager
def _all_runs(**backend: str) -> Iterator[tuple[Stack, FakeLLM, dict[str, dict[str, Any]]]]:
    """Run every mode once, side by side, and hand out how each ended."""
    with tempfile.TemporaryDirectory(prefix="portal-conformance-") as folder, FakeLLM() as fake:
        Path(folder).chmod(0o711)
        wanted: dict[str, dict[str, Any]] = {f"good {mode}": {"mode": mode, "tasks": 2} for mode in GOOD}
        wanted |= {f"bad {mode}": {"mode": mode, "tasks": 2} for mode in BAD}
        wanted["good tools"] = {"mode": "tools", "tools": ["calculator"]}
        wanted |= {f"shim {m}": {"mode": m, "tools": ["calculator"], "native_tools": False} for m in SHIMMED}
        with Stack(Path(folder) / "data", llm_url=fake.url, max_runs=8, environment=QUICK, **backend) as stack:
            crews = stack.make_crews(wanted)
            started = {name: stack.kickoff(crew) for name, crew in crews.items()}
            yield stack, fake, {name: stack.wait_for_status(run) for name, run in started.items()}


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[Stack, FakeLLM, dict[str, dict[str, Any]]]]:
    with _all_runs() as found:
        yield found


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
    _, _, runs = world
    run = runs[name]
    assert (run["status"], run["error_code"]) == ("completed", ""), run["error_message"]
    assert run["final_output"]
    assert {task["status"] for task in run["tasks"]} == {"completed"}


@pytest.mark.parametrize(
    ("name", "code"),
    [(f"bad {mode}", code) for mode, code in BAD.items()] + [(f"shim {m}", c) for m, c in SHIMMED.items() if c],
)
def test_every_fault_ends_in_its_code_with_a_plain_sentence(world, name, code):
    _, _, runs = world
    run = runs[name]
    assert (run["status"], run["error_code"]) == ("failed", code.value), run["error_message"]
    assert run["error_message"].startswith(str(code.label))
    assert run["error_steps"]


def test_the_ledger_says_to_the_token_what_the_model_saw(world):
    stack, fake, runs = world
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
    theirs = Counter((entry.mode, entry.prompt_tokens, entry.completion_tokens) for entry in fake.ledger)
    assert ours == theirs


def test_every_history_is_whole_and_ends_with_its_end(world):
    stack, _, runs = world
    for name, run in runs.items():
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
    stack, _, _ = world
    assert stack.engine_processes() == []


@pytest.mark.postgres
@pytest.mark.redis
def test_the_same_on_postgresql_and_redis(postgres_server, redis_server):
    from tests import services

    url = services.create_database(postgres_server, "portal_conformance")
    try:
        with _all_runs(database_url=url, redis_url=redis_server) as (stack, fake, runs):
            world = (stack, fake, runs)
            ends = {name: (run["status"], run["error_code"]) for name, run in runs.items()}
            expected = {f"good {mode}": ("completed", "") for mode in [*GOOD, "tools"]}
            expected |= {f"bad {mode}": ("failed", code.value) for mode, code in BAD.items()}
            expected |= {f"shim {m}": ("failed", c.value) if c else ("completed", "") for m, c in SHIMMED.items()}
            assert ends == expected
            test_the_ledger_says_to_the_token_what_the_model_saw(world)
            test_every_history_is_whole_and_ends_with_its_end(world)
    finally:
        services.drop_database(postgres_server, "portal_conformance")
