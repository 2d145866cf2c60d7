"""Pages of one's own account: password, second factor, API keys, sessions, invitations."""

import re
from datetime import timedelta

import pyotp
import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from portal.accounts import invitations, keys, second_factor
from portal.accounts.models import AccessGrant, ApiKey, Role, Scope, SecondFactor, Session
from tests.factories.accounts import PASSWORD, UserFactory
from tests.factories.crews import CrewFactory

pytestmark = pytest.mark.django_db
NEW = "a much better passphrase"
PAGES = ["", "/password", "/second-factor", "/keys", "/sessions", "/invitations"]
PHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 Version/18.0 Mobile Safari/604.1"


@pytest.fixture
def mina(client):
    user = UserFactory(username="mina")
    client.post("/sign-in", {"username": "mina", "password": PASSWORD})
    return user


def elsewhere(user, agent=PHONE):
    """A browser of its own in which `user` is signed in."""
    other = Client(headers={"User-Agent": agent})
    other.post("/sign-in", {"username": user.username, "password": PASSWORD})
    return other


def count(client, url):
    with CaptureQueriesContext(connection) as caught:
        assert client.get(url).status_code == 200
    return len(caught)


class TestEveryPage:
    @pytest.mark.parametrize("role", list(Role))
    def test_it_opens_and_nothing_is_inline(self, client, role):
        client.force_login(UserFactory(role=role))
        for page in PAGES:
            answer = client.get(f"/profile{page}")
            assert answer.status_code == 200, page
            assert answer.text.count('aria-current="page"') == 1, page
            assert not re.search(r"<[^>]+\s(style|on\w+)=", answer.text), page

    def test_strangers_are_led_to_the_sign_in(self, client):
        for page in PAGES:
            assert client.get(f"/profile{page}")["Location"].startswith("/sign-in?next=/profile")

    def test_who_signs_in_elsewhere_has_no_password_here(self, client):
        user = UserFactory()
        user.set_unusable_password()
        user.save()
        client.force_login(user)
        text = client.get("/profile").text
        assert "/profile/password" not in text
        assert "/profile/second-factor" not in text
        assert client.get("/profile/password").status_code == client.get("/profile/second-factor").status_code == 404

    def test_the_number_of_queries_does_not_grow(self, client, mina):
        def more():
            for _ in range(3):
                keys.create(mina, name="k", scopes=[Scope.READ], by=mina)
                elsewhere(mina)
                owner = UserFactory()
                invitations.invite(CrewFactory(owner=owner), level="viewer", by=owner, user=mina)

        more()
        addresses = [f"/profile{page}" for page in PAGES] + ["/"]
        before = {address: count(client, address) for address in addresses}
        more()
        assert {address: count(client, address) for address in addresses} == before


class TestPassword:
    def test_a_new_one_ends_the_other_sessions_and_keeps_this_one(self, client, mina):
        other = elsewhere(mina)
        sent = {"old_password": PASSWORD, "new_password1": NEW, "new_password2": NEW}
        assert client.post("/profile/password", sent)["Location"] == "/profile/password"
        assert client.get("/profile").status_code == 200
        assert other.get("/profile").status_code == 302

    def test_the_old_one_is_asked_for(self, client, mina):
        answer = client.post("/profile/password", {"old_password": "no", "new_password1": NEW, "new_password2": NEW})
        assert answer.status_code == 422
        assert "aria-invalid" in answer.text


class TestSecondFactor:
    def begin(self, client):
        client.post("/profile/second-factor/begin")
        return client.get("/profile/second-factor").text

    def test_it_is_set_up_with_a_picture_or_a_key(self, client, mina):
        assert "No second factor yet" in client.get("/profile/second-factor").text
        text = self.begin(client)
        setup = second_factor.pending(mina)
        assert "<svg" in text
        assert setup.secret in text
        wrong = client.post("/profile/second-factor/confirm", {"code": "000000"})
        assert wrong.status_code == 422
        assert not second_factor.is_on(mina)
        answer = client.post("/profile/second-factor/confirm", {"code": pyotp.TOTP(setup.secret).now()})
        codes = re.findall(r"<li>([\w-]{9,})</li>", answer.text)
        assert len(codes) == second_factor.RECOVERY_CODES
        assert second_factor.is_on(mina)
        # Neither the codes nor the key are ever shown again.
        later = client.get("/profile/second-factor").text
        assert codes[0] not in later
        assert setup.secret not in later

    def test_a_code_takes_it_away_and_makes_new_recovery_codes(self, client, mina):
        self.begin(client)
        totp = pyotp.TOTP(second_factor.pending(mina).secret)
        codes = second_factor.confirm(mina, totp.now())
        for what in ("codes", "remove"):
            answer = client.post(f"/profile/second-factor/{what}", {"code": "000000"})
            assert answer.status_code == 422
            assert second_factor.is_on(mina)
        answer = client.post("/profile/second-factor/codes", {"code": codes[0]})
        fresh = re.findall(r"<li>([\w-]{9,})</li>", answer.text)
        assert fresh
        assert not set(fresh) & set(codes)
        assert client.post("/profile/second-factor/remove", {"code": fresh[0]}).status_code == 302
        assert not SecondFactor.objects.exists()

    def test_addresses_of_its_forms_lead_back(self, client, mina):
        for what in ("confirm", "codes", "remove"):
            assert client.get(f"/profile/second-factor/{what}")["Location"] == "/profile/second-factor"


class TestKeys:
    SENT = {"name": "Notebook", "scopes": ["read", "run"], "lifetime": "30", "requests_per_minute": "60"}

    def test_a_new_key_is_shown_once_and_works(self, client, mina):
        answer = client.post("/profile/keys", self.SENT)
        text = re.search(r'<code id="new-key">(ap_[\w-]+)</code>', answer.text)[1]
        assert answer.status_code == 201
        assert "no-store" in answer["Cache-Control"]
        assert f"Authorization: Api-Key {text}" in answer.text
        key = ApiKey.objects.get()
        assert (key.user, key.scopes, key.requests_per_minute) == (mina, "read run", 60)
        assert timedelta(days=29) < key.expires_at - timezone.now() < timedelta(days=31)
        assert Client().get("/api/crews", headers={"Authorization": f"Api-Key {text}"}).status_code == 200
        later = client.get("/profile/keys").text
        assert text not in later
        assert f"ap_{key.prefix}_" in later
        assert "60 requests a minute" in later

    def test_faults_are_said_at_their_fields(self, client, mina):
        answer = client.post("/profile/keys", {"name": "", "lifetime": "3000", "requests_per_minute": "0"})
        assert answer.status_code == 422
        assert answer.text.count('class="errorlist"') >= 4
        assert not ApiKey.objects.exists()

    @pytest.mark.parametrize(
        ("role", "offered"), [("viewer", "read"), ("user", "read run write"), ("admin", "read run write admin")]
    )
    def test_only_what_the_owner_may_do_is_offered_and_taken(self, client, role, offered):
        client.force_login(UserFactory(role=role))
        text = client.get("/profile/keys").text
        assert " ".join(re.findall(r'name="scopes" value="(\w+)"', text)) == offered
        if role != "admin":
            assert client.post("/profile/keys", {**self.SENT, "scopes": ["admin"]}).status_code == 422

    def test_revoking_asks_first(self, client, mina):
        key, _text = keys.create(mina, name="Old", scopes=[Scope.READ], by=mina)
        address = f"/profile/keys/{key.pk}/revoke"
        assert "Revoke “Old”?" in client.get(address).text
        key.refresh_from_db()
        assert key.is_usable
        assert client.post(address)["Location"] == "/profile/keys"
        key.refresh_from_db()
        assert not key.is_usable
        assert "Revoked" in client.get("/profile/keys").text

    def test_other_peoples_keys_are_not_there(self, client, mina):
        other = UserFactory()
        key, _text = keys.create(other, name="Theirs", scopes=[Scope.READ], by=other)
        assert client.post(f"/profile/keys/{key.pk}/revoke").status_code == 404
        assert "Theirs" not in client.get("/profile/keys").text


class TestSessions:
    def test_they_are_told_apart(self, client, mina):
        elsewhere(mina)
        text = client.get("/profile/sessions").text
        assert "Safari on iPhone" in text
        assert text.count("This session") == 1
        assert "127.0.0.1" in text
        assert Session.objects.first().session_key not in text.replace(client.session.session_key, "")

    def test_one_is_ended(self, client, mina):
        other = elsewhere(mina)
        row = Session.objects.exclude(session_key=client.session.session_key).get(user=mina)
        assert client.post(f"/profile/sessions/{row.public_id}/end")["Location"] == "/profile/sessions"
        assert other.get("/profile").status_code == 302
        assert client.get("/profile").status_code == 200

    def test_all_others_are_ended(self, client, mina):
        others = [elsewhere(mina) for _ in range(2)]
        client.post("/profile/sessions/end-others")
        assert [other.get("/profile").status_code for other in others] == [302, 302]
        assert client.get("/profile").status_code == 200

    def test_ending_this_one_is_signing_out(self, client, mina):
        row = Session.objects.get(session_key=client.session.session_key)
        assert client.post(f"/profile/sessions/{row.public_id}/end")["Location"] == "/sign-in"
        assert client.get("/profile").status_code == 302

    def test_other_peoples_are_not_there(self, client, mina):
        joon = UserFactory(username="joon")
        other = elsewhere(joon)
        row = Session.objects.get(user=joon)
        assert client.post(f"/profile/sessions/{row.public_id}/end").status_code == 404
        assert other.get("/profile").status_code == 200


class TestInvitations:
    @pytest.fixture
    def crew(self):
        return CrewFactory(owner=UserFactory(username="joon"), name="Herb growers")

    def test_one_is_seen_on_every_page_and_accepted(self, client, mina, crew):
        invitation, _token = invitations.invite(crew, level="editor", by=crew.owner, user=mina)
        assert "An invitation waits for your answer" in client.get("/").text
        assert "Herb growers" in client.get("/profile/invitations").text
        answer = client.post(f"/profile/invitations/{invitation.pk}", {"answer": "accept"})
        assert answer["Location"] == f"/crews/{crew.pk}"
        assert AccessGrant.objects.get(user=mina).level == "editor"
        assert "An invitation waits" not in client.get("/").text

    def test_one_is_declined(self, client, mina, crew):
        invitation, _token = invitations.invite(crew, level="editor", by=crew.owner, user=mina)
        client.post(f"/profile/invitations/{invitation.pk}", {"answer": "decline"})
        assert not AccessGrant.objects.exists()
        assert "No invitations" in client.get("/profile/invitations").text

    def test_a_link_leads_over_the_sign_in_to_the_thing(self, client, crew):
        UserFactory(username="mina")
        _invitation, token = invitations.invite(crew, level="viewer", by=crew.owner, email="m@example.org")
        asked = client.get(f"/invitations/{token}")
        assert asked["Location"] == f"/sign-in?next=/invitations/{token}"
        client.post("/sign-in", {"username": "mina", "password": PASSWORD})
        assert "Crew: Herb growers" in client.get(f"/invitations/{token}").text
        answer = client.post(f"/invitations/{token}", {"answer": "accept"})
        assert answer["Location"] == f"/crews/{crew.pk}"
        assert client.get(answer["Location"]).status_code == 200
        again = client.get(f"/invitations/{token}")
        assert again.status_code == 409
        assert "not open any more" in again.text

    def test_somebody_elses_is_not_there(self, client, mina, crew):
        invitation, token = invitations.invite(crew, level="viewer", by=crew.owner, user=UserFactory())
        assert client.post(f"/profile/invitations/{invitation.pk}", {"answer": "accept"}).status_code == 404
        answer = client.get(f"/invitations/{token}")
        assert answer.status_code == 404
        assert "Herb growers" not in answer.text
