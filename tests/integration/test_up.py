"""`manage.py up` from an empty folder: says where to click, restarts what dies, leaves nothing behind."""

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from portal.lib.processes import spawn, terminate
from portal.lib.supervisor import manage
from tests.deadlines import wait_for
from tests.services import free_port
from tests.stack import ROOT, Stack, sign_in

pytestmark = pytest.mark.slow


class Up:
    """An `up --no-model` of a test, with what it prints."""

    def __init__(self, folder: Path) -> None:
        # The stack is only asked for its environment, and for who belongs to its folder.
        self.stack = Stack(folder, llm_url="http://127.0.0.1:9/v1", processes=())
        self.port = self.stack.port
        for name in ("PORTAL_PORT", "PORTAL_GATEWAY_PORT", "PORTAL_MODEL_PORT"):
            del self.stack.environment[name]
        self.log = folder / "up.out"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Up":
        with self.log.open("wb") as log:
            self.process = spawn(
                manage("up", "--no-model", "--port", str(self.port)),
                env=self.stack.environment, cwd=ROOT, stdout=log, stderr=log,
            )  # fmt: skip
        return self

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for_words(self, words: str) -> None:
        assert self.process is not None
        process = self.process
        wait_for(
            lambda: words in self.said or process.poll() is not None, f"up says {words!r}", on_timeout=lambda: self.said
        )
        assert words in self.said, self.said

    def wait_until_whole(self) -> None:
        """Until every part and every part of the worker is there."""
        wait_for(lambda: all(self.find(name) for name in KILLED), "all parts", on_timeout=lambda: self.said)
        assert self.process is not None

    def find(self, name: str) -> int | None:
        """The pid of a part: `web`, `gateway`, `worker`, `runner`, `queue`, `sentinel`, `host`."""
        if name == "sentinel":
            queue = self.find("queue")
            children = psutil.Process(queue).children() if queue and psutil.pid_exists(queue) else []
            return children[0].pid if children else None
        wanted = ["executions.engines.host"] if name == "host" else ["manage.py", name]
        parents = {self.process.pid, self.find("worker")} if self.process and name != "worker" else None
        for process in self.stack.processes():
            try:
                words = process.cmdline()
                if parents is not None and process.ppid() not in parents:
                    continue
            except psutil.NoSuchProcess:
                continue
            if all(any(word.endswith(want) for word in words) for want in wanted):
                return process.pid
        return None

    def wait_until_nothing_is_left(self) -> None:
        wait_for(
            lambda: not self.stack.processes(), "no process is left", on_timeout=lambda: str(self.stack.processes())
        )


KILLED = ("gateway", "web", "runner", "host", "sentinel", "queue", "worker")


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    running = Up(tmp_path)
    yield running
    if running.process is not None:
        terminate(running.process, grace_seconds=30)


def run_up(up: Up, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        manage("up", "--no-model", *arguments),
        env={**up.stack.environment, **environment}, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_from_an_empty_folder_to_a_page_and_to_nothing(up: Up) -> None:
    up.start().wait_for_words("Agent Portal is running.")

    said = up.said
    assert f"http://localhost:{up.port}" in said
    password = re.search(r"Password\s+(\S{16})\s", said)
    assert password is not None
    assert "User" in said
    assert "admin" in said
    assert "PostgreSQL" in said
    page = httpx.get(f"http://localhost:{up.port}/", follow_redirects=True)
    assert page.status_code == 200
    with httpx.Client(base_url=f"http://localhost:{up.port}") as browser:
        sign_in(browser, "admin", password[1])
        crews = browser.get("/api/crews").json()["results"]
    assert {crew["name"] for crew in crews} >= {"Research and write"}

    second = run_up(up, "--port", str(free_port()))
    assert second.returncode == 1
    assert second.stderr.count("\n") == 1
    assert f"already runs for this data folder: http://localhost:{up.port}" in second.stderr

    assert up.process is not None
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait() == 0
    assert "Agent Portal has stopped." in up.said
    up.wait_until_nothing_is_left()

    up.start().wait_for_words("Agent Portal is running.")
    assert "Password" not in up.said, "the password is shown once"


def test_a_taken_port_is_one_plain_line(up: Up) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        done = run_up(up, "--port", str(port))

    assert done.returncode == 1
    assert done.stderr == f"CommandError: Port {port} is taken by another program. Choose one with --port.\n"


def test_a_wrong_setting_is_one_plain_line(up: Up) -> None:
    done = run_up(up, PORTAL_MAX_RUNS="many")

    assert done.returncode == 1
    assert done.stderr == "agent-portal: PORTAL_MAX_RUNS: 'many' is not a whole number\n"


def test_a_data_folder_too_deep_for_sockets_is_named(up: Up, tmp_path: Path) -> None:
    done = run_up(up, PORTAL_DATA_DIR=str(tmp_path / ("deep" * 25)))

    assert done.returncode == 1
    assert "PORTAL_DATA_DIR" in done.stderr.splitlines()[-1]


def test_what_is_killed_comes_back_and_nothing_survives_up(up: Up) -> None:
    up.start().wait_for_words("Agent Portal is running.")

    for name in KILLED:
        up.wait_until_whole()
        victim = up.find(name)
        assert victim is not None
        below = psutil.Process(victim).children(recursive=True)
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda below=below: not any(p.is_running() for p in below), f"what {name} started is gone")  # type: ignore[misc]
        wait_for(
            lambda name=name, victim=victim: up.find(name) not in {None, victim},  # type: ignore[misc]
            f"{name} is back",
            on_timeout=lambda: up.said,
        )
    assert "gateway ended (signal SIGKILL) and is started again" in up.said

    up.wait_until_whole()
    assert up.process is not None
    up.process.kill()
    up.process.wait()
    up.wait_until_nothing_is_left()
