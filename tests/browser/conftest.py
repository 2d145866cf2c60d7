"""A real browser on the real processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import ConsoleMessage, Page, Request, sync_playwright

from tests.deadlines import DEADLINE
from tests.stack import Stack

ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip


class Tab:
    """A page of Chromium, with what went wrong in it and what it asked other sites for."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        self.strangers: list[str] = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._request)

    def _console(self, message: ConsoleMessage) -> None:
        # Chromium also reports a form that the server refused, which is an answer like any other.
        if message.type == "error" and "status of 422" not in message.text:
            self.complaints.append(f"{message.text} {message.location}")

    def _request(self, request: Request) -> None:
        if not request.url.startswith((self.url, self.url.replace("http", "ws", 1), "data:", "blob:")):
            self.strangers.append(request.url)


# Not longer than a test: while it is open, playwright's event loop counts as running in this thread,
# which other tests' coroutines and Django would mind.
@pytest.fixture
def tab(stack: Stack, chromium_path: Path) -> Iterator[Tab]:
    """A page on a window of usual size, in English; nothing wrong may have happened in it by the end."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path, args=ARGUMENTS, timeout=DEADLINE * 1000)
        context = browser.new_context(base_url=stack.url, locale="en-GB", viewport={"width": 1280, "height": 900})
        context.set_default_timeout(DEADLINE * 1000)
        tab = Tab(context.new_page(), stack.url)
        try:
            yield tab
        finally:
            context.close()
            browser.close()
    assert tab.complaints == []
    assert tab.strangers == []
