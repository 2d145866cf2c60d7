"""What people decide while runs are under way, in a real browser: answer, send back, pause, fork, compare."""

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Tab
from tests.browser.steps import sign_in
from tests.deadlines import DEADLINE, wait_for
from tests.fakes.llm import FakeLLM
from tests.stack import Stack

pytestmark = [pytest.mark.browser, pytest.mark.slow]
expect.set_options(timeout=DEADLINE * 1000)


@pytest.fixture(scope="module")
def crews(stack: Stack) -> dict[str, str]:
    return stack.make_crews(
        {
            "Approved tea": {"tasks": 2, "asks": [1]},
            "Typed tea": {"tasks": 2, "asks": [1, 2]},
            "Slow tea": {"tasks": 2, "mode": "long-60@50"},
            "Forked tea": {"tasks": 2, "inputs": ["topic"], "description": "Describe {topic}."},
        }
    )


def open_run(page: Page, stack: Stack, crew: str, **body: Any) -> str:
    run = stack.kickoff(crew, **body)
    page.goto(f"/runs/{run}")
    return run


def status(page: Page, text: str) -> None:
    expect(page.get_by_role("status").filter(has_text=text).first).to_be_visible()


def test_a_question_appears_and_once_approved_the_run_goes_on(tab: Tab, stack: Stack, crews: dict[str, str]) -> None:
    page = tab.page
    sign_in(page)
    run = open_run(page, stack, crews["Approved tea"])
    question = page.get_by_role("region", name="“Task 1” asks for your answer")
    expect(question).to_be_visible()
    expect(page.get_by_role("navigation").get_by_role("link", name="Required actions").first).to_be_visible()
    # By keyboard alone: the choice that stands first is to approve.
    approve = question.get_by_role("button", name="Approve", exact=True)
    approve.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("Your answer was taken.")).to_be_visible()
    expect(page).to_have_url(re.compile(f"/runs/{run}$"))
    status(page, "Completed")
    expect(question).to_have_count(0)
    expect(page.get_by_role("listitem").filter(has_text="Approved").filter(has_text="ann").first).to_be_visible()


def test_work_is_sent_back_with_feedback_and_then_edited(
    tab: Tab, stack: Stack, fake_llm: FakeLLM, crews: dict[str, str]
) -> None:
    page = tab.page
    sign_in(page)
    run = open_run(page, stack, crews["Approved tea"])
    page.get_by_role("region", name="“Task 1” asks for your answer").get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Task 1")
    expect(page.get_by_label("What should be done differently?")).to_be_hidden()
    page.get_by_text("Send back", exact=True).first.click()
    page.get_by_label("What should be done differently?").fill("Mention the white cup.")
    page.get_by_role("button", name="Send back").click()
    expect(page.get_by_text("ann sent it back")).to_be_visible()

    # The next round comes by itself to whoever watches the run.
    page.get_by_role("link", name="To the run").click()
    question = page.get_by_role("region", name="“Task 1” asks for your answer")
    expect(question.get_by_text("Round 2")).to_be_visible()
    asked = [str(entry.body["messages"]) for entry in fake_llm.ledger]
    assert any("Mention the white cup." in messages for messages in asked)
    question.get_by_role("link").click()
    expect(page.get_by_role("region", name="Earlier rounds")).to_contain_text("Mention the white cup.")

    page.get_by_text("Edit, then approve", exact=True).click()
    text = page.get_by_label("The text that you approve")
    expect(text).not_to_have_value("")
    text.fill("My own words about tea.")
    page.get_by_role("button", name="Approve this text").click()
    expect(page.get_by_text("ann approved it with edits")).to_be_visible()
    page.goto(f"/runs/{run}")
    status(page, "Completed")
    asked = [str(entry.body["messages"]) for entry in fake_llm.ledger]
    assert any("My own words about tea." in messages for messages in asked)


def test_what_was_typed_stays_while_the_run_goes_on(tab: Tab, stack: Stack, crews: dict[str, str]) -> None:
    page = tab.page
    sign_in(page)
    run = open_run(page, stack, crews["Typed tea"])
    expect(page.get_by_role("region", name="“Task 1” asks for your answer")).to_be_visible()
    page.get_by_text("Set a limit").click()
    limit = page.get_by_label("Limit, tokens")
    limit.fill("123456")
    budget = page.get_by_role("region", name="Budget")
    used = budget.locator(".gauge").last.inner_text()
    question = stack.client().get(f"/api/executions/{run}/approvals").json()["results"][0]["id"]
    assert stack.client().post(f"/api/approvals/{question}/answer", json={"decision": "approve"}).status_code == 200
    expect(page.get_by_role("region", name="“Task 2” asks for your answer")).to_be_visible()
    expect(budget.locator(".gauge").last).not_to_have_text(used)  # rendered anew, with what task 2 used
    expect(limit).to_be_visible()
    expect(limit).to_have_value("123456")
    expect(limit).to_be_focused()
    page.get_by_role("button", name="Stop").click()
    status(page, "Stopped")


def test_a_run_is_paused_after_its_task_and_goes_on(
    tab: Tab, stack: Stack, fake_llm: FakeLLM, crews: dict[str, str]
) -> None:
    page = tab.page
    sign_in(page)
    before = len(fake_llm.ledger)
    run = open_run(page, stack, crews["Slow tea"])
    stream = page.get_by_label("Text as it is written")
    wait_for(lambda: any(stream.all_inner_texts()), "the first words")
    page.get_by_text("Pause", exact=True).click()
    page.get_by_role("button", name="After the current tasks").click()
    status(page, "Paused")
    assert [task["status"] for task in stack.execution(run)["tasks"]] == ["completed", "pending"]
    expect(page.get_by_text("it goes on after “Task 1”")).to_be_visible()
    page.get_by_role("button", name="Resume").click()
    status(page, "Completed")
    assert len(fake_llm.ledger) - before == 2  # neither task was asked for twice
    expect(page.get_by_role("heading", name="Attempt 2")).to_be_visible()
    expect(page.get_by_text("It was resumed after a pause.")).to_be_visible()


def test_a_run_is_forked_and_compared_with_its_origin(
    tab: Tab, stack: Stack, fake_llm: FakeLLM, crews: dict[str, str]
) -> None:
    page = tab.page
    sign_in(page)
    run = open_run(page, stack, crews["Forked tea"], inputs={"topic": "sencha"})
    status(page, "Completed")
    before = len(fake_llm.ledger)
    page.get_by_role("link", name="Fork from Task 2").click()
    expect(page.get_by_role("listitem").filter(has_text="Task 1")).to_contain_text("output is kept")
    expect(page.get_by_role("listitem").filter(has_text="Task 2")).to_contain_text("runs again")
    page.get_by_label("Description").fill("Describe {topic} in one word.")
    page.get_by_role("button", name="Start the fork").click()
    expect(page).to_have_url(re.compile(r"/runs/[0-9a-f-]{36}$"))
    assert not page.url.endswith(run)
    status(page, "Completed")
    expect(page.get_by_text("Kept from the run it was forked from")).to_be_visible()
    asked = [str(entry.body["messages"]) for entry in fake_llm.ledger[before:]]
    assert len(asked) == 1
    assert "Describe sencha in one word." in asked[0]

    page.get_by_label("More").click()
    page.get_by_role("link", name="Compare with its origin").click()
    expect(page.get_by_text("Left the origin, right its fork.")).to_be_visible()
    expect(page.locator("ins", has_text="in one word").first).to_be_visible()

    # The same, chosen from the list.
    page.goto("/runs")
    page.get_by_role("link", name="Compare…").click()
    boxes = page.get_by_role("checkbox")
    boxes.nth(0).check()
    boxes.nth(1).check()
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Compare runs")
    expect(page).to_have_url(re.compile(rf"a={run}"))
