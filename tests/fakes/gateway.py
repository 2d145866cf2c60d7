"""The real gateway, served by uvicorn from a thread of the test's process, and a run that may call it."""

import socket
import threading
from typing import Any, Self

import httpx
import uvicorn

from crews.models import LLMModel
from executions.gateway import tokens
from executions.gateway.app import application
from executions.models import Execution, RoleModel
from tests.deadlines import DEADLINE, wait_for
from tests.factories.executions import LEASE, ExecutionFactory


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


def running(model: LLMModel, *, role: str = "Writer", **fields: Any) -> tuple[Execution, str]:
    """An execution under way whose one role, key `agent`, uses `model`; and its token."""
    execution = ExecutionFactory(**fields)
    execution.start(worker="machine", lease=LEASE)
    RoleModel.objects.create(execution=execution, key="agent", role=role, llm_model=model)
    return execution, tokens.issue(execution)


def client(gateway: GatewayServer, token: str) -> httpx.Client:
    """An HTTP client as an engine's: the token, and the headers that say on whose behalf."""
    headers = {"Authorization": f"Bearer {token}", "X-Portal-Task": "task-1", "X-Portal-Role": "agent"}
    return httpx.Client(base_url=gateway.url, headers=headers, timeout=DEADLINE)
