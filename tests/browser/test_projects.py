"""A project from the template to its deliverables, in a real browser: make, watch, send back, approve, read."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Tab
from tests.browser.steps import sign_in
from tests.deadlines import DEADLINE, wait_for
from tests.stack import Stack

pytestmark = [pytest.mark.browser, pytest.mark.slow]
expect.set_options(timeout=DEADLINE * 1000)
ROLES = ("Researcher", "Writer", "Planner")


@pytest.fixture(scope="module")
def model(stack: Stack) -> str:
    """A model that writes 120 words, one each 50 ms: slow enough to be watched."""
    stack.run_module("tests.browser.project_data")
    stack.make_crews({"For the model": {"mode": "long-120@50"}})
    return "fake-long-120at50"


def gate(page: Page, stage: str):  # type: ignore[no-untyped-def]
    return page.get_by_role("region", name=f"“{stage}” waits for a decision")


def test_from_a_template_to_approved_deliverables(tab: Tab, stack: Stack, model: str) -> None:
    page = tab.page
    sign_in(page)

    # The wizard: a template, a name, a model for each role, and start.
    page.get_by_role("navigation").get_by_role("link", name="Projects").first.click()
    page.get_by_role("main").get_by_role("link", name="New project").first.click()
    page.get_by_role("link", name="Mobile app", exact=True).click()
    page.get_by_label("Name", exact=True).fill("Running herbs")
    page.get_by_label("Requirement").fill("An app that tells runners which herbs grow beside the way.")
    for role in ROLES:
        page.get_by_label(f"Model of {role}").select_option(model)
    page.get_by_role("button", name="Create and start").click()
    expect(page).to_have_url(re.compile(r"/projects/[0-9a-f-]{36}$"))
    expect(page.get_by_role("heading", level=1)).to_have_text("Running herbs")

    # Research and writing go on side by side, and are written before one's eyes.
    lengths = {0}

    def grew() -> bool:
        texts = page.get_by_label("What Researcher is writing").all_inner_texts()
        lengths.add(len(texts[0]) if texts else 0)
        return len(lengths) > 3

    wait_for(grew, "the text grows as it is written", on_timeout=lambda: f"{lengths}\n{stack.logs()}")

    # Without a reload both gates appear; one is sent back and comes again in another version.
    expect(gate(page, "Research")).to_be_visible()
    expect(gate(page, "Writing")).to_be_visible()
    research = gate(page, "Research")
    expect(research).to_contain_text("All work and no play")
    research.get_by_text("Send back").first.click()
    research.get_by_label("Comments").fill("Name the herbs.")
    research.get_by_role("button", name="Send back").click()
    expect(page.get_by_text("Your decision was taken.")).to_be_visible()
    expect(gate(page, "Research")).to_contain_text("1.1")

    # Approve both; the plan follows by itself, from their work.
    gate(page, "Research").get_by_role("button", name="Approve").click()
    gate(page, "Writing").get_by_role("button", name="Approve").click()
    expect(gate(page, "Plan")).to_be_visible()
    gate(page, "Plan").get_by_role("button", name="Approve").click()
    expect(page.get_by_role("status").filter(has_text="Completed").first).to_be_visible()

    # Read one: who made it, its versions, and what changed.
    page.locator("#stage-research").get_by_role("link", name=re.compile("[Rr]eport|research")).first.click()
    expect(page.get_by_role("heading", name="Who made it")).to_be_visible()
    expect(page.get_by_role("main")).to_contain_text(model)
    page.get_by_role("link", name="Compare").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("From version 1.0 to 1.1")


def test_an_edit_that_was_overtaken_is_kept_and_told(tab: Tab, stack: Stack) -> None:
    made = stack.run_module("tests.browser.project_data")
    page = tab.page
    sign_in(page)
    page.goto(f"/deliverables/{made['document']}/edit")
    page.get_by_label("Content").fill("# Mine")
    other = stack.client("root").patch(f"/api/deliverables/{made['document']}", json={"content": "# Theirs"})
    assert other.status_code == 200, other.text
    page.get_by_role("button", name="Save as a new version").click()
    expect(page.get_by_role("alert").first).to_contain_text("Version 1.1 was made meanwhile")
    expect(page.get_by_label("Content")).to_have_value("# Mine")
