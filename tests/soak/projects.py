"""Projects at work while processes are killed: does each stage run once, and does approved work stay as it is?

Projects are made and approved through the API, as a program outside would; every process of the portal may be killed
at any moment, and is started again as `up` does. A stage whose run died so often that it is quarantined is started
again, as a person would who has read that; it then goes on in the same run. Played on the scene of `tests.chaos`.
"""

import contextlib
import hashlib
import json
import random
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil

from tests.chaos.database import Row
from tests.chaos.faults import Struck, strike
from tests.chaos.scene import Scene
from tests.chaos.schedule import KILLS, WEIGHTS, FaultPlan
from tests.deadlines import DEADLINE, wait_for
from tests.roles import ROLES

MODEL = "quick"  # of `tests.chaos.cast`; slowed down, so that most kills strike while something is at work
MODES = {"crew-ai": "slow-300", "meta-gpt": "delay-1000"}  # MetaGPT asks for long texts, and often
AT_ONCE = 3
COMPLETED_WITHIN = 2 * DEADLINE  # a project, from the last kill
PAUSES = (0.2, 2.5)  # seconds from one kill to the next
LOOK_EVERY = 0.2  # seconds


@dataclass
class Sponsor:
    """Who has a project made, and approves what comes to review."""

    scene: Scene
    engine: str
    mark: str
    over: threading.Event
    project: str = ""
    approved: dict[str, tuple[str, str]] = field(default_factory=dict)  # deliverable → (sha256, digest of its text)
    wrong: list[str] = field(default_factory=list)
    restarted: Counter[str] = field(default_factory=Counter)  # quarantined stages that were started again, by name
    is_done: bool = False

    def call(self, method: str, path: str, **options: Any) -> httpx.Response | None:
        """The answer, asked for again while the portal is away; None when all is over."""
        client = self.scene.main.client()
        while not self.over.is_set():
            with contextlib.suppress(httpx.TransportError):
                answer = client.request(method, f"/api/{path}", timeout=15, **options)
                if answer.status_code < 500:
                    return answer
            self.over.wait(0.1)
        return None

    def make(self) -> None:
        """Before anything is killed."""
        requirement = f"A list of things to do. {self.mark}"
        body = {"name": f"Project {self.mark}", "selected_ai": self.engine, "requirement": requirement}
        made = self.call("POST", "projects", json=body)
        assert made is not None, "the portal is away"
        assert made.status_code == 201, made.text
        self.project = made.json()["id"]
        mappings = [{"role_name": role, "llm_model": MODEL} for role in ROLES[self.engine]]
        mapped = self.call("POST", f"projects/{self.project}/role-llm-mapping", json={"mappings": mappings})
        assert mapped is not None, "the portal is away"
        assert mapped.status_code == 200, mapped.text

    def act(self) -> None:
        """Start the project, and approve until it is completed."""
        started = self.call("POST", f"projects/{self.project}/start")
        if started is not None and started.status_code not in {202, 409}:  # 409: the answer of the first try was lost
            self.wrong.append(f"the start was answered with {started.status_code}: {started.text[:300]}")
        while not self.over.is_set():
            answer = self.call("GET", f"projects/{self.project}/status")
            if answer is None:
                return
            status = answer.json()
            if status["status"] == "completed":
                self.is_done = True
                return
            if status["status"] in {"failed", "cancelled"} and not self._restart(status["stages"]):
                problems = [stage["problem"] for stage in status["stages"] if stage["problem"]]
                self.wrong.append(f"it is {status['status']}: {problems}")
                return
            for stage in status["stages"]:
                if stage["stage_status"] == "review":
                    self._approve(stage["stage_name"])
            self.over.wait(LOOK_EVERY)

    def _restart(self, stages: list[dict[str, Any]]) -> bool:
        """Start the failed stages again; False when there is none, or one failed for another reason than its deaths."""
        failed = [stage for stage in stages if stage["stage_status"] == "failed"]
        for stage in failed:
            seen = self.call("GET", f"executions/{stage['execution_id']}")
            if seen is None:
                return True
            run = seen.json()
            if run["status"] == "failed" and not run["quarantine_reason"]:
                return False
            answer = self.call("PUT", f"projects/{self.project}/stages/{stage['stage_name']}/start")
            if answer is not None and answer.status_code not in {200, 409}:
                self.wrong.append(f"starting again was answered with {answer.status_code}: {answer.text[:300]}")
                return False
            self.restarted[stage["stage_name"]] += 1
        return bool(failed)

    def _approve(self, stage: str) -> None:
        listed = self.call("GET", f"projects/{self.project}/stages/{stage}/deliverables")
        for one in listed.json()["results"] if listed is not None else ():
            if one["status"] != "review":
                continue
            shown = self.call("GET", f"deliverables/{one['id']}")
            if shown is None:
                return
            seen = shown.json()
            body = {"status": "approved", "review_comments": "Good.", "sha256": seen["sha256"]}
            answer = self.call("PUT", f"deliverables/{one['id']}/review", json=body)
            if answer is not None and answer.status_code not in {200, 409}:
                self.wrong.append(f"approving {stage} was answered with {answer.status_code}: {answer.text[:300]}")
            self.approved[one["id"]] = (seen["sha256"], _digest(seen["content"]))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def run(*, kills: int, seed: int, engines: list[str], team: bool, keep: bool = False) -> dict[str, Any]:
    """Play projects until `kills` processes were killed; returns what was seen, with `ok` for all of it."""
    chance = random.Random(seed)
    struck = Struck()
    sponsors: list[Sponsor] = []
    wrong: list[str] = []
    asked = 0
    began = time.monotonic()
    with Scene(team=team, keep=keep) as scene:
        folder, mark = str(scene.folder), f"{seed:x}"
        scene.main.manage("seed")  # the catalog, as `up` makes it
        while sum(struck.kills.values()) < kills:
            scene.make_whole()
            scene.fake.reset()
            scene.fake.modes[MODEL] = MODES[max(engines)]
            batch = [
                Sponsor(scene, engines[n % len(engines)], f"mark-{mark}-{len(sponsors) + n}.", threading.Event())
                for n in range(AT_ONCE)
            ]
            left = kills - sum(struck.kills.values())
            wrong += _play(scene, batch, chance, struck, left)
            sponsors += batch
            asked += len(scene.fake.ledger)
        found = _check(scene, sponsors, asked, struck)
        wrong += found.pop("wrong")
    left_over = _left_over(folder)
    return {
        "name": "projects",
        "seed": seed,
        "engines": engines,
        "projects": len(sponsors),
        "completed": sum(sponsor.is_done for sponsor in sponsors),
        "kills": sum(struck.kills.values()),
        "killed": struck.kills,
        "missed": len(struck.missed),
        "in_flight": struck.in_flight,
        **found,
        "processes_left": left_over,
        "seconds": round(time.monotonic() - began),
        "wrong": wrong,
        "ok": not wrong and not left_over and all(sponsor.is_done for sponsor in sponsors),
    }


def _play(scene: Scene, batch: list[Sponsor], chance: random.Random, struck: Struck, kills: int) -> list[str]:
    """Work `batch` side by side and kill at most `kills` processes meanwhile; what is wrong when all are done."""
    for sponsor in batch:
        sponsor.make()
    threads = [threading.Thread(target=sponsor.act, name=sponsor.mark, daemon=True) for sponsor in batch]
    for thread in threads:
        thread.start()
    before = sum(struck.kills.values())
    try:
        while any(thread.is_alive() for thread in threads) and sum(struck.kills.values()) - before < kills:
            time.sleep(chance.uniform(*PAUSES))  # the random moment, not a wait for anything
            _kill(scene, chance, struck)
        scene.make_whole()

        def have_ended() -> bool:
            scene.start_missing()
            return not any(thread.is_alive() for thread in threads)

        with contextlib.suppress(AssertionError):
            wait_for(have_ended, "all projects have ended", COMPLETED_WITHIN, every=0.5)
        wrong = [f"{sponsor.mark}: {what}" for sponsor in batch for what in sponsor.wrong]
        wrong += [f"{one.mark} is not completed: {_where(one)}" for one in batch if not one.is_done]
        return wrong + _untidy(scene, batch)
    finally:
        for sponsor in batch:
            sponsor.over.set()
        for thread in threads:
            thread.join(20)


def _kill(scene: Scene, chance: random.Random, struck: Struck) -> None:
    """Kill one process of the portal, and start again what `up` would."""
    (name,) = chance.choices(KILLS, [WEIGHTS[kill] for kill in KILLS])
    if name == "host-kill":
        hosts = list(scene.parts(scene.main, "host"))
        if not hosts:
            struck.missed.append(name)
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            chance.choice(hosts).kill()
            struck.killed("host")
        return
    undo = strike(scene, FaultPlan(name, 0, 0, chance.random()), struck)
    if undo is not None:
        time.sleep(undo[0])
        undo[1]()


def _where(sponsor: Sponsor) -> str:
    with contextlib.suppress(httpx.TransportError):
        answer = sponsor.scene.main.client().get(f"/api/projects/{sponsor.project}/status", timeout=15)
        stages = {stage["stage_name"]: stage["stage_status"] for stage in answer.json()["stages"]}
        return f"{answer.json()['status']} {stages}"
    return "the portal does not answer"


def _untidy(scene: Scene, batch: list[Sponsor]) -> list[str]:
    """What runs of projects that are done have left behind."""
    found: list[str] = []

    def left() -> bool:
        found[:] = [f"engine process {process.pid}" for process in scene.engines()]
        for row in _runs(scene, batch):
            found.extend(f"{row['id']} reserves" for _ in range(bool(row["reserved_usd"] or row["reserved_tokens"])))
            calls = scene.database.of("executions_llmcall", [row["id"]])
            found.extend(f"call {call['id']} is open" for call in calls if call["status"] == "open")
        return not found

    with contextlib.suppress(AssertionError):
        wait_for(left, "nothing is left", DEADLINE / 6, every=0.2)
    return found


# --- What must hold -----------------------------------------------------------------------------------


def _of(scene: Scene, table: str, sponsors: list[Sponsor]) -> list[Row]:
    keys = [uuid.UUID(sponsor.project).hex for sponsor in sponsors]
    return scene.database.of(table, keys, "project_id")


def _runs(scene: Scene, sponsors: list[Sponsor]) -> list[Row]:
    """The executions of all stages."""
    stages = [row["id"] for row in _of(scene, "project_stages", sponsors)]
    runs = scene.database.of("project_stage_runs", stages, "stage_id")
    return scene.database.of("executions_execution", [row["execution_id"] for row in runs], "id")


def _check(scene: Scene, sponsors: list[Sponsor], asked: int, struck: Struck) -> dict[str, Any]:
    stages = _of(scene, "project_stages", sponsors)
    deliverables = {row["id"]: row for row in _of(scene, "project_deliverables", sponsors)}
    runs = scene.database.of("project_stage_runs", [row["id"] for row in stages], "stage_id")
    executions = {row["id"]: row for row in _runs(scene, sponsors)}
    wrong = []

    count = Counter((run["stage_id"], run["round"]) for run in runs)
    for stage in stages:
        if count[stage["id"], 1] != 1:
            wrong.append(f"stage {stage['stage_name']} of {stage['project_id']} ran {count[stage['id'], 1]} times")
        if stage["stage_status"] != "completed":
            wrong.append(f"stage {stage['stage_name']} of {stage['project_id']} is {stage['stage_status']}")
    wrong += [f"run {run['execution_id']} is not settled" for run in runs if run["settled_at"] is None]

    for sponsor in sponsors:
        for key, (sha256, digest) in sponsor.approved.items():
            row = deliverables.get(uuid.UUID(key).hex)
            if row is None:
                wrong.append(f"{sponsor.mark}: the approved deliverable {key} is gone")
            elif (row["sha256"], _digest(row["content"])) != (sha256, digest) or row["status"] != "approved":
                wrong.append(f"{sponsor.mark}: {row['title']} has changed since it was approved ({row['status']})")
    known = {uuid.UUID(key).hex for sponsor in sponsors for key in sponsor.approved}
    lineages = Counter(row["lineage"] for row in deliverables.values())
    wrong += [f"{row['title']} of {row['project_id']} has {lineages[row['lineage']]} versions"
              for row in deliverables.values() if lineages[row["lineage"]] != 1]  # fmt: skip
    types = Counter((row["stage_id"], row["deliverable_type"]) for row in deliverables.values())
    wrong += [f"stage {key} made {n} of {kind}" for (key, kind), n in types.items() if n != 1]
    wrong += [f"nobody approved {row['title']}" for key, row in deliverables.items() if key not in known]

    told = _told(scene, sponsors)
    by_hand = {uuid.UUID(sponsor.project).hex: sponsor.restarted for sponsor in sponsors}
    for (stream, kind, name), n in told.items():
        once = 1 + (by_hand[stream][name] if kind == "stage_started" else 0)
        if kind in {"stage_started", "stage_completed"} and n != once:
            wrong.append(f"{stream} tells {n} times of {kind} {name}")

    journal = scene.database.of("executions_journalentry", list(executions))
    answered = sum(row["state"] == "done" for row in journal)
    repeated = asked - answered
    if repeated > struck.in_flight:
        wrong.append(f"{repeated} calls were paid again, {struck.in_flight} were on their way as a gateway was killed")
    recovered = sum(row["attempt"] - 1 for row in executions.values())
    return {
        "stages": len(stages),
        "deliverables": len(deliverables),
        "recoveries": recovered,
        "restarted_by_hand": sum(sum(sponsor.restarted.values()) for sponsor in sponsors),
        "calls_asked": asked,
        "calls_answered": answered,
        "calls_repeated": repeated,
        "wrong": wrong,
    }


def _told(scene: Scene, sponsors: list[Sponsor]) -> Counter[tuple[str, str, str]]:
    """How often the log of each project tells of each event of each stage."""
    found: Counter[tuple[str, str, str]] = Counter()
    keys = [uuid.UUID(sponsor.project).hex for sponsor in sponsors]
    for row in scene.database.of("executions_executionevent", keys, "stream_id", order="stream_id, seq"):
        told: dict[str, Any] = json.loads(row["data"]) if isinstance(row["data"], str) else row["data"]
        found[row["stream_id"], row["type"], told.get("stage_name", "")] += 1
    return found


def _left_over(folder: str) -> list[str]:
    """Processes of the scene that outlive it."""

    def left() -> list[str]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if any(folder in fact for fact in (process.cwd(), *process.cmdline())):
                    found.append(f"{process.pid} {' '.join(process.cmdline())[:100]}")
        return found

    with contextlib.suppress(AssertionError):
        wait_for(lambda: not left(), "no process is left", DEADLINE / 6, every=0.2)
    return left()
