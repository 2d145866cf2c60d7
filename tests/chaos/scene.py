"""Where schedules are played: the portal's real processes on throw-away servers, made whole between schedules.

A scene for a team has PostgreSQL, Redis and two workers, as two machines would; the other is what one
person runs, on SQLite. The fake model lives in this process, so its ledger is at hand.
"""

import contextlib
import signal
import socket
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil

from tests import services
from tests.chaos.cast import MODES
from tests.chaos.database import Database
from tests.deadlines import wait_for
from tests.fakes.llm import FakeLLM
from tests.stack import Stack

RUNS_MEGABYTES = 400
# Short leases and limits: a schedule should show in seconds what takes minutes in an office. The model may be
# silent for longer than a gateway is ever frozen, or what a freeze costs would look like the model's fault.
ENVIRONMENT = {
    "PORTAL_LEASE_SECONDS": "5",
    "PORTAL_DB_POOL": "8",
    "LLM_FIRST_TOKEN_TIMEOUT": "6",
    "LLM_NEXT_TOKEN_TIMEOUT": "6",
    "LLM_RETRY_MILLISECONDS": "50",
    "SECRET_KEY": "chaos" * 10,
    "ENCRYPTION_KEYS": "Y2hhb3NjaGFvc2NoYW9zY2hhb3NjaGFvc2NoYW9zYWE=",
    "LOG_LEVEL": "INFO",
}


class Machine(Stack):
    """A stack whose worker may live by a wrong clock."""

    def __init__(self, *args: Any, clock: dict[str, str], **options: Any) -> None:
        super().__init__(*args, **options)
        self._clock = clock

    def start(self, name: str) -> None:
        right = self.environment
        self.environment = {**right, **(self._clock if name == "worker" else {})}
        try:
            super().start(name)
        finally:
            self.environment = right

    def is_alive(self, name: str) -> bool:
        return name in self._running and self._running[name].poll() is None

    def forget(self, name: str) -> None:
        """Of a process that ended by itself: it can be started again."""
        self._running.pop(name, None)

    def has(self, name: str) -> bool:
        return name in self._wanted

    @property
    def wanted(self) -> tuple[str, ...]:
        return self._wanted


class Scene:
    """Use as a context manager, in the main thread: whatever it starts dies with that thread."""

    def __init__(self, *, team: bool, keep: bool = False) -> None:
        self.team = team
        self._keep = keep
        self._open = contextlib.ExitStack()
        self.fake = FakeLLM()
        self.mounts: list[Path] = []
        self.frozen: set[int] = set()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            undo.callback(self._open.close)
            self._enter()
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.thaw()
        self._open.close()

    def _enter(self) -> None:
        folder = tempfile.mkdtemp(prefix="portal-chaos-")
        self.folder = Path(folder)
        self.folder.chmod(0o711)  # engines may run as a user of their own
        if not self._keep:
            self._open.callback(subprocess.run, ["rm", "-rf", folder], check=False)
        self._open.enter_context(self.fake)
        self.postgres = self._open.enter_context(services.postgres_cluster(is_durable=True)) if self.team else None
        self.redis = self._open.enter_context(services.redis_instance()) if self.team else None
        url = services.create_database(self.postgres.url, "chaos") if self.postgres else ""
        backend = {"database_url": url, "redis_url": self.redis.url if self.redis else ""}
        clock = self._build_clock()
        names = ["a", "b"] if self.team else ["a"]
        self.machines: list[Machine] = []
        for name in names:
            first = self.machines[0] if self.machines else None
            own = {"PORTAL_WORKER_NAME": f"machine-{name}"}
            if first is not None:
                own["PORTAL_GATEWAY_URL"] = f"http://127.0.0.1:{first.gateway_port}"
            machine = Machine(
                self.folder / name,
                llm_url=self.fake.url,
                processes=("worker",) if first else ("web", "gateway", "worker"),
                environment={**ENVIRONMENT, **own},
                clock=clock,
                **backend,
            )
            self._mount(self.folder / name / "runs")
            self.machines.append(machine)
        self.main = self.machines[0]
        self.database = Database(url, self.main.folder / "portal.sqlite3")
        self._open.callback(self.database.close)
        self._open.enter_context(self.main)
        for machine in self.machines[1:]:
            self._open.push(machine.__exit__)
            machine.start("worker")
        self.crews = self._make_crews()
        self.database.keep_notebook()
        self.main.client()  # made before threads share it
        self.make_whole(everything=True)

    def _make_crews(self) -> dict[str, str]:
        return self.main.run_module("tests.chaos.cast", self.fake.url)

    def _mount(self, folder: Path) -> None:
        """A small disk of its own for the runs' folders, so that it can be full; without one where not permitted."""
        folder.mkdir(parents=True)
        options = f"size={RUNS_MEGABYTES}m,mode=0711"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False
        )
        if done.returncode == 0:
            self.mounts.append(folder)
            self._open.callback(subprocess.run, ["umount", "-l", folder], check=False)

    def _build_clock(self) -> dict[str, str]:
        """The environment that lets a process's clock be wrong; empty where no compiler is."""
        library = self.folder / "clock.so"
        source = Path(__file__).with_name("clock.c")
        try:
            subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
        except (FileNotFoundError, subprocess.CalledProcessError):
            self.clock_file = None
            return {}
        self.clock_file = self.folder / "clock"
        self.set_clock(0)
        self.clock_file.chmod(0o644)
        return {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(self.clock_file)}

    def set_clock(self, seconds: int) -> None:
        """Let the workers' clocks be wrong by so much from now on."""
        if self.clock_file is not None:
            with self.clock_file.open("r+b" if self.clock_file.exists() else "wb") as file:
                file.write(struct.pack("l", seconds))

    # --- Whole again --------------------------------------------------------------------------------

    def thaw(self) -> None:
        for pid in list(self.frozen):
            self.frozen.discard(pid)
            with contextlib.suppress(psutil.Error):
                psutil.Process(pid).send_signal(signal.SIGCONT)

    def start_missing(self) -> None:
        """Start again what has died, as `up` does."""
        for machine in self.machines:
            for name in machine.wanted:
                if not machine.is_alive(name):
                    machine.forget(name)
                    machine.start(name)

    def make_whole(self, *, everything: bool = False) -> None:
        """Undo all faults, and wait until the portal answers and a worker (every one: `everything`) is warm."""
        self.thaw()
        self.set_clock(0)
        self.calm_models()
        self.start_missing()
        logs = self.main.logs
        wait_for(lambda: self._answers(f"{self.main.url}/api/executions"), "the portal answers", on_timeout=logs)
        gateway = f"http://127.0.0.1:{self.main.gateway_port}/v1/models"
        wait_for(lambda: self._answers(gateway), "the gateway answers", on_timeout=logs)
        enough = len(self.machines) if everything else 1
        wait_for(lambda: len(self.warm()) >= enough, f"{enough} workers are warm", on_timeout=self.logs)

    def calm_models(self) -> None:
        for name, mode in MODES.items():
            self.fake.modes[name] = mode

    def _answers(self, url: str) -> bool:
        self.start_missing()
        try:
            return httpx.get(url, timeout=10).status_code < 500
        except httpx.TransportError:
            return False

    def warm(self) -> list[Machine]:
        """The machines whose engine host takes runs now and whose runner is there."""
        self.start_missing()
        return [m for m in self.machines if _accepts(m.folder / "run" / "host-crewai.sock") and self.part(m, "runner")]

    def logs(self) -> str:
        return "\n".join(machine.logs() for machine in self.machines)

    # --- Who is who ---------------------------------------------------------------------------------

    def part(self, machine: Machine, name: str) -> psutil.Process | None:
        """A worker's part: `runner`, `queue` or `host`."""
        return next(iter(self.parts(machine, name)), None)

    def parts(self, machine: Machine, name: str) -> Iterator[psutil.Process]:
        word = "executions.engines.host" if name == "host" else name
        with contextlib.suppress(psutil.Error, KeyError):
            for child in psutil.Process(machine.pid("worker")).children():
                with contextlib.suppress(psutil.Error):
                    if word in child.cmdline():
                        yield child

    def engines(self) -> list[psutil.Process]:
        """The engine processes of all machines, in no order that means anything."""
        found = []
        for machine in self.machines:
            for host in self.parts(machine, "host"):
                with contextlib.suppress(psutil.Error):
                    found += [child for child in host.children() if child.status() != psutil.STATUS_ZOMBIE]
        return sorted(found, key=lambda process: process.pid)

    def vitals(self) -> dict[str, tuple[int, int, int]]:
        """Of gateway and runners: pid, threads and descriptors."""
        found: dict[str, tuple[int, int, int]] = {}
        wanted = [(f"runner {m.folder.name}", self.part(m, "runner")) for m in self.machines]
        if self.main.is_alive("gateway"):
            wanted.append(("gateway", psutil.Process(self.main.pid("gateway"))))
        for name, process in wanted:
            with contextlib.suppress(psutil.Error):
                if process is not None:
                    found[name] = (process.pid, process.num_threads(), process.num_fds())
        return found

    def work_folders(self, executions: list[str]) -> list[Path]:
        """Working folders of attempts of these executions (hex ids) that are still there.

        Those of a killed runner stay until it is there again, which takes a while for one that was killed often.
        """
        wanted = set(executions)
        return [
            work
            for machine in self.machines
            if self.part(machine, "runner")
            for work in (machine.folder / "runs").glob("*/*/work")
            if work.parent.parent.name.replace("-", "") in wanted
        ]


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
