"""The crewai engine in its real process against a fake model over HTTP, which stands in for the gateway."""

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from executions.engines import client, rehearsal
from executions.engines.protocol import HEADER_ORDINAL, HEADER_ROLE, HEADER_TASK
from tests.deadlines import DEADLINE, wait_for_async
from tests.engines import FRAMEWORKS, Ended, agent, carry, engine_host, lines_of, run_spec, task
from tests.fakes.llm import FakeLLM

ADD = {
    "name": "add",
    "description": "Adds two numbers.",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer", "default": 2}, "note": {"type": "string"}},
        "required": ["a", "b"],
    },
}


class FakeGateway(FakeLLM):
    """The fake model, and tools beside it: `tools` maps names to (status, answer)."""

    def __init__(self) -> None:
        super().__init__()
        self.tools: dict[str, tuple[int, Any]] = {}
        self.tool_calls: list[tuple[str, Any, dict[str, str]]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if not scope["path"].startswith("/v1/tools/"):
            await super().__call__(scope, receive, send)
            return
        name = scope["path"].rpartition("/")[2]
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {key.decode(): value.decode() for key, value in scope["headers"]}
        self.tool_calls.append((name, json.loads(body)["arguments"], headers))
        status, answer = self.tools[name]
        await send(
            {"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]}
        )
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    with engine_host(tmp_path_factory.mktemp("host")) as found:
        yield found


@pytest.fixture
def fake():
    with FakeGateway() as found:
        yield found


@contextlib.contextmanager
def rehearsal_gateway(says: str = "") -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """A model that delegates to "Writer" where it may, saying so; its address, and the calls it gets."""
    seen: list[tuple[str, ...]] = []

    class Gateway(rehearsal.Gateway):
        remark = says

        def answer(self, body: dict[str, Any]) -> None:
            seen.append((body["model"], *(self.headers[name] for name in (HEADER_TASK, HEADER_ROLE, HEADER_ORDINAL))))
            super().answer(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1", seen
        server.shutdown()


def positions(ended: Ended, *wanted: tuple[str, str]) -> list[int]:
    """Where the events (type, task) are among all events, in the order asked for."""
    places = [(line["type"], line["task"]) for line in ended.events()]
    return [places.index(item) for item in wanted]


def prompt(fake: FakeLLM, task_key: str) -> str:
    """All that the model was first told for a task."""
    request = next(entry for entry in fake.ledger if entry.task == task_key)
    return "\n".join(str(message["content"]) for message in request.body["messages"])


async def test_a_sequential_crew_runs_its_tasks_in_order(host, fake, tmp_path):
    spec = run_spec(fake.url, agents=[agent("a"), agent("b")], tasks=[task("1"), task("2", agent="b"), task("3")])
    ended = await carry(host, spec, tmp_path)
    assert ended.exit == client.Exit(code=0)
    assert [(line["type"], line["task"], line["role"]) for line in ended.events()] == [
        (f"{what}.{moment}", key, f"Role {role}")
        for key, role in (("1", "a"), ("2", "b"), ("3", "a"))
        for what, moment in (("task", "started"), ("agent", "started"), ("agent", "completed"), ("task", "completed"))
    ]
    outputs = [line["data"]["output"] for line in ended.events("task.completed")]
    assert ended.result == outputs[-1]
    assert ended.events("task.started")[1]["data"] == {"name": "Task 2", "agent": "Role b"}
    assert prompt(fake, "3").count(outputs[0]) == prompt(fake, "3").count(outputs[1]) == 1


async def test_every_call_says_on_whose_behalf_it_is(host, fake, tmp_path):
    fake.modes["role:a"] = "tools-2"
    fake.tools["add"] = (200, {"result": "3"})
    agents = [agent("a", tools=["add"], max_iterations=6), agent("b")]
    spec = run_spec(fake.url, agents=agents, tasks=[task("1"), task("2", agent="b"), task("3")], tools=[ADD])
    await carry(host, spec, tmp_path)
    calls = [(entry.model, entry.task, entry.role, entry.ordinal) for entry in fake.ledger]
    assert calls == [*[("role:a", "1", "a", "0")] * 3, ("role:b", "2", "b", "0"), *[("role:a", "3", "a", "0")] * 3]
    tools = [(headers["x-portal-task"], headers["x-portal-ordinal"]) for *_, headers in fake.tool_calls]
    assert tools == [("1", "0"), ("1", "1"), ("3", "0"), ("3", "1")]  # the only requests that are alike


async def test_a_call_carries_the_agents_parameters_and_asks_for_usage(host, fake, tmp_path):
    agents = [agent("a", llm={"temperature": 0.4, "max_tokens": 500, "top_k": 40, "repeat_penalty": 1.1})]
    await carry(host, run_spec(fake.url, agents=agents), tmp_path)
    body = fake.ledger[0].body
    wanted = {"temperature": 0.4, "max_tokens": 500, "top_k": 40, "repeat_penalty": 1.1, "stream": True}
    assert wanted.items() <= body.items()
    assert body["stream_options"] == {"include_usage": True}


async def test_the_same_spec_makes_the_same_requests(host, fake, tmp_path):
    spec = run_spec(fake.url, tasks=[task("1"), task("2", description="A {brace} and {{two}}")])
    for attempt in ("1", "2"):
        await carry(host, spec, tmp_path / attempt)
    bodies = [json.dumps(entry.body, sort_keys=True) for entry in fake.ledger]
    assert bodies[:2] == bodies[2:]
    assert "A {brace} and {{two}}" in prompt(fake, "2")


async def test_parallel_tasks_start_when_their_context_is_finished(host, fake, tmp_path):
    fake.modes |= {"role:a": "delay-100", "role:b": "delay-1500"}
    tasks = [
        task("1"),
        task("2", agent="b"),
        task("3", context=["1"]),
        task("4", context=["1", "2"]),
    ]
    ended = await carry(
        host, run_spec(fake.url, process="parallel", agents=[agent("a"), agent("b")], tasks=tasks), tmp_path
    )
    (slow_start, third_start, third_end, slow_end, last_start) = positions(
        ended,
        *(("task.started", "2"), ("task.started", "3"), ("task.completed", "3")),
        *(("task.completed", "2"), ("task.started", "4")),
    )
    assert slow_start < third_start < third_end < slow_end < last_start
    outputs = {line["task"]: line["data"]["output"] for line in ended.events("task.completed")}
    assert ended.result == outputs["4"]
    told = prompt(fake, "4")
    assert told.index(outputs["1"]) < told.index(outputs["2"])
    assert outputs["1"] in prompt(fake, "3")
    assert outputs["2"] not in prompt(fake, "3")


async def test_one_agent_may_do_two_tasks_at_once(host, fake, tmp_path):
    fake.modes["role:a"] = "delay-1000"
    ended = await carry(host, run_spec(fake.url, process="parallel", tasks=[task("1"), task("2"), task("3")]), tmp_path)
    starts = [index for index, line in enumerate(ended.events()) if line["type"] == "task.started"]
    ends = [index for index, line in enumerate(ended.events()) if line["type"] == "task.completed"]
    assert max(starts) < min(ends)
    assert {(entry.task, entry.ordinal) for entry in fake.ledger} == {("1", "0"), ("2", "0"), ("3", "0")}


async def test_asynchronous_tasks_overlap_in_a_sequential_crew(host, fake, tmp_path):
    fake.modes["role:a"] = "delay-500"
    tasks = [
        task("1", async_execution=True),
        task("2", async_execution=True),
        task("3"),
        task("4", async_execution=True),
    ]
    tasks.append(task("5", async_execution=True, context=["4"]))  # CrewAI itself refuses both of these
    ended = await carry(host, run_spec(fake.url, tasks=tasks), tmp_path)
    order = positions(
        ended,
        *(("task.started", "2"), ("task.completed", "1"), ("task.started", "3")),
        *(("task.completed", "3"), ("task.started", "4"), ("task.completed", "4"), ("task.started", "5")),
    )
    assert order == sorted(order)


async def test_a_manager_delegates_to_the_others(host, fake, tmp_path):
    fake.modes |= {"role:manager": "tools", "role:a": "ok"}
    spec = run_spec(fake.url, process="hierarchical", tasks=[task("1", agent=None)])
    ended = await carry(host, spec, tmp_path)
    assert ended.result
    assert {entry.role for entry in fake.ledger} == {"manager"}  # the fake names no coworker that exists
    assert ended.events("tool.started")[0]["data"]["tool"] == "delegate_work_to_coworker"


async def test_a_coworkers_calls_are_its_own_for_the_same_task(host, tmp_path):
    with rehearsal_gateway() as (url, seen):
        agents = [agent("w", role="Writer"), agent("m", role="Boss", llm={})]
        spec = run_spec(url, process="hierarchical", manager="m", agents=agents, tasks=[task("1", agent=None)])
        ended = await carry(host, spec, tmp_path)
    assert ended.result == "The answer."
    assert seen == [("role:m", "1", "m", "0"), ("role:w", "1", "w", "0"), ("role:m", "1", "m", "0")]
    assert [line["role"] for line in ended.events("agent.started")] == ["Boss", "Writer"]


async def test_an_agent_that_may_delegate_does_so_in_a_sequential_crew(host, tmp_path):
    with rehearsal_gateway() as (url, seen):
        agents = [agent("a", allow_delegation=True), agent("w", role="Writer")]
        ended = await carry(host, run_spec(url, agents=agents), tmp_path)
    assert ended.result == "The answer."
    assert [call[0] for call in seen] == ["role:a", "role:w", "role:a"]


async def test_a_tool_is_called_through_the_gateway(host, fake, tmp_path):
    fake.modes["role:a"] = "tools"
    fake.tools["add"] = (200, {"result": "3"})
    spec = run_spec(fake.url, agents=[agent("a", tools=["add"])], tools=[ADD])
    ended = await carry(host, spec, tmp_path)
    ((name, arguments, headers),) = fake.tool_calls
    assert (name, arguments) == ("add", {"a": 1, "b": 2})
    assert headers["authorization"] == "Bearer run_token"
    assert (headers["x-portal-task"], headers["x-portal-role"]) == ("1", "a")
    called = {"tool": "add", "arguments": {"a": 1, "b": 2}}
    assert [line["data"] for line in ended.events("tool.started")] == [called]
    assert [line["data"] for line in ended.events("tool.completed")] == [{**called, "result": "3"}]
    assert fake.ledger[0].body["tools"][0]["function"]["parameters"] == ADD["parameters"]
    assert fake.ledger[1].body["messages"][-1]["content"] == "3"


async def test_what_a_model_says_beside_a_tool_call_is_its_agents_thought(host, tmp_path):
    with rehearsal_gateway(says="I had better ask.") as (url, _):
        agents = [agent("a", allow_delegation=True), agent("w", role="Writer")]
        ended = await carry(host, run_spec(url, agents=agents), tmp_path)
    (thought,) = ended.events("agent.thought")
    assert (thought["task"], thought["role"], thought["data"]) == ("1", "Role a", {"text": "I had better ask."})


async def test_a_failing_tool_is_told_to_the_agent_which_goes_on(host, fake, tmp_path):
    fake.modes["role:a"] = "tools"
    fake.tools["add"] = (422, {"error": {"message": "“a” must be a number."}})
    ended = await carry(host, run_spec(fake.url, agents=[agent("a", tools=["add"])], tools=[ADD]), tmp_path)
    assert ended.result
    assert ended.events("tool.failed")[0]["data"]["error"] == "“a” must be a number."
    assert not ended.events("tool.completed")
    assert "“a” must be a number." in fake.ledger[1].body["messages"][-1]["content"]


@pytest.mark.parametrize(
    ("mode", "reason", "words"),
    [
        ("500", "error", "The server had an error."),
        ("429", "error", "Slow down."),
        ("401", "error", "Incorrect API key provided"),
        ("too-long", "error", "longer than the model can read"),
        ("malformed", "bad_output", "could not be read"),
        ("empty", "bad_output", "an empty answer"),
    ],
)
async def test_a_failing_model_ends_the_run_at_once_with_its_sentence(host, fake, tmp_path, mode, reason, words):
    fake.modes["role:a"] = mode
    ended = await carry(host, run_spec(fake.url, tasks=[task("1"), task("2")]), tmp_path)
    assert ended.exit == client.Exit(code=1)
    assert ended.failure["reason"] == reason
    assert words in ended.failure["message"]
    assert len(fake.ledger) == 1  # nothing is tried again here: the gateway does that
    assert words in ended.events("task.failed")[0]["data"]["error"]


async def test_a_gateway_that_is_not_there_is_no_fault_of_the_task(host, tmp_path):
    ended = await carry(host, run_spec("http://127.0.0.1:9/v1"), tmp_path)
    assert (ended.failure["reason"], "gateway" in ended.failure["message"]) == ("gateway", True)
    assert not ended.events("task.failed")


async def test_a_gateway_that_goes_away_during_an_answer_is_no_fault_of_the_task(host, fake, tmp_path):
    fake.modes["role:a"] = "truncated"
    ended = await carry(host, run_spec(fake.url, process="parallel", tasks=[task("1"), task("2")]), tmp_path)
    assert (ended.failure["reason"], "broke off its answer" in ended.failure["message"]) == ("gateway", True)
    assert not ended.events("task.failed")


async def test_finished_tasks_are_not_done_again(host, fake, tmp_path):
    tasks = [task("1"), task("2"), task("3")]
    first = await carry(host, run_spec(fake.url, tasks=tasks), tmp_path / "1")
    outputs = {line["task"]: line["data"]["output"] for line in first.events("task.completed")}
    bodies = {entry.task: entry.body for entry in fake.ledger}
    fake.reset()
    finished = {key: outputs[key] for key in ("1", "2")}
    again = await carry(host, run_spec(fake.url, tasks=tasks, finished=finished, attempt=2), tmp_path / "2")
    assert [entry.task for entry in fake.ledger] == ["3"]
    assert fake.ledger[0].body == bodies["3"]
    assert again.result == first.result
    assert {line["task"] for line in again.events()} == {"3"}


async def test_a_run_killed_in_the_middle_of_an_answer_lets_go_of_it(host, fake, tmp_path):
    fake.modes["role:a"] = "slow-200"
    run = await client.start(host.socket, run_spec(fake.url), tmp_path)
    await wait_for_async(lambda: fake.ledger, "a call")
    run.kill()
    await asyncio.wait_for(run.wait(), DEADLINE)
    await wait_for_async(lambda: fake.ledger[0].client_gone, "the fake to see that its client is gone")
    assert lines_of(tmp_path)[-1]["kind"] == "event"
    run.close()


async def test_thirty_quick_runs_lose_nothing(host, fake, tmp_path):
    tasks = [task("1"), task("2"), task("3", context=["1", "2"])]

    async def one(number: int) -> Ended:
        spec = run_spec(fake.url, process="parallel", attempt=number, tasks=tasks)
        return await carry(host, spec, tmp_path / str(number))

    for start in range(0, 30, 5):
        for ended in await asyncio.gather(*(one(number) for number in range(start, start + 5))):
            assert len(ended.events()) == 12
            assert ended.result
    assert len(fake.ledger) == 90


@pytest.mark.parametrize("engine", FRAMEWORKS)
async def test_nothing_but_the_gateway_is_called(fake, tmp_path, engine):
    trace = tmp_path / "trace"
    with engine_host(tmp_path / "host", engine) as traced:
        order = ["strace", "-f", "-qq", "-e", "trace=connect,sendto", "-o", str(trace), "-p", str(traced.process.pid)]
        try:
            spy = await asyncio.create_subprocess_exec(*order, stderr=asyncio.subprocess.PIPE)
        except FileNotFoundError:
            pytest.skip("strace is missing")
        try:
            await wait_for_async(lambda: _tracer_of(traced.process.pid), "strace to watch the host")
            fake.modes["role:a"] = "tools"
            fake.tools["add"] = (200, {"result": "3"})
            agents = [agent("a", tools=["add"])]
            crew = run_spec(fake.url, engine=engine, agents=agents, tools=[ADD], process="parallel")
            assert (await carry(traced, crew, tmp_path / "run")).result
        finally:
            spy.terminate()
            await spy.wait()
    called = [line for line in trace.read_text().splitlines() if "connect(" in line or "sockaddr" in line]
    port = fake.url.split(":")[2].split("/")[0]
    assert called
    assert all(f"htons({port})" in line for line in called), called


@pytest.mark.parametrize("engine", FRAMEWORKS)
def test_the_list_of_late_modules_is_complete(engine):
    """What a run would import, the host has imported: no run pays for it again."""
    listed = set(Path(rehearsal.__file__).with_name(engine).joinpath("preload.txt").read_text().split())
    order = [sys.executable, "-m", "executions.engines.rehearsal", engine]
    found = subprocess.run(order, capture_output=True, text=True, check=True, timeout=DEADLINE).stdout.split()
    assert set(found) <= listed


def _tracer_of(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("TracerPid:")))


def stage_spec(url: str, **changes: Any) -> Any:
    """A run that works on a stage of a project: one agent, one task, and finished work to start from."""
    research = {"key": "d1", "title": "Research", "kind": "research", "role": "Researcher", "version": "1.0"}
    return run_spec(
        url,
        **{
            "project": {
                "name": "Health tracking",
                "type": "mobile_app",
                "audience": "Runners",
                "requirement": "An app for runners.",
                "technical": {},
                "folders": [],
            },
            "stage": {
                "name": "planning",
                "round": 1,
                "deliverables": [{"type": "plan", "title": "Plan"}],
                "instructions": "",
            },
            "materials": [{**research, "content": f"Runners run daily. {'More of it. ' * 500}", "files": []}],
            **changes,
        },
    )


async def test_a_stage_starts_from_the_finished_work_of_others(host, fake, tmp_path):
    ended = [await carry(host, stage_spec(fake.url), tmp_path / str(number)) for number in range(2)]
    assert [run.result for run in ended] == [run.events("task.completed")[0]["data"]["output"] for run in ended]
    first, second = (entry.body["messages"] for entry in fake.ledger)
    assert first == second
    text = prompt(fake, "1")
    assert "Finished work, “Research” (Researcher, version 1.0):\nRunners run daily." in text
    assert "What is asked for: An app for runners." in text
    assert "Your answer is kept as the document “Plan”." in text


async def test_a_stage_that_was_sent_back_is_told_so_after_its_materials(host, fake, tmp_path):
    reviews = {"1": [{"output": "A poor plan.", "feedback": "Add the costs."}]}
    await carry(host, stage_spec(fake.url, reviews=reviews), tmp_path)
    text = prompt(fake, "1")
    assert text.index("Runners run daily.") < text.index("A poor plan.") < text.index("Add the costs.")


async def test_a_model_that_cannot_read_so_much_is_given_less(host, fake, tmp_path):
    fake.modes["role:a"] = "too-long-1"
    ended = await carry(host, stage_spec(fake.url), tmp_path)
    assert ended.exit == client.Exit(code=0)
    long, short = (len(str(entry.body["messages"])) for entry in fake.ledger)
    assert long > 6000 > short + 2000
    assert ended.events("log")[0]["data"]["message"].startswith("What the role was given was longer")
    assert ended.result == ended.events("task.completed")[0]["data"]["output"]


async def test_a_model_that_cannot_read_even_that_fails_the_run(host, fake, tmp_path):
    fake.modes["role:a"] = "too-long"
    ended = await carry(host, stage_spec(fake.url), tmp_path)
    assert len(fake.ledger) == 2
    assert ended.failure["message"] == "The text was longer than the model can read."
