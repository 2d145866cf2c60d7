"""People and service accounts: made, given roles, switched off and on, deleted."""

from typing import Any

import pytest
from django.core.exceptions import PermissionDenied, ValidationError

from executions import actions
from executions.status import Status
from portal.accounts import invitations, keys, people
from portal.accounts.credentials import CredentialRefused
from portal.accounts.limits import TooMany
from portal.accounts.models import ApiKey, AuditEntry, Invitation, Role, Scope, Session, User
from portal.accounts.signals import user_deactivated
from portal.lib.problems import Conflict
from tests.factories.accounts import PASSWORD, AccessListFactory, UserFactory
from tests.factories.crews import CrewFactory
from tests.factories.executions import execution_in

pytestmark = pytest.mark.django_db


def boss(**fields: Any) -> User:
    return UserFactory(admin=True, **fields)


def told(action: str) -> list[AuditEntry]:
    return list(AuditEntry.objects.filter(action=action).order_by("id"))


def as_viewer(user: User) -> User:
    return User.objects.get(pk=user.pk).acting_as(Role.VIEWER)


class TestMaking:
    def test_a_person_signs_in_with_the_password_that_was_given(self):
        by = boss()
        made = people.create_person(username="ann", by=by, role=Role.VIEWER, password=PASSWORD, email="ann@example.com")
        assert (made.role, made.is_active, made.is_service) == (Role.VIEWER, True, False)
        assert made.check_password(PASSWORD)
        entry = told("user.created")[0]
        assert (entry.actor_id, entry.target_id, entry.after["role"]) == (by.pk, str(made.pk), "viewer")

    def test_without_a_password_nobody_knows_it_and_a_reset_works(self):
        assert people.create_person(username="ann", by=None).has_usable_password()

    def test_a_service_account_has_none(self):
        made = people.create_service_account(username="bot", by=boss())
        assert made.is_service
        assert not made.has_usable_password()

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"password": "password"}, "password"),
            ({"password": "ann-smith-1"}, "password"),
            ({"username": "ADMIN"}, "username"),
            ({"username": "a b"}, "username"),
            ({"username": "x" * 151}, "username"),
            ({"email": "nowhere"}, "email"),
            ({"role": "emperor"}, "role"),
        ],
    )
    def test_what_cannot_be_used_is_refused_by_field(self, fields, field):
        UserFactory(username="admin")
        with pytest.raises(ValidationError) as refused:
            people.create_person(**{"username": "ann-smith", "password": PASSWORD, "by": None, **fields})
        assert list(refused.value.error_dict) == [field]
        assert User.objects.count() == 1
        assert not told("user.created")

    def test_only_admins_make_accounts(self):
        for by in (UserFactory(), UserFactory(viewer=True), boss(is_active=False), boss().acting_as(Role.USER)):
            for make in (people.create_person, people.create_service_account):
                with pytest.raises(PermissionDenied):
                    make(username="ann", by=by)
        assert not User.objects.filter(username="ann").exists()


class TestSigningUp:
    def test_it_is_off_unless_switched_on(self, settings):
        assert settings.SIGN_UP is False
        with pytest.raises(PermissionDenied):
            people.sign_up(username="ann", password=PASSWORD, address="192.0.2.1")

    def test_the_role_is_the_one_of_the_settings_and_viewer_by_default(self, settings):
        settings.SIGN_UP = True
        assert people.sign_up(username="ann", password=PASSWORD, address="192.0.2.1").role == Role.VIEWER
        settings.SIGN_UP_ROLE = "user"
        assert people.sign_up(username="bob", password=PASSWORD, address="192.0.2.1").role == Role.USER

    def test_one_address_makes_not_many(self, settings):
        settings.SIGN_UP = True
        for number in range(people.SIGN_UPS):
            people.sign_up(username=f"ann{number}", password=PASSWORD, address="192.0.2.1")
        with pytest.raises(TooMany):
            people.sign_up(username="more", password=PASSWORD, address="192.0.2.1")
        people.sign_up(username="elsewhere", password=PASSWORD, address="192.0.2.2")


class TestRoles:
    def test_an_admin_changes_a_role_and_the_log_says_from_what_to_what(self):
        by, user = boss(), UserFactory(viewer=True)
        people.change_role(user, Role.USER, by=by)
        user.refresh_from_db()
        assert user.role == Role.USER
        entry = told("user.role_changed")[0]
        assert (entry.before, entry.after) == ({"role": "viewer"}, {"role": "user"})

    def test_nobody_else_changes_roles(self):
        user = UserFactory(viewer=True)
        for by in (UserFactory(), user, boss().acting_as(Role.USER), boss(is_active=False)):
            with pytest.raises(PermissionDenied):
                people.change_role(user, Role.ADMIN, by=by)
        assert not told("user.role_changed")

    def test_who_was_demoted_after_the_request_began_changes_nothing(self):
        boss()
        by, user = boss(), UserFactory()
        User.objects.filter(pk=by.pk).update(role=Role.USER)
        with pytest.raises(PermissionDenied):
            people.change_role(user, Role.ADMIN, by=by)

    def test_an_admin_may_step_down_while_another_is_there(self):
        first, second = boss(), boss()
        people.change_role(first, Role.USER, by=first)
        with pytest.raises(people.LastAdmin):
            people.change_role(second, Role.VIEWER, by=second)


class TestTheLastAdmin:
    @pytest.mark.parametrize("by_system", [True, False])
    def test_cannot_be_demoted_deactivated_or_deleted(self, by_system):
        last = boss()
        # None of these would be left to look after things.
        boss(is_active=False)
        UserFactory()
        people.create_service_account(username="bot", by=None, role=Role.ADMIN)
        by = None if by_system else last
        for act in (
            lambda: people.change_role(last, Role.USER, by=by),
            lambda: people.deactivate(last, by=by),
            lambda: people.delete(last, by=by),
        ):
            with pytest.raises(people.LastAdmin):
                act()
        last.refresh_from_db()
        assert (last.role, last.is_active) == (Role.ADMIN, True)

    def test_a_service_account_that_acts_as_admin_can_be_taken_away(self):
        by = boss()
        bot = people.create_service_account(username="bot", by=None, role=Role.ADMIN)
        people.change_role(bot, Role.USER, by=by)
        people.delete(bot, by=by)


class TestDeactivation:
    def test_sessions_keys_and_invitations_end_for_good(self, django_capture_on_commit_callbacks):
        by, user = boss(), UserFactory()
        crew = CrewFactory(owner=user)
        Session.objects.create(session_key="k" * 32, user=user, expire_date="2100-01-01T00:00:00Z")
        _row, text = keys.create(user, name="script", scopes=[Scope.READ], by=None)
        made, _token = invitations.invite(crew, level="viewer", user=UserFactory(), by=user)
        got, _token = invitations.invite(CrewFactory(), level="viewer", user=user, by=by)
        heard: list[Any] = []

        def hear(**said: Any) -> None:
            heard.append((said["user"], said["by"]))

        user_deactivated.connect(hear)
        try:
            with django_capture_on_commit_callbacks(execute=True):
                people.deactivate(user, by=by)
        finally:
            user_deactivated.disconnect(hear)
        assert heard == [(user, by)]
        assert not Session.objects.filter(user=user).exists()
        for invitation in (made, got):
            invitation.refresh_from_db()
            assert invitation.answer == Invitation.Answer.WITHDRAWN
        people.reactivate(user, by=by)
        user.refresh_from_db()
        assert user.is_active
        with pytest.raises(CredentialRefused):
            keys.check(text)
        assert not ApiKey.objects.filter(user=user, revoked_at=None).exists()
        assert [
            entry.action for entry in AuditEntry.objects.filter(action__in=["user.deactivated", "user.reactivated"])
        ]

    def test_both_are_safe_to_repeat_and_told_once(self):
        by, user = boss(), UserFactory()
        for _time in range(2):
            people.deactivate(user, by=by)
        for _time in range(2):
            people.reactivate(user, by=by)
        assert (len(told("user.deactivated")), len(told("user.reactivated"))) == (1, 1)

    def test_only_admins_do_it(self):
        by, user = UserFactory(), UserFactory()
        for act in (people.deactivate, people.reactivate, people.delete):
            with pytest.raises(PermissionDenied):
                act(user, by=by)
            with pytest.raises(PermissionDenied):
                act(user, by=user)


class TestDeletion:
    def test_who_owns_nothing_goes(self):
        by, user = boss(), UserFactory()
        people.delete(user, by=by)
        assert not User.objects.filter(username=user.username).exists()
        assert told("user.deleted")[0].target_name == user.username

    def test_who_owns_things_stays_and_it_says_what_to_do(self):
        by, crew = boss(), CrewFactory()
        with pytest.raises(Conflict) as refused:
            people.delete(crew.owner, by=by)
        assert refused.value.code == "user_owns_things"
        assert "deactivate" in refused.value.hint
        crew.owner.refresh_from_db()

    def test_who_has_started_a_run_goes_once_it_is_deleted(self):
        by, user = boss(), UserFactory()
        run = execution_in(Status.COMPLETED, created_by=user, access=AccessListFactory(owner=user))
        with pytest.raises(Conflict) as refused:
            people.delete(user, by=by)
        assert "delete its runs" in refused.value.hint
        actions.delete(execution=run, by=by)
        people.delete(user, by=by)
        assert not User.objects.filter(pk=user.pk).exists()


class TestFacts:
    def test_oneself_and_admins_change_them_and_the_log_keeps_what_changed(self):
        user = UserFactory(first_name="Ann")
        people.change_facts(user, by=user, first_name="Anna", language="ko")
        people.change_facts(user, by=boss(), last_name="Lee")
        user.refresh_from_db()
        assert user.get_full_name() == "Anna Lee"
        entry = told("user.changed")[0]
        assert entry.before == {"first_name": "Ann", "language": ""}
        assert entry.after == {"first_name": "Anna", "language": "ko"}

    def test_nobody_else_does(self):
        user = UserFactory()
        with pytest.raises(PermissionDenied):
            people.change_facts(user, by=UserFactory(), first_name="X")
        with pytest.raises(TypeError):
            people.change_facts(user, by=user, role="admin")

    def test_what_cannot_be_used_is_refused(self):
        user = UserFactory()
        with pytest.raises(ValidationError):
            people.change_facts(user, by=user, language="xx")
