"""Whole projects by an outside client that has nothing but the API, on the portal's real processes.

Providers are played by the fake server. What is said of each project holds after it has come to its end.
"""

import json
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.deadlines import wait_for
from tests.fakes.llm import FakeLLM
from tests.stack import Stack

pytestmark = pytest.mark.slow

MODELS = ("gpt-4", "claude-3", "deepseek-coder", "llama-3", "gemini-pro")
COMPANY = {
    "requirement": "Product Manager",
    "design": "Architect",
    "planning": "Project Manager",
    "development": "Engineer",
    "testing": "QA Engineer",
}
CREW = {"research": "Researcher", "writing": "Writer", "planning": "Planner"}


@dataclass
class Client:
    """An outside client and its project: what it asks for, and what the WebSocket told it."""

    stack: Stack
    project: str = ""
    seen: list[dict[str, Any]] = field(default_factory=list)
    closed: int | None = None

    def ask(self, method: str, path: str, body: Any = None, *, expect: int = 200) -> Any:
        answer = self.stack.client().request(method, f"/api/{path}", json=body)
        assert answer.status_code == expect, f"{method} {path}: {answer.status_code} {answer.text}\n{self.stack.logs()}"
        return answer.json()

    def create(self, **body: Any) -> None:
        self.project = self.ask("POST", "projects", body, expect=201)["id"]
        opened = self.stack.watch_project(self.project)

        def watch() -> None:
            with opened as socket:
                for frame in socket:
                    self.seen.append(json.loads(frame))
                self.closed = socket.close_code

        self.watching = threading.Thread(target=watch, daemon=True)
        self.watching.start()

    def stages(self) -> dict[str, dict[str, Any]]:
        rows = self.ask("GET", f"projects/{self.project}/stages")["results"]
        return {row["stage_name"]: row for row in rows}

    def work(self, stage: str) -> list[dict[str, Any]]:
        """Start a stage and wait for what it makes."""
        started = self.ask("PUT", f"projects/{self.project}/stages/{stage}/start", {})
        assert started["execution_id"]
        return self.made(stage)

    def made(self, stage: str) -> list[dict[str, Any]]:
        def in_review() -> bool:
            found = self.stages()[stage]
            assert found["stage_status"] not in {"failed", "blocked"}, f"{found}\n{self.stack.logs()}"
            return bool(found["stage_status"] == "review")

        wait_for(in_review, f"{stage} is in review", on_timeout=self.stack.logs)
        path = f"projects/{self.project}/stages/{stage}/deliverables?is_latest=true"
        return list(self.ask("GET", path)["results"])

    def approve(self, deliverables: list[dict[str, Any]]) -> None:
        for row in deliverables:
            body = {"status": "approved", "reviewed_by_role": "Owner", "sha256": row["sha256"]}
            approved = self.ask("PUT", f"deliverables/{row['id']}/review", body)
            assert (approved["status"], approved["approved_by_role"]) == ("approved", "Owner")

    def readers(self, deliverable: dict[str, Any]) -> set[str]:
        """The roles that read a deliverable, by its access log."""
        rows = self.ask("GET", f"deliverables/{deliverable['id']}/access-log?access_type=read")["results"]
        return {row["accessed_by_role"] for row in rows} - {""}

    def finished(self) -> None:
        wait_for(lambda: self.closed is not None, "the WebSocket closes", on_timeout=self.stack.logs)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="portal-projects-") as folder, FakeLLM() as fake:
        Path(folder).chmod(0o711)
        with Stack(Path(folder) / "data", llm_url=fake.url, max_runs=3) as running:
            running.reach(*MODELS)
            yield running


@pytest.fixture(scope="module")
def shop(stack: Stack) -> Client:
    """A MetaGPT project through its five stages."""
    client = Client(stack)
    client.create(name="Modern E-commerce Platform", selected_ai="meta-gpt", project_type="web_app")
    mapped = {
        "Product Manager": "gpt-4",
        "Architect": "claude-3",
        "Engineer": "deepseek-coder",
        "QA Engineer": "llama-3",
    }
    body = {"mappings": [{"role_name": role, "llm_model": model} for role, model in mapped.items()]}
    rows = client.ask("POST", f"projects/{client.project}/role-llm-mapping", body)["mappings"]
    found = {row["role_name"]: row["llm_model"] for row in rows}
    assert found | mapped == found
    assert found["Project Manager"]
    for stage in COMPANY:
        client.approve(client.work(stage))
    client.finished()
    return client


@pytest.fixture(scope="module")
def health(stack: Stack) -> Client:
    """A CrewAI project through its three stages, of which two go side by side."""
    client = Client(stack)
    client.create(
        name="Health Tracking Mobile App",
        selected_ai="crew-ai",
        project_type="mobile_app",
        target_audience="People who run for their health",
        requirement="An app that keeps a diary of runs.",
    )
    body = {
        "mappings": [
            {"role_name": "Researcher", "llm_model": "gemini-pro"},
            {"role_name": "Writer", "llm_model": "gpt-4"},
            {"role_name": "Planner", "llm_model": "claude-3"},
        ]
    }
    client.ask("POST", f"projects/{client.project}/role-llm-mapping", body)
    client.ask("POST", f"projects/{client.project}/start", expect=202)
    for stage in ("research", "writing"):
        client.made(stage)
    assert client.stages()["planning"]["stage_status"] == "pending"
    for stage in ("research", "writing"):
        client.approve(client.made(stage) if client.stages()[stage]["stage_status"] == "review" else [])
    client.approve(client.work("planning"))
    client.finished()
    return client


def check_events(client: Client, roles: dict[str, str], deliverables: int) -> None:
    """What the WebSocket told: each stage's start and end once, in one order without gaps, then the end."""
    assert client.closed == 1000
    assert [event["seq"] for event in client.seen] == list(range(1, len(client.seen) + 1))
    kinds = Counter(event["type"] for event in client.seen)
    assert kinds["stage_started"] == kinds["stage_completed"] == len(roles)
    assert kinds["deliverable_created"] == kinds["deliverable_reviewed"] == deliverables
    started = {
        event["data"]["stage_name"]: event["data"]["responsible_role"]
        for event in client.seen
        if event["type"] == "stage_started"
    }
    assert started == roles
    for event in client.seen:
        if event["type"] == "deliverable_created":
            assert event["data"].keys() >= {"deliverable_type", "title", "created_by_role"}
    assert (client.seen[-1]["type"], client.seen[-1]["data"]["status"]) == ("status", "completed")


def check_analytics(client: Client, roles: dict[str, str], deliverables: int) -> dict[str, Any]:
    numbers = client.ask("GET", f"projects/{client.project}/analytics")
    assert numbers["progress_percentage"] == 100
    assert (numbers["stages_completed"], numbers["total_stages"]) == (len(roles), len(roles))
    assert numbers["deliverables_created"] == deliverables
    assert numbers["average_stage_duration"].endswith(" days")
    assert set(numbers["role_activity"]) == set(roles.values())
    assert all(row["deliverables"] >= 1 for row in numbers["role_activity"].values())
    return dict(numbers)


def runs_of(client: Client) -> list[dict[str, Any]]:
    return list(client.ask("GET", f"projects/{client.project}/executions")["results"])


def test_a_crew_works_side_by_side_and_brings_it_together(health: Client) -> None:
    project = health.ask("GET", f"projects/{health.project}")
    assert (project["status"], project["progress_percentage"]) == ("completed", 100)
    runs = runs_of(health)
    assert Counter(run["status"] for run in runs) == {"completed": 3}
    assert {run["engine"] for run in runs} == {"crewai"}
    rows = health.ask("GET", f"projects/{health.project}/deliverables")["results"]
    by_type = {row["deliverable_type"]: row for row in rows}
    assert {kind: row["llm_model"] for kind, row in by_type.items()} == {
        "report": "gemini-pro",
        "document": "gpt-4",
        "plan": "claude-3",
    }
    assert health.readers(by_type["report"]) == health.readers(by_type["document"]) == {"Planner"}
    check_events(health, CREW, deliverables=3)
    numbers = check_analytics(health, CREW, deliverables=3)
    models = {row["llm_model"]: row["approved"] for row in numbers["models"]}
    assert models == {"gemini-pro": 1, "gpt-4": 1, "claude-3": 1}


@pytest.mark.metagpt
def test_a_company_works_through_its_stages(shop: Client) -> None:
    project = shop.ask("GET", f"projects/{shop.project}")
    assert (project["status"], project["progress_percentage"]) == ("completed", 100)
    runs = runs_of(shop)
    assert Counter(run["status"] for run in runs) == {"completed": 5}
    assert {run["engine"] for run in runs} == {"metagpt"}
    [requirement] = shop.ask("GET", f"projects/{shop.project}/deliverables?type=requirement")["results"]
    assert requirement["llm_model"] == "gpt-4"
    # Each later role has read it, and what lies between.
    assert shop.readers(requirement) == set(COMPANY.values()) - {"Product Manager"}
    rows = shop.ask("GET", f"projects/{shop.project}/deliverables?is_latest=true")["results"]
    by_type = {row["deliverable_type"]: row for row in rows}
    assert set(by_type) >= {"requirement", "design_doc", "architecture", "task_plan", "code", "test_plan"}
    assert shop.readers(by_type["code"]) == {"QA Engineer"}
    assert "checks" in by_type["code"]["metadata"]
    for kind, model in {"architecture": "claude-3", "code": "deepseek-coder", "test_plan": "llama-3"}.items():
        assert by_type[kind]["llm_model"] == model
    check_events(shop, COMPANY, deliverables=len(rows))
    check_analytics(shop, COMPANY, deliverables=len(rows))


@pytest.mark.metagpt
def test_admins_see_both(shop: Client, health: Client) -> None:
    root = shop.stack.client("root")
    board = root.get("/api/admin/dashboard").json()
    assert (board["total_projects"], board["completed_projects"], board["active_projects"]) == (2, 2, 0)
    assert board["total_deliverables"] >= 9
    found = root.get("/api/admin/projects?ordering=name").json()["results"]
    assert [row["name"] for row in found] == ["Health Tracking Mobile App", "Modern E-commerce Platform"]
    assert shop.stack.client("ann").get("/api/admin/dashboard").status_code == 403
