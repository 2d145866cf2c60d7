"""Single sign-on as people meet it: a real Keycloak with the realm file that we ship, real processes, real Chromium."""

import base64
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests import keycloak
from tests.browser.conftest import ARGUMENTS
from tests.deadlines import DEADLINE, wait_for
from tests.fakes.llm import FakeLLM
from tests.stack import Stack

pytestmark = [pytest.mark.browser, pytest.mark.keycloak, pytest.mark.slow]
expect.set_options(timeout=DEADLINE * 1000)


@dataclass
class Place:
    """A portal and the Keycloak it signs people in with."""

    stack: Stack
    keycloak: keycloak.Keycloak
    crew: str
    made: list[str] = field(default_factory=list)

    def person(self, *roles: str) -> tuple[str, str]:
        """Somebody new with these roles there: their name, and who they are there."""
        name = f"person-{len(self.made)}"
        self.made.append(name)
        return name, self.keycloak.create_user(name, roles=roles)


@pytest.fixture(scope="module")
def place(fake_llm: FakeLLM) -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="portal-oidc-") as folder:
        Path(folder).chmod(0o711)  # engines may run as a user of their own
        stack = Stack(Path(folder) / "data", llm_url=fake_llm.url)
        with keycloak.running(stack.url) as server:
            stack.environment |= {
                "PORTAL_URL": stack.url,
                "OIDC_ISSUER": server.issuer,
                "OIDC_CLIENT_SECRET": server.client_secret,
                "OIDC_AUTHORIZED_PARTIES": "agent-portal,agent-portal-robot",
                "OIDC_RENEW_SECONDS": "10",
            }
            with stack:
                crews = stack.make_crews({"Patient": {"mode": "hang-silent"}})
                yield Place(stack, server, crews["Patient"])


@pytest.fixture
def browser(chromium_path: Path) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium_path, args=ARGUMENTS, timeout=DEADLINE * 1000)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Browser, place: Place) -> Iterator[Page]:
    context = browser.new_context(base_url=place.stack.url, locale="en-GB", viewport={"width": 1280, "height": 900})
    context.set_default_timeout(DEADLINE * 1000)
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    yield opened
    context.close()
    assert complaints == []


def fill_in(page: Page, name: str) -> None:
    """Keycloak's own form."""
    page.locator("#username").fill(name)
    page.locator("#password").fill(keycloak.PASSWORD)
    page.locator("#kc-login").click()


def sign_in(page: Page, name: str, path: str = "/crews") -> None:
    """From a page of the portal, over its sign-in page and Keycloak's form, back to that page."""
    page.goto(path)
    page.get_by_role("link", name=re.compile("^Sign in with")).click()
    fill_in(page, name)
    expect(page).to_have_url(re.compile(f"{re.escape(path)}$"))


def me(page: Page) -> dict[str, Any]:
    """What the portal says of this browser; empty when it knows nobody."""
    answer = page.request.get("/api/me")
    return dict(answer.json()) if answer.ok else {}


def open_live_run(page: Page, place: Place) -> str:
    """The page of a run that goes on, with its socket open; returns the run's id."""
    run = place.stack.kickoff(place.crew)
    place.stack.wait_for_status(run, "running")
    with page.expect_websocket() as opened:
        page.goto(f"/runs/{run}")
    expect(page.locator("[data-connection]")).to_contain_text(re.compile("Live", re.IGNORECASE))
    assert not opened.value.is_closed()
    return run


def says_signed_out(page: Page) -> None:
    """The page tells that the session is over, and stays."""
    expect(page.get_by_role("alert")).to_contain_text("You are signed out")


def end_run(place: Place, run: str) -> None:
    place.stack.request_stop(run)
    place.stack.wait_for_status(run, "stopped")


def assert_ended_by_keycloak(place: Place, name: str) -> None:
    """It was Keycloak's word that ended the session, and not the next renewal, which gives a reason."""
    place.stack.manage(
        "shell", "-v", "0", "-c",
        "from portal.accounts.models import AuditEntry;"
        f"entry = AuditEntry.objects.get(action='session.ended', target_name='{name}');"
        "assert entry.before['method'] == 'oidc' and 'reason' not in entry.after, entry.after",
    )  # fmt: skip


def test_a_person_signs_in_and_comes_back_without_a_form(place: Place, page: Page) -> None:
    name, subject = place.person("user")
    sign_in(page, name)
    found = me(page)
    assert (found["username"], found["role"], found["name"]) == (name, "user", f"{name.capitalize()} Park")
    assert found["email"] == f"{name}@example.org"
    assert found["credential"]["kind"] == "session"
    (cookie,) = [cookie for cookie in page.context.cookies(place.stack.url) if cookie["name"] == "sessionid"]
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Lax"
    assert len(place.keycloak.sessions_of(subject)) == 1
    # A second portal session of the same browser: Keycloak remembers who it is.
    page.context.clear_cookies(name="sessionid")
    page.goto("/oidc/authenticate?next=/crews")
    expect(page).to_have_url(f"{place.stack.url}/crews")
    assert me(page)["id"] == found["id"]


def test_who_has_no_role_is_refused_and_may_come_as_another(place: Place, page: Page) -> None:
    nobody, _subject = place.person()
    somebody, _subject = place.person("viewer")
    page.goto("/oidc/authenticate")
    fill_in(page, nobody)
    expect(page.get_by_role("heading", name="You have no role here")).to_be_visible()
    expect(page.get_by_role("alert")).to_contain_text("have no role")
    assert me(page) == {}
    page.get_by_role("link", name="Sign in as somebody else").click()
    page.locator("#reset-login").click()  # Keycloak asks for the password of whom it knows, or begins anew
    fill_in(page, somebody)
    expect(page).to_have_url(f"{place.stack.url}/")
    assert (me(page)["username"], me(page)["role"]) == (somebody, "viewer")


def test_a_role_that_changes_there_follows_here(place: Place, page: Page) -> None:
    name, subject = place.person("viewer")
    sign_in(page, name)
    assert me(page)["role"] == "viewer"
    place.keycloak.set_roles(subject, ["admin"])
    wait_for(lambda: me(page)["role"] == "admin", "the session is renewed", every=1)
    page.goto("/profile")
    expect(page.get_by_role("main")).to_contain_text("Admin")
    # And with the next sign-in.
    place.keycloak.set_roles(subject, ["user"])
    page.context.clear_cookies(name="sessionid")
    page.goto("/oidc/authenticate?next=/crews")
    expect(page).to_have_url(f"{place.stack.url}/crews")
    assert me(page)["role"] == "user"


def test_signing_out_of_the_portal_signs_out_of_keycloak(place: Place, page: Page) -> None:
    name, subject = place.person("user")
    sign_in(page, name)
    # The narrow page has a menu of its own.
    page.get_by_label(f"Account of {name}").filter(visible=True).click()
    page.get_by_role("button", name="Sign out").filter(visible=True).click()
    expect(page).to_have_url(f"{place.stack.url}/sign-in")
    assert me(page) == {}
    assert place.keycloak.sessions_of(subject) == []
    page.goto("/oidc/authenticate")
    expect(page.locator("#kc-login")).to_be_visible()  # it asks again


def test_signing_out_of_keycloak_ends_an_open_page(place: Place, page: Page) -> None:
    name, subject = place.person("admin")
    sign_in(page, name)
    run = open_live_run(page, place)
    # In another tab, at Keycloak itself.
    other = page.context.new_page()
    other.goto(f"{place.keycloak.issuer}/protocol/openid-connect/logout")
    other.locator("#kc-logout").click()
    wait_for(lambda: not place.keycloak.sessions_of(subject), "Keycloak has signed them out")
    says_signed_out(page)
    assert me(page) == {}
    assert_ended_by_keycloak(place, name)
    # From there one comes back to where one was.
    page.get_by_role("alert").get_by_role("link", name="Sign in").click()
    page.get_by_role("link", name=re.compile("^Sign in with")).click()
    fill_in(page, name)
    expect(page).to_have_url(f"{place.stack.url}/runs/{run}")
    end_run(place, run)


def test_an_admin_of_keycloak_ends_a_session(place: Place, page: Page) -> None:
    name, subject = place.person("admin")
    sign_in(page, name)
    run = open_live_run(page, place)
    (sid,) = place.keycloak.sessions_of(subject)
    place.keycloak.end_session(sid)
    says_signed_out(page)
    assert_ended_by_keycloak(place, name)
    page.goto("/crews")
    expect(page).to_have_url(f"{place.stack.url}/sign-in?next=/crews")
    end_run(place, run)


def test_who_is_disabled_there_is_signed_out_while_just_watching(place: Place, page: Page) -> None:
    """Keycloak tells nobody: it is the renewal of the open page's session that finds out."""
    name, subject = place.person("admin")
    sign_in(page, name)
    run = open_live_run(page, place)
    place.keycloak.set_enabled(subject, False)
    says_signed_out(page)
    assert me(page) == {}
    end_run(place, run)


def test_a_session_expires_during_a_live_page(place: Place, page: Page) -> None:
    name, _subject = place.person("admin")
    sign_in(page, name)
    run = open_live_run(page, place)
    place.stack.manage(
        "shell", "-v", "0", "-c",
        "from django.utils import timezone; from portal.accounts.models import Session;"
        f"assert Session.objects.filter(user__username='{name}').update(expire_date=timezone.now()) == 1",
    )  # fmt: skip
    says_signed_out(page)
    # Keycloak's session goes on: signing in again needs no form.
    page.get_by_role("alert").get_by_role("link", name="Sign in").click()
    page.get_by_role("link", name=re.compile("^Sign in with")).click()
    expect(page).to_have_url(f"{place.stack.url}/runs/{run}")
    assert me(page)["username"] == name
    end_run(place, run)


def test_a_script_comes_with_a_token_of_its_own(place: Place) -> None:
    token = place.keycloak.robot_token()

    def ask(path: str, shown: str, method: str = "GET", **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {shown}"}
        return httpx.request(method, f"{place.stack.url}{path}", headers=headers, timeout=DEADLINE, **options)

    found = ask("/api/me", token)
    assert found.status_code == 200, found.text
    assert (found.json()["is_service"], found.json()["role"]) == (True, "user")
    assert found.json()["credential"]["label"] == "bearer:agent-portal-robot"
    made = ask("/api/crews", token, "POST", json={"name": "Made by a script"})
    assert made.status_code == 201, made.text
    assert ask("/api/admin/users/" + found.json()["id"] + "/identities", token).status_code == 403

    def altered(change: Callable[[dict[str, Any]], None]) -> str:
        header, body, signature = token.split(".")
        claims = json.loads(base64.urlsafe_b64decode(body + "=="))
        change(claims)
        packed = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
        return f"{header}.{packed}.{signature}"

    refused = {
        "more roles": altered(lambda claims: claims.update(realm_access={"roles": ["admin"]})),
        "id token": place.keycloak.robot_answer(scope="openid")["id_token"],
        "of the master realm": place.keycloak.admin_token(),
        "no signature": token.rsplit(".", 1)[0] + ".",
    }
    assert {name: ask("/api/me", bad).status_code for name, bad in refused.items()} == dict.fromkeys(refused, 401)


def test_the_realm_that_is_shipped_leaves_no_door_open(place: Place) -> None:
    client, robot = place.keycloak.client("agent-portal"), place.keycloak.client("agent-portal-robot")
    assert client["redirectUris"] == [f"{place.stack.url}/oidc/callback"]
    assert client["attributes"]["backchannel.logout.url"] == f"{place.stack.url}/oidc/backchannel-logout"
    assert (client["secret"], robot["secret"]) == (place.keycloak.client_secret, place.keycloak.robot_secret)
    base = f"{place.keycloak.issuer}/protocol/openid-connect"
    name, _subject = place.person("user")
    password = {
        "grant_type": "password", "username": name, "password": keycloak.PASSWORD,
        "client_id": "agent-portal", "client_secret": place.keycloak.client_secret,
    }  # fmt: skip
    answer = httpx.post(f"{base}/token", data=password, timeout=DEADLINE)
    assert answer.json()["error"] == "unauthorized_client"
    asked = {"client_id": "agent-portal", "response_type": "code", "scope": "openid"}
    asked["redirect_uri"] = f"{place.stack.url}/oidc/callback"
    without_pkce = httpx.get(f"{base}/auth", params=asked, timeout=DEADLINE)
    assert "code_challenge_method" in without_pkce.headers["Location"]
    elsewhere = {**asked, "redirect_uri": f"{place.stack.url}/oidc/callback/elsewhere"}
    assert httpx.get(f"{base}/auth", params=elsewhere, timeout=DEADLINE).status_code == 400
