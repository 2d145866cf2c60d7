"""What every engine keeps to: it pauses, asks, takes work back, and goes on from finished tasks.

An engine is added to `tests.engines.FRAMEWORKS`. One whose tasks are not words has a line in `DESCRIPTIONS`: what the
description of a task has to be so that it makes one call of the model. Everything else is asserted from
outside: its lines, and the requests.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from executions.engines import client
from executions.engines.protocol import RunSpec, TaskSpec
from tests.deadlines import DEADLINE, wait_for_async
from tests.engines import FRAMEWORKS, Ended, EngineHost, carry, engine_host, lines_of, run_spec, task
from tests.fakes.llm import FakeLLM

_CALL = """
import json, urllib.request
told = f"{key}: {given} {[(review['output'], review['feedback']) for review in reviews]}"
body = {"model": "role:a", "messages": [{"role": "user", "content": told}]}
headers = {"Content-Type": "application/json", "X-Portal-Task": key}
url = spec["gateway"]["base_url"] + "/chat/completions"
with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)) as answer:
    result = json.load(answer)["choices"][0]["message"]["content"]
"""
DESCRIPTIONS = {"keeper": _CALL}
ONE_AT_A_TIME = {"metagpt"}  # has one workspace, so that tasks which could run side by side take turns


class GatedLLM(FakeLLM):
    """Answers the calls of the tasks in `held` only when they are let go; `asked` are the tasks that called."""

    def __init__(self) -> None:
        super().__init__()
        self.held: set[str] = set()
        self.asked: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        name = dict(scope["headers"])[b"x-portal-task"].decode()
        self.asked.append(name)
        while name in self.held:  # noqa: ASYNC110 - let go from another thread
            await asyncio.sleep(0.01)
        await super().__call__(scope, receive, send)


class Subject:
    """One engine, its host and the model that it calls."""

    def __init__(self, engine: str, host: EngineHost, llm: GatedLLM) -> None:
        self.engine, self.host, self.llm = engine, host, llm

    def task(self, key: str, **changes: Any) -> TaskSpec:
        return task(key, description=DESCRIPTIONS.get(self.engine, "Do it."), **changes)

    def spec(self, *tasks: TaskSpec, **changes: Any) -> RunSpec:
        return run_spec(self.llm.url, engine=self.engine, tasks=list(tasks), **changes)

    async def carry(self, spec: RunSpec, folder: Path) -> Ended:
        return await carry(self.host, spec, folder)

    @contextlib.asynccontextmanager
    async def held_at(self, spec: RunSpec, folder: Path, *keys: str) -> AsyncIterator[client.EngineRun]:
        """A run whose tasks `keys` are under way; they are let go at the end, and the run has ended then."""
        self.llm.held = set(keys)
        self.llm.asked.clear()
        run = await client.start(self.host.socket, spec, folder)
        try:
            await wait_for_async(lambda: run.ended or set(keys) <= set(self.llm.asked), "the calls of the tasks")
            assert set(keys) <= set(self.llm.asked), (folder / "engine.log").read_text()
            yield run
            self.llm.held = set()
            await asyncio.wait_for(run.wait(), DEADLINE)
        finally:
            self.llm.held = set()
            run.close()

    def told(self, key: str) -> str:
        """All that the model was told in the first call of a task."""
        request = next(entry for entry in self.llm.ledger if entry.task == key)
        return "\n".join(str(message["content"]) for message in request.body["messages"])


@pytest.fixture(scope="module", params=[*FRAMEWORKS, "keeper"])
def host(request, tmp_path_factory):
    with engine_host(tmp_path_factory.mktemp("host"), request.param) as found:
        yield request.param, found


@pytest.fixture
def subject(host):
    engine, found = host
    with GatedLLM() as llm:
        yield Subject(engine, found, llm)


def of_tasks(lines: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """What happened to tasks, in order."""
    moments = ("task.", "approval.")
    return [(line["type"], line["task"]) for line in lines if line.get("type", "").startswith(moments)]


def outputs(lines: list[dict[str, Any]]) -> dict[str, str]:
    kinds = {"task.completed", "approval.requested"}
    return {line["task"]: line["data"]["output"] for line in lines if line.get("type") in kinds}


async def test_a_pause_lets_the_task_under_way_finish_and_starts_no_other(subject, tmp_path):
    spec = subject.spec(subject.task("1"), subject.task("2"))
    async with subject.held_at(spec, tmp_path, "1") as run:
        run.pause()
        run.pause()  # as often as one likes
        await client.hello(subject.host.socket)  # the host reads in order: it has heard of the pause
    assert (await run.wait()).code == 0
    lines = lines_of(tmp_path)
    assert of_tasks(lines) == [("task.started", "1"), ("task.completed", "1")]
    assert lines[-1] == {"kind": "paused"}
    run.pause()  # after the end: harmless


async def test_a_paused_run_goes_on_as_if_it_had_never_paused(subject, tmp_path):
    tasks = [subject.task("1"), subject.task("2")]
    whole = await subject.carry(subject.spec(*tasks), tmp_path / "whole")
    bodies = [json.dumps(entry.body, sort_keys=True) for entry in subject.llm.ledger]
    async with subject.held_at(subject.spec(*tasks), tmp_path / "1", "1") as run:
        run.pause()
        await client.hello(subject.host.socket)
    finished = outputs(lines_of(tmp_path / "1"))
    again = await subject.carry(subject.spec(*tasks, finished=finished, attempt=2), tmp_path / "2")
    assert again.result == whole.result
    assert [json.dumps(entry.body, sort_keys=True) for entry in subject.llm.ledger] == bodies * 2
    assert of_tasks(again.lines) == [("task.started", "2"), ("task.completed", "2")]


async def test_a_pause_before_the_first_step_counts(subject, tmp_path):
    spec = subject.spec(subject.task("1"), name="x" * 20_000_000)  # takes a while to read
    run = await client.start(subject.host.socket, spec, tmp_path)
    run.pause()
    await asyncio.wait_for(run.wait(), DEADLINE)
    run.close()
    assert lines_of(tmp_path) == [{"kind": "paused"}]
    assert not subject.llm.asked


async def test_a_pause_during_the_last_task_comes_too_late(subject, tmp_path):
    async with subject.held_at(subject.spec(subject.task("1")), tmp_path, "1") as run:
        run.pause()
        await client.hello(subject.host.socket)
    assert lines_of(tmp_path)[-1]["kind"] == "result"


async def test_a_pause_waits_for_all_that_runs_side_by_side(subject, tmp_path):
    if subject.engine in ONE_AT_A_TIME:
        pytest.skip("its tasks take turns")
    tasks = [subject.task("1"), subject.task("2"), subject.task("3", context=["1"])]
    async with subject.held_at(subject.spec(*tasks, process="parallel"), tmp_path, "1", "2") as run:
        run.pause()
        await client.hello(subject.host.socket)
    lines = lines_of(tmp_path)
    assert set(of_tasks(lines)) == {(f"task.{moment}", key) for moment in ("started", "completed") for key in "12"}
    assert lines[-1] == {"kind": "paused"}


@pytest.mark.parametrize("process", ["sequential", "parallel", "hierarchical"])
async def test_a_task_that_asks_ends_with_its_question_and_holds_up_what_needs_it(subject, tmp_path, process):
    tasks = [subject.task("1", human_input=True), subject.task("2", context=["1"])]
    ended = await subject.carry(subject.spec(*tasks, process=process), tmp_path)
    assert ended.exit == client.Exit(code=0)
    assert of_tasks(ended.lines) == [("task.started", "1"), ("approval.requested", "1")]
    (question,) = ended.events("approval.requested")
    assert question["data"]["name"] == "Task 1"
    assert question["data"]["output"]
    assert ended.lines[-1] == {"kind": "waiting"}


async def test_tasks_that_do_not_need_the_answer_go_on(subject, tmp_path):
    tasks = [
        *(subject.task("1", human_input=True), subject.task("2")),
        *(subject.task("3", context=["1"]), subject.task("4", context=["2"])),
    ]
    ended = await subject.carry(subject.spec(*tasks, process="parallel"), tmp_path)
    assert set(outputs(ended.lines)) == {"1", "2", "4"}
    assert ended.lines[-1] == {"kind": "waiting"}


async def test_asynchronous_tasks_go_on_beside_a_question(subject, tmp_path):
    tasks = [
        subject.task("1", async_execution=True, human_input=True),
        subject.task("2", async_execution=True),
        subject.task("3"),
    ]
    ended = await subject.carry(subject.spec(*tasks), tmp_path)
    assert set(outputs(ended.lines)) == {"1", "2"}
    assert ended.lines[-1] == {"kind": "waiting"}


async def test_a_question_that_is_out_is_not_asked_again(subject, tmp_path):
    tasks = [subject.task("1", human_input=True), subject.task("2"), subject.task("3", context=["1"])]
    spec = subject.spec(*tasks, process="parallel", waiting=["1"])
    ended = await subject.carry(spec, tmp_path / "1")
    assert of_tasks(ended.lines) == [("task.started", "2"), ("task.completed", "2")]
    assert ended.lines[-1] == {"kind": "waiting"}
    again = await subject.carry({**spec, "finished": outputs(ended.lines)}, tmp_path / "2")
    assert again.lines == [{"kind": "waiting"}]


async def test_an_approved_answer_is_what_later_tasks_are_given(subject, tmp_path):
    tasks = [subject.task("1", human_input=True), subject.task("2")]
    ended = await subject.carry(subject.spec(*tasks, finished={"1": "Edited by a person."}), tmp_path)
    assert "Edited by a person." in subject.told("2")
    assert ended.result == outputs(ended.lines)["2"]


async def test_when_the_last_answer_is_approved_the_run_is_done_without_a_call(subject, tmp_path):
    spec = subject.spec(subject.task("1", human_input=True), finished={"1": "Approved."})
    ended = await subject.carry(spec, tmp_path)
    assert ended.lines == [{"kind": "result", "output": "Approved."}]
    assert not subject.llm.asked


@pytest.mark.parametrize("process", ["sequential", "parallel", "hierarchical"])
async def test_work_that_was_sent_back_is_done_again_with_the_last_answer_and_all_feedback(subject, tmp_path, process):
    reviews = [
        {"output": "The first draft.", "feedback": "더 짧게 써 주세요."},
        {"output": "The second draft.", "feedback": "Name the sources."},
    ]
    spec = subject.spec(subject.task("1", human_input=True), process=process, reviews={"1": reviews})
    ended = await subject.carry(spec, tmp_path / "1")
    assert of_tasks(ended.lines) == [("task.started", "1"), ("approval.requested", "1")]
    assert ended.lines[-1] == {"kind": "waiting"}
    told = subject.told("1")
    assert all(text in told for text in ("The second draft.", "더 짧게 써 주세요.", "Name the sources."))
    await subject.carry(spec, tmp_path / "2")
    first, second = subject.llm.ledger
    assert first.body == second.body


async def test_a_pause_comes_before_a_question(subject, tmp_path):
    tasks = [subject.task("1", human_input=True), subject.task("2")]
    async with subject.held_at(subject.spec(*tasks), tmp_path, "1") as run:
        run.pause()
        await client.hello(subject.host.socket)
    assert lines_of(tmp_path)[-1] == {"kind": "paused"}
    assert of_tasks(lines_of(tmp_path)) == [("task.started", "1"), ("approval.requested", "1")]


async def test_a_failure_beside_a_question_is_a_failure(subject, tmp_path):
    subject.llm.modes["role:b"] = "500"
    bad = subject.task("2", agent="b")
    if subject.engine == "keeper":
        bad = task("2", description="raise LookupError('no')")
    agents = [*run_spec()["agents"], {**run_spec()["agents"][0], "key": "b"}]
    spec = subject.spec(subject.task("1", human_input=True), bad, process="parallel", agents=agents)
    ended = await subject.carry(spec, tmp_path)
    assert ended.failure["reason"] == "error"
    assert ("approval.requested", "1") in of_tasks(ended.lines)
