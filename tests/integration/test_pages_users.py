"""Pages of people and service accounts, for admins."""

import re

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from portal.accounts import keys, people, second_factor
from portal.accounts.models import ApiKey, Identity, Role, Scope, SecondFactor, Session, User
from tests.factories.accounts import PASSWORD, UserFactory
from tests.factories.crews import CrewFactory

pytestmark = pytest.mark.django_db
ISSUER = "https://sso.example.com/realms/agents"


@pytest.fixture
def root(client):
    user = UserFactory(username="root", admin=True)
    client.force_login(user)
    return user


@pytest.fixture
def mina():
    return UserFactory(username="mina", first_name="Mina", last_name="Kim")


def at(user, rest=""):
    return f"/settings/users/{user.pk}{rest}"


def names(answer):
    return re.findall(r'class="is-cover" href="/settings/users/[\w-]+">([\w.-]+)<', answer.text)


class TestWhoMay:
    def test_nobody_but_admins(self, client, mina):
        bot = people.create_service_account(username="bot", by=None)
        key, _text = keys.create(bot, name="k", scopes=[Scope.READ], by=None)
        pages = ["", "/new", "/new-service"] + [
            f"/{mina.pk}{rest}" for rest in ["", "/deactivate", "/delete", "/hand-on"]
        ]
        posts = [f"/{mina.pk}{rest}" for rest in ["/role", "/deactivate", "/reactivate", "/delete", "/password-link",
                 "/second-factor/remove", "/hand-on", "/sessions/end-all", "/identities"]]  # fmt: skip
        posts += [f"/{bot.pk}/keys", f"/{bot.pk}/keys/{key.pk}/revoke"]
        for user in [UserFactory(), UserFactory(viewer=True)]:
            client.force_login(user)
            assert {client.get(f"/settings/users{page}").status_code for page in pages} == {403}
            assert {client.post(f"/settings/users{page}", {"role": "admin"}).status_code for page in posts} == {403}
            assert "/settings/" not in client.get("/").text
        mina.refresh_from_db()
        assert (mina.role, mina.is_active) == ("user", True)

    def test_admins_find_them_in_the_navigation(self, client, root):
        text = client.get("/settings/users").text
        for address in ("/settings/users", "/settings/audit", "/settings/providers", "/settings/budgets"):
            assert f'href="{address}"' in text


class TestList:
    def test_it_is_searched_and_narrowed(self, client, root, mina):
        people.create_service_account(username="bot", by=root)
        people.deactivate(UserFactory(username="gone"), by=root)
        UserFactory(username="joon", viewer=True)
        for asked, found in {
            "": ["bot", "gone", "joon", "mina", "root"], "q=kim": ["mina"], "role=viewer": ["joon"],
            "state=inactive": ["gone"], "kind=service": ["bot"], "kind=person&state=active&role=user": ["mina"],
        }.items():  # fmt: skip
            assert names(client.get(f"/settings/users?{asked}")) == found
        assert "Nobody matches" in client.get("/settings/users?q=zzz").text

    def test_it_pages_and_costs_the_same_however_long(self, client, root):
        def queries():
            with CaptureQueriesContext(connection) as caught:
                assert client.get("/settings/users").status_code == 200
            return len(caught)

        before = queries()
        User.objects.bulk_create(User(username=f"p{n:03}", password="!") for n in range(60))
        assert queries() == before
        first = client.get("/settings/users")
        further = re.search(r'rel="next" href="([^"]+)"', first.text)[1].replace("&amp;", "&")
        second = client.get(f"/settings/users{further}")
        assert names(first)[0] == "p000"
        assert not set(names(first)) & set(names(second))

    def test_htmx_gets_the_rows_alone(self, client, root):
        answer = client.get("/settings/users?q=root", headers={"HX-Request": "true", "HX-Target": "user-rows"})
        assert "<html" not in answer.text
        assert names(answer) == ["root"]


class TestNew:
    SENT = {"username": "nova", "role": "viewer", "first_name": "", "last_name": "", "email": ""}

    def test_a_person_with_a_link_that_is_shown_once(self, client, root):
        answer = client.post("/settings/users/new", {**self.SENT, "password": ""})
        assert answer.status_code == 201
        link = re.search(r'id="password-link">([^<]+)<', answer.text)[1]
        nova = User.objects.get(username="nova")
        assert nova.role == Role.VIEWER
        assert link not in client.get(at(nova)).text
        Client().post(link[link.index("/password") :], {"password": PASSWORD, "again": PASSWORD})
        assert Client().post("/sign-in", {"username": "nova", "password": PASSWORD}).status_code == 302

    def test_a_person_with_a_password(self, client, root):
        answer = client.post("/settings/users/new", {**self.SENT, "password": PASSWORD})
        assert answer["Location"] == at(User.objects.get(username="nova"))

    def test_faults_are_said(self, client, root, mina):
        answer = client.post("/settings/users/new", {**self.SENT, "username": "MINA", "password": "1234"})
        assert answer.status_code == 422
        assert 'class="errorlist"' in answer.text
        assert User.objects.count() == 2

    def test_a_service_account_gets_its_keys_on_its_page(self, client, root):
        answer = client.post("/settings/users/new-service", {"username": "bot", "role": "user"})
        bot = User.objects.get(username="bot")
        assert answer["Location"] == at(bot)
        assert "it can do nothing without one" in client.get(at(bot)).text
        sent = {"name": "CI", "scopes": ["read"], "lifetime": "30", "requests_per_minute": "60"}
        made = client.post(at(bot, "/keys"), sent)
        text = re.search(r'id="new-key">(ap_[\w-]+)<', made.text)[1]
        assert made.status_code == 201
        assert Client().get("/api/me", headers={"Authorization": f"Api-Key {text}"}).json()["username"] == "bot"
        assert text not in client.get(at(bot)).text
        key = ApiKey.objects.get()
        assert "Revoke “CI”?" in client.get(at(bot, f"/keys/{key.pk}/revoke")).text
        client.post(at(bot, f"/keys/{key.pk}/revoke"))
        assert Client().get("/api/me", headers={"Authorization": f"Api-Key {text}"}).status_code == 401

    def test_people_make_their_own_keys(self, client, root, mina):
        assert client.post(at(mina, "/keys"), {"name": "x", "scopes": ["read"]}).status_code == 404
        assert "New key" not in client.get(at(mina)).text


class TestOne:
    def test_the_role_is_changed(self, client, root, mina):
        assert client.post(at(mina, "/role"), {"role": "admin"})["Location"] == at(mina)
        mina.refresh_from_db()
        assert mina.role == Role.ADMIN

    def test_the_last_admin_stays(self, client, root):
        answer = client.post(at(root, "/role"), {"role": "user"})
        assert answer.status_code == 422
        assert "last active admin" in answer.text
        client.post(at(root, "/deactivate"))
        assert "last active admin" in client.get(at(root)).text
        root.refresh_from_db()
        assert (root.role, root.is_active) == ("admin", True)

    def test_who_gives_up_their_own_rights_is_not_left_before_a_closed_door(self, client, root):
        UserFactory(admin=True)
        answer = client.post(at(root, "/role"), {"role": "user"})
        assert client.get(answer["Location"]).status_code == 200

    def test_deactivating_says_what_follows_and_does_it(self, client, root, mina):
        theirs = Client()
        theirs.force_login(mina)
        keys.create(mina, name="k", scopes=[Scope.READ], by=mina)
        text = client.get(at(mina, "/deactivate")).text
        assert "1 session ends" in text
        assert "1 API key is revoked" in text
        assert client.post(at(mina, "/deactivate"))["Location"] == at(mina)
        assert theirs.get("/").status_code == 302
        assert "This account is deactivated" in client.get(at(mina)).text
        client.post(at(mina, "/reactivate"))
        mina.refresh_from_db()
        assert mina.is_active

    def test_sessions_are_seen_and_ended(self, client, root, mina):
        theirs = [Client(), Client()]
        for browser in theirs:
            browser.force_login(mina)
        row = Session.objects.filter(user=mina).first()
        assert client.get(at(mina)).text.count("/end") >= 2
        client.post(at(mina, f"/sessions/{row.public_id}/end"))
        assert sorted(browser.get("/").status_code for browser in theirs) == [200, 302]
        client.post(at(mina, "/sessions/end-all"))
        assert [browser.get("/").status_code for browser in theirs] == [302, 302]

    def test_a_lost_second_factor_is_taken_away(self, client, root, mina):
        import pyotp

        second_factor.confirm(mina, pyotp.TOTP(second_factor.begin(mina).secret).now())
        assert "Take the second factor away" in client.get(at(mina)).text
        client.post(at(mina, "/second-factor/remove"))
        assert not SecondFactor.objects.exists()

    def test_identities_are_shown_linked_and_unlinked(self, client, root, mina):
        client.post(at(mina, "/identities"), {"subject": "abc-123", "issuer": ISSUER})
        identity = Identity.objects.get()
        Identity.objects.update(roles=["reader"], groups=["/lab"])
        text = client.get(at(mina)).text
        for shown in (ISSUER, "abc-123", "reader", "/lab", "linked by root"):
            assert shown in text
        taken = client.post(at(root, "/identities"), {"subject": "abc-123", "issuer": ISSUER})
        assert taken.status_code == 422
        assert "belongs to somebody already" in taken.text
        client.post(at(mina, f"/identities/{identity.pk}/unlink"))
        assert not Identity.objects.exists()

    def test_things_are_handed_on_and_the_empty_account_deleted(self, client, root, mina):
        crew = CrewFactory(owner=mina, name="Herb growers")
        joon = UserFactory(username="joon")
        kept = client.post(at(mina, "/delete"), follow=True)
        assert "still owns things" in kept.text
        assert "delete its runs first" in kept.text
        assert "Crew: Herb growers" in client.get(at(mina, "/hand-on")).text
        wrong = client.post(at(mina, "/hand-on"), {"to": "nobody"})
        assert wrong.status_code == 422
        client.post(at(mina, "/hand-on"), {"to": "joon"})
        crew.access.refresh_from_db()
        assert crew.access.owner == joon
        assert client.post(at(mina, "/delete"))["Location"] == "/settings/users"
        assert not User.objects.filter(username="mina").exists()

    def test_the_page_costs_the_same_however_much_there_is(self, client, root, mina):
        def queries():
            with CaptureQueriesContext(connection) as caught:
                assert client.get(at(mina)).status_code == 200
            return len(caught)

        def more():
            keys.create(mina, name="k", scopes=[Scope.READ], by=mina)
            Client().force_login(mina)
            Identity.objects.create(user=mina, issuer=ISSUER, subject=str(Identity.objects.count()), linked_by=root)
            CrewFactory(owner=mina)

        more()
        before = queries()
        more()
        more()
        assert queries() == before

    def test_nothing_is_inline(self, client, root, mina):
        for page in ["/settings/users", "/settings/users/new", "/settings/users/new-service", at(mina), at(root),
                     at(mina, "/deactivate"), at(mina, "/delete"), at(mina, "/hand-on")]:  # fmt: skip
            answer = client.get(page)
            assert answer.status_code == 200
            assert not re.search(r"<[^>]+\s(style|on\w+)=", answer.text)
