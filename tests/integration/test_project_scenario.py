"""Sent back, rolled back, edited by hand and forked: the versions, the stale marks and the calls of models are exactly
those expected. On the real processes, through the API, as a program outside would."""

import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.deadlines import wait_for
from tests.fakes.llm import FakeLLM, Request
from tests.stack import Stack

pytestmark = pytest.mark.slow
BACKENDS = ["stack", pytest.param("team_stack", marks=[pytest.mark.postgres, pytest.mark.redis])]

ROLES = {"research": "Researcher", "writing": "Writer", "planning": "Planner"}


@pytest.fixture(params=BACKENDS)
def running(request: pytest.FixtureRequest) -> Stack:
    return request.getfixturevalue(request.param)


def said(request: Request) -> str:
    """All that a request to the model says."""
    return "\n".join(str(message.get("content") or "") for message in request.body.get("messages") or ())


class Outside:
    """A program that has nothing but the API, and one project."""

    def __init__(self, stack: Stack, fake: FakeLLM, project: str, mark: str) -> None:
        self.stack, self.fake, self.project, self.mark = stack, fake, project, mark

    def call(self, method: str, path: str, *good: int, **body: Any) -> Any:
        answer = self.stack.client().request(method, f"/api/{path}", json=body if method != "GET" else None)
        assert answer.status_code in good, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def stages(self) -> dict[str, dict[str, Any]]:
        status = self.call("GET", f"projects/{self.project}/status", 200)
        return {stage["stage_name"]: stage for stage in status["stages"]}

    def wait_until(self, **wanted: str) -> None:
        """Until stages have these statuses; none has failed meanwhile."""

        def there() -> bool:
            found = self.stages()
            failed = {name: stage["problem"] for name, stage in found.items() if stage["stage_status"] == "failed"}
            assert not failed, f"{failed}\n{self.stack.logs()}"
            return all(found[name]["stage_status"] == status for name, status in wanted.items())

        wait_for(there, f"stages are {wanted}", on_timeout=lambda: f"{self.stages()}\n{self.stack.logs()}")

    def latest(self, stage: str) -> dict[str, Any]:
        """The latest version of what a stage has made, whole."""
        listed = self.call("GET", f"projects/{self.project}/stages/{stage}/deliverables", 200)["results"]
        (one,) = [row for row in listed if row["is_latest"]]
        return self.call("GET", f"deliverables/{one['id']}", 200)

    def decide(self, stage: str, decision: str, comments: str = "") -> dict[str, Any]:
        one = self.latest(stage)
        body = {"status": decision, "review_comments": comments, "sha256": one["sha256"]}
        return self.call("PUT", f"deliverables/{one['id']}/review", 200, **body)

    def versions(self, stage: str) -> list[tuple[str, str, bool]]:
        one = self.latest(stage)
        rows = self.call("GET", f"deliverables/{one['id']}/versions", 200)["results"]
        return sorted((row["version"], row["status"], row["is_latest"]) for row in rows)

    def calls(self) -> Counter[str]:
        """How often the model was asked on behalf of each role."""
        found: Counter[str] = Counter()
        for request in list(self.fake.ledger):
            text = said(request)
            if self.mark in text:
                found[next(role for role in ROLES.values() if f"You are {role}" in text)] += 1
        return found

    def runs(self) -> int:
        return len(self.call("GET", f"projects/{self.project}/executions?page_size=100", 200)["results"])


@pytest.fixture
def outside(running: Stack, fake_llm: FakeLLM) -> Callable[[], Outside]:
    def make() -> Outside:
        running.manage("seed")  # the catalog, as `up` makes it
        running.make_crews({f"for models {uuid.uuid4().hex[:6]}": {"mode": "ok"}})
        mark = f"mark-{uuid.uuid4().hex}"
        made = Outside(running, fake_llm, "", mark)
        project = made.call(
            "POST", "projects", 201, name=f"Runners {mark[-6:]}", selected_ai="crew-ai", requirement=f"An app. {mark}"
        )
        made.project = project["id"]
        mappings = [{"role_name": role, "llm_model": "fake-ok"} for role in ROLES.values()]
        made.call("POST", f"projects/{made.project}/role-llm-mapping", 200, mappings=mappings)
        return made

    return make


def test_versions_stale_marks_and_calls_are_those_expected(outside: Callable[[], Outside]) -> None:
    it = outside()

    # Two stages side by side; the third waits for both.
    it.call("POST", f"projects/{it.project}/start", 202)
    it.wait_until(research="review", writing="review", planning="pending")
    assert it.calls() == {"Researcher": 1, "Writer": 1}

    # Sent back: the role works again with the comments, and nobody else does.
    first = it.latest("research")
    it.decide("writing", "approved")
    it.decide("research", "rejected", "Name three competitors.")
    it.wait_until(research="review", writing="completed", planning="pending")
    assert it.calls() == {"Researcher": 2, "Writer": 1}
    assert it.versions("research") == [("1.0", "rejected", False), ("1.1", "review", True)]
    reworked = it.latest("research")
    assert reworked["parent_deliverable_id"] == first["id"]
    asked = next(text for text in map(said, reversed(it.fake.ledger)) if it.mark in text)
    assert "Name three competitors." in asked
    assert first["content"].strip() in asked

    it.decide("research", "approved")
    it.wait_until(planning="review")
    assert it.calls() == {"Researcher": 2, "Writer": 1, "Planner": 1}
    it.decide("planning", "approved")
    it.wait_until(planning="completed")
    kept = {stage: it.latest(stage)["sha256"] for stage in ROLES}
    assert it.call("GET", f"projects/{it.project}", 200)["status"] == "completed"
    log = it.call("GET", f"deliverables/{reworked['id']}/access-log", 200)["results"]
    assert "Planner" in {row["accessed_by_role"] for row in log if row["access_type"] == "read"}

    # Rolled back to one of the two: it and what depends on it run again, the other does not.
    it.call("POST", f"projects/{it.project}/stages/writing/roll-back", 202, reason="Another tone.")
    marks = {name: (stage["stage_status"], stage["is_stale"]) for name, stage in it.stages().items()}
    assert marks["research"] == ("completed", False)
    assert marks["planning"] == ("pending", True)
    it.wait_until(research="completed", writing="review", planning="pending")
    assert it.calls() == {"Researcher": 2, "Writer": 2, "Planner": 1}
    assert it.versions("writing") == [("1.0", "approved", False), ("2.0", "review", True)]
    it.decide("writing", "approved")
    it.wait_until(planning="review")
    assert it.versions("planning") == [("1.0", "approved", False), ("2.0", "review", True)]
    it.decide("planning", "approved")
    it.wait_until(planning="completed")
    assert it.calls() == {"Researcher": 2, "Writer": 2, "Planner": 2}
    assert not any(stage["is_stale"] for stage in it.stages().values())
    assert it.latest("research")["sha256"] == kept["research"]

    # Forked before the last stage: its copy has the approved work, and runs nothing else.
    copy = it.call("POST", f"projects/{it.project}/duplicate", 201, name="The fork", until="planning")
    fork = Outside(it.stack, it.fake, copy["id"], it.mark)
    assert [fork.latest(stage)["sha256"] for stage in ("research", "writing")] == [
        it.latest(stage)["sha256"] for stage in ("research", "writing")
    ]
    assert {name: stage["stage_status"] for name, stage in fork.stages().items()} == {
        "research": "completed", "writing": "completed", "planning": "pending",
    }  # fmt: skip
    assert it.calls() == {"Researcher": 2, "Writer": 2, "Planner": 2}
    fork.call("POST", f"projects/{fork.project}/start", 202)
    fork.wait_until(planning="review")
    assert it.calls() == {"Researcher": 2, "Writer": 2, "Planner": 3}
    assert fork.runs() == 1
    fork.decide("planning", "approved")
    fork.wait_until(planning="completed")

    # An approved text that is changed by hand: what was made from it is out of date, and runs when it is told to.
    edited = it.latest("research")
    it.call("PATCH", f"deliverables/{edited['id']}", 200, content="# By hand\n\nOther facts.")
    it.decide("research", "approved")
    found = {name: (stage["stage_status"], stage["is_stale"]) for name, stage in it.stages().items()}
    assert found == {
        "research": ("completed", False), "writing": ("completed", False), "planning": ("completed", True),
    }  # fmt: skip
    assert it.versions("research")[-1] == ("1.2", "approved", True)
    assert it.calls() == {"Researcher": 2, "Writer": 2, "Planner": 3}
    it.call("POST", f"projects/{it.project}/stages/planning/roll-back", 202)
    it.wait_until(planning="review")
    assert it.calls() == {"Researcher": 2, "Writer": 2, "Planner": 4}
    assert it.versions("planning")[-1] == ("3.0", "review", True)
    it.decide("planning", "approved")
    it.wait_until(planning="completed")
    assert not any(stage["is_stale"] for stage in it.stages().values())
    assert it.runs() == 2 + 2 + 3
    assert not any(stage["is_stale"] for stage in fork.stages().values()), "a fork stands on its own"
