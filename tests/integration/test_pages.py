"""Pages: signing in and out, home, one's own settings, and what holds for all of them."""

import re

import pytest
from django.conf import settings
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from crews.seed import seed_catalog, seed_demo
from portal.accounts.models import Role, User
from tests.factories.accounts import PASSWORD, UserFactory
from tests.factories.crews import runnable_crew
from tests.factories.executions import execution_in

pytestmark = pytest.mark.django_db

PAGES = [
    "site:home",
    "site:dashboard",
    "crews:crew-list",
    "executions:run-list",
    "crews:model-list",
    "accounts:profile",
]
ADMIN_PAGES = ["crews:provider-list", "crews:provider-create", "site:components"]


@pytest.fixture
def mina(client):
    user = UserFactory(username="mina")
    client.force_login(user)
    return user


def queries(client, url, **headers):
    with CaptureQueriesContext(
        connection,
    ) as caught:
        assert client.get(url, headers=headers).status_code == 200
    return len(caught)


class TestSigningIn:
    def test_a_stranger_is_led_to_the_sign_in_and_back(self, client):
        UserFactory(username="mina")
        answer = client.get("/crews?whose=own")
        assert answer.status_code == 302
        assert answer["Location"] == "/sign-in?next=/crews%3Fwhose%3Down"
        answer = client.post(answer["Location"], {"username": "mina", "password": PASSWORD, "next": "/crews?whose=own"})
        assert answer["Location"] == "/crews?whose=own"
        assert client.get("/crews").status_code == 200

    @pytest.mark.parametrize("target", ["https://evil.example/x", "//evil.example", "javascript:alert(1)"])
    def test_it_never_leads_to_another_site(self, client, target):
        UserFactory(username="mina")
        answer = client.post("/sign-in", {"username": "mina", "password": PASSWORD, "next": target})
        assert answer["Location"] == "/"

    def test_a_wrong_password_is_said(self, client):
        UserFactory(username="mina")
        answer = client.post("/sign-in", {"username": "mina", "password": "no"})
        assert answer.status_code == 422
        assert 'role="alert"' in answer.text
        assert settings.SESSION_COOKIE_NAME not in client.cookies

    def test_signing_out_takes_a_post(self, client, mina):
        assert client.get("/sign-out").status_code == 405
        assert client.post("/sign-out")["Location"] == "/sign-in"
        assert client.get("/").status_code == 302

    def test_htmx_is_sent_to_the_sign_in(self, client):
        answer = client.get("/runs", headers={"HX-Request": "true"})
        assert (answer.status_code, answer["HX-Redirect"]) == (204, "/sign-in")


class TestEveryPage:
    @pytest.mark.parametrize("role", list(Role))
    @pytest.mark.parametrize("name", PAGES)
    def test_it_opens(self, client, role, name):
        seed_catalog()
        client.force_login(UserFactory(role=role))
        assert client.get(reverse(name)).status_code == 200

    @pytest.mark.parametrize("name", ADMIN_PAGES)
    def test_administration_is_for_admins(self, client, mina, name):
        assert client.get(reverse(name)).status_code == 403
        client.force_login(UserFactory(admin=True))
        assert client.get(reverse(name)).status_code == 200

    @pytest.mark.parametrize("name", [*PAGES, "accounts:sign-in"])
    def test_nothing_is_inline_and_the_policy_says_so(self, client, name):
        seed_catalog()
        client.force_login(owner := UserFactory(admin=True))
        execution_in("completed", crew=seed_demo(owner)[0])
        if name == "accounts:sign-in":
            client.logout()
        answer = client.get(reverse(name))
        assert {"script-src 'self'", "style-src 'self'"} <= set(answer["Content-Security-Policy"].split("; "))
        text = answer.text
        assert not re.search(r"<script(?![^>]*\b(src|type=\"application/json\")\b)", text)
        assert not re.search(r"<[^>]+\s(style|on\w+)=", text)
        assert not re.search(r"(src|href)=\"https?://", text)

    def test_what_is_not_there_says_so(self, client, mina):
        answer = client.get("/crews/00000000-0000-0000-0000-000000000000")
        assert answer.status_code == 404
        assert "nothing here that you may see" in answer.text

    def test_the_number_of_queries_does_not_grow(self, client):
        owner = UserFactory(admin=True)
        client.force_login(owner)

        def more():
            for _ in range(3):
                crew = runnable_crew(owner=owner)
                execution_in("completed", crew=crew, name=crew.name)

        more()
        urls = ["/", "/crews", "/crews?q=crew", "/runs", "/runs?status=active", "/models", "/settings/providers"]
        client.get("/")  # what is cached at first
        before = {url: queries(client, url) for url in urls}
        more()
        assert {url: queries(client, url) for url in urls} == before


class TestPreferences:
    def test_the_language_follows_the_person(self, client, mina):
        assert "Recent runs" in client.get("/").text
        client.post("/preferences", {"language": "ko", "next": "/crews"})
        mina.refresh_from_db()
        assert mina.language == "ko"
        assert '<html lang="ko"' in client.get("/").text

    def test_a_stranger_chooses_a_language_too(self, client):
        answer = client.post("/preferences", {"language": "ko", "next": "/sign-in"})
        assert answer["Location"] == "/sign-in"
        assert '<html lang="ko"' in client.get("/sign-in").text

    def test_the_appearance_is_remembered(self, client, mina):
        client.post("/preferences", {"theme": "dark"})
        assert 'data-theme="dark"' in client.get("/").text
        client.post("/preferences", {"theme": "auto"})
        assert "data-theme=" not in client.get("/").text

    def test_what_is_not_offered_changes_nothing(self, client, mina):
        client.cookies["theme"] = '"><script>'
        client.post("/preferences", {"language": "xx"})
        assert User.objects.get(pk=mina.pk).language == ""
        assert '<html lang="en">' in client.get("/").text


class TestProfile:
    def test_it_is_saved(self, client, mina):
        sent = {"first_name": "Mina", "last_name": "Kim", "email": "mina@example.com", "language": "ko"}
        assert client.post("/profile", sent).status_code == 302
        mina.refresh_from_db()
        assert (mina.first_name, mina.language) == ("Mina", "ko")

    def test_faults_are_shown(self, client, mina):
        answer = client.post("/profile", {"email": "not an address"})
        assert answer.status_code == 422
        assert "Enter a valid email address." in answer.text

    def test_the_role_cannot_be_changed(self, client, mina):
        client.post("/profile", {"email": "", "language": "", "role": "admin", "is_staff": "on"})
        mina.refresh_from_db()
        assert (mina.role, mina.is_staff) == (Role.USER, False)

    def test_the_password_changes_and_the_session_stays(self, client, mina):
        new = "a wholly new passphrase"
        sent = {"old_password": PASSWORD, "new_password1": new, "new_password2": new}
        assert client.post("/profile/password", sent).status_code == 302
        assert client.get("/profile").status_code == 200
        mina.refresh_from_db()
        assert mina.check_password(new)

    def test_the_old_password_is_asked_for(self, client, mina):
        sent = {
            "old_password": "no",
            "new_password1": "a wholly new passphrase",
            "new_password2": "a wholly new passphrase",
        }
        assert client.post("/profile/password", sent).status_code == 422
        mina.refresh_from_db()
        assert mina.check_password(PASSWORD)


class TestHome:
    def test_without_a_worker_it_says_what_to_do(self, client, mina):
        assert "No worker is running" in client.get("/").text

    def test_empty_it_leads_to_the_next_step(self, client, mina):
        text = client.get("/").text
        assert reverse("crews:crew-create") in text
        assert "Nothing has run yet" in text

    def test_a_viewer_is_offered_nothing_to_make(self, client):
        seed_catalog()
        crew = seed_demo(UserFactory())[0]
        client.force_login(UserFactory(viewer=True))
        text = client.get("/").text
        assert crew.name in text
        assert reverse("crews:crew-create") not in text
        assert reverse("executions:crew-run", args=[crew.pk]) not in text

    def test_the_embedded_model_is_described_honestly(self, client, mina):
        seed_catalog()
        assert "It is a small model" in client.get("/").text
