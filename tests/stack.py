"""The portal's real processes, on a database and in a folder of their own, for tests from outside.

    with FakeLLM() as fake, Stack(folder, llm_url=fake.url) as stack:
        crew = stack.make_crews({"slow": {"mode": "slow-50", "tasks": 3}})["slow"]
        run = stack.kickoff(crew)
        stack.wait_for_status(run, "completed")

Everything goes through HTTP and WebSockets, as a user's own program would; only `events_of` reads the
database, to say what really happened. SQLite unless `database_url` names a PostgreSQL database.
"""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import httpx
import psutil
import psycopg
from websockets.sync.client import ClientConnection, connect

from executions.engines import environments
from portal.lib.processes import spawn, terminate
from tests.deadlines import DEADLINE, wait_for
from tests.services import free_port

ROOT = Path(__file__).resolve().parent.parent
PROCESSES = ("web", "gateway", "worker")
ENDED = {"completed", "failed", "stopped"}
CSRF = "t" * 32


def sign_in(browser: httpx.Client, name: str, password: str) -> None:
    """Sign in on the portal's page, as a person would; `browser` then also sends what CSRF protection wants."""
    browser.get("/sign-in").raise_for_status()
    browser.headers["X-CSRFToken"] = browser.cookies["csrftoken"]
    answer = browser.post("/sign-in", data={"username": name, "password": password})
    assert answer.status_code == 302, f"{answer.status_code}: not signed in as {name}"
    browser.headers["X-CSRFToken"] = browser.cookies["csrftoken"]


class Stack:
    """Use as a context manager: migrates, makes people and models, starts web, gateway and worker, and ends them.

    `llm_url` (ends in /v1) is the provider of every model that `make_crews` makes.
    """

    def __init__(
        self,
        folder: Path,
        *,
        llm_url: str,
        database_url: str = "",
        redis_url: str = "",
        max_runs: int = 4,
        processes: tuple[str, ...] = PROCESSES,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.llm_url = llm_url
        self.database_url = database_url
        self.port, self.gateway_port, self.model_port = free_port(), free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        dropped = (
            "PORTAL_",
            "DATABASE_URL",
            "REDIS_URL",
            "DJANGO_",
            "PYTEST_",
            "SECRET_KEY",
            "ENCRYPTION_KEYS",
            "OIDC_",
        )
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(dropped)},
            "PORTAL_DATA_DIR": str(folder),
            environments.VARIABLE: str(environments.root()),
            "PORTAL_PORT": str(self.port),
            "PORTAL_GATEWAY_PORT": str(self.gateway_port),
            "PORTAL_MODEL_PORT": str(self.model_port),
            "PORTAL_MAX_RUNS": str(max_runs),
            # Tests ask again and again; those of the limits set their own.
            "RATE_LIMIT_USER_PER_MINUTE": "0",
            "RATE_LIMIT_ADDRESS_PER_MINUTE": "0",
            "DJANGO_SETTINGS_MODULE": "portal.settings",
            **({"DATABASE_URL": database_url} if database_url else {}),
            **({"REDIS_URL": redis_url} if redis_url else {}),
            **(environment or {}),
        }
        self._wanted = processes
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._sessions: dict[str, str] = {}
        self._clients: dict[str, httpx.Client] = {}

    # --- Life -----------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.manage("migrate", "-v", "0")
        self._sessions = self._data("people")
        try:
            for name in self._wanted:
                self.start(name)
            self.wait_until_ready()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._clients.values():
            client.close()
        for name in reversed(list(self._running)):
            self.stop(name)

    def start(self, name: str) -> None:
        """Start one process (`manage.py <name>`); what it prints goes to `<folder>/<name>.out`."""
        with self._log(name).open("ab") as log:
            self._running[name] = spawn(
                [sys.executable, "manage.py", name], env=self.environment, cwd=ROOT, stdout=log, stderr=log
            )

    def start_worker(self, machine: str) -> None:
        """Start a worker as another machine would, named `machine`: on the same database, in a folder of its own."""
        folder = self.folder / machine
        folder.mkdir(mode=0o711, exist_ok=True)
        environment = {
            "DATABASE_URL": f"sqlite:///{self.folder / 'portal.sqlite3'}",
            **self.environment,
            "PORTAL_DATA_DIR": str(folder),
            "PORTAL_WORKER_NAME": machine,
            "SECRET_KEY": (self.folder / "secret_key").read_text(),
            "ENCRYPTION_KEYS": (self.folder / "encryption_key").read_text(),
        }
        self._wanted = (*self._wanted, machine) if machine not in self._wanted else self._wanted
        with self._log(machine).open("ab") as log:
            command = [sys.executable, "manage.py", "worker"]
            self._running[machine] = spawn(command, env=environment, cwd=ROOT, stdout=log, stderr=log)
        wait_for(lambda: machine in self._workers(), f"the worker {machine} is there", on_timeout=self.logs)

    def part(self, worker: str, name: str) -> psutil.Process:
        """A program that a worker keeps running: its "runner", "queue" or the engine host "crewai"."""

        def found() -> psutil.Process | None:
            for child in psutil.Process(self.pid(worker)).children():
                with contextlib.suppress(psutil.Error):
                    if name in child.cmdline():
                        return child
            return None

        return cast(psutil.Process, wait_for(found, f"{name} of {worker} runs", on_timeout=self.logs))

    def stop(self, name: str) -> int:
        """End one process as `up` would; returns its exit code."""
        return terminate(self._running.pop(name), grace_seconds=DEADLINE / 4)

    def kill(self, name: str) -> None:
        """SIGKILL one process, and nothing else."""
        process = self._running.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def pid(self, name: str) -> int:
        return self._running[name].pid

    def wait_until_ready(self) -> None:
        """Until pages are served, the gateway listens and the worker's runner has engines to run with."""
        if "web" in self._running:
            wait_for(lambda: self._answers(f"{self.url}/api/executions"), "the portal answers", on_timeout=self.logs)
        if "gateway" in self._running:
            gateway = f"http://127.0.0.1:{self.gateway_port}/v1/models"
            wait_for(lambda: self._answers(gateway), "the gateway answers", on_timeout=self.logs)
        if "worker" in self._running:
            host = self.folder / "run" / "host-crewai.sock"
            wait_for(lambda: host.exists() and self._workers(), "the worker is there", on_timeout=self.logs)

    def _answers(self, url: str) -> bool:
        for name, process in self._running.items():
            if process.poll() is not None:
                raise AssertionError(f"{name} ended with {process.returncode}:\n{self.logs()}")
        try:
            return httpx.get(url, timeout=10).status_code < 500
        except httpx.TransportError:
            return False

    def logs(self, lines: int = 40) -> str:
        """The end of what each process printed."""
        ends = []
        for name in self._wanted:
            path = self._log(name)
            text = path.read_text(errors="replace").splitlines() if path.exists() else []
            ends.append("\n".join([f"--- {name} ---", *text[-lines:]]))
        return "\n".join(ends)

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.out"

    def processes(self) -> list[psutil.Process]:
        """Every process of this machine that belongs to this stack: by its environment, folder or command line."""
        mark, found = str(self.folder), []
        for process in psutil.process_iter():
            if process.pid == os.getpid():
                continue
            try:
                facts = [process.cwd(), *process.cmdline(), *process.environ().values()]
            except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess, OSError):
                continue
            if any(mark in fact for fact in facts):
                found.append(process)
        return found

    def engine_processes(self) -> list[psutil.Process]:
        """The processes of runs: children of the engine hosts, and whoever works in an attempt's folder."""
        runs, found = str(self.folder / "runs"), {}
        for process in psutil.process_iter():
            try:
                if "executions.engines.host" in process.cmdline() and process in self.processes():
                    found.update({child.pid: child for child in process.children(recursive=True)})
                if process.cwd().startswith(runs):
                    found[process.pid] = process
            except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess, OSError):
                continue
        return [process for process in found.values() if process.is_running()]

    def manage(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `manage.py …` in this stack's environment until it ends."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            env=self.environment, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"manage.py {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}")
        return done

    # --- Definitions ------------------------------------------------------------------------------

    def make_crews(self, crews: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
        """Make crews and return their ids by name.

        Of each: `tasks` (how many, 1), `asks` (numbers of those that ask a person), `process` ("sequential"),
        `mode` of the fake model ("ok") or `models` (a mode for each agent), `description`, `inputs` (names),
        `agents` (how many, 1), `llm` (parameters), `tools` (names), `native_tools` (True) and `price` (US$ for
        a million tokens written).
        Owned by `ann`.
        """
        return self._data("crews", json.dumps({"llm_url": self.llm_url, "crews": crews}))

    def reach(self, *ids: str, mode: str = "ok") -> None:
        """Fill the catalog, and let models of it answer as the fake server's `mode` does."""
        self._data("catalog", json.dumps({"llm_url": self.llm_url, "ids": ids, "mode": mode}))

    def _data(self, *arguments: str) -> Any:
        return self.run_module("tests.stack_data", *arguments)

    def run_module(self, module: str, *arguments: str) -> Any:
        """Run a module in this stack's environment; returns what its last line says, as JSON."""
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            env=self.environment, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE,
        )  # fmt: skip
        if done.returncode:
            raise AssertionError(f"{module} {arguments[0]} ended with {done.returncode}:\n{done.stderr}")
        return json.loads(done.stdout.splitlines()[-1])

    # --- As a program outside ---------------------------------------------------------------------

    def client(self, person: str = "ann") -> httpx.Client:
        """A client signed in as `ann` (user), `vera` (viewer) or `root` (admin)."""
        if person not in self._clients:
            cookies = {"sessionid": self._sessions[person], "csrftoken": CSRF}
            self._clients[person] = httpx.Client(
                base_url=self.url, cookies=cookies, headers={"X-CSRFToken": CSRF}, timeout=DEADLINE
            )
        return self._clients[person]

    def kickoff(self, crew: str, person: str = "ann", **body: Any) -> str:
        """Start a run of a crew; returns the execution's id."""
        answer = self.client(person).post(f"/api/crews/{crew}/kickoff", json={"inputs": {}, **body})
        assert answer.status_code == 202, answer.text
        return answer.json()["execution_id"]

    def execution(self, execution: str) -> dict[str, Any]:
        answer = self.client().get(f"/api/executions/{execution}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def request_stop(self, execution: str) -> httpx.Response:
        return self.client().post(f"/api/executions/{execution}/stop")

    def wait_for_status(self, execution: str, *statuses: str) -> dict[str, Any]:
        """The execution once it is in one of `statuses` (any end, if none is named)."""
        wanted = set(statuses) or ENDED

        def there() -> dict[str, Any] | None:
            found = self.execution(execution)
            if found["status"] in ENDED - wanted:
                raise AssertionError(f"{execution} is {found['status']}, not {wanted}: {found}\n{self.logs()}")
            return found if found["status"] in wanted else None

        return wait_for(there, f"{execution} is {' or '.join(sorted(wanted))}", on_timeout=self.logs) or {}

    def socket(self, execution: str, after: int = 0, person: str = "ann") -> tuple[str, dict[str, str]]:
        """The address of the WebSocket that follows a run, and the headers to open it with."""
        url = f"ws://127.0.0.1:{self.port}/ws/executions/{execution}?after={after}"
        return url, {"Cookie": f"sessionid={self._sessions[person]}"}

    def watch(self, execution: str, after: int = 0, person: str = "ann") -> ClientConnection:
        """The open WebSocket that follows a run."""
        url, headers = self.socket(execution, after, person)
        return connect(url, additional_headers=headers, open_timeout=DEADLINE, max_size=None)

    def watch_project(self, project: str, after: int = 0, person: str = "ann") -> ClientConnection:
        """The open WebSocket that follows a project."""
        url = f"ws://127.0.0.1:{self.port}/ws/projects/{project}/updates?after={after}"
        headers = {"Cookie": f"sessionid={self._sessions[person]}"}
        return connect(url, additional_headers=headers, open_timeout=DEADLINE, max_size=None)

    # --- What the database says --------------------------------------------------------------------

    def events_of(self, execution: str) -> list[tuple[int, str]]:
        """`(seq, type)` of every stored event of a run, in the order of their numbers."""
        query = "SELECT seq, type FROM executions_executionevent WHERE stream_id = {} ORDER BY seq"
        return [(int(seq), str(name)) for seq, name in self._rows(query, uuid.UUID(execution))]

    def _workers(self) -> set[str]:
        return {name for (name,) in self._rows("SELECT name FROM executions_worker")}

    def _rows(self, query: str, *parameters: uuid.UUID) -> list[tuple[Any, ...]]:
        if self.database_url:
            with psycopg.connect(self.database_url) as connection:
                return connection.execute(query.format("%s").encode(), parameters).fetchall()
        with contextlib.closing(sqlite3.connect(self.folder / "portal.sqlite3", timeout=DEADLINE)) as lite:
            return lite.execute(query.format("?"), [value.hex for value in parameters]).fetchall()
