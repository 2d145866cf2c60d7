"""`manage.py model`: fetches, serves on loopback, and says what it is."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from portal.lib.processes import spawn, terminate
from portal.lib.supervisor import manage
from tests.deadlines import DEADLINE, wait_for
from tests.stack import ROOT, Stack


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    return Stack(tmp_path, llm_url="", processes=(), environment={"EMBEDDED_MODEL": "smollm2"})


def test_status_shows_source_licence_and_hash_before_anything_is_fetched(stack: Stack, tmp_path: Path) -> None:
    stack.environment["PORTAL_MODEL_DIR"] = str(tmp_path / "models")

    facts = json.loads(stack.manage("model", "status", "--json").stdout)

    assert facts["name"].startswith("SmolLM2-135M")
    assert facts["licence"] == "Apache-2.0"
    assert "https://huggingface.co/" in facts["source"]
    assert facts["sha256"] == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert (facts["verified"], facts["running"]) == (False, False)
    assert "Apache-2.0" in stack.manage("model", "status").stdout


def test_a_given_file_that_is_another_one_is_refused(stack: Stack, tmp_path: Path) -> None:
    path = tmp_path / "other.gguf"
    path.write_bytes(b"GGUF")

    stack.environment["EMBEDDED_MODEL_PATH"] = str(path)
    done = stack.manage("model", "pull", check=False)

    assert done.returncode == 1
    assert done.stderr.startswith(f"CommandError: EMBEDDED_MODEL_PATH: {path} is neither")


@pytest.mark.model
@pytest.mark.slow
class TestServing:
    @pytest.fixture
    def served(self, stack: Stack, local_model_path: Path) -> Iterator[Stack]:
        stack.environment["EMBEDDED_MODEL_PATH"] = str(local_model_path)
        with (stack.folder / "model.out").open("wb") as log:
            process = spawn(manage("model", "serve"), env=stack.environment, cwd=ROOT, stdout=log, stderr=log)
        lock = stack.folder / "run" / "model.lock"
        try:
            wait_for(
                lambda: process.poll() is not None or (lock.exists() and '"ready"' in lock.read_text()),
                "the model is ready",
                on_timeout=(stack.folder / "model.out").read_text,
            )
            yield stack
        finally:
            assert terminate(process) == 0, (stack.folder / "model.out").read_text()

    def test_answers_as_embedded_on_loopback_at_low_priority(self, served: Stack) -> None:
        body = {"model": "embedded", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 5}

        answer = httpx.post(
            f"http://127.0.0.1:{served.model_port}/v1/chat/completions", json=body, timeout=DEADLINE
        ).json()

        [process] = [found for found in served.processes() if "serve" in found.cmdline()]
        assert answer["usage"]["completion_tokens"] > 0
        assert answer["model"] == "embedded"
        assert process.nice() == 10
        listening = [c for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
        assert {c.laddr.ip for c in listening} == {"127.0.0.1"}

    def test_status_says_so_and_a_second_one_is_refused(self, served: Stack) -> None:
        facts = json.loads(served.manage("model", "status", "--json").stdout)
        second = served.manage("model", "serve", check=False)

        assert facts["verified"]
        assert facts["serving"]["state"] == "ready"
        assert facts["serving"]["port"] == served.model_port
        assert second.returncode == 1
        assert "model already runs for this data folder" in second.stderr


@pytest.mark.model
def test_a_port_of_another_program_is_named(stack: Stack, local_model_path: Path) -> None:
    stack.environment["EMBEDDED_MODEL_PATH"] = str(local_model_path)

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", stack.model_port))
        taken.listen()
        done = stack.manage("model", "serve", check=False)

    assert done.returncode == 1
    assert f"PORTAL_MODEL_PORT: port {stack.model_port} is taken by another program." in done.stderr
