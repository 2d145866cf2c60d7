"""A run that is killed at random moments and goes on asks for exactly what an uninterrupted one asks for."""

import asyncio
import contextlib
import hashlib
import json
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from executions.engines import client, rehearsal
from executions.engines.protocol import HEADER_ORDINAL, HEADER_ROLE, HEADER_TASK, RunSpec
from tests.deadlines import DEADLINE, wait_for_async
from tests.engines import FRAMEWORKS, EngineHost, agent, engine_host, lines_of, run_spec, task

KILLS = 6
NUMBER = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TOOLS = [{"name": name, "description": f"Does {name}.", "parameters": NUMBER} for name in ("add", "double")]


class Gateway(rehearsal.Gateway):
    """A model whose answers depend on the request alone, and which calls each tool that it is offered once."""

    asked: list[tuple[str, ...]]  # (task, role, path, ordinal, body) of each request

    @override
    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        raw = self.rfile.read(length)
        if len(raw) < length:  # its client was killed before it had asked
            self.close_connection = True
            return
        who = [str(self.headers[name]) for name in (HEADER_TASK, HEADER_ROLE)]
        self.asked.append((*who, self.path, str(self.headers[HEADER_ORDINAL]), raw.decode()))
        digest = hashlib.sha256(raw).hexdigest()
        time.sleep(int(digest[:2], 16) / 255 * 0.02)  # so that tasks overlap differently
        if self.path.startswith("/v1/tools/"):
            self._send("application/json", json.dumps({"result": digest[:6]}))
            return
        body = json.loads(raw)
        done = sum(message["role"] == "tool" for message in body["messages"])
        delta: dict[str, Any] = {"role": "assistant", "content": self._text(body)}
        tools = body.get("tools") or []
        if delta["content"] == "The answer.":
            delta["content"] = f"The answer {digest[:8]}."
        if done == 0 and tools:  # all at once, and for one agent the first of them twice
            wanted = [*tools, *(tools[:1] if body["model"] == "role:w" else [])]
            calls = [self._call(tool["function"], digest, n) for n, tool in enumerate(wanted)]
            delta = {"role": "assistant", "content": "", "tool_calls": calls}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        base = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        chunks = [
            {**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
            {**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
            {**base, "choices": [], "usage": usage},
        ]
        self._send("text/event-stream", "".join(f"data: {json.dumps(c)}\n\n" for c in chunks) + "data: [DONE]\n\n")

    def _send(self, kind: str, text: str) -> None:
        with contextlib.suppress(OSError):  # its client was killed
            super()._send(kind, text)

    @staticmethod
    def _call(function: dict[str, Any], digest: str, n: int) -> dict[str, Any]:
        known = {"coworker": "Writer", "a": 1}
        values = {name: known.get(name, "the matter") for name in function["parameters"]["properties"]}
        named = {"name": function["name"], "arguments": json.dumps(values)}
        return {"index": n, "id": f"call_{digest[:8]}_{n}", "type": "function", "function": named}


class Server(ThreadingHTTPServer):
    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no error."""


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    with engine_host(tmp_path_factory.mktemp("host")) as found:
        yield found


@pytest.fixture(scope="module", params=FRAMEWORKS)
def any_host(request, tmp_path_factory):
    with engine_host(tmp_path_factory.mktemp("host"), request.param) as found:
        yield request.param, found


@pytest.fixture
def gateway() -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    class Own(Gateway):
        asked: list[tuple[str, ...]] = []

    with Server(("127.0.0.1", 0), Own) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1", Own.asked
        server.shutdown()


def crew(process: str, url: str) -> RunSpec:
    """Tasks with tools, with context, side by side where the process has that, and one that was sent back."""
    agents = [
        agent("a", role="Researcher", tools=["add", "double"]),
        agent("w", role="Writer", tools=["add"]),
        agent("b", role="Boss", allow_delegation=True),
    ]
    by = dict.fromkeys("12345", None) if process == "hierarchical" else dict(zip("12345", "awbaw", strict=True))
    tasks = [
        task("1", agent=by["1"]),
        task("2", agent=by["2"], async_execution=True),
        task("3", agent=by["3"], async_execution=True, context=["1"]),
        task("4", agent=by["4"], context=["3", "2"]),
        task("5", agent=by["5"], context=["1", "4"]),
    ]
    sent_back = {"4": [{"output": "A draft.", "feedback": "더 길게."}]}
    manager = "b" if process == "hierarchical" else None
    return run_spec(url, process=process, agents=agents, tasks=tasks, tools=TOOLS, reviews=sent_back, manager=manager)


async def attempt(host: EngineHost, spec: RunSpec, folder: Path, asked: list[Any], kill_after: int | None) -> Any:
    """Carry an attempt, and kill it when the model has been asked `kill_after` times: its lines, and its requests."""
    asked.clear()
    run = await client.start(host.socket, spec, folder)
    try:
        if kill_after is not None:
            await wait_for_async(lambda: run.ended or len(asked) >= kill_after, "calls of the model", every=0.001)
            run.kill()
        await asyncio.wait_for(run.wait(), DEADLINE)
    finally:
        run.close()
    return lines_of(folder), by_task(asked)


def by_task(asked: list[tuple[str, ...]]) -> dict[str, list[tuple[str, ...]]]:
    found = defaultdict(list)
    for key, *request in list(asked):
        found[key].append(tuple(request))
    return found


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 6))])
@pytest.mark.parametrize("process", ["sequential", "parallel", "hierarchical"])
async def test_requests_of_a_resumed_run_are_those_of_an_uninterrupted_one(host, gateway, tmp_path, process, seed):
    url, asked = gateway
    spec = crew(process, url)
    whole, wanted = await attempt(host, spec, tmp_path / "whole", asked, None)
    result = whole[-1]
    assert result["kind"] == "result", (tmp_path / "whole" / "engine.log").read_text()
    assert set(wanted) == set("12345")
    assert any(path.startswith("/v1/tools/") for requests in wanted.values() for _, path, *_ in requests)
    assert any(int(ordinal) > 0 for requests in wanted.values() for *_, ordinal, _ in requests)

    chance = random.Random(seed)
    total = sum(map(len, wanted.values()))
    finished: dict[str, str] = {}
    resumed = 0
    for number in range(1, KILLS + 2):
        after = chance.randint(total // 4, total - 1) if number <= KILLS else None
        current: RunSpec = {**spec, "finished": dict(finished), "attempt": number}
        lines, got = await attempt(host, current, tmp_path / str(number), asked, after)
        resumed += bool(finished)
        assert not finished.keys() & got.keys()
        assert not finished.keys() & {line["task"] for line in lines if line.get("type", "").startswith("task.")}
        done = {line["task"]: line["data"]["output"] for line in lines if line.get("type") == "task.completed"}
        for key, requests in got.items():  # tools of one turn run side by side, so their order is any
            assert Counter(requests) <= Counter(wanted[key]), key
            assert key not in done or Counter(requests) == Counter(wanted[key]), key
        finished |= done
        if lines and lines[-1]["kind"] == "result":
            break
    assert lines[-1] == result
    assert resumed


@pytest.mark.parametrize("number", range(len(rehearsal.STAGES)), ids=[name for name, *_ in rehearsal.STAGES])
async def test_a_stage_that_was_killed_asks_for_the_same_again(any_host, gateway, tmp_path, number):
    engine, host = any_host
    url, asked = gateway
    spec: RunSpec = {**rehearsal.stages(url)[number], "engine": engine}
    name, _, kinds = rehearsal.STAGES[number]
    whole, wanted = await attempt(host, spec, tmp_path / "whole", asked, None)
    assert whole[-1]["kind"] == "result", (whole[-1], (tmp_path / "whole" / "engine.log").read_text())
    assert set(wanted) == {name}
    (done,) = [line for line in whole if line.get("type") == "task.completed"]
    if "deliverables" in done["data"]:
        assert [made["type"] for made in done["data"]["deliverables"]] == list(kinds)

    total = len(wanted[name])
    for n, after in enumerate(sorted({1, total // 2, total - 1} - {0}), start=1):
        lines, got = await attempt(host, {**spec, "attempt": n}, tmp_path / str(n), asked, after)
        if not lines or lines[-1]["kind"] != "result":
            assert not any(line.get("type") == "task.completed" for line in lines)
        assert got[name] == wanted[name][: len(got[name])]  # to the byte, in the same order
    lines, got = await attempt(host, {**spec, "attempt": 9}, tmp_path / "again", asked, None)
    assert got == wanted
    assert lines[-1] == whole[-1]
    (again,) = [line for line in lines if line.get("type") == "task.completed"]
    assert again["data"] == done["data"]
