"""Engine hosts and their runs for tests: real processes, started as the worker starts them."""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from executions.engines import client, launch
from executions.engines.protocol import VERSION, AgentSpec, RunSpec, TaskSpec
from tests.deadlines import wait_for

PR_SET_PDEATHSIG = 1
# The engines for which the conformance suites hold; those that may be missing by the marker that says so.
FRAMEWORKS = ("crewai", pytest.param("metagpt", marks=pytest.mark.metagpt))


@dataclass
class EngineHost:
    socket: Path
    process: subprocess.Popen[bytes]
    log: Path


@contextlib.contextmanager
def engine_host(folder: Path, engine: str = "crewai", *, python: str = sys.executable) -> Iterator[EngineHost]:
    """A warm host, its socket and home in `folder`; `probe` and `keeper` are of `tests.fakes.probe_engine`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "home").mkdir()
    socket, log = folder / "host.sock", folder / "host.log"
    if engine in {"probe", "keeper"}:
        order = [
            python,
            "-m",
            "tests.fakes.probe_engine",
            engine,
            "--socket",
            str(socket),
            "--parent",
            str(os.getpid()),
        ]
    else:
        order = launch.command(engine, socket)
    with log.open("wb") as errors:
        process = subprocess.Popen(
            order,
            env=launch.environment(folder / "home"),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stderr=errors,
            preexec_fn=lambda: ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
        )
    try:
        wait_for(lambda: socket.exists() or process.poll() is not None, "a warm engine host", on_timeout=log.read_text)
        assert process.poll() is None, log.read_text()
        yield EngineHost(socket, process, log)
    finally:
        process.kill()
        process.wait()


def agent(key: str, **changes: Any) -> AgentSpec:
    values: dict[str, Any] = {
        "key": key,
        "role": f"Role {key}",
        "goal": "Do it well",
        "backstory": "Has done it before.",
        "llm": {"temperature": 0.4, "top_k": 40},
        "tools": [],
        "allow_delegation": False,
        "max_iterations": 4,
    }
    return AgentSpec(**{**values, **changes})  # type: ignore[typeddict-item]


def task(key: str, **changes: Any) -> TaskSpec:
    values: dict[str, Any] = {
        "key": key,
        "name": f"Task {key}",
        "description": f"Do {key}",
        "expected_output": "A text",
        "agent": "a",
        "context": [],
        "async_execution": False,
        "human_input": False,
        "tools": [],
    }
    return TaskSpec(**{**values, **changes})  # type: ignore[typeddict-item]


def run_spec(base_url: str = "http://127.0.0.1:9/v1", **changes: Any) -> RunSpec:
    values: dict[str, Any] = {
        "version": VERSION,
        "execution": "5b0e8f1c-0000-4000-8000-000000000001",
        "attempt": 1,
        "name": "Crew",
        "engine": "crewai",
        "process": "sequential",
        "manager": None,
        "agents": [agent("a")],
        "tasks": [task("1")],
        "tools": [],
        "finished": {},
        "waiting": [],
        "reviews": {},
        "language": "en",
        "date": "2025-01-01",
        "gateway": {"base_url": base_url, "token": "run_token"},
    }
    return RunSpec(**{**values, **changes})  # type: ignore[typeddict-item]


def code_spec(code: str, **changes: Any) -> RunSpec:
    """A run of the probe engine that executes `code`."""
    return run_spec(tasks=[task("1", description=textwrap.dedent(code))], **changes)


@dataclass
class Ended:
    """A run that is over: how its process ended, and every line it wrote."""

    exit: client.Exit
    lines: list[dict[str, Any]]
    log: str

    @property
    def result(self) -> str:
        assert self.lines, self.log
        assert self.lines[-1]["kind"] == "result", f"{self.lines[-1]}\n{self.log}"
        return str(self.lines[-1]["output"])

    @property
    def failure(self) -> dict[str, Any]:
        assert self.lines[-1]["kind"] == "failure", self.lines[-1]
        return self.lines[-1]

    def events(self, type_: str | None = None) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["kind"] == "event" and type_ in {None, line["type"]}]


def lines_of(folder: Path) -> list[dict[str, Any]]:
    path = folder / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


async def carry(host: EngineHost, spec: RunSpec, folder: Path) -> Ended:
    """Start a run and wait for its end."""
    run = await client.start(host.socket, spec, folder)
    try:
        end = await run.wait()
    finally:
        run.close()
    return Ended(end, lines_of(folder), (folder / "engine.log").read_text())
