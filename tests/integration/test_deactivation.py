"""Deactivation in the portal's real processes: the run stops, the key closes, the socket closes."""

import time

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.deadlines import DEADLINE, SLOWNESS, wait_for

pytestmark = pytest.mark.slow
AT_ONCE = 1.0 * SLOWNESS  # seconds


def closing_code(socket: ClientConnection) -> int:
    try:
        while True:
            socket.recv(timeout=DEADLINE)
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else 0


def test_who_is_deactivated_does_nothing_from_that_moment_on(stack):
    root = stack.client("root")
    # An admin, so that it may watch the run of somebody else, which goes on.
    made = root.post("/api/admin/users", json={"username": "bot", "is_service": True, "role": "admin"})
    assert made.status_code == 201, made.text
    bot = made.json()["id"]
    key = root.post("/api/api-keys", json={"name": "script", "user_id": bot, "scopes": ["admin"]}).json()["key"]
    headers = {"Authorization": f"Api-Key {key}"}
    crew = stack.make_crews({"long": {"mode": "slow-50", "tasks": 3}})["long"]
    foreign = stack.kickoff(crew)

    with httpx.Client(base_url=stack.url, headers=headers, timeout=DEADLINE) as script:
        started = script.post(f"/api/crews/{crew}/kickoff", json={"inputs": {}})
        assert started.status_code == 202, started.text
        run = started.json()["execution_id"]

        def status() -> str:
            return root.get(f"/api/executions/{run}").json()["status"]

        wait_for(lambda: status() == "running", "the run of the script runs", on_timeout=stack.logs)
        wait_for(lambda: root.get(f"/api/executions/{run}/llm-calls").json()["results"], "it calls a model")
        assert root.delete(f"/api/admin/users/{bot}").json()["code"] == "user_owns_things"
        with connect(stack.socket(foreign)[0], additional_headers=headers, open_timeout=DEADLINE) as socket:
            assert socket.recv(timeout=DEADLINE)
            assert root.patch(f"/api/admin/users/{bot}", json={"is_active": False}).status_code == 200
            began = time.monotonic()
            assert script.get("/api/crews").status_code == 401
            assert time.monotonic() - began < AT_ONCE
            assert closing_code(socket) == 4401
            assert time.monotonic() - began < 2 * AT_ONCE
        wait_for(lambda: status() == "stopped", "the run has stopped", on_timeout=stack.logs)
        assert stack.execution(foreign)["stop_requested_at"] is None
        stack.request_stop(foreign)
        wait_for(lambda: not stack.engine_processes(), "no engine is left", on_timeout=stack.logs)
        calls = len(root.get(f"/api/executions/{run}/llm-calls").json()["results"])
        assert root.patch(f"/api/admin/users/{bot}", json={"is_active": True}).status_code == 200
        assert script.get("/api/crews").status_code == 401
        assert (status(), len(root.get(f"/api/executions/{run}/llm-calls").json()["results"])) == ("stopped", calls)
