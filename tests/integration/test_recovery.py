"""Whatever dies in the middle of a run: it goes on from its last finished task, as if nothing had been."""

import json
import signal
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.deadlines import DEADLINE, wait_for
from tests.fakes.llm import FakeLLM, Request
from tests.stack import Stack

pytestmark = pytest.mark.slow
# An office waits for a minute until it takes a machine for dead; a test does not.
QUICK = {"PORTAL_LEASE_SECONDS": "5", "PORTAL_GATEWAY_LEASE_SECONDS": "5"}
WRITER = "long-300@20"


@dataclass
class World:
    """The processes, the model behind them, and a crew of three tasks of which the second takes its time."""

    stack: Stack
    fake: FakeLLM
    crew: str
    undisturbed: dict[str, Any]
    prompts: list[str]  # of the run that nobody disturbed

    def begin(self) -> "Begun":
        """Start a run, and wait until its first task is done and the second is being written."""
        return begin(self.stack, self.fake, self.crew)

    def events(self, run: str) -> list[dict[str, Any]]:
        return self.stack.client().get(f"/api/executions/{run}/events?page_size=1000").json()["results"]


@dataclass
class Begun:
    run: str
    fake: FakeLLM
    first: int  # of its requests in the ledger

    @property
    def requests(self) -> list[Request]:
        return self.fake.ledger[self.first :]

    @property
    def prompts(self) -> list[str]:
        """The bodies of its requests as the model got them, to the byte but for the order of the keys."""
        return [json.dumps(request.body, sort_keys=True) for request in self.requests]


def begin(stack: Stack, fake: FakeLLM, crew: str) -> Begun:
    begun = Begun(stack.kickoff(crew), fake, len(fake.ledger))

    def writes() -> bool:
        return any(r.mode == WRITER and r.completion_tokens > 20 for r in begun.requests)

    wait_for(writes, "the second task is being written", on_timeout=stack.logs)
    return begun


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="portal-recovery-") as folder, FakeLLM() as fake:
        Path(folder).chmod(0o711)
        with Stack(Path(folder) / "data", llm_url=fake.url, max_runs=2, environment=QUICK) as stack:
            wanted = {"models": ["delay-1", WRITER, "ok"], "agents": 3, "tasks": 3}
            crew = stack.make_crews({"recovered": wanted})["recovered"]
            begun = begin(stack, fake, crew)
            yield World(stack, fake, crew, stack.wait_for_status(begun.run, "completed"), begun.prompts)


def kill_engine(stack: Stack) -> None:
    for process in stack.engine_processes():
        process.kill()


def kill_host(stack: Stack) -> None:
    stack.part("worker", "crewai").kill()


def kill_runner(stack: Stack) -> None:
    stack.part("worker", "runner").kill()


def kill_worker(stack: Stack) -> None:
    stack.kill("worker")
    stack.start("worker")


def kill_gateway(stack: Stack) -> None:
    stack.kill("gateway")
    stack.start("gateway")


@pytest.mark.parametrize("kill", [kill_engine, kill_host, kill_runner, kill_worker, kill_gateway])
def test_a_run_goes_on_from_its_last_finished_task(world: World, kill: Callable[[Stack], None]) -> None:
    begun = world.begin()
    kill(world.stack)
    ended = world.stack.wait_for_status(begun.run, "completed")
    events = world.events(begun.run)

    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    recovered = [event["data"] for event in events if event["type"] == "execution.recovered"]
    assert [data["attempt"] for data in recovered] == list(range(1, ended["attempt"]))
    assert recovered
    assert all(data["reason"] for data in recovered)
    done = [event["task"] for event in events if event["type"] == "task.completed"]
    assert done == [task["task_id"] for task in ended["tasks"]], "each task is finished once"
    assert ended["final_output"] == world.undisturbed["final_output"]

    assert list(dict.fromkeys(begun.prompts)) == world.prompts, "the same words"
    lost = 1 if kill is kill_gateway else 0
    assert len(begun.prompts) == len(world.prompts) + lost, "no answer is asked for twice but the gateway's"


def test_a_runner_that_stood_still_for_longer_than_its_lease_changes_nothing_any_more(world: World) -> None:
    stack = world.stack
    stack.start_worker("second")
    try:
        drain(stack, True, "second")
        begun = world.begin()
        runner = stack.part("worker", "runner")
        drain(stack, False, "second")
        runner.send_signal(signal.SIGSTOP)
        try:
            taken = wait_for(
                lambda: [e for e in world.events(begun.run) if e["type"] == "execution.started"][1:],
                "another machine takes over",
                on_timeout=stack.logs,
            )
        finally:
            runner.send_signal(signal.SIGCONT)
        ended = stack.wait_for_status(begun.run, "completed")
        assert taken[0]["data"]["worker"] == "second"
        types = [event["type"] for event in world.events(begun.run)]
        assert (types.count("execution.started"), types.count("execution.recovered")) == (2, 1)
        assert types[-1] == "execution.completed"
        assert ended["final_output"] == world.undisturbed["final_output"]
        assert list(dict.fromkeys(begun.prompts)) == world.prompts
        wait_for(lambda: not stack.engine_processes(), "the engine that nobody wants is gone")
    finally:
        stack.stop("second")


def test_a_worker_that_is_told_to_end_hands_its_run_back_at_no_cost(world: World) -> None:
    stack = world.stack
    begun = world.begin()
    stack.stop("worker")
    assert stack.execution(begun.run)["status"] == "pending"
    assert column(stack, begun.run, "recoveries") == 0
    stack.start("worker")
    ended = stack.wait_for_status(begun.run, "completed")
    assert ended["attempt"] == 2
    assert begun.prompts == world.prompts


def test_a_run_that_kills_its_engine_each_time_is_left_to_a_person(world: World) -> None:
    stack = world.stack
    begun = world.begin()
    with closing(database(stack)) as connection, connection:
        key = begun.run.replace("-", "")
        connection.execute("UPDATE executions_execution SET max_attempts = 1 WHERE id = ?", [key])

    def ends() -> bool:
        kill_engine(stack)
        return bool(stack.execution(begun.run)["status"] == "failed")

    wait_for(ends, "it is given up", on_timeout=stack.logs)
    ended = stack.execution(begun.run)
    assert (ended["error_code"], ended["attempt"]) == ("engine_crashed", 2)
    reason = column(stack, begun.run, "quarantine_reason")
    assert reason == ended["error_message"]
    assert "signal 9" in reason
    assert "person" in reason


def test_a_worker_that_drains_finishes_what_it_has_and_takes_nothing_new(world: World) -> None:
    stack = world.stack
    begun = world.begin()
    drain(stack, True)
    try:
        waiting = stack.kickoff(world.crew)
        stack.wait_for_status(begun.run, "completed")
        assert stack.execution(waiting)["status"] == "pending"
    finally:
        drain(stack, False)
    stack.wait_for_status(waiting, "completed")


def drain(stack: Stack, is_draining: bool, worker: str = "") -> None:
    """What `manage.py drain` does, which takes its time to start; all workers unless one is named."""
    with closing(database(stack)) as connection, connection:
        change = "UPDATE executions_worker SET is_draining = ? WHERE ? IN ('', name)"
        connection.execute(change, [is_draining, worker])


def database(stack: Stack) -> sqlite3.Connection:
    return sqlite3.connect(stack.folder / "portal.sqlite3", timeout=DEADLINE)


def column(stack: Stack, run: str, name: str) -> Any:
    with closing(database(stack)) as connection:
        connection.row_factory = sqlite3.Row
        rows = connection.execute("SELECT * FROM executions_execution WHERE id = ?", [run.replace("-", "")])
        return rows.fetchone()[name]
