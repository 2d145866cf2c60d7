"""Pages that others wrote work under the policy too: Django admin, Swagger UI, ReDoc, without a complaint."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Tab
from tests.browser.steps import sign_in
from tests.deadlines import DEADLINE, wait_for
from tests.stack import Stack

pytestmark = [pytest.mark.browser, pytest.mark.slow]
expect.set_options(timeout=DEADLINE * 1000)
LOGO = "https://cdn.redoc.ly/"  # ReDoc asks for its maker's logo; the policy refuses, and nothing else is missing


@pytest.fixture
def page(tab: Tab, stack: Stack) -> Page:
    stack.make_crews({"Policed": {}})
    sign_in(tab.page, "root")
    return tab.page


def test_django_admin(page: Page) -> None:
    page.goto("/admin/")
    expect(page.get_by_role("link", name="Crews", exact=True).first).to_be_visible()
    page.goto("/admin/crews/crew/?q=Policed")
    row = page.get_by_role("link", name="Policed").first
    expect(row).to_be_visible()
    # Alpine works: choosing a row offers what can be done with it.
    actions = page.locator("#changelist-actions select")
    expect(actions).to_be_hidden()
    page.locator("input.action-select").first.check()
    expect(actions).to_be_visible()
    row.click()
    name = page.get_by_label("Name", exact=False).first
    expect(name).to_have_value("Policed")
    page.get_by_role("button", name=re.compile("^Save$")).first.click()
    expect(page.get_by_text("was changed successfully").first).to_be_visible()
    for address in (
        "crews/llmprovider/add/",
        "crews/llmmodel/embedded/change/",
        "accounts/user/",
        "executions/execution/",
    ):
        answer = page.goto(f"/admin/{address}")
        assert answer is not None
        assert answer.status < 500
        page.wait_for_load_state("networkidle")
    # The colours are there: a primary button is no plain one.
    page.goto("/admin/crews/crew/add/")
    button = page.get_by_role("button", name=re.compile("^Save$")).first
    assert button.evaluate("e => getComputedStyle(e).backgroundColor") not in {"rgba(0, 0, 0, 0)", "rgb(255, 255, 255)"}


def test_swagger_ui(page: Page) -> None:
    page.goto("/api/docs/")
    expect(page.locator(".opblock-summary-path").first).to_be_visible()
    operation = page.locator(".opblock-summary-path").filter(has_text=re.compile("^\\W*/api\\W*/crews$")).first

    def found() -> bool:
        page.mouse.wheel(0, 400)  # only what is in view is drawn
        return operation.is_visible()

    wait_for(found, "the operations of crews", every=0.2)
    operation.click()
    page.get_by_role("button", name="Try it out").first.click()
    page.get_by_role("button", name="Execute").first.click()
    expect(page.locator(".responses-table.live-responses-table").get_by_text("200").first).to_be_visible()


def test_redoc(tab: Tab, page: Page) -> None:
    page.goto("/api/redoc/")
    expect(page.get_by_role("heading", name="List agents").first).to_be_visible()
    page.get_by_placeholder("Search...").fill("kickoff")
    expect(page.locator("[role=search] [role=menu]").first).to_contain_text("kickoff")
    page.wait_for_load_state("networkidle")
    # Styled by its own style element, under this page's nonce or hash.
    assert page.locator("#redoc h1").first.evaluate("e => getComputedStyle(e).fontFamily").startswith("Montserrat")
    refused = [line for line in tab.complaints if LOGO in line]
    assert len(refused) <= 1
    tab.complaints[:] = [line for line in tab.complaints if LOGO not in line]
    tab.strangers[:] = [url for url in tab.strangers if not url.startswith(LOGO)]
