"""The faults: each a function that strikes, and returns what takes it back (None: nothing to take back).

They run in the main thread, which owns all processes; what takes long (floods) goes into a thread.
"""

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil
import psycopg
import redis

from tests.chaos.cast import MODES
from tests.chaos.scene import Machine, Scene
from tests.chaos.schedule import FaultPlan

Undo = Callable[[], None]
RESTART_AFTER = 0.3  # seconds until a killed process is started again, as `up` does
JOURNALLED_WITHIN = 0.5  # seconds, on a busy machine
FLOOD_EVENTS, FLOOD_PIECE = 10_000, 500  # within a second, as fast as the machine writes
OUTPUT_BYTES, OUTPUT_LINE = 100_000_000, 200_000


@dataclass
class Struck:
    """What the faults of a schedule have done, for the checker."""

    kills: dict[str, int] = field(default_factory=dict)
    in_flight: int = 0  # answers on their way when a gateway was killed, which nobody else can bring home
    frozen: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)  # there was nothing to hit
    threads: list[threading.Thread] = field(default_factory=list)

    def killed(self, what: str) -> None:
        self.kills[what] = self.kills.get(what, 0) + 1


def strike(scene: Scene, plan: FaultPlan, struck: Struck) -> tuple[float, Undo] | None:
    """Let a fault happen; returns after how many seconds it is taken back, and how."""
    name, _, how = plan.name.rpartition("-")
    if how == "kill":
        return _kill(scene, name, plan, struck)
    if how == "freeze":
        return _freeze(scene, name, plan, struck)
    if name == "model":
        return _model(scene, how, plan)
    return {
        "redis-restart": _restart_redis,
        "redis-flush": _flush_redis,
        "postgres-restart": _restart_postgres,
        "postgres-terminate": _terminate_sessions,
        "postgres-exhaust": _exhaust_connections,
        "disk-full": _fill_disk,
        "clock": _turn_clock,
        "big-output": _write_much,
        "event-flood": _flood,
        "duplicate-kickoff": _nothing,  # part of a run's plan
        "stop-race": _nothing,
    }[plan.name](scene, plan, struck)


def _nothing(scene: Scene, plan: FaultPlan, struck: Struck) -> None:
    return None


# --- Processes ------------------------------------------------------------------------------------


def _machine(scene: Scene, plan: FaultPlan) -> Machine:
    """One whose worker is there; by the plan where there are several."""
    there = [machine for machine in scene.machines if machine.is_alive("worker")]
    return (there or scene.machines)[int(plan.pick * len(there or scene.machines))]


def _victims(scene: Scene, name: str, plan: FaultPlan) -> list[psutil.Process]:
    machine = _machine(scene, plan)
    if name == "engine":
        engines = scene.engines()
        return [engines[int(plan.pick * len(engines))]] if engines else []
    if name in {"runner", "host", "queue"}:
        part = scene.part(machine, name)
        return [part] if part else []
    owner = machine if name == "worker" else scene.main
    if not owner.is_alive(name):
        return []
    process = psutil.Process(owner.pid(name))
    # A frozen worker is a machine that stands still with all that is on it.
    return [process, *(process.children(recursive=True) if name == "worker" else ())]


def _kill(scene: Scene, name: str, plan: FaultPlan, struck: Struck) -> tuple[float, Undo] | None:
    victims = _victims(scene, name, plan)[:1]
    for victim in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
            struck.killed(name)
            struck.in_flight += _answers_on_their_way(scene) if name == "gateway" else 0
            if name in {"web", "gateway", "worker"}:
                return RESTART_AFTER, scene.start_missing
            return None
    struck.missed.append(plan.name)
    return None


def _answers_on_their_way(scene: Scene) -> int:
    """Requests that the model answers now, or has answered so lately that it may not be in the journal."""
    lately = time.time() - JOURNALLED_WITHIN
    return sum(entry.ended_at is None or entry.ended_at > lately for entry in list(scene.fake.ledger))


def _freeze(scene: Scene, name: str, plan: FaultPlan, struck: Struck) -> tuple[float, Undo] | None:
    victims = _victims(scene, name, plan)
    for victim in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.send_signal(signal.SIGSTOP)
            scene.frozen.add(victim.pid)
    (struck.frozen if victims else struck.missed).append(plan.name)

    def thaw() -> None:
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.send_signal(signal.SIGCONT)
            scene.frozen.discard(victim.pid)

    return plan.lasts, thaw


# --- Services -------------------------------------------------------------------------------------


def _restart_redis(scene: Scene, plan: FaultPlan, struck: Struck) -> tuple[float, Undo]:
    assert scene.redis
    scene.redis.stop(signal.SIGKILL)
    return plan.lasts, scene.redis.start


def _flush_redis(scene: Scene, plan: FaultPlan, struck: Struck) -> None:
    assert scene.redis
    with redis.Redis.from_url(scene.redis.url) as client:
        client.flushall()


def _restart_postgres(scene: Scene, plan: FaultPlan, struck: Struck) -> tuple[float, Undo]:
    assert scene.postgres
    scene.postgres.stop(signal.SIGQUIT)
    return plan.lasts, scene.postgres.start


def _terminate_sessions(scene: Scene, plan: FaultPlan, struck: Struck) -> None:
    assert scene.postgres
    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(scene.postgres.url) as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'chaos'")


def _exhaust_connections(scene: Scene, plan: FaultPlan, struck: Struck) -> tuple[float, Undo]:
    assert scene.postgres
    taken = []
    with contextlib.suppress(psycopg.OperationalError):
        while len(taken) < 500:
            taken.append(psycopg.connect(scene.postgres.url))

    def give_back() -> None:
        for connection in taken:
            connection.close()

    return plan.lasts, give_back


# --- The model ------------------------------------------------------------------------------------

_MODEL_FAULTS = {
    "429": ["429"],
    "500": ["500"],
    "hang": ["hang-silent", "hang-first", "hang-between"],
    "broken": ["malformed", "truncated"],
}


def _model(scene: Scene, how: str, plan: FaultPlan) -> tuple[float, Undo]:
    modes = _MODEL_FAULTS[how]
    mode = modes[int(plan.pick * len(modes))]
    for name in MODES:
        scene.fake.modes[name] = mode
    return plan.lasts, scene.calm_models


# --- The machine ----------------------------------------------------------------------------------


def _fill_disk(scene: Scene, plan: FaultPlan, struck: Struck) -> tuple[float, Undo] | None:
    if not scene.mounts:
        struck.missed.append(plan.name)
        return None
    ballasts = [mount / "ballast" for mount in scene.mounts]
    for ballast in ballasts:
        file = os.open(ballast, os.O_WRONLY | os.O_CREAT, 0o600)
        size = os.fstatvfs(file)
        try:
            with contextlib.suppress(OSError):
                os.posix_fallocate(file, 0, size.f_bavail * size.f_frsize)
            with contextlib.suppress(OSError):
                while True:  # the last page
                    os.lseek(file, 0, os.SEEK_END)
                    os.write(file, b"\0" * 4096)
        finally:
            os.close(file)

    def empty() -> None:
        for ballast in ballasts:
            ballast.unlink(missing_ok=True)

    return plan.lasts, empty


def _turn_clock(scene: Scene, plan: FaultPlan, struck: Struck) -> tuple[float, Undo] | None:
    if scene.clock_file is None:
        struck.missed.append(plan.name)
        return None
    scene.set_clock(int(plan.lasts))
    return 2.0, lambda: scene.set_clock(0)


# --- Engines that write too much ---------------------------------------------------------------------


def _events_file(scene: Scene, plan: FaultPlan) -> Path | None:
    """The events of a run that is carried now: what an engine writes stands there, one line a write."""
    files = []
    for machine in scene.machines:
        files += [
            file for file in (machine.folder / "runs").glob("*/*/events.jsonl") if file.parent.joinpath("work").exists()
        ]
    files.sort()
    return files[int(plan.pick * len(files))] if files else None


def _lines(scene: Scene, plan: FaultPlan, struck: Struck, count: int, text: str) -> None:
    path = _events_file(scene, plan)
    if path is None:
        struck.missed.append(plan.name)
        return

    def write() -> None:
        with contextlib.suppress(OSError):  # the disk is full, or the run is gone
            file = os.open(path, os.O_WRONLY | os.O_APPEND)
            try:
                for n in range(count):
                    data = {"kind": "chaos", "message": text, "n": n}
                    line = {"kind": "event", "type": "log", "at": datetime.now(UTC).isoformat(), "data": data}
                    os.write(file, json.dumps(line).encode() + b"\n")
            finally:
                os.close(file)

    thread = threading.Thread(target=write, name=plan.name, daemon=True)
    thread.start()
    struck.threads.append(thread)


def _write_much(scene: Scene, plan: FaultPlan, struck: Struck) -> None:
    _lines(scene, plan, struck, OUTPUT_BYTES // OUTPUT_LINE, "x" * OUTPUT_LINE)


def _flood(scene: Scene, plan: FaultPlan, struck: Struck) -> None:
    _lines(scene, plan, struck, FLOOD_EVENTS, "")
