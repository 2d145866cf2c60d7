"""Entering, and being shown out, in a real browser: the second step, keys, and a live page whose session has ended."""

import re
import time

import pyotp
import pytest
from playwright.sync_api import Page, WebSocketRoute, expect

from tests.browser.conftest import Tab
from tests.browser.steps import sign_in
from tests.deadlines import DEADLINE
from tests.factories.accounts import PASSWORD
from tests.stack import Stack

pytestmark = [pytest.mark.browser, pytest.mark.slow]
expect.set_options(timeout=DEADLINE * 1000)


@pytest.fixture(scope="module")
def crews(stack: Stack) -> dict[str, str]:
    return stack.make_crews({"Asking tea": {"asks": [1]}})


def sign_out(page: Page) -> None:
    page.get_by_role("group").filter(has_text="Sign out").last.locator("summary").click()
    page.get_by_role("button", name="Sign out").locator("visible=true").click()
    expect(page).to_have_title(re.compile("Sign in"))


def test_the_second_factor_is_set_up_asked_for_and_taken_away(tab: Tab, stack: Stack) -> None:
    page = tab.page
    sign_in(page)
    page.goto("/profile/second-factor")
    page.get_by_role("button", name="Set it up").click()
    totp = pyotp.TOTP(page.locator("#factor-secret").inner_text())
    expect(page.locator(".setup svg.segno")).to_be_visible()
    page.get_by_label("Code").fill(totp.now())
    page.get_by_role("button", name="Switch it on").click()
    codes = page.locator("#recovery-codes li").all_inner_texts()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    assert download.value.path().read_text().split() == codes
    page.get_by_role("link", name="I have kept them").click()
    expect(page.get_by_text(f"{len(codes)} recovery codes are left")).to_be_visible()

    sign_out(page)
    page.goto("/sign-in?next=/profile/second-factor")
    page.get_by_label("Username").fill("ann")
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Second step")).to_be_visible()
    expect(page.get_by_label("Code")).to_be_focused()
    page.keyboard.type("000000")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("not right")
    # The code of the next half minute: the one of this may have been used to set it up.
    page.get_by_label("Code").fill(totp.at(time.time() + 30))
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("/profile/second-factor$"))

    page.get_by_text("Take it away").click()
    page.get_by_label("Code").locator("visible=true").fill(codes[0])
    page.get_by_role("button", name="Take the second factor away").click()
    expect(page.get_by_text("No second factor yet")).to_be_visible()


def test_a_new_key_is_made_without_leaving_the_page_and_shown_once(tab: Tab, stack: Stack) -> None:
    page = tab.page
    sign_in(page)
    page.goto("/profile/keys")
    page.get_by_label("Name").fill("Browser")
    page.get_by_role("checkbox", name=re.compile("^Run")).check()
    page.get_by_role("button", name="Create the key").click()
    made = page.locator("#new-key")
    expect(made).to_contain_text("ap_")
    text = made.inner_text()
    page.reload()
    expect(page.get_by_role("heading", name="API keys")).to_be_visible()
    assert text not in page.content()
    page.get_by_role("link", name="Revoke Browser").click()
    page.get_by_role("button", name="Revoke the key").click()
    expect(page.get_by_text("was revoked")).to_be_visible()


def test_a_live_page_whose_session_ended_says_so_and_comes_back(tab: Tab, stack: Stack, crews: dict[str, str]) -> None:
    page = tab.page
    sign_in(page)
    run = stack.kickoff(crews["Asking tea"])
    stack.wait_for_status(run, "waiting")
    sockets: list[str] = []
    page.on("websocket", lambda socket: sockets.append(socket.url))
    page.goto(f"/runs/{run}")
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    # Somewhere else the same person ends all other sessions.
    elsewhere = stack.client()
    ours = [row for row in elsewhere.get("/api/sessions").json()["results"] if not row["is_current"]]
    for row in ours:
        elsewhere.delete(f"/api/sessions/{row['id']}").raise_for_status()
    notice = page.get_by_role("alert").filter(has_text="You are signed out")
    expect(notice).to_be_visible()
    expect(notice).to_be_focused()
    expect(page.get_by_text("Live", exact=True)).to_be_hidden()
    assert len(sockets) == 1
    notice.get_by_role("link", name="Sign in").click()
    page.get_by_label("Username").fill("ann")
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(f"/runs/{run}$"))
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    stack.request_stop(run)


@pytest.mark.parametrize("code", [4403, 4404])
def test_a_live_page_that_may_no_longer_be_seen_says_so(
    tab: Tab, stack: Stack, crews: dict[str, str], code: int
) -> None:
    page = tab.page
    sign_in(page)
    run = stack.kickoff(crews["Asking tea"])
    opened: list[WebSocketRoute] = []

    def refuse(socket: WebSocketRoute) -> None:
        opened.append(socket)
        socket.close(code=code)

    page.route_web_socket(re.compile("/ws/"), refuse)
    page.goto(f"/runs/{run}")
    expect(page.get_by_role("alert").filter(has_text="You may no longer see this")).to_be_visible()
    assert len(opened) == 1
    stack.request_stop(run)


def test_a_list_asked_for_after_the_session_ended_says_so_too(tab: Tab, stack: Stack) -> None:
    page = tab.page
    sign_in(page)
    page.goto("/crews")
    page.context.clear_cookies()
    page.get_by_role("searchbox").fill("tea")
    expect(page.get_by_role("alert").filter(has_text="You are signed out")).to_be_visible()
    expect(page).to_have_url(re.compile("/crews$"))
