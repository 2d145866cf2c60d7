"""Signing in with a name and a password, and the second factor after it; passwords set anew."""

from importlib import import_module
from typing import Any

import pyotp
import pytest
import time_machine
from django.conf import settings as django_settings
from django.contrib.auth import get_user
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest
from django.test import RequestFactory
from django.utils import timezone

from portal.accounts import limits, local, passwords, people, second_factor
from portal.accounts.audit import refusals as counted
from portal.accounts.entering import SignInRefused, enter, leave
from portal.accounts.limits import TooMany
from portal.accounts.models import AuditEntry, Role, Session, User
from portal.lib.problems import Conflict
from tests.factories.accounts import PASSWORD, UserFactory

pytestmark = pytest.mark.django_db
NEW = "an altogether other phrase"


def a_request(address: str = "192.0.2.1", session: str | None = None, user: Any = None) -> HttpRequest:
    request = RequestFactory().post("/sign-in", REMOTE_ADDR=address, headers={"User-Agent": "Browser"})
    request.session = import_module(django_settings.SESSION_ENGINE).SessionStore(session)
    request.user = user or AnonymousUser()
    return request


def sign_in(user: User, password: str = PASSWORD, **where: Any) -> HttpRequest:
    request = a_request(**where)
    assert local.begin(request, local.check_password(request, username=user.username, password=password))
    request.session.save()
    return request


@pytest.fixture(autouse=True)
def nothing_refused_yet() -> None:
    counted.forget()


def refusals() -> list[tuple[str, str]]:
    counted.flush()
    entries = AuditEntry.objects.filter(action="user.sign_in_refused").order_by("id")
    return [(entry.target_name, entry.after["reason"]) for entry in entries for _time in range(entry.count)]


class TestNameAndPassword:
    def test_the_session_is_new_and_knows_where_it_began(self):
        user = UserFactory()
        request = a_request()
        request.session["kept"] = 1
        request.session.create()
        before = request.session.session_key
        assert local.begin(request, local.check_password(request, username=user.username, password=PASSWORD))
        request.session.save()
        row = Session.objects.get()
        assert row.session_key != before
        assert (row.user, row.method, row.address, row.user_agent) == (user, "password", "192.0.2.1", "Browser")
        assert get_user(request) == user
        assert AuditEntry.objects.get(action="user.signed_in").actor_id == user.pk

    def test_every_refusal_says_the_same(self):
        people.create_service_account(username="bot", by=None)
        UserFactory(username="ann")
        UserFactory(username="gone", is_active=False)
        User.objects.create(username="elsewhere", password="!")
        said = set()
        for name, password in [
            ("ann", "wrong"),
            ("nobody", PASSWORD),
            ("gone", PASSWORD),
            ("bot", ""),
            ("elsewhere", "!"),
            ("\x00", "\x00"),
        ]:
            with pytest.raises(SignInRefused) as refused:
                local.check_password(a_request(), username=name, password=password)
            said.add(refused.value.sentence)
        assert len(said) == 1
        assert {name for name, _why in refusals()} == {"ann", "gone", "bot", "elsewhere", ""}
        assert "nobody" not in str(list(AuditEntry.objects.values()))

    def test_neither_the_deactivated_nor_service_accounts_enter_by_any_way(self):
        for user in (UserFactory(is_active=False), people.create_service_account(username="bot", by=None)):
            for method in Session.Method:
                with pytest.raises(SignInRefused):
                    enter(a_request(), user, method=method)
        assert not Session.objects.exists()

    def test_an_unknown_name_takes_as_long_as_a_wrong_password(self, monkeypatch):
        from django.contrib.auth import hashers

        hashed: list[str] = []
        real = hashers.MD5PasswordHasher.encode
        monkeypatch.setattr(
            hashers.MD5PasswordHasher, "encode", lambda self, *args: hashed.append("x") or real(self, *args)
        )
        UserFactory(username="ann")
        people.create_service_account(username="bot", by=None)
        costs = {}
        for name in ("ann", "nobody", "bot"):
            hashed.clear()
            with pytest.raises(SignInRefused):
                local.check_password(a_request(), username=name, password="wrong")
            costs[name] = len(hashed)
        assert len(set(costs.values())) == 1, costs

    def test_a_name_is_not_guessed_at_without_end_from_wherever(self):
        user = UserFactory(username="ann")
        for number in range(local.TRIES_OF_A_NAME):
            with pytest.raises(SignInRefused):
                local.check_password(a_request(f"192.0.2.{number}"), username="Ann", password="wrong")
        with pytest.raises(TooMany):
            local.check_password(a_request("192.0.2.99"), username="ann", password=PASSWORD)
        assert ("ann", "too_many_tries") in refusals()
        with time_machine.travel(timezone.now().timestamp() + local.TRIES_SECONDS + 1):
            sign_in(user)

    def test_an_address_guesses_at_names_no_longer_than_at_one(self):
        UserFactory(username="ann")
        for number in range(local.TRIES_OF_AN_ADDRESS):
            with pytest.raises(SignInRefused):
                local.check_password(a_request(), username=f"name{number}", password="wrong")
        with pytest.raises(TooMany):
            local.check_password(a_request(), username="ann", password=PASSWORD)
        local.check_password(a_request("192.0.2.2"), username="ann", password=PASSWORD)

    def test_who_knows_the_password_is_not_held_up(self):
        user = UserFactory()
        for _number in range(local.TRIES_OF_AN_ADDRESS + 5):
            local.check_password(a_request(), username=user.username, password=PASSWORD)

    def test_signing_out_ends_the_session(self):
        user = UserFactory()
        request = sign_in(user)
        request.user = user
        leave(request)
        assert not Session.objects.exists()
        assert AuditEntry.objects.filter(action="user.signed_out", actor_id=user.pk).exists()


class TestTheSecondStep:
    @pytest.fixture
    def ann(self) -> User:
        user = UserFactory(username="ann")
        setup = second_factor.begin(user)
        self.codes = second_factor.confirm(user, pyotp.TOTP(setup.secret).now())
        return user

    def half(self, user: User) -> HttpRequest:
        request = a_request()
        assert local.begin(request, local.check_password(request, username="ann", password=PASSWORD)) is False
        return request

    def test_the_password_alone_signs_nobody_in(self, ann):
        request = self.half(ann)
        request.session.save()
        assert isinstance(get_user(request), AnonymousUser)
        assert Session.objects.get().user is None
        assert local.half_signed_in(request) == ann
        with pytest.raises(second_factor.WrongCode):
            local.finish(request, code="000000")
        assert refusals() == [("ann", "wrong_code")]
        assert local.finish(request, code=self.codes[0]) == ann
        assert get_user(request) == ann
        assert local.half_signed_in(request) is None

    def test_it_is_owed_for_minutes_only(self, ann):
        request = self.half(ann)
        with time_machine.travel(timezone.now().timestamp() + local.HALF_SECONDS + 1):
            assert local.half_signed_in(request) is None
        request = self.half(ann)
        with (
            time_machine.travel(timezone.now().timestamp() + local.HALF_SECONDS + 1),
            pytest.raises(SignInRefused),
        ):
            local.finish(request, code=self.codes[0])

    def test_it_ends_with_the_password_or_the_account(self, ann):
        request = self.half(ann)
        passwords.set_for(ann, NEW, by=None)
        assert local.half_signed_in(request) is None
        passwords.set_for(ann, PASSWORD, by=None)
        request = self.half(ann)
        people.deactivate(ann, by=None)
        assert local.half_signed_in(request) is None
        with pytest.raises(SignInRefused):
            local.finish(request, code=self.codes[0])

    def test_nobody_gets_there_without_the_password(self, ann):
        with pytest.raises(SignInRefused):
            local.finish(a_request(), code=self.codes[0])
        assert second_factor.codes_left(ann) == len(self.codes)

    def test_tries_are_few_across_sessions(self, ann):
        limits.forget(f"second-factor:{ann.pk}")
        for _number in range(second_factor.TRIES):
            with pytest.raises(second_factor.WrongCode):
                local.finish(self.half(ann), code="000000")
        with pytest.raises(TooMany):
            local.finish(self.half(ann), code=self.codes[0])


class TestPasswords:
    def link(self, user: User) -> tuple[str, str]:
        uid, token = passwords.make_link(user, by=None).split("/")[-2:]
        return uid, token

    def test_ones_own_session_goes_on_and_the_others_end(self):
        user = UserFactory()
        here, _there = sign_in(user), sign_in(user)
        here.user = user
        passwords.change(here, user, NEW)
        here.session.save()
        assert Session.objects.filter(user=user).count() == 1
        assert get_user(a_request(session=here.session.session_key)) == user
        sign_in(user, NEW)

    def test_a_link_sets_it_once_and_ends_all_sessions(self):
        user = UserFactory()
        sign_in(user)
        uid, token = self.link(user)
        with pytest.raises(ValidationError) as refused:
            passwords.reset(uid, token, "password")
        assert list(refused.value.error_dict) == ["password"]
        assert passwords.reset(uid, token, NEW) == user
        assert not Session.objects.exists()
        for _time in range(2):
            with pytest.raises(passwords.LinkDead):
                passwords.reset(uid, token, PASSWORD)
        sign_in(user, NEW)

    @pytest.mark.parametrize(
        "change", [{"is_active": False}, {"email": "other@example.com"}, {"password": "!", "is_service": True}]
    )
    def test_a_link_dies_with_what_it_was_made_for(self, change):
        user = UserFactory()
        uid, token = self.link(user)
        User.objects.filter(pk=user.pk).update(**change)
        with pytest.raises(passwords.LinkDead):
            passwords.user_of(uid, token)

    def test_it_is_good_for_a_day(self, settings):
        uid, token = self.link(UserFactory())
        with (
            time_machine.travel(timezone.now().timestamp() + settings.PASSWORD_RESET_TIMEOUT + 5),
            pytest.raises(passwords.LinkDead),
        ):
            passwords.user_of(uid, token)

    @pytest.mark.parametrize(("uid", "token"), [("", ""), ("x", "y-z"), ("é", "1-2"), ("AAAA", "c-" + "0" * 32)])
    def test_nonsense_is_a_dead_link(self, uid, token):
        with pytest.raises(passwords.LinkDead):
            passwords.user_of(uid, token)

    def test_only_local_accounts_get_one_and_only_from_admins(self):
        bot = people.create_service_account(username="bot", by=None)
        elsewhere = User.objects.create(username="elsewhere", password="!")
        for user in (bot, elsewhere, UserFactory(is_active=False)):
            with pytest.raises(Conflict):
                passwords.make_link(user, by=None)
        with pytest.raises(Conflict):
            passwords.set_for(bot, NEW, by=None)
        for by in (UserFactory(), UserFactory(admin=True).acting_as(Role.USER)):
            with pytest.raises(PermissionDenied):
                passwords.make_link(UserFactory(), by=by)
            with pytest.raises(PermissionDenied):
                passwords.set_for(UserFactory(), NEW, by=by)


class TestForgotten:
    @pytest.fixture(autouse=True)
    def mail(self, settings, mailoutbox):
        settings.EMAIL_URL = "smtp://mail.example.com"
        self.box = mailoutbox

    def test_local_accounts_of_the_address_are_mailed_and_nobody_else(self):
        user = UserFactory(email="ann@example.com")
        UserFactory(email="ann@example.com", is_active=False)
        User.objects.create(username="elsewhere", password="!", email="ann@example.com")
        people.create_service_account(username="bot", by=None, email="ann@example.com")
        assert passwords.mail_links("Ann@Example.com") == 1
        [mail] = self.box
        assert mail.to == ["ann@example.com"]
        uid, token = next(line for line in mail.body.splitlines() if "/password/" in line).split("/")[-2:]
        assert passwords.user_of(uid, token) == user

    def test_asking_does_the_same_whether_anybody_has_the_address(self, monkeypatch, django_assert_num_queries):
        queued: list[Any] = []
        monkeypatch.setattr(passwords, "async_task", lambda *args: queued.append(args))
        UserFactory(email="ann@example.com")
        for email in ("ann@example.com", "nobody@example.com"):
            with django_assert_num_queries(1):
                passwords.request_reset(email, address="192.0.2.1")
        assert [args[1] for args in queued] == ["ann@example.com", "nobody@example.com"]
        assert passwords.mail_links("nobody@example.com") == 0

    def test_neither_an_address_nor_a_mailbox_is_flooded(self, monkeypatch):
        monkeypatch.setattr(passwords, "async_task", lambda *args: None)
        UserFactory(email="ann@example.com")
        for _number in range(passwords.RESETS_OF_AN_ADDRESS):
            passwords.request_reset("ann@example.com", address="192.0.2.1")
        with pytest.raises(TooMany):
            passwords.request_reset("ann@example.com", address="192.0.2.1")
        sent = [passwords.mail_links("ann@example.com") for _number in range(passwords.RESETS_OF_A_MAIL + 2)]
        assert sum(sent) == passwords.RESETS_OF_A_MAIL
