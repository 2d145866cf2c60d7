"""Finds the modules that an engine's framework imports late, so that its host can import them early.

    python -m executions.engines.rehearsal crewai > executions/engines/crewai/preload.txt

Run it when the framework's version changes. It carries a small crew of each process, tools included, and each
stage of a project, against a gateway of its own, in the engine's own interpreter; and prints what was
imported on the way.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

from executions.engines import launch
from executions.engines.output import Failed, Output
from executions.engines.protocol import VERSION, AgentSpec, File, Material, RunSpec, TaskSpec, ToolSpec, Wanted
from executions.engines.registry import ENGINES
from executions.engines.samples import example

Process = Literal["sequential", "parallel", "hierarchical"]
# Each stage of a company that makes software: who works, and what it makes.
STAGES = (
    ("requirement", "Product Manager", ("requirement",)),
    ("design", "Architect", ("design_doc", "architecture")),
    ("planning", "Project Manager", ("task_plan",)),
    ("development", "Engineer", ("code",)),
    ("testing", "QA Engineer", ("test_plan",)),
)
CODE = 'def main() -> None:\n    print("Rehearsed.")\n\n\nif __name__ == "__main__":\n    main()\n'


class Gateway(BaseHTTPRequestHandler):
    """Answers every request of a rehearsal: with the form or the code that is asked for, with a tool call where tools
    are offered, else with a text."""

    protocol_version = "HTTP/1.1"
    remark = ""  # said beside a tool call

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.startswith("/v1/tools/"):
            self._send("application/json", json.dumps({"result": "3"}))
        else:
            self.answer(body)

    def answer(self, body: dict[str, Any]) -> None:
        """Answer a request for a completion."""
        delta: dict[str, Any] = {"role": "assistant", "content": self._text(body)}
        if body.get("tools") and not any(message["role"] == "tool" for message in body["messages"]):
            function = body["tools"][0]["function"]
            values = {name: "Writer" if name == "coworker" else "1" for name in function["parameters"]["properties"]}
            call = {"name": function["name"], "arguments": json.dumps(values)}
            delta = {
                "content": self.remark,
                "tool_calls": [{"index": 0, "id": "call_0", "type": "function", "function": call}],
            }
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        choices: list[list[dict[str, Any]]] = [
            [{"index": 0, "delta": delta, "finish_reason": None}],
            [{"index": 0, "delta": {}, "finish_reason": "stop"}],
            [],
        ]
        base = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "rehearsal"}
        events = [{**base, "choices": choice, "usage": None if choice else usage} for choice in choices]
        self._send("text/event-stream", "".join(f"data: {json.dumps(e)}\n\n" for e in events) + "data: [DONE]\n\n")

    @staticmethod
    def _text(body: dict[str, Any]) -> str:
        form = (body.get("response_format") or {}).get("json_schema")
        if form:
            return json.dumps(example(form["schema"]), ensure_ascii=False)
        return f"```python\n{CODE}```" if "block of code" in str(body["messages"][-1]["content"]) else "The answer."

    def _send(self, kind: str, text: str) -> None:
        raw = text.encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(raw)}\r\n\r\n"
        self.wfile.write(head.encode() + raw)  # in one packet, or the client would wait for the second

    def log_message(self, *_: Any) -> None:
        """Standard output is for the list."""


def spec(base_url: str, process: Process) -> RunSpec:
    """A crew of two with one tool."""
    agents = [
        AgentSpec(
            key=role,
            role=role,
            goal="Rehearse",
            backstory="Rehearses.",
            llm={"temperature": 0.4, "top_k": 40},
            tools=["add"],
            allow_delegation=False,
            max_iterations=3,
        )
        for role in ("Researcher", "Writer")
    ]
    tasks = [
        TaskSpec(
            key=role,
            name=role,
            description="Rehearse.",
            expected_output="A text.",
            agent=role,
            context=[],
            async_execution=False,
            human_input=False,
            tools=[],
        )
        for role in ("Researcher", "Writer")
    ]
    number = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    return RunSpec(
        version=VERSION,
        execution="rehearsal",
        attempt=1,
        name="Rehearsal",
        engine="",
        process=process,
        manager=None,
        agents=agents,
        tasks=tasks,
        tools=[ToolSpec(name="add", description="Adds.", parameters=number)],
        finished={},
        waiting=[],
        reviews={},
        language="en",
        date="2025-01-01",
        gateway={"base_url": base_url, "token": "rehearsal"},
    )


def stages(base_url: str) -> list[RunSpec]:
    """A run for each stage of a small project, which starts from what those before it would have made."""
    found: list[RunSpec] = []
    materials: list[Material] = []
    for name, role, kinds in STAGES:
        run = spec(base_url, "sequential")
        run["agents"] = [{**run["agents"][0], "key": name, "role": role, "tools": []}]
        run["tasks"] = [{**run["tasks"][0], "key": name, "name": name, "agent": name}]
        run["tools"] = []
        run["materials"] = list(materials)
        run["project"] = {
            "name": "Rehearsal",
            "type": "cli_tool",
            "audience": "",
            "requirement": "A program that says that it was rehearsed.",
            "technical": {},
            "folders": [],
        }
        wanted = [Wanted(type=kind, title=kind) for kind in kinds]
        run["stage"] = {"name": name, "round": 1, "deliverables": wanted, "instructions": ""}
        found.append(run)
        for kind in kinds:
            files = [File(path="main.py", content=CODE)] if kind == "code" else []
            text = "## Files\n- `main.py`"
            materials.append(
                Material(key=kind, title=kind, kind=kind, role=role, version="1.0", content=text, files=files)
            )
    return found


def late_modules(engine: str) -> list[str]:
    """What a run imports beyond what the adapter imports. Imports the framework into this process."""
    adapter = importlib.import_module(ENGINES[engine].module)
    adapter.prepare()
    early = set(sys.modules)
    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as server, Path(os.devnull).open("w") as nowhere:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base_url = f"http://127.0.0.1:{server.server_port}/v1"
        processes: tuple[Process, ...] = ("sequential", "parallel", "hierarchical")
        for run in [*(spec(base_url, process) for process in processes), *stages(base_url)]:
            try:
                adapter.run({**run, "engine": engine}, Output(nowhere.fileno()))
            except Failed as exc:  # what it imported up to there counts
                sys.stderr.write(f"{run['tasks'][0]['name']}: {exc}\n")
        server.shutdown()
    return sorted(set(sys.modules) - early)


def main() -> None:
    parser = argparse.ArgumentParser(prog="rehearsal", description="Print the modules that an engine imports late.")
    parser.add_argument("engine", choices=sorted(ENGINES))
    options = parser.parse_args()
    if os.environ.get("HOME") != os.environ.get("TMPDIR"):  # not in an engine's environment yet
        with tempfile.TemporaryDirectory() as home:
            again = [ENGINES[options.engine].interpreter, "-m", __spec__.name, options.engine]
            sys.exit(subprocess.run(again, env=launch.environment(Path(home)), cwd=home, check=False).returncode)
    modules = late_modules(options.engine)
    sys.stdout.write("\n".join(modules) + "\n")
    sys.stdout.flush()
    os._exit(0)  # the framework may have left threads


if __name__ == "__main__":
    main()
