"""What people do on the way to what a test is about."""

import re

from playwright.sync_api import Page, expect

from tests.factories.accounts import PASSWORD


def sign_in(page: Page, person: str = "ann") -> None:
    """Sign in by the form, as one of the stack's people."""
    page.goto("/")
    expect(page).to_have_title(re.compile("Sign in"))
    page.get_by_label("Username").fill(person)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("navigation").get_by_role("link", name="Crews").first).to_be_visible()
