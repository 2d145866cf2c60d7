"""What a person does first, in a real browser: sign in, edit a task, run, watch, read, and stop another run."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Tab
from tests.browser.steps import sign_in
from tests.deadlines import DEADLINE, wait_for
from tests.factories.accounts import PASSWORD
from tests.fakes.llm import FakeLLM
from tests.stack import Stack

pytestmark = [pytest.mark.browser, pytest.mark.slow]
expect.set_options(timeout=DEADLINE * 1000)


@pytest.fixture(scope="module")
def crew(stack: Stack) -> str:
    # An answer of 120 words, one each 50 ms: slow enough to be watched.
    crews = {"Tea tasters": {"tasks": 2, "mode": "long-120@50", "inputs": ["topic"], "description": "Taste {topic}."}}
    return stack.make_crews(crews)["Tea tasters"]


def start_run(page: Page, crew: str, topic: str) -> None:
    page.goto(f"/crews/{crew}/run")
    page.get_by_label("topic").fill(topic)
    page.get_by_role("main").get_by_role("button", name="Run", exact=True).click()
    expect(page).to_have_url(re.compile(r"/runs/[0-9a-f-]{36}$"))


def status(page: Page, text: str) -> None:
    expect(page.get_by_role("status").filter(has_text=text)).to_be_visible()


def streamed(page: Page) -> str:
    texts = page.get_by_label("Text as it is written").all_inner_texts()
    return texts[0] if texts else ""


def test_a_wrong_password_is_refused(tab: Tab) -> None:
    page = tab.page
    page.goto("/crews")
    page.get_by_label("Username").fill("ann")
    page.get_by_label("Password").fill("not it")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("You cannot sign in with this.")).to_be_visible()
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_url(re.compile("/crews$"))  # where they wanted to go


def test_from_sign_in_to_a_result_and_a_stop(tab: Tab, stack: Stack, fake_llm: FakeLLM, crew: str) -> None:
    page = tab.page
    sign_in(page)

    # Edit a task, in place.
    page.get_by_role("navigation").get_by_role("link", name="Crews").first.click()
    page.get_by_role("link", name="Tea tasters", exact=True).click()
    page.get_by_role("link", name="Edit Task 1").click()
    page.get_by_label("Description").fill("Taste {topic} slowly, from a white cup.")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("button", name="Save")).to_have_count(0)
    expect(page.get_by_role("article").filter(has_text="from a white cup")).to_be_visible()
    page.reload()
    expect(page.get_by_role("article").filter(has_text="from a white cup")).to_be_visible()

    # Run it, and watch the text as it is written.
    page.get_by_role("main").get_by_role("link", name="Run", exact=True).click()
    page.get_by_label("topic").fill("oolong")
    page.get_by_role("main").get_by_role("button", name="Run", exact=True).click()
    expect(page).to_have_url(re.compile(r"/runs/[0-9a-f-]{36}$"))
    status(page, "Running")
    lengths = {0}

    def grew_three_times() -> bool:
        lengths.add(len(streamed(page)))
        return len(lengths) > 3

    wait_for(grew_three_times, "the text grows as it is written", on_timeout=lambda: str(lengths))
    expect(page.get_by_role("status").filter(has_text="Running")).to_be_visible()

    # Read the result; it is there after a reload too.
    status(page, "Completed")
    result = page.get_by_role("region", name="Result")
    expect(result).to_contain_text("All work and no play")
    page.reload()
    status(page, "Completed")
    expect(result).to_contain_text("All work and no play")
    asked = [str(entry.body["messages"]) for entry in fake_llm.ledger]
    assert any("Taste oolong slowly, from a white cup." in messages for messages in asked)

    # Stop another run.
    start_run(page, crew, "sencha")
    status(page, "Running")
    wait_for(lambda: streamed(page), "the first words")
    page.get_by_role("button", name="Stop").click()
    status(page, "Stopped")
    expect(page.get_by_text("Stopped by ann")).to_be_visible()
    execution = page.url.rsplit("/", 1)[-1]
    assert stack.execution(execution)["error_code"] == "stopped_by_user"
