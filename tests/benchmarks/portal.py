"""The benchmarks of what the portal adds. Each takes a `Scene` and whether to be quick about it."""

import json
import re
import statistics
import subprocess
import sys
import time
import uuid

import httpx
import psutil
import pytest
from websockets.sync.client import connect

from portal.lib.processes import spawn, terminate
from tests import services
from tests.benchmarks.calls import added_milliseconds
from tests.benchmarks.measure import Result, bootstrap, interleaved, interval, ratio
from tests.benchmarks.scene import Scene, Script, clean_environment, memory_of, wait_for_port
from tests.deadlines import DEADLINE
from tests.stack import ROOT

CALLS = 20
PATHS = ("/", "/crews", "/runs", "/models", "/api/crews", "/api/schema/", "/api/docs/", "/admin/")
FORBIDDEN = ("crewai", "metagpt", "litellm")


def first_event(scene: Scene, quick: bool) -> Result:
    """From the kickoff to the first event at a watcher, against the bare database-and-socket path."""
    crew = scene.stack.make_crews({"first event": {"mode": "instant"}})["first event"]
    client = scene.stack.client()
    port = services.free_port()
    database = services.create_database(scene.server_url, f"bare_{uuid.uuid4().hex[:8]}")
    bare = spawn(
        [sys.executable, "-m", "tests.benchmarks.bare_path", str(port), database, scene.redis_url],
        cwd=ROOT,
        env=clean_environment(),
    )

    def ours_once() -> float:
        began = time.perf_counter()
        execution = client.post(f"/api/crews/{crew}/kickoff", json={"inputs": {}}).json()["execution_id"]
        with scene.stack.watch(execution) as socket:
            frame = json.loads(socket.recv(DEADLINE))
            took = time.perf_counter() - began
            assert frame["seq"] == 1, frame
            # The rest of this run must not be in the way of the next measurement.
            for text in socket:
                if json.loads(text)["type"] == "execution.completed":
                    break
        return took

    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE) as bare_client:

        def bare_once() -> float:
            began = time.perf_counter()
            execution = bare_client.post("/", json={"inputs": {}}).json()["execution_id"]
            with connect(f"ws://127.0.0.1:{port}/{execution}") as socket:
                frame = json.loads(socket.recv(DEADLINE))
                took = time.perf_counter() - began
            assert frame["seq"] == 1, frame
            return took

        try:
            wait_for_port(port, bare)
            pairs = interleaved(ours_once, bare_once, 15 if quick else 100)
        finally:
            terminate(bare)
    print(f"first_event: {pairs.summary()}")
    return ratio("first_event", pairs, aim=1.5, limit=3)


def crew_overhead(scene: Scene, quick: bool) -> Result:
    """A crew of twenty calls at 50 ms an answer, against a CrewAI script that has imported everything."""
    mode = "delay-50"
    crew = scene.stack.make_crews({"overhead": {"mode": mode, "tasks": CALLS}})["overhead"]
    with Script(scene, "bare_crew", scene.llm_url, mode, str(CALLS)) as bare:
        n = 4 if quick else 20
        pairs = interleaved(lambda: scene.seconds_to_end(crew), bare.seconds, n, warm_up=1)
    print(f"crew_overhead: {pairs.summary()}")
    return ratio("crew_overhead", pairs, aim=1.03, limit=1.15)


def call_overhead_ms(scene: Scene, quick: bool) -> Result:
    """Milliseconds that the gateway adds to a streamed call whose model answers at once; `ratio` is in ms here."""
    database = services.create_database(scene.server_url, f"calls_{uuid.uuid4().hex[:8]}")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DATABASE_URL", database)
        bare, ours = added_milliseconds(40 if quick else 200)
    added = [through - direct for direct, through in zip(bare, ours, strict=True)]
    print(
        f"call_overhead_ms: {statistics.median(ours):.1f} ms through the gateway, {statistics.median(bare):.1f} ms bare"
    )
    found = statistics.median(added)
    return Result.judged("call_overhead_ms", found, bootstrap(added, statistics.median), aim=5, limit=15, n=len(added))


def idle_worker_memory(scene: Scene, quick: bool) -> Result:
    """The memory of an idle worker (queue, runner, engine host) against one process that imported CrewAI."""
    program = "import crewai, sys; print('ready', flush=True); sys.stdin.read()"
    readings: list[float] = []
    ours, bare = 0, 0
    for _ in range(2 if quick else 5):
        script = subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT, env={**clean_environment(), "HOME": str(scene.folder), "CREWAI_DISABLE_TELEMETRY": "true"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        try:
            assert script.stdout is not None
            assert script.stdout.readline().strip() == "ready"
            worker = psutil.Process(scene.stack.pid("worker"))
            ours = memory_of([worker.pid, *(child.pid for child in worker.children(recursive=True))])
            bare = memory_of([script.pid])
            readings.append(ours / bare)
        finally:
            script.kill()
            script.wait()
    print(f"idle_worker_memory: worker {ours / 2**20:.0f} MiB, CrewAI imported {bare / 2**20:.0f} MiB")
    found = statistics.median(readings)
    return Result.judged("idle_worker_memory", found, interval(readings), aim=2, limit=3, n=len(readings))


def web_imports(scene: Scene, quick: bool) -> Result:
    """What the web process has imported of engines and litellm after it has done all it does: nothing.

    Here `ratio` is the number of such modules. The scene's web process writes down every import
    (PYTHONPROFILEIMPORTTIME).
    """
    crew = scene.stack.make_crews({"imports": {"mode": "ok"}})["imports"]
    client = scene.stack.client("root")
    asked = 0
    for path in (*PATHS, f"/crews/{crew}"):
        answer = client.get(path, follow_redirects=True)
        assert answer.status_code < 500, f"{path}: {answer.status_code}"
        asked += 1
    scene.seconds_to_end(crew)
    imported = imported_by((scene.folder / "data" / "web.out").read_text(errors="replace"))
    assert "django" in imported, "the web process did not write down its imports"
    found = sorted(name for name in imported if name.split(".")[0] in FORBIDDEN)
    print(f"web_imports: {len(imported)} modules imported; of {', '.join(FORBIDDEN)}: {found or 'none'}")
    return Result.judged("web_imports", len(found), (len(found), len(found)), aim=0, limit=0, n=asked + 2)


def imported_by(text: str) -> set[str]:
    """The modules named in what Python writes with PYTHONPROFILEIMPORTTIME."""
    return set(re.findall(r"^import time:\s+\d+ \|\s+\d+ \|\s+(\S+)$", text, re.MULTILINE))
