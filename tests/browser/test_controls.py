"""What every page shares: menus on a phone, the focus and what was typed over a refresh, copying, faulty forms."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Tab
from tests.browser.steps import sign_in
from tests.deadlines import DEADLINE
from tests.stack import Stack

pytestmark = [pytest.mark.browser, pytest.mark.slow]
expect.set_options(timeout=DEADLINE * 1000)


@pytest.fixture(scope="module")
def made(stack: Stack) -> dict[str, str]:
    """Ids of a project in review, and of a crew that talks for a while."""
    crews = stack.make_crews({"Talking herbs": {"tasks": 2, "mode": "long-600@500"}})
    return stack.run_module("tests.browser.project_data") | {"crew": crews["Talking herbs"]}


def outside(page: Page) -> list[str]:
    """Open each menu of the page in turn; those whose panel does not lie within the width of the window."""
    found = []
    for menu in page.locator("details[data-menu]:visible").all():
        menu.locator("summary").click()
        panel = menu.locator(".menu-panel")
        expect(panel).to_be_visible()
        box = panel.bounding_box()
        assert box is not None
        if box["x"] < 0 or box["x"] + box["width"] > page.viewport_size["width"]:  # type: ignore[index]
            found.append(f"{page.url}: {menu.locator('summary').inner_text()} {box}")
        page.keyboard.press("Escape")
        expect(panel).to_be_hidden()
    return found


def test_menus_open_within_the_window_of_a_phone(tab: Tab, stack: Stack, made: dict[str, str]) -> None:
    page = tab.page
    run = stack.kickoff(made["crew"])
    stack.wait_for_status(run, "running")
    sign_in(page, "root")
    found = []
    for address in (f"/projects/{made['project']}", f"/runs/{run}", f"/crews/{made['crew']}", "/settings/audit"):
        page.goto(address)
        for width in (320, 390):
            page.set_viewport_size({"width": width, "height": 800})
            expect(page.locator(".page-head [data-menu] > summary").last).to_be_visible()
            found += outside(page)
    stack.request_stop(run)
    assert found == []


def revise(stack: Stack, deliverable: str, content: str) -> str:
    """A colleague makes another version of it, which stands for a decision in its place; returns its id."""
    answer = stack.client("root").patch(f"/api/deliverables/{deliverable}", json={"content": content})
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def test_what_was_typed_over_a_version_is_not_taken_for_the_next(tab: Tab, stack: Stack) -> None:
    made = stack.run_module("tests.browser.project_data")
    page = tab.page
    sign_in(page)
    page.goto(f"/projects/{made['project']}")
    gate = page.get_by_role("region", name="“Design” waits for a decision")
    gate.get_by_text("Edit, then approve").click()
    text = gate.get_by_label("The text that you approve")
    text.fill("# Mine")
    second = revise(stack, made["design"], "# Theirs")
    expect(gate).to_contain_text("1.1")
    expect(text).to_have_value("# Mine")
    expect(text).to_be_focused()
    gate.get_by_role("button", name="Approve this text").click()

    # Far down the page: who sent it is taken to what is wrong with it.
    fault = gate.get_by_role("alert")
    expect(fault).to_contain_text("This is not what you have read")
    expect(fault).to_be_focused()
    expect(fault).to_be_in_viewport()
    expect(text).to_have_value("# Mine")
    revise(stack, second, "# Theirs again")
    expect(gate).to_contain_text("1.2")
    expect(text).to_have_value("# Mine")


def test_a_refresh_leaves_the_focus_and_what_is_open(tab: Tab, stack: Stack, made: dict[str, str]) -> None:
    page = tab.page
    sign_in(page)
    page.goto(f"/projects/{made['project']}")
    gate = page.get_by_role("region", name="“Development” waits for a decision")
    gate.get_by_text("What was found").click()
    stage = page.locator("#stage-design")
    before = stage.get_attribute("data-version")
    more = stage.get_by_label("More about Design")
    more.click()
    revise(stack, made["design"], "# Other beds")
    expect(stage).not_to_have_attribute("data-version", before or "")
    expect(more).to_be_focused()
    expect(stage.get_by_role("link", name="Gate and instructions…")).to_be_visible()

    title = gate.get_by_role("link", name="Herb code")
    title.focus()
    approval = stack.client("root").put(f"/api/deliverables/{made['code']}/review", json={"status": "approved"})
    assert approval.status_code == 200, approval.text
    expect(gate).to_contain_text("1 approval missing")
    expect(title).to_be_focused()
    expect(gate.get_by_text("nothing uses json")).to_be_visible()


def test_the_list_of_projects_is_replaced_only_by_news(tab: Tab, stack: Stack, made: dict[str, str]) -> None:
    page = tab.page
    sign_in(page)
    page.clock.install()
    page.goto("/projects")
    page.evaluate(
        "document.addEventListener('htmx:afterOnLoad', () => document.body.toggleAttribute('data-answered', true))"
    )
    page.evaluate("document.getElementById('project-cards').dataset.shown = 'first'")
    link = page.locator(f"#project-{made['project']}")
    link.focus()
    page.clock.run_for(10_000)
    expect(page.locator("body[data-answered] [data-shown=first]")).to_be_visible()
    expect(link).to_be_focused()

    renamed = stack.client().patch(f"/api/projects/{made['project']}", json={"name": "Herbs by name"})
    assert renamed.status_code == 200, renamed.text
    page.clock.run_for(10_000)
    expect(link).to_have_text("Herbs by name")
    expect(link).to_be_focused()


def test_copy_without_a_clipboard(tab: Tab, made: dict[str, str]) -> None:
    page = tab.page
    sign_in(page)
    # What a page has that came over plain http from another machine.
    page.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.goto(f"/deliverables/{made['document']}")
    copy = page.get_by_role("button", name="Copy", exact=True)
    copy.click()
    expect(page.get_by_text("Copied")).to_be_visible()
    expect(copy).to_be_focused()
    page.evaluate("document.execCommand = () => false")
    copy.click()
    expect(page.get_by_text("select the text and copy it yourself")).to_be_visible()
    page.goto("/projects")
    page.get_by_role("searchbox").focus()
    page.keyboard.press("Control+V")
    expect(page.get_by_role("searchbox")).to_have_value(re.compile("^# Goals"))


def test_the_first_faulty_field_gets_the_focus(tab: Tab, made: dict[str, str]) -> None:
    page = tab.page
    sign_in(page)
    page.goto(f"/projects/{made['project']}/edit")
    page.get_by_label("Budget").fill("-1")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_label("Budget")).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_label("Budget")).to_be_focused()
    # The same in a piece that htmx puts in place.
    page.goto(f"/crews/{made['crew']}")
    page.get_by_role("link", name="Edit Task 1").click()
    page.get_by_label("Description").fill("")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_label("Description")).to_be_focused()
    expect(page.get_by_label("Description")).to_have_attribute("aria-invalid", "true")
