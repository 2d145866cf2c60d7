"""Nobody is kept out: axe-core finds nothing serious on the pages of every day, at any width, light or dark."""

from collections.abc import Iterator, Mapping
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.conftest import Tab
from tests.browser.steps import sign_in
from tests.deadlines import DEADLINE
from tests.stack import Stack

pytestmark = [pytest.mark.browser, pytest.mark.slow]
expect.set_options(timeout=DEADLINE * 1000)
WIDTHS = {"desktop": 1280, "phone": 390}
Theme = Literal["light", "dark"]
KEEPS_PEOPLE_OUT = {"serious", "critical"}


@pytest.fixture(scope="module")
def pages(stack: Stack) -> Iterator[Mapping[str, str]]:
    """Address and heading of every page that is looked at; the run has ended, with a result."""
    crews = {"Herb growers": {"tasks": 2, "agents": 2, "inputs": ["topic"], "description": "Describe {topic}."}}
    crew = stack.make_crews(crews)["Herb growers"]
    run = stack.kickoff(crew, inputs={"topic": "sage"})
    task = stack.wait_for_status(run, "completed")["tasks"][-1]["task_id"]
    asking = stack.kickoff(stack.make_crews({"Careful growers": {"asks": [1]}})["Careful growers"])
    stack.wait_for_status(asking, "waiting")
    question = stack.client().get(f"/api/executions/{asking}/approvals").json()["results"][0]["id"]
    root = stack.client("root")
    ann = stack.client().get("/api/me").json()["id"]
    bot = root.post("/api/admin/users", json={"username": "herb-bot", "role": "user", "is_service": True}).json()["id"]
    key = {"user_id": bot, "name": "Herbs", "scopes": ["read"]}
    key_id = root.post("/api/api-keys", json=key).json()["id"]
    own_key = root.post("/api/api-keys", json={"name": "Mine", "scopes": ["read"]}).json()["id"]
    entry = root.get("/api/admin/audit?action=key.created").json()["results"][0]["id"]
    made = stack.run_module("tests.browser.project_data")
    project, code = f"/projects/{made['project']}", f"/deliverables/{made['code']}"
    stage = f"{project}/stages/{made['stage']}"
    yield {
        "/projects": "Projects",
        "/projects/new": "New project",
        "/projects/create?template=web_app": "New project",
        project: "Herb list",
        f"{project}/deliverables": "Deliverables",
        f"{project}/numbers": "In numbers",
        f"{project}/edit": "Herb list",
        f"{project}/models": "Who works",
        f"{project}/cancel": "Cancel",
        f"{project}/save-template": "Save as a template",
        stage: "Gate",
        f"{stage}/roll-back": "Go back",
        f"{stage}/complete": "Close",
        code: "Herb code",
        f"{code}/edit": "Edit",
        f"{code}/share": "Show it to somebody",
        f"{code}/changes": "Changes",
        f"{code}/accesses": "Who looked",
        f"/deliverables/{made['document']}": "Herb requirements",
        "/templates": "Templates",
        "/templates/web_app": "Web application",
        "/crewai": "CrewAI",
        "/metagpt": "MetaGPT",
        "/": "Hello",
        "/crews": "Crews",
        f"/crews/{crew}": "Herb growers",
        f"/crews/{crew}/run": "Herb growers",
        f"/runs/{run}": "Herb growers",
        "/models": "Models",
        "/settings/providers": "Providers",
        "/settings/budgets": "Budgets",
        "/settings/budgets/new": "Add a budget",
        "/profile": "Profile",
        "/profile/password": "Profile",
        "/profile/second-factor": "Profile",
        "/profile/keys": "Profile",
        f"/profile/keys/{own_key}/revoke": "Profile",
        "/profile/sessions": "Profile",
        "/profile/invitations": "Profile",
        "/settings/users": "People",
        "/settings/users/new": "New person",
        "/settings/users/new-service": "New service account",
        f"/settings/users/{ann}": "ann",
        f"/settings/users/{ann}/deactivate": "Deactivate",
        f"/settings/users/{ann}/hand-on": "Hand on",
        f"/settings/users/{bot}": "herb-bot",
        f"/settings/users/{bot}/keys/{key_id}/revoke": "Revoke",
        "/settings/audit": "Audit log",
        f"/settings/audit/{entry}": "key.created",
        f"/runs/{asking}": "Careful growers",
        "/approvals": "Required actions",
        f"/approvals/{question}": "Task 1",
        f"/runs/{run}/fork?task={task}": "Fork from",
        f"/runs/compare?a={run}&b={asking}": "Compare runs",
        "/runs/compare": "Compare runs",
        "/runs": "Runs",
        "/runs/stop-all": "Stop",
    }
    stack.request_stop(asking)


def barriers(page: Page) -> list[str]:
    """What axe-core finds on the page that keeps people out: rule, element and why, a line each."""
    found = Axe().run(page).response
    assert found["passes"], "axe-core looked at nothing"
    return [
        f"{page.url}: {violation['id']} ({violation['impact']}): {node['target']}: {node['failureSummary']}"
        for violation in found["violations"]
        if violation["impact"] in KEEPS_PEOPLE_OUT
        for node in violation["nodes"]
    ]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_keeps_people_out(tab: Tab, pages: Mapping[str, str], width: str, theme: Theme) -> None:
    page = tab.page
    page.set_viewport_size({"width": WIDTHS[width], "height": 900})
    # Colours in the middle of a transition are nobody's choice.
    page.emulate_media(color_scheme=theme, reduced_motion="reduce")
    page.goto("/sign-in")
    found = barriers(page)
    sign_in(page, "root")
    for address, heading in pages.items():
        page.goto(address)
        expect(page.get_by_role("heading", level=1).first).to_contain_text(heading)
        found += barriers(page)
    assert found == []
