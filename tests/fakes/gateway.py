"""The real gateway, served by uvicorn from a thread of the test's process, and a run that may call it."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import httpx
import uvicorn
from django.conf import settings
from django.db import connection

from crews.models import LLMModel
from executions.gateway import tokens
from executions.gateway.app import application
from executions.models import Execution, ExecutionEvent, LLMCall, RoleModel
from portal.lib.processes import spawn, terminate
from tests.deadlines import DEADLINE, wait_for
from tests.factories.executions import LEASE, ExecutionFactory
from tests.fakes.llm import FakeLLM
from tests.services import free_port

ROOT = Path(__file__).resolve().parents[2]
HELLO = [{"role": "user", "content": "hello there"}]
SCHEMA = {
    "type": "json_schema",
    "json_schema": {"name": "x", "schema": {"type": "object", "properties": {"a": {"type": "integer"}}}},
}
CALCULATOR = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "Computes.",
        "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]},
    },
}


class GatewayServer:
    """Serves while the context is open, with the settings and the database of the test. `url` ends in /v1."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        config = uvicorn.Config(
            application(), log_config=None, access_log=False, loop="uvloop", http="httptools", ws="none",
            timeout_graceful_shutdown=2,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._listener],), name="gateway", daemon=True)

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def url(self) -> str:
        return f"{self.root}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        wait_for(lambda: self._server.started or not self._thread.is_alive(), "the gateway serves", every=0.01)
        if not self._thread.is_alive():
            raise RuntimeError("the gateway did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(DEADLINE)


class GatewayProcess:
    """A gateway in a process of its own, on the test's database; a context, and started anew after `kill`.

    `folder` is its data folder; gateways of one name, and so of one `port`, are lives of the same gateway.
    """

    def __init__(self, folder: Path, *, lease_seconds: int = 15) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        database = connection.settings_dict
        name = database["NAME"]
        if connection.vendor == "sqlite":
            url = f"sqlite:///{name}"
        else:
            address = f"{database['HOST'] or 'localhost'}:{database['PORT'] or 5432}"
            url = f"postgres://{database['USER']}:{database['PASSWORD']}@{address}/{name}"
        self._environment = {
            **os.environ,
            "DATABASE_URL": url,
            "PORTAL_DATA_DIR": str(folder),
            "PORTAL_GATEWAY_PORT": str(self.port),
            "PORTAL_GATEWAY_LEASE_SECONDS": str(lease_seconds),
            "SECRET_KEY": settings.SECRET_KEY,
            "ENCRYPTION_KEYS": ",".join(settings.ENCRYPTION_KEYS),
            "LLM_RETRY_MILLISECONDS": "10",
            "LLM_MAX_TRIES": "2",
        }

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.root}/v1"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            terminate(self._process, grace_seconds=DEADLINE / 4)
            self._process = None

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "gateway.out").open("ab") as log:
            command = [sys.executable, "manage.py", "gateway"]
            self._process = spawn(command, env=self._environment, cwd=ROOT, stdout=log, stderr=log)
        wait_for(self._serves, "the gateway serves", on_timeout=self._said)

    def _serves(self) -> bool:
        assert self._process
        if self._process.poll() is not None:
            raise AssertionError(f"the gateway ended with {self._process.returncode}:\n{self._said()}")
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
        except OSError:
            return False
        return True

    def _said(self) -> str:
        return (self.folder / "gateway.out").read_text(errors="replace")

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL: it has no time for anything."""
        assert self._process
        self._process.kill()
        self._process.wait()
        self._process = None


def running(model: LLMModel, *, role: str = "Writer", **fields: Any) -> tuple[Execution, str]:
    """An execution under way whose one role, key `agent`, uses `model`; and its token."""
    execution = ExecutionFactory(**fields)
    execution.start(worker="machine", lease=LEASE)
    RoleModel.objects.create(execution=execution, key="agent", role=role, llm_model=model)
    return execution, tokens.issue(execution)


def next_attempt(execution: Execution) -> str:
    """Have another runner carry the execution on, as after the death of its engine; the new attempt's token."""
    execution.refresh_from_db()
    execution.recover(reason="The engine died.", is_blameless=True)
    execution.start(worker="another", lease=LEASE)
    return tokens.issue(execution)


def client(gateway: "GatewayServer | GatewayProcess", token: str, *, ordinal: int | None = None) -> httpx.Client:
    """An HTTP client as an engine's: the token, and the headers that say on whose behalf.

    With an `ordinal` all of its requests have that one, and are journalled.
    """
    headers = {"Authorization": f"Bearer {token}", "X-Portal-Task": "task-1", "X-Portal-Role": "agent"}
    if ordinal is not None:
        headers["X-Portal-Ordinal"] = str(ordinal)
    return httpx.Client(base_url=gateway.url, headers=headers, timeout=DEADLINE)


def leave(
    gateway: "GatewayServer | GatewayProcess",
    token: str,
    *,
    once: Callable[[], Any],
    stream: bool = True,
    ordinal: int | None = None,
    model: str = "role:agent",
    messages: list[dict[str, Any]] | None = None,
    **body: Any,
) -> None:
    """Ask over a bare socket and close it the moment `once()` holds."""
    raw = json.dumps({"model": model, "stream": stream, "messages": messages or HELLO, **body}).encode()
    host = gateway.root.removeprefix("http://")
    counted = "" if ordinal is None else f"X-Portal-Ordinal: {ordinal}\r\n"
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
        f"X-Portal-Task: task-1\r\nX-Portal-Role: agent\r\n{counted}"
        f"Content-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
    )
    name, port = host.split(":")
    with socket.create_connection((name, int(port))) as connection:
        connection.sendall(head.encode() + raw)
        wait_for(once, "the moment to leave", every=0.01)


def impatient(settings: Any, mode: str) -> None:
    """Where the model is to hang, no test waits for it long; elsewhere a slow machine is given its time."""
    if mode in {"hang-first", "hang-silent"}:
        settings.LLM_FIRST_TOKEN_TIMEOUT = 0.4
    elif mode == "hang-between":
        settings.LLM_NEXT_TOKEN_TIMEOUT = 0.4


def ask(http: httpx.Client, *, stream: bool, model: str = "role:agent", **body: Any) -> httpx.Response:
    return http.post("/chat/completions", json={"model": model, "stream": stream, "messages": HELLO, **body})


def chunks_of(response: httpx.Response) -> list[dict[str, Any]]:
    lines = [line for line in response.text.splitlines() if line]
    return [json.loads(line.removeprefix("data: ")) for line in lines if line != "data: [DONE]"]


def text_of(response: httpx.Response) -> str:
    """The answer's text, streamed or not."""
    if "event-stream" in response.headers["content-type"]:
        parts = [choice["delta"].get("content") or "" for c in chunks_of(response) for choice in c["choices"]]
        return "".join(parts)
    return response.json()["choices"][0]["message"]["content"]


def usage_of(response: httpx.Response) -> dict[str, int]:
    if "event-stream" in response.headers["content-type"]:
        return chunks_of(response)[-1]["usage"]
    return response.json()["usage"]


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error, which stands in the last event of a stream that had begun."""
    if "event-stream" in response.headers["content-type"]:
        return chunks_of(response)[-1]["error"]
    return response.json()["error"]


def types(execution: Execution) -> list[str]:
    events = ExecutionEvent.objects.filter(stream_id=execution.stream_id, type__startswith="llm.")
    return list(events.order_by("seq").values_list("type", flat=True))


def assert_ledgers_agree(fake: FakeLLM, execution: Execution) -> None:
    """Every request of the provider's ledger is a row of ours, to the token; and the run's totals are their sum."""
    rows = list(LLMCall.objects.filter(execution=execution))
    assert [(r.prompt_tokens, r.completion_tokens) for r in rows] == [
        (r.prompt_tokens, r.completion_tokens) for r in fake.ledger
    ]
    execution.refresh_from_db()
    assert (execution.prompt_tokens, execution.completion_tokens) == fake.tokens()
    assert execution.llm_calls_count == len(rows)
    assert not any(row.status == LLMCall.Status.OPEN for row in rows)
