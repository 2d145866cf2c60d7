"""The benchmarks of what keeps runs: recovery, the event log, and how many runs a machine holds.

Each takes a `Scene` and whether to be quick about it.
"""

import contextlib
import json
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial

import psutil
from websockets.sync.client import ClientConnection

from tests.benchmarks.measure import Pairs, Result, interleaved, interval, ratio, share
from tests.benchmarks.scene import END, Scene, Script, memory_of
from tests.deadlines import DEADLINE, wait_for
from tests.stack import ROOT

EVENTS = 20_000
HANGS = "hang-silent"  # the fake model's mode that never answers
SCRIPTS = 3
GIB = 1 << 30


def recovery(scene: Scene, quick: bool) -> Result:
    """From the SIGKILL of an engine to the first event of its next attempt, against bare kill, waitpid and fork."""
    crew = scene.stack.make_crews({"recovery": {"models": ["instant", HANGS], "agents": 2, "tasks": 2}})["recovery"]

    def ours_once() -> float:
        run = scene.stack.kickoff(crew)
        with scene.stack.watch(run) as socket:
            _seen(socket, "llm.started", "task.completed", "llm.started")
            (engine,) = scene.stack.engine_processes()
            began = time.perf_counter()
            engine.send_signal(signal.SIGKILL)
            _seen(socket, "execution.recovered")
            _seen(socket, "task.started")
            took = time.perf_counter() - began
        scene.stack.request_stop(run)
        scene.stack.wait_for_status(run, "stopped")
        return took

    with Script(scene, "bare_recovery", scene.llm_url, HANGS, "2") as bare:
        pairs = interleaved(ours_once, bare.seconds, 6 if quick else 40, warm_up=2)
    print(f"recovery: {pairs.summary()}")
    return ratio("recovery", pairs, aim=2, limit=3)


def _seen(socket: ClientConnection, *names: str) -> None:
    """Read frames until all these types of events have come, in whatever order."""
    missing = Counter(names)
    while missing.total():
        name = json.loads(socket.recv(DEADLINE))["type"]
        assert name not in END, name
        missing -= Counter([name])


def events(scene: Scene, quick: bool) -> Result:
    """Events that a runner stores in a second, against COPY of the same rows into the same table."""
    environment = {**scene.stack.environment, "PORTAL_PROCESS": "runner"}
    environment.pop("PYTHONPROFILEIMPORTTIME", None)
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.stored_events", str(EVENTS), str(4 if quick else 30)],
        cwd=ROOT,
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    pairs = Pairs(**json.loads(done.stdout.splitlines()[-1]))
    ours, bare = (EVENTS / statistics.median(seconds) for seconds in (pairs.ours, pairs.bare))
    print(f"events: {ours:,.0f} a second stored by the portal, {bare:,.0f} by COPY")
    return share("events", pairs, aim=0.5, limit=0.3)


# --- How many runs a machine holds -----------------------------------------------------------------


def density_active(scene: Scene, quick: bool) -> Result:
    """Runs at work in a GiB of all the portal's processes, against a script each."""
    crew = scene.stack.make_crews({"active": {"mode": HANGS}})["active"]
    count = 16 if quick else 24
    readings: list[float] = []
    for _ in range(2 if quick else 5):
        runs = [scene.stack.kickoff(crew) for _ in range(count)]
        for run in runs:
            wait_for(partial(_has, scene, run, "llm.started"), "the model is asked")
        readings.append(_compare(scene, "density_active", count))
        for run in runs:
            scene.stack.request_stop(run)
        for run in runs:
            scene.stack.wait_for_status(run, "stopped")
    return _judged("density_active", readings, aim=3, limit=2)


def density_waiting(scene: Scene, quick: bool) -> Result:
    """Runs that wait for a person's answer in a GiB of all the portal's processes, against a script each."""
    crew = scene.stack.make_crews({"waiting": {"mode": "instant", "asks": [1]}})["waiting"]
    count = 60 if quick else 200
    before = _portal(scene)
    runs = [scene.stack.kickoff(crew) for _ in range(count)]
    for run in runs:
        scene.stack.wait_for_status(run, "waiting")
    assert not scene.stack.engine_processes(), "a waiting run holds a process"
    grown = (_portal(scene) - before) / count
    print(f"density_waiting: {count} waiting runs made the portal's processes grow by {grown / 1024:.0f} KiB each")
    readings = [_compare(scene, "density_waiting", count) for _ in range(2 if quick else 5)]
    return _judged("density_waiting", readings, aim=16, limit=8)


def _judged(name: str, readings: list[float], *, aim: float, limit: float) -> Result:
    found = statistics.median(readings)
    return Result.judged(name, found, interval(readings), aim=aim, limit=limit, n=len(readings))


def _has(scene: Scene, run: str, name: str) -> bool:
    return any(found == name for _, found in scene.stack.events_of(run))


def _portal(scene: Scene) -> int:
    """Bytes of all the portal's processes of this scene together."""
    return memory_of([process.pid for process in scene.stack.processes()])


def _compare(scene: Scene, name: str, count: int) -> float:
    """How many times as many runs the portal holds in a GiB as there would be scripts."""
    ours = _portal(scene) / count
    with contextlib.ExitStack() as running:
        bare = memory_of([running.enter_context(_asking_script(scene)).pid for _ in range(SCRIPTS)]) / SCRIPTS
    print(f"{name}: {GIB / ours:.1f} runs a GiB in the portal ({count} at once), {GIB / bare:.1f} as scripts")
    return bare / ours


@contextlib.contextmanager
def _asking_script(scene: Scene) -> Iterator[Script]:
    """A bare CrewAI script that waits for its model."""
    with Script(scene, "bare_crew", scene.llm_url, HANGS, "1") as script:
        script.go()
        process = psutil.Process(script.pid)
        wait_for(lambda: any(link.status == "ESTABLISHED" for link in process.net_connections("tcp")), "it asks")
        yield script
