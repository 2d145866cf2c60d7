"""Nothing that models or people write becomes markup: payloads in everything that is shown, in a real Chromium.

Once with the pages' own policy, and once without any, so that escaping is proven by itself. A payload is
found by what it does (a call, a dialog, a request to a stranger) and by what it leaves in the page.

Each run opens some of the pages that show them; `PORTAL_TEST_WHOLE=1` opens all.
"""

import os
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Error, Page, expect, sync_playwright

from portal.lib.markdown import SCHEMES, TAGS, render
from tests.browser.conftest import ARGUMENTS
from tests.browser.payloads import AT_ONCE, CANARY, CODE, payloads
from tests.browser.steps import sign_in
from tests.deadlines import DEADLINE, wait_for
from tests.fakes.llm import FakeLLM
from tests.stack import Stack

INIT = "window.hits = []; window.canary = n => { window.top.hits.push(n); }; window.alert = () => canary('alert');"

SOME = 24  # pages of the sample

# What no page of ours has, wherever it came from. `base` is the site's origin.
INSPECT = """(base) => {
  const NEVER = ['iframe', 'frame', 'object', 'embed', 'applet', 'base', 'math', 'marquee', 'portal', 'annotation-xml'];
  const ADDRESSES = ['href', 'xlink:href', 'src', 'srcset', 'action', 'formaction', 'data', 'poster', 'background',
    'ping', 'srcdoc'];
  const found = [];
  const say = (element, what) => found.push(`${what}: ${element.outerHTML.slice(0, 160)}`);
  const roots = [document, ...[...document.querySelectorAll('*')].map(e => e.shadowRoot).filter(Boolean)];
  for (const root of roots) for (const element of root.querySelectorAll('*')) {
    const tag = element.localName;
    if (NEVER.includes(tag)) say(element, 'element');
    const isOurs = tag === 'script' && ((element.src || '').startsWith(base) || element.type === 'application/json');
    if (tag === 'script' && !isOurs) say(element, 'script');
    if (tag === 'style' && element.textContent.includes('CANARY')) say(element, 'style');
    if (tag === 'meta' && element.httpEquiv) say(element, 'meta');
    if (tag === 'link' && !String(element.href).startsWith(base)) say(element, 'link');
    if (tag === 'use' || tag === 'animate' || tag === 'set' || tag === 'foreignObject')
      if (!element.closest('svg')?.getAttribute('class')) say(element, 'svg');
    for (const { name, value } of element.attributes) {
      if (/^on/i.test(name)) say(element, name);
      if (/^(data-)?hx-on/i.test(name)) say(element, name);
      if (/^(data-)?(hx-|ws-|sse-)|^x-|^@|^:|^ng-/i.test(name) && /canary\\(|CANARY/.test(value)
          && !/^(data-)?hx-(confirm|vals)$/.test(name)) say(element, name);
      if (name === 'style' && /CANARY|expression/.test(value)) say(element, name);
      if (ADDRESSES.includes(name)) {
        let url = null;
        try { url = new URL(value, document.baseURI); } catch { continue; }
        const links = name === 'href' && tag === 'a';
        if (!['http:', 'https:', 'mailto:', 'data:'].includes(url.protocol)) say(element, name);
        else if (url.protocol === 'data:' && tag !== 'img' && tag !== 'link') say(element, name);
        else if (!links && url.protocol.startsWith('http') && url.origin !== base) say(element, name);
        else if (links && url.origin !== base && url.protocol !== 'mailto:' && !/noopener/.test(element.rel))
          say(element, 'rel');
      }
    }
  }
  return found;
}""".replace("CANARY", re.escape(CANARY).replace("\\", "\\\\"))


@dataclass
class Watch:
    """A page, and everything in it that should not have happened."""

    page: Page
    base: str
    requests: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("dialog", self._dialog)
        self.page.on("request", self._request)
        self.page.on("console", self._console)

    def _dialog(self, dialog: Any) -> None:
        self.dialogs.append(f"{dialog.type} {dialog.message}")
        dialog.dismiss()

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self.base, self.base.replace("http", "ws", 1), "data:", "blob:")):
            self.requests.append(request.url)

    def _console(self, message: Any) -> None:
        if "Content Security Policy" in message.text:
            self.violations.append(message.text)

    def found(self) -> list[str]:
        """What the page shows now and what happened in it since the last time; every box is opened before."""
        page = self.page
        page.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
        hits = [f"called {n}" for n in page.evaluate("window.hits.splice(0)")]
        seen = hits + page.evaluate(INSPECT, self.base) + self.requests + self.dialogs + self.violations
        for happened in (self.requests, self.dialogs, self.violations):
            happened.clear()
        return seen


# --- Without a browser -----------------------------------------------------------------------------


class _Allowed(HTMLParser):
    """Looks whether a text has only what the allow-list of Markdown has."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in TAGS:
            self.wrong.append(tag)
        for name, value in attrs:
            is_link = (tag, name) == ("a", "href") and (urlsplit(value or "").scheme.lower() or "https") in SCHEMES
            is_known = (tag, name) in {("a", "title"), ("a", "rel"), ("ol", "start"), ("code", "class")}
            if not (is_link or is_known):
                self.wrong.append(f"{tag} {name}={value}")

    def handle_comment(self, data: str) -> None:
        self.wrong.append(f"<!--{data}")

    def handle_decl(self, decl: str) -> None:
        self.wrong.append(f"<!{decl}")


def test_markdown_leaves_only_what_is_allowed() -> None:
    every = payloads()
    assert len(every) >= 500
    assert len(set(every)) == len(every)
    for text in [*every, "\n\n".join(every), " ".join(every)]:
        parser = _Allowed()
        parser.feed(render(text))
        parser.close()
        assert parser.wrong == [], text
    assert 'href="https://a.example/"' in render("[x](https://a.example/)")


# --- With it ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pages(stack: Stack) -> list[str]:
    """Pages that show payloads: all, or some."""
    every = stack.run_module("tests.browser.stored")
    return every if os.environ.get("PORTAL_TEST_WHOLE") else random.sample(every, min(SOME, len(every)))


@pytest.fixture
def browser(chromium_path: Any) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path, args=ARGUMENTS, timeout=DEADLINE * 1000)
        yield browser
        browser.close()


def context(browser: Browser, stack: Stack, *, has_policy: bool) -> BrowserContext:
    context = browser.new_context(base_url=stack.url, locale="en-GB", bypass_csp=not has_policy)
    context.set_default_timeout(DEADLINE * 1000)
    context.add_init_script(INIT)
    # Nothing of this goes anywhere; the request is seen all the same.
    context.route(re.compile(re.escape(CANARY)), lambda route: route.abort())
    return context


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize("has_policy", [True, False], ids=["with the policy", "without any"])
def test_no_payload_does_anything_on_any_page(
    stack: Stack, browser: Browser, pages: list[str], has_policy: bool
) -> None:
    opened = context(browser, stack, has_policy=has_policy)
    watch = Watch(opened.new_page(), stack.url)
    sign_in(watch.page, "root")
    watch.found()
    found: dict[str, list[str]] = {}
    shown = 0
    for address in pages:
        answer = watch.page.goto(address, wait_until="load")
        assert answer is not None
        assert answer.status < 500, address
        if answer.status == 200:
            shown += CODE.split("(")[0] in watch.page.content()
        assert watch.page.url.startswith(stack.url), address
        if seen := watch.found():
            found[address] = seen
    opened.close()
    assert found == {}
    assert shown > len(pages) * 0.8  # the payloads were there


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize("has_policy", [True, False], ids=["with the policy", "without any"])
def test_what_a_model_writes_is_text_while_it_writes_and_afterwards(
    stack: Stack, browser: Browser, fake_llm: FakeLLM, has_policy: bool
) -> None:
    said = "\n\n".join(payloads()[: len(AT_ONCE)])
    name = f"long-500@2{'' if has_policy else '0'}"  # its mode says nothing but how fast
    fake_llm.texts[name] = said
    crew = stack.make_crews({f"Written {has_policy}": {"mode": name}})[f"Written {has_policy}"]
    opened = context(browser, stack, has_policy=has_policy)
    watch = Watch(opened.new_page(), stack.url)
    sign_in(watch.page, "root")
    run = stack.kickoff(crew)
    watch.page.goto(f"/runs/{run}")
    wait_for(
        lambda: "onerror" in (watch.page.locator("[data-stream]").first.text_content() or ""), "it is written live"
    )
    found = watch.found()
    stack.wait_for_status(run, "completed")
    expect(watch.page.get_by_role("status").filter(has_text="Completed").first).to_be_visible(timeout=DEADLINE * 1000)
    wait_for(lambda: "onerror" in watch.page.locator(".task-output").first.inner_html(), "the result is there")
    found += watch.found()
    watch.page.reload()
    found += watch.found()
    opened.close()
    del fake_llm.texts[name]
    assert found == []


@pytest.mark.browser
@pytest.mark.slow
def test_the_watch_sees_what_an_unsafe_page_does(stack: Stack, browser: Browser) -> None:
    """The same payloads in a page that does not escape them: without this, finding nothing would say nothing."""
    opened = context(browser, stack, has_policy=False)
    every = payloads()[: len(AT_ONCE)]

    def answer(route: Any) -> None:
        number = route.request.url.rsplit("/", 1)[1]
        if not number.isdigit():  # what a payload loads from beside its page
            route.fulfill(status=404)
            return
        route.fulfill(content_type="text/html", body=f"<!doctype html><body><div>{every[int(number)]}</div>")

    opened.route("**/unsafe/*", answer)
    seen = {"called": 0, "request": 0, "left": 0}
    missed = []
    for number, payload in enumerate(every):
        watch = Watch(opened.new_page(), stack.url)
        watch.page.goto(f"/unsafe/{number}", wait_until="domcontentloaded")
        watch.page.wait_for_timeout(20)
        away = not watch.page.url.startswith(stack.url)
        found: list[str] = []
        try:
            found = [] if away else watch.found()
        except Error:
            away = True  # it is being led elsewhere at this very moment
        seen["called"] += any(line.startswith("called") for line in found)
        seen["request"] += any(CANARY in line and line.startswith("http") for line in found)
        seen["left"] += any(": <" in line for line in found)
        if not found and not away:
            missed.append(payload)
        watch.page.close()
    opened.close()
    # What is missed needs other surroundings: a template language, an attribute, a framework that is not there.
    assert len(missed) < len(every) * 0.3, missed
    assert seen["called"] > 40
    assert seen["request"] > 15
    assert seen["left"] > 80
