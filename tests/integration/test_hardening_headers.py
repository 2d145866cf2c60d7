"""Every answer says what browsers may do with it, and no page has code or styles of its own in it."""

import json
import os
import re
import subprocess
import sys
import uuid
from html.parser import HTMLParser
from pathlib import Path

import pytest
from django.conf import settings as portal_settings
from django.contrib import admin
from django.test import Client
from django.urls import get_resolver, reverse

from crews.seed import seed_catalog, seed_demo
from portal.site.checks import walk
from tests.factories.accounts import UserFactory
from tests.factories.executions import LLMCallFactory, execution_in

ROOT = Path(__file__).resolve().parents[2]
BASE = {
    "default-src": "'self'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "connect-src": "'self'",
    "object-src": "'none'",
    "base-uri": "'none'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
}
ADMIN = {**BASE, "script-src": "'self' 'unsafe-eval'", "style-src-attr": "'unsafe-inline'"}
NONCE = re.compile(r" 'nonce-[\w+/=]{20,}'")


def policy_of(answer):
    parts = (part.partition(" ") for part in answer["Content-Security-Policy"].split("; "))
    return {name: value for name, _blank, value in parts}


def routes():
    """An address of every route, its parameters filled with something that is not there."""
    filled = {"uuid": str(uuid.uuid4()), "int": "1", "str": "none", "slug": "none", "path": "none"}
    for path, _view in walk(get_resolver()):
        address = re.sub(r"<(\w+):\w+>", lambda match: filled[match.group(1)], path)
        address = re.sub(r"<\w+>", "none", address)
        yield "/" + re.sub(r"\(\?P<\w+>[^)]*\)|[\^$?\\]|\.\(\?P.*", "", address).replace("//", "/")


@pytest.fixture
def boss(db):
    boss = UserFactory(admin=True)
    seed_catalog()
    for crew in seed_demo(boss):
        LLMCallFactory(execution=execution_in("completed", crew=crew))
    return boss


def admin_pages():
    yield "/admin/"
    for model in admin.site._registry:
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        yield reverse(f"{name}_changelist")
        yield reverse(f"{name}_add")
        if row := model._default_manager.first():
            yield reverse(f"{name}_change", args=[row.pk])


def check_headers(address, answer):
    policy = policy_of(answer)
    if address == "/api/redoc":
        assert NONCE.search(policy["style-src"])
        assert "unsafe" not in answer["Content-Security-Policy"]
    else:
        # What is refused answers with a page of our own.
        is_admins = address.startswith("/admin/") and answer.status_code == 200
        assert policy == (ADMIN if is_admins else BASE), address
    assert answer["X-Content-Type-Options"] == "nosniff", address
    assert answer["X-Frame-Options"] == "DENY", address
    assert answer["Referrer-Policy"] in {"same-origin", "no-referrer"}, address
    assert answer["Cross-Origin-Resource-Policy"] == "same-origin", address
    assert answer["Cross-Origin-Opener-Policy"] in {"same-origin", "unsafe-none"}, address
    assert {"camera=()", "geolocation=()", "clipboard-write=(self)"} <= set(answer["Permissions-Policy"].split(", "))
    cached = answer["Cache-Control"]
    assert "no-store" in cached or "private" in cached or "no-cache" in cached, f"{address}: {cached}"
    assert "Server" not in answer
    assert "X-Powered-By" not in answer


class Inline(HTMLParser):
    """What of a page is code or style and stands in it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        if tag == "script" and not named.get("src") and named.get("type") != "application/json":
            self.found.append("script")
        if tag in {"style", "base", "object", "embed", "iframe"}:
            self.found.append(tag)
        for name, value in attrs:
            if name == "style" or name.startswith(("on", "hx-on", "data-hx-on")):
                self.found.append(f"{tag} {name}")
            if name in {"href", "src", "action", "formaction"} and re.match(
                r"\s*(javascript|data|vbscript):", value or "", re.I
            ):
                self.found.append(f"{tag} {name}={value}")

    @classmethod
    def of(cls, text):
        parser = cls()
        parser.feed(text)
        return parser.found


@pytest.mark.parametrize("who", ["admin", "stranger"])
def test_every_route_answers_with_every_header(boss, who):
    client = Client(raise_request_exception=False)
    if who == "admin":
        client.force_login(boss)
    seen = 0
    for address in [*routes(), "/nowhere", "/api/nowhere"]:
        answer = client.get(address)
        check_headers(address, answer)
        if "text/html" in answer.get("Content-Type", "") and not answer.streaming:
            assert Inline.of(answer.text) == [], address
        seen += 1
        if address in {"/sign-out", "/oidc/sign-out"}:
            client.force_login(boss)
    assert seen > 60


def test_django_admin_has_the_policy_too(client, boss):
    client.force_login(boss)
    for address in admin_pages():
        answer = client.get(address)
        check_headers(address, answer)
        # Alpine's own attributes (x-on:…) are no event handlers; unfold writes no script, and no style element.
        assert not re.search(r"<style|<script(?![^>]*\bsrc=)|\son\w+=", answer.text), address
    assert "--color-primary-500" in client.get("/admin/colors.css").text


def test_the_inline_search_finds_what_it_is_for():
    bad = (
        "<script>1</script><script type=module>1</script><p style='a'>x</p><p onclick=x>y</p><a href=' JavaScript:1'>"
        "<style></style><p hx-on:click=1></p>"
    )
    assert len(Inline.of(bad)) == 7
    assert Inline.of('<script src="/a.js"></script><script type="application/json">{}</script><a href="/x">') == []


@pytest.mark.parametrize(
    "path",
    sorted([*(ROOT / "templates").rglob("*.html"), *(ROOT / "static").rglob("*.svg")]),
    ids=lambda path: path.name,
)
def test_no_template_has_code_or_styles_in_it(path):
    text = path.read_text()
    assert not re.search(r"<style\b|<script\b(?![^>]*\b(?:src=|type=\"application/json\"))", text)
    assert not re.search(r"""[\s"'](?:style|on[a-z]{3,}|hx-on[:\w-]*)\s*=\s*["']""", text)
    assert not re.search(r"javascript:|\|\s*safe\b|autoescape\s+off", text)


def test_scripts_make_no_markup_from_text():
    for path in (ROOT / "static" / "js").rglob("*.js"):
        assert not re.search(
            r"\beval\(|new Function|innerHTML|outerHTML|insertAdjacentHTML|document\.write", path.read_text()
        ), path


class TestWithHttps:
    def read(self, **environment):
        """The settings as a process with this environment reads them."""
        names = (
            *("SESSION_COOKIE_NAME", "CSRF_COOKIE_NAME", "SESSION_COOKIE_SECURE", "CSRF_COOKIE_SECURE"),
            *("SECURE_HSTS_SECONDS", "SECURE_HSTS_INCLUDE_SUBDOMAINS", "CONTENT_SECURITY_POLICY"),
        )
        code = (
            "import json, portal.settings as s;"
            f"print(json.dumps({{n: getattr(s, n, None) for n in {names}}}, default=str))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        return json.loads(done.stdout) if done.returncode == 0 else done.stderr

    def test_cookies_belong_to_the_host_and_browsers_stay_with_https(self):
        found = self.read(PORTAL_URL="https://portal.example.com", OIDC_ISSUER="", HSTS_INCLUDE_SUBDOMAINS="1")
        assert (found["SESSION_COOKIE_NAME"], found["CSRF_COOKIE_NAME"]) == ("__Host-sessionid", "__Host-csrftoken")
        assert found["SESSION_COOKIE_SECURE"]
        assert found["CSRF_COOKIE_SECURE"]
        assert (found["SECURE_HSTS_SECONDS"], found["SECURE_HSTS_INCLUDE_SUBDOMAINS"]) == (31536000, True)

    def test_a_wrong_choice_and_the_issuers_address(self):
        assert "HSTS_PRELOAD: " in self.read(PORTAL_URL="https://portal.example.com", HSTS_PRELOAD="1")
        found = self.read(OIDC_ISSUER="https://sso.example.com/realms/agents", OIDC_CLIENT_SECRET="s" * 20)
        assert isinstance(found, dict), found
        assert found["CONTENT_SECURITY_POLICY"]["DIRECTIVES"]["form-action"] == ["'self'", "https://sso.example.com"]


@pytest.mark.django_db
def test_cookies(client):
    answer = client.get("/sign-in")
    cookie = answer.cookies[portal_settings.CSRF_COOKIE_NAME]
    assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Lax", "/")
    assert not cookie["domain"]


@pytest.mark.django_db
def test_a_host_that_is_not_ours_learns_nothing(client):
    for path in ("/sign-in", "/api/crews"):
        answer = client.get(path, headers={"host": "evil.example"})
        assert answer.status_code == 400
        assert "evil" not in answer.text
        assert "ALLOWED_HOSTS" not in answer.text
