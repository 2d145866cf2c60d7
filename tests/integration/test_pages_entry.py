"""Pages of entering: one step and two, making an account, forgotten passwords, and how refusals look."""

import re

import pyotp
import pytest
from django.urls import reverse

from portal.accounts import passwords, second_factor
from portal.accounts.models import AuditEntry, SecondFactor, User
from tests.factories.accounts import PASSWORD, UserFactory

pytestmark = pytest.mark.django_db
NEW = "a much better passphrase"


def sent(username="mina", password=PASSWORD, **more):
    return {"username": username, "password": password, **more}


def is_in(client):
    return client.get("/profile").status_code == 200


def with_factor(user):
    """Switch the second factor of `user` on; its recovery codes."""
    setup = second_factor.begin(user)
    codes = second_factor.confirm(user, pyotp.TOTP(setup.secret).now())
    SecondFactor.objects.filter(user=user).update(last_step=0)  # so that the code of this moment is good again
    return codes


def code_of(user):
    return pyotp.TOTP(SecondFactor.objects.get(user=user).secret).now()


class TestWhatIsOffered:
    def test_a_bare_portal_offers_the_form_alone(self, client):
        text = client.get("/sign-in").text
        assert 'name="password"' in text
        assert "/oidc/" not in text
        assert "/sign-up" not in text
        assert "/password/forgotten" not in text
        assert client.get("/sign-up").status_code == client.get("/password/forgotten").status_code == 404

    def test_everything_that_is_set_up_is_offered(self, client, settings):
        settings.OIDC_ISSUER, settings.OIDC_NAME = "https://sso.example.com/realms/x", "Example & Co"
        settings.EMAIL_URL, settings.SIGN_UP = "smtp://localhost", True
        text = client.get("/sign-in?next=/crews%3Fwhose%3Down").text
        assert 'href="/oidc/authenticate?next=%2Fcrews%3Fwhose%3Down"' in text
        assert "Sign in with Example &amp; Co" in text
        assert 'href="/password/forgotten"' in text
        assert 'href="/sign-up?next=' in text
        assert client.get("/sign-up").status_code == client.get("/password/forgotten").status_code == 200

    def test_the_development_switch_is_said_on_every_page(self, client, settings):
        settings.DEBUG, settings.DEVELOPMENT_USER = True, UserFactory(username="dev").username
        assert "whoever comes is dev, without a password" in client.get("/").text
        # One can still come as somebody else.
        UserFactory(username="mina")
        assert client.get("/sign-in").status_code == 200
        assert client.post("/sign-in", sent())["Location"] == "/"
        assert "who is not signed in is dev" in client.get("/").text


class TestRefusals:
    def test_all_reasons_look_alike(self, client):
        UserFactory(username="mina")
        UserFactory(username="gone", is_active=False)
        found = [client.post("/sign-in", sent(who, word)) for who, word in
                 [("mina", "wrong"), ("nobody", PASSWORD), ("gone", PASSWORD)]]  # fmt: skip
        alerts = {re.search(r'role="alert".*?</div>\s*</div>', answer.text, re.S)[0] for answer in found}
        assert len(alerts) == 1
        assert [answer.status_code for answer in found] == [422] * 3
        assert not is_in(client)

    def test_too_many_tries_are_told_so(self, client):
        UserFactory(username="mina")
        answers = [client.post("/sign-in", sent(password="wrong")).status_code for _ in range(10)]
        assert answers == [422] * 10
        answer = client.post("/sign-in", sent())
        assert answer.status_code == 429
        assert "Too many requests" in answer.text
        assert not is_in(client)


class TestSecondStep:
    @pytest.fixture
    def mina(self):
        return UserFactory(username="mina")

    def test_a_code_is_asked_for_and_lets_in(self, client, mina):
        with_factor(mina)
        answer = client.post("/sign-in", sent(next="/crews"))
        assert answer["Location"] == "/sign-in/code?next=%2Fcrews"
        assert not is_in(client)
        page = client.get(answer["Location"])
        assert "mina" in page.text
        assert 'autocomplete="one-time-code"' in page.text
        wrong = client.post("/sign-in/code", {"code": "000000", "next": "/crews"})
        assert wrong.status_code == 422
        assert "This code is not right" in wrong.text
        assert client.post("/sign-in/code", {"code": code_of(mina), "next": "/crews"})["Location"] == "/crews"
        assert is_in(client)

    def test_a_recovery_code_lets_in_once(self, client, mina):
        code = with_factor(mina)[0]
        client.post("/sign-in", sent())
        assert client.post("/sign-in/code", {"code": code}).status_code == 302
        client.post("/sign-out")
        client.post("/sign-in", sent())
        assert client.post("/sign-in/code", {"code": code}).status_code == 422

    def test_without_the_first_step_there_is_no_second(self, client, mina):
        with_factor(mina)
        assert client.get("/sign-in/code?next=/crews")["Location"] == "/sign-in?next=%2Fcrews"
        assert client.post("/sign-in/code", {"code": code_of(mina)})["Location"].startswith("/sign-in?")
        assert not is_in(client)


class TestOwnAccount:
    def test_a_stranger_makes_one_where_they_may(self, client, settings):
        settings.SIGN_UP = True
        answer = client.post("/sign-up", {"username": "nova", "password": NEW, "again": NEW, "next": "/crews"})
        assert answer["Location"] == "/crews"
        assert is_in(client)
        faulty = client.post("/sign-up", {"username": "NOVA", "password": NEW, "again": NEW})
        assert faulty.status_code == 422
        assert "Somebody has this name already" in faulty.text
        differing = client.post("/sign-up", {"username": "other", "password": NEW, "again": "x"})
        assert "The two passwords differ" in differing.text
        assert list(User.objects.values_list("username", flat=True)) == ["nova"]

    def test_a_link_sets_a_password_once(self, client):
        mina = UserFactory(username="mina")
        link = passwords.make_link(mina, by=None)
        address = link[link.index("/password") :]
        assert "“mina”" in client.get(address).text
        weak = client.post(address, {"password": "1234", "again": "1234"})
        assert weak.status_code == 422
        assert "too short" in weak.text
        assert client.post(address, {"password": NEW, "again": NEW})["Location"] == "/sign-in"
        assert client.post("/sign-in", sent(password=NEW)).status_code == 302
        again = client.get(address)
        assert again.status_code == 404
        assert "This link does not work" in again.text

    def test_asking_for_a_link_tells_nothing(self, client, settings):
        settings.EMAIL_URL = "smtp://localhost"
        UserFactory(username="mina", email="mina@example.com")
        texts = {client.post("/password/forgotten", {"email": mail}).text
                 for mail in ("mina@example.com", "nobody@example.com")}  # fmt: skip
        assert len(texts) == 1
        assert "Look into your mail" in texts.pop()


class TestPlainPages:
    """What one may not see or do, in the portal's look and without a dead end."""

    def test_a_form_without_its_token(self, settings):
        from django.test import Client

        answer = Client(enforce_csrf_checks=True).post("/sign-in", sent())
        assert answer.status_code == 403
        assert "The form has expired" in answer.text
        assert 'href="/"' in answer.text

    def test_what_one_may_not_do_and_what_is_not_there(self, client):
        client.force_login(UserFactory())
        for address, status in [("/settings/users", 403), ("/settings/audit", 403), ("/nothing", 404)]:
            answer = client.get(address)
            assert (answer.status_code, 'href="/"' in answer.text) == (status, True)

    def test_signing_in_and_out_is_in_the_log(self, client):
        mina = UserFactory(username="mina")
        client.post("/sign-in", sent())
        client.post("/sign-out")
        actions = AuditEntry.objects.filter(target_id=str(mina.pk)).values_list("action", flat=True)
        assert sorted(actions) == ["user.signed_in", "user.signed_out"]

    @pytest.mark.parametrize("name", ["accounts:sign-up", "accounts:password-forgotten"])
    def test_nothing_is_inline(self, client, settings, name):
        settings.SIGN_UP, settings.EMAIL_URL = True, "smtp://localhost"
        text = client.get(reverse(name)).text
        assert not re.search(r"<[^>]+\s(style|on\w+)=", text)
