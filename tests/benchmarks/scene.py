"""What benchmarks are measured on: the processes on PostgreSQL and Redis, the fake model in a process of its own."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from portal.lib.processes import dying_with_me, spawn, terminate
from tests import services
from tests.deadlines import wait_for
from tests.stack import ROOT, Stack

MAX_RUNS = 32
END = {"execution.completed", "execution.failed", "execution.stopped"}


@dataclass(frozen=True)
class Scene:
    stack: Stack
    folder: Path
    llm_url: str
    server_url: str
    redis_url: str

    def seconds_to_end(self, crew: str) -> float:
        """From the kickoff of a run to its last event at a watcher. Raises `AssertionError` unless it completed."""
        began = time.perf_counter()
        with self.stack.watch(self.stack.kickoff(crew)) as socket:
            name = ""
            for frame in socket:
                name = json.loads(frame)["type"]
                if name in END:
                    break
        took = time.perf_counter() - began
        assert name == "execution.completed", name
        return took


@contextlib.contextmanager
def scene(folder: Path | None = None, environment: dict[str, str] | None = None) -> Iterator[Scene]:
    with contextlib.ExitStack() as running:
        folder = folder or Path(running.enter_context(tempfile.TemporaryDirectory(prefix="portal-bench-")))
        folder.chmod(0o711)  # engines may run as a user of their own
        server = running.enter_context(services.postgres())
        redis_url = running.enter_context(services.redis_url())
        llm_url = running.enter_context(_fake_llm())
        stack = running.enter_context(
            Stack(
                folder / "data",
                llm_url=llm_url,
                database_url=services.create_database(server, "portal"),
                redis_url=redis_url,
                max_runs=MAX_RUNS,
                environment={"LOG_LEVEL": "WARNING", **(environment or {})},
            )
        )
        yield Scene(stack, folder, llm_url, server, redis_url)


@contextlib.contextmanager
def _fake_llm() -> Iterator[str]:
    port = services.free_port()
    process = spawn([sys.executable, "-m", "tests.fakes.llm", "--port", str(port)], cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        wait_for_port(port, process)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        terminate(process)


class Script:
    """A bare program that says `ready`, and then does its work once for each line that it is given."""

    def __init__(self, scene: Scene, module: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"tests.benchmarks.{module}", *arguments],
            cwd=ROOT, env={**clean_environment(), "HOME": str(scene.folder), "CREWAI_STORAGE_DIR": str(scene.folder)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            preexec_fn=dying_with_me(),
        )  # fmt: skip
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        assert self._read() == "ready"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def seconds(self) -> float:
        """Have it work once; what it says of how long that took."""
        self.go()
        return float(self._read())

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def wait_for_port(port: int, process: "subprocess.Popen[bytes]") -> None:
    from portal.lib.processes import is_listening

    def listens() -> bool:
        assert process.poll() is None, f"the server ended with {process.returncode}"
        return is_listening("127.0.0.1", port)

    wait_for(listens, f"a server listens on port {port}")


def memory_of(pids: list[int]) -> int:
    """The memory of processes in bytes, what they share counted once (PSS)."""
    total = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def clean_environment() -> dict[str, str]:
    """The environment without the portal's settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PORTAL_", "DJANGO_"))}
