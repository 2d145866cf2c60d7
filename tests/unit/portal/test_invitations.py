"""Invitations: for somebody who is here, or for whoever holds a link."""

from datetime import timedelta

import pytest
import time_machine
from django.core.exceptions import PermissionDenied, ValidationError
from django.utils import timezone

from crews import actions
from portal.accounts import invitations, people, sharing
from portal.accounts.limits import TooMany
from portal.accounts.models import AccessGrant, AuditEntry, Invitation, Role, User
from portal.lib.problems import Conflict
from tests.factories.accounts import UserFactory
from tests.factories.crews import CrewFactory

pytestmark = pytest.mark.django_db
AWAY = "away@example.com"


def level_of(user: User, crew) -> str | None:
    return AccessGrant.objects.filter(access=crew.access, user=user).values_list("level", flat=True).first()


def invited(user: User | None = None, level: str = "editor", **fields):
    crew = fields.pop("crew", None) or CrewFactory()
    whom = {"user": user} if user else {"email": AWAY}
    invitation, token = invitations.invite(crew, level=level, by=fields.pop("by", crew.owner), **whom, **fields)
    return crew, invitation, token


class TestAnswering:
    def test_who_is_here_finds_it_and_joins(self):
        user = UserFactory()
        crew, invitation, _token = invited(user)
        assert list(invitations.open_for(user)) == list(invitations.open_of(crew)) == [invitation]
        assert level_of(user, crew) is None
        invitations.accept(invitations.open_for(user).get(), by=user)
        assert level_of(user, crew) == "editor"
        assert not invitations.open_for(user).exists()
        assert AuditEntry.objects.get(action="invitation.accepted").target_id == str(crew.pk)

    def test_whoever_holds_a_mailed_link_joins_once(self):
        crew, _invitation, token = invited()
        first, second = UserFactory(), UserFactory()
        found = [invitations.find(token, by=person) for person in (first, second)]
        invitations.accept(found[0], by=first)
        with pytest.raises(invitations.InvitationClosed):
            invitations.accept(found[1], by=second)
        with pytest.raises(invitations.InvitationClosed):
            invitations.find(token, by=second)
        assert (level_of(first, crew), level_of(second, crew)) == ("editor", None)

    def test_no_becomes_yes_no_more(self):
        user = UserFactory()
        crew, invitation, token = invited(user)
        invitations.decline(invitation, by=user)
        assert invitation.answer == Invitation.Answer.DECLINED
        with pytest.raises(invitations.InvitationClosed):
            invitations.accept(invitation, by=user)
        with pytest.raises(invitations.InvitationClosed):
            invitations.find(token, by=user)
        assert level_of(user, crew) is None

    def test_nobody_else_answers_what_is_for_somebody(self):
        user, other = UserFactory(), UserFactory(admin=True)
        crew, invitation, token = invited(user)
        with pytest.raises(invitations.InvitationUnknown):
            invitations.find(token, by=other)
        for act in (invitations.accept, invitations.decline):
            with pytest.raises(invitations.InvitationUnknown):
                act(invitation, by=other)
        assert level_of(other, crew) is None
        invitations.accept(invitations.find(token, by=user), by=user)

    @pytest.mark.parametrize("token", ["", "x", "x" * 1000, "é", "\x00"])
    def test_an_unknown_link_opens_nothing(self, token):
        invited()
        with pytest.raises(invitations.InvitationUnknown):
            invitations.find(token, by=UserFactory())

    def test_the_link_is_not_stored(self):
        _crew, invitation, token = invited()
        assert token not in str(Invitation.objects.filter(pk=invitation.pk).values().get())

    def test_it_never_takes_a_level_away(self):
        user = UserFactory()
        crew, invitation, _token = invited(user, level="viewer")
        AccessGrant.objects.create(access=crew.access, user=user, level="editor")
        invitations.accept(invitation, by=user)
        assert level_of(user, crew) == "editor"

    def test_the_owner_gets_no_grant_from_a_link(self):
        crew, _invitation, token = invited()
        assert invitations.accept(invitations.find(token, by=crew.owner), by=crew.owner) is None
        assert not sharing.members(crew)


class TestClosing:
    def test_it_ends_by_itself(self):
        user = UserFactory()
        _crew, invitation, token = invited(user)
        with time_machine.travel(timezone.now() + timedelta(days=invitations.DAYS, seconds=1)):
            with pytest.raises(invitations.InvitationClosed):
                invitations.find(token, by=user)
            with pytest.raises(invitations.InvitationClosed):
                invitations.accept(invitation, by=user)

    def test_it_is_taken_back_by_who_made_it_the_owner_and_admins(self):
        admin, stranger = UserFactory(admin=True), UserFactory()
        crew = CrewFactory()
        for by in (crew.owner, admin):
            _crew, invitation, token = invited(crew=crew, by=admin)
            with pytest.raises(PermissionDenied):
                invitations.withdraw(invitation, by=stranger)
            invitations.withdraw(invitation, by=by)
            with pytest.raises(invitations.InvitationClosed):
                invitations.find(token, by=stranger)
            with pytest.raises(invitations.InvitationClosed):
                invitations.withdraw(invitation, by=by)

    def test_it_is_worth_nothing_once_who_made_it_may_let_nobody_in(self):
        user = UserFactory()
        crew, invitation, _token = invited(user)
        User.objects.filter(pk=crew.owner.pk).update(role=Role.VIEWER)
        with pytest.raises(invitations.InvitationClosed):
            invitations.accept(invitation, by=user)
        assert level_of(user, crew) is None

    def test_it_ends_with_who_made_it_and_does_not_come_back(self):
        admin, user = UserFactory(admin=True), UserFactory()
        crew, invitation, _token = invited(user)
        people.deactivate(crew.owner, by=admin)
        people.reactivate(crew.owner, by=admin)
        with pytest.raises(invitations.InvitationClosed):
            invitations.accept(invitation, by=user)

    def test_it_goes_with_the_thing(self):
        user = UserFactory()
        crew, invitation, _token = invited(user)
        actions.delete_crew(crew=crew)
        with pytest.raises(invitations.InvitationClosed):
            invitations.accept(invitation, by=user)


class TestMaking:
    def test_a_second_one_takes_the_place_of_the_first(self):
        user = UserFactory()
        crew, _first, _token = invited(user, level="viewer")
        _crew, second, _token = invited(user, level="editor", crew=crew)
        assert list(invitations.open_for(user)) == [second]
        for _time in range(2):
            invited(crew=crew)
        assert invitations.open_of(crew).filter(email=AWAY).count() == 1

    def test_who_cannot_answer_or_is_in_is_not_invited(self):
        crew = CrewFactory()
        member = UserFactory()
        AccessGrant.objects.create(access=crew.access, user=member, level="editor")
        bot = people.create_service_account(username="bot", by=None)
        for user in (crew.owner, member, bot, UserFactory(is_active=False)):
            with pytest.raises(Conflict):
                invited(user, level="viewer", crew=crew)
        with pytest.raises(ValidationError):
            invitations.invite(crew, level="viewer", email="nowhere", by=crew.owner)

    def test_a_viewer_may_be_offered_more(self):
        user = UserFactory()
        crew = CrewFactory()
        AccessGrant.objects.create(access=crew.access, user=user, level="viewer")
        _crew, invitation, _token = invited(user, level="editor", crew=crew)
        invitations.accept(invitation, by=user)
        assert level_of(user, crew) == "editor"

    def test_nobody_sends_them_without_end(self):
        crew = CrewFactory()
        for number in range(invitations.A_DAY):
            invitations.invite(crew, level="viewer", email=f"a{number}@example.com", by=crew.owner)
        with pytest.raises(TooMany):
            invited(crew=crew)


class TestTelling:
    def test_without_mail_the_link_is_for_who_invites(self):
        _crew, invitation, token = invited()
        assert invitations.tell(invitation, token) is False
        assert invitations.link_of(token).endswith(f"/invitations/{token}")

    def test_a_mail_has_the_link_in_the_persons_language(self, settings, mailoutbox):
        settings.EMAIL_URL = "smtp://mail.example.com"
        user = UserFactory(language="ko")
        for _crew, invitation, token in (invited(), invited(user)):
            assert invitations.tell(invitation, token) is True
            mail = mailoutbox.pop()
            assert mail.to == [user.email if invitation.user else AWAY]
            assert invitations.link_of(token) in mail.body
