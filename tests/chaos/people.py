"""The people of a schedule: they start runs, pause, stop, answer and raise budgets, whatever is down."""

import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.chaos.scene import Scene
from tests.chaos.schedule import RunPlan
from tests.chaos.watcher import Watchers
from tests.deadlines import DEADLINE

LOOK_EVERY = 0.1  # seconds
ENDED = {"completed", "failed", "stopped"}
SMALL_BUDGET = {"budget_usd": "0.042"}  # what a call may cost at most, and hardly more
LARGE_BUDGET = {"budget_usd": "50"}
EDITED = "A person's own text for {execution}."  # or the rest of a fork would ask what its origin has asked
FEEDBACK = "Say it more plainly."


@dataclass
class Family:
    """A run of the plan with its forks: all requests to the model with one mark."""

    plan: RunPlan
    key: str
    executions: list[str] = field(default_factory=list)  # hex ids, the first is the run itself
    answers: list[int] = field(default_factory=list)  # HTTP statuses of kickoffs
    kicked_off: set[str] = field(default_factory=set)
    stops: int = 0
    retries: int = 0
    pauses: int = 0
    wrong: list[str] = field(default_factory=list)
    is_settled: bool = False

    @property
    def execution(self) -> str:
        return self.executions[0]


class People:
    """Everybody of one schedule; `act` for each family in a thread of its own, until `over`."""

    def __init__(self, scene: Scene, watchers: Watchers, began: float) -> None:
        self.scene = scene
        self.watchers = watchers
        self.began = began
        self.over = threading.Event()
        self._clicks = ThreadPoolExecutor(8)

    def close(self) -> None:
        self.over.set()
        self._clicks.shutdown(cancel_futures=True)

    # --- Through the API ----------------------------------------------------------------------------

    def call(self, method: str, path: str, **options: Any) -> httpx.Response | None:
        """The answer, asked for again while the portal is away or says that it cannot now; None when all is over."""
        client = self.scene.main.client()
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end and not self.over.is_set():
            try:
                answer = client.request(method, f"/api/{path}", timeout=15, **options)
            except httpx.TransportError:
                pass
            else:
                if answer.status_code < 500:
                    return answer
            time.sleep(0.1)
        return None

    def ask(self, family: Family, method: str, path: str, *good: int, **options: Any) -> httpx.Response | None:
        """As `call`; an answer that is none of `good` (or 409: somebody was faster) is wrong."""
        answer = self.call(method, path, **options)
        if answer is not None and answer.status_code not in {*good, 409}:
            family.wrong.append(f"{method} {path} was answered with {answer.status_code}: {answer.text[:300]}")
        return answer

    # --- One run ------------------------------------------------------------------------------------

    def act(self, family: Family) -> None:
        """Start the run and look after it until it rests."""
        plan = family.plan
        self._until(plan.at)
        if not self._kickoff(family):
            return
        kicked_off = time.monotonic()
        paused_at: float | None = None
        acted = False
        while not self.over.is_set():
            row = self._row(family.executions[-1])
            status = row["status"]
            if not acted and time.monotonic() - kicked_off >= plan.action_at and self._intervene(family, row):
                acted = True
                continue  # what was read before is old news
            if status == "waiting":
                self._attend(family, row)
            elif status == "paused":
                paused_at = paused_at or time.monotonic()
                if time.monotonic() - paused_at >= plan.pause_for:
                    self.ask(family, "POST", f"executions/{self._id(row)}/resume", 202)
                    paused_at = None
            elif status in ENDED and not self._goes_on(family, status, acted):
                family.is_settled = True
                return
            self.over.wait(LOOK_EVERY)

    def _until(self, moment: float) -> None:
        self.over.wait(max(0.0, self.began + moment - time.monotonic()))

    def _row(self, execution: str) -> dict[str, Any]:
        return self.scene.database.of("executions_execution", [execution], "id")[0]

    @staticmethod
    def _id(row: dict[str, Any]) -> str:
        return str(uuid.UUID(hex=row["id"]))

    def _kickoff(self, family: Family) -> bool:
        plan = family.plan
        budget = SMALL_BUDGET if plan.action == "budget" else {}
        body = {"inputs": {"topic": plan.mark}, "priority": plan.priority, **budget}
        path, headers = f"crews/{self.scene.crews[plan.crew]}/kickoff", {"Idempotency-Key": family.key}

        def one(_: int) -> httpx.Response | None:
            return self.call("POST", path, json=body, headers=headers)

        if plan.copies > 1:
            with ThreadPoolExecutor(16) as crowd:
                answers = list(crowd.map(one, range(plan.copies)))
        else:
            answers = [one(0)]
        for answer in answers:
            if answer is None:
                continue
            family.answers.append(answer.status_code)
            if answer.status_code != 202:
                family.wrong.append(f"a kickoff was answered with {answer.status_code}: {answer.text[:300]}")
            else:
                family.kicked_off.add(uuid.UUID(answer.json()["execution_id"]).hex)
        for execution in sorted(family.kicked_off):
            self._joined(family, execution)
        return bool(family.executions)

    def _joined(self, family: Family, execution: str) -> None:
        family.executions.append(execution)
        self.watchers.follow(execution)

    # --- What people do -----------------------------------------------------------------------------

    def _intervene(self, family: Family, row: dict[str, Any]) -> bool:
        """Do what the plan says; False when its moment has not come."""
        action, status, path = family.plan.action, row["status"], f"executions/{self._id(row)}"
        if action in {"pause", "pause at once"}:
            if status == "running":
                family.pauses += 1
                self.ask(family, "POST", f"{path}/pause", 202, json={"at_once": action == "pause at once"})
                return True
            return status in ENDED
        if action in {"stop", "stop and retry"}:
            self._stop(family)
            return True
        if action == "stop race":
            if not self._nearly_done(family):
                return False
            self._stop(family)
            return True
        if action == "model":
            return self._change_models(family, row)
        if action == "fork":
            return status in ENDED - {"completed"} or (status == "completed" and self._fork(family, row))
        return True

    def _stop(self, family: Family) -> None:
        family.stops += 1
        execution = uuid.UUID(hex=family.executions[-1])
        self.ask(family, "POST", f"executions/{execution}/stop", 202)

    def _goes_on(self, family: Family, status: str, acted: bool) -> bool:
        """Whether a run that has ended is followed by something: a fork, or once a retry."""
        if family.plan.action == "fork" and status == "completed":
            return not acted
        if family.plan.action == "stop and retry" and status != "completed" and not family.retries:
            family.retries += 1
            execution = uuid.UUID(hex=family.executions[-1])
            self.ask(family, "POST", f"executions/{execution}/retry", 202)
            return True
        return False

    def _nearly_done(self, family: Family) -> bool:
        """Its last task is finished, and the run's own end is on its way."""
        tasks = self.scene.database.of("executions_taskrun", [family.execution])
        left = [task for task in tasks if task["status"] != "completed"]
        return len(left) <= 1

    def _change_models(self, family: Family, row: dict[str, Any]) -> bool:
        """Give the last role another model. Of a run that has ended nothing changes."""
        roles = [role["role"] for role in self.scene.database.of("executions_rolemodel", [row["id"]])]
        body = {"mappings": [{"role_name": roles[-1], "llm_model": "other"}]}
        self.ask(family, "POST", f"executions/{self._id(row)}/role-llm-mapping", 200, json=body)
        return True

    def _fork(self, family: Family, row: dict[str, Any]) -> bool:
        tasks = self.scene.database.of("executions_taskrun", [row["id"]], order="position")
        task = tasks[int(family.plan.action_at * 100) % len(tasks)]
        edit = {"task_id": task["task"], "description": f"Anew: {family.plan.mark}"}
        body = {"task_id": task["task"], "tasks": [edit]}
        answer = self.ask(family, "POST", f"executions/{self._id(row)}/fork", 202, json=body)
        if answer is not None and answer.status_code == 202:
            self._joined(family, uuid.UUID(answer.json()["execution_id"]).hex)
        return True

    def _attend(self, family: Family, row: dict[str, Any]) -> None:
        if row["waiting_for"] == "budget":
            self.ask(family, "PATCH", f"executions/{self._id(row)}", 200, json=LARGE_BUDGET)
            return
        for approval in self.scene.database.of("executions_approval", [row["id"]]):
            if approval["status"] == "open":
                self._answer(family, approval)

    def _answer(self, family: Family, approval: dict[str, Any]) -> None:
        """One decision; when people race, another one in the same moment, of which one must win."""
        decisions = family.plan.answers
        decision = decisions[min(approval["round"], len(decisions)) - 1]
        path = f"approvals/{uuid.UUID(hex=approval['id'])}/answer"

        def decide(chosen: str) -> httpx.Response | None:
            body = {"decision": chosen, "text": EDITED.format(execution=approval["execution_id"]), "feedback": FEEDBACK}
            return self.ask(family, "POST", path, 200, json=body)

        rival = "reject" if decision == "approve" else "approve"
        wanted = [decision, decision, rival] if family.plan.racing else [decision]
        answers = list(self._clicks.map(decide, wanted))
        accepted = {chosen for chosen, answer in zip(wanted, answers, strict=True) if answer and answer.is_success}
        if len(accepted) > 1:
            family.wrong.append(f"question {approval['id']} was decided twice: {accepted}")
