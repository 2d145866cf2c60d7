"""Keys and sessions across processes, on the portal's own: without Redis, what one takes away ends in the others."""

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.deadlines import DEADLINE
from tests.factories.accounts import PASSWORD
from tests.stack import Stack, sign_in

pytestmark = pytest.mark.slow


def a_key(stack: Stack, *options: str) -> str:
    """A key of ann from the command line: the one line it prints."""
    return stack.manage("api_key", "create", "ann", "--scope", "read", *options).stdout.removesuffix("\n")


@pytest.fixture(scope="module")
def run(stack: Stack) -> Iterator[str]:
    """A run that goes on for as long as the tests watch it."""
    crew = stack.make_crews({"watched": {"asks": [1]}})["watched"]
    started = stack.kickoff(crew)
    stack.wait_for_status(started, "waiting")
    yield started
    stack.request_stop(started)
    stack.wait_for_status(started, "stopped")


def test_the_rate_of_a_key_holds_across_processes(stack: Stack) -> None:
    key = a_key(stack, "--per-minute", "40")
    with ThreadPoolExecutor(2) as pool:
        passed = list(pool.map(lambda _: stack.run_module("tests.key_checks", key, "60"), range(2)))
    assert sum(passed) <= 40, passed
    assert sum(passed) >= 30, f"a process keeps more places than it needs: {passed}"
    answer = httpx.get(f"{stack.url}/api/me", headers={"Authorization": f"Api-Key {key}"})
    assert (answer.status_code, "Retry-After" in answer.headers) == (429, True)


def closes(stack: Stack, run: str, headers: dict[str, str], take_away: Callable[[], None]) -> tuple[int | None, float]:
    """The code with which a watcher's socket closes, and after how many seconds; its stream of events ends too."""
    url = f"{stack.url}/api/executions/{run}/stream"
    with (
        connect(f"ws{stack.url[4:]}/ws/executions/{run}", additional_headers=headers, open_timeout=DEADLINE) as socket,
        httpx.stream("GET", url, headers=headers, timeout=DEADLINE) as stream,
    ):
        lines = stream.iter_lines()
        next(lines)
        socket.recv(DEADLINE)
        began = time.monotonic()
        take_away()
        code = code_of(socket)
        for _line in lines:
            pass
        return code, time.monotonic() - began


def code_of(socket: ClientConnection) -> int | None:
    """Read to the close of a socket; its code."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            socket.recv(DEADLINE)
    return socket.protocol.close_code


def test_a_key_that_another_process_revokes_closes_what_it_opened_within_a_second(stack: Stack, run: str) -> None:
    def revoke() -> None:
        with contextlib.closing(sqlite3.connect(stack.folder / "portal.sqlite3", timeout=DEADLINE)) as database:
            database.execute("UPDATE accounts_apikey SET revoked_at = '2026-01-01' WHERE revoked_at IS NULL")
            database.commit()

    took = []
    for form in ("Api-Key", "Bearer", "Api-Key"):
        code, seconds = closes(stack, run, {"Authorization": f"{form} {a_key(stack)}"}, revoke)
        assert code == 4401
        took.append(seconds)
    # A machine under load may be late now and then; the portal is not.
    assert min(took) < 1, took


def test_the_command_takes_a_key_back(stack: Stack, run: str) -> None:
    key = a_key(stack)
    shown = {"Authorization": f"Api-Key {key}"}

    def revoke() -> None:
        stack.manage("api_key", "revoke", key[:11])

    assert closes(stack, run, shown, revoke)[0] == 4401
    assert httpx.get(f"{stack.url}/api/me", headers=shown).status_code == 401


def test_signing_out_in_another_window_closes_what_is_open(stack: Stack, run: str) -> None:
    with httpx.Client(base_url=stack.url, timeout=DEADLINE) as window:
        sign_in(window, "ann", PASSWORD)
        cookie = {"Cookie": f"sessionid={window.cookies['sessionid']}"}

        def sign_out() -> None:
            assert window.post("/sign-out").status_code == 302

        assert closes(stack, run, cookie, sign_out)[0] == 4401
