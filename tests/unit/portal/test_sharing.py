"""Sharing, members and owners of a thing."""

import pytest
from django.core.exceptions import PermissionDenied
from django.http import Http404

from crews import actions
from crews.models import Agent, Crew
from portal.accounts import invitations, sharing
from portal.accounts.models import AccessGrant, AuditEntry, Role, User, Visibility
from portal.accounts.permissions import Action, can
from portal.lib.problems import Conflict
from tests.factories.accounts import UserFactory
from tests.factories.crews import AgentFactory, CrewFactory

pytestmark = pytest.mark.django_db


def entry(action: str) -> AuditEntry:
    return AuditEntry.objects.filter(action=action).latest("id")


def fresh(crew: Crew) -> Crew:
    return Crew.objects.get(pk=crew.pk)


def people_around(crew: Crew) -> dict[str, User]:
    editor, viewer = UserFactory(), UserFactory()
    AccessGrant.objects.create(access=crew.access, user=editor, level="editor")
    AccessGrant.objects.create(access=crew.access, user=viewer, level="viewer")
    return {
        "owner": crew.owner,
        "admin": UserFactory(admin=True),
        "editor": editor,
        "viewer": viewer,
        "stranger": UserFactory(),
        "admin with less": UserFactory(admin=True).acting_as(Role.USER),
    }


@pytest.mark.parametrize("who", ["owner", "admin", "editor", "viewer", "stranger", "admin with less"])
def test_only_the_owner_and_admins_share_let_in_and_hand_on(who):
    crew = CrewFactory()
    by, friend = people_around(crew)[who], UserFactory()
    acts = [
        lambda: sharing.set_visibility(crew, Visibility.SHARED, by=by),
        lambda: sharing.grant(crew, friend, "viewer", by=by),
        lambda: sharing.withdraw(crew, friend, by=by),
        lambda: invitations.invite(crew, level="viewer", email="a@example.com", by=by),
        lambda: sharing.hand_on(crew, to=friend, by=by),
    ]
    for act in acts:
        if who in {"owner", "admin"}:
            act()
        else:
            with pytest.raises(PermissionDenied):
                act()
    assert (fresh(crew).owner == friend) is (who in {"owner", "admin"})


def test_visibility_is_told_from_what_to_what():
    crew = CrewFactory()
    for _time in range(2):
        sharing.set_visibility(crew, Visibility.SHARED, by=crew.owner)
    assert fresh(crew).visibility == crew.visibility == Visibility.SHARED
    assert AuditEntry.objects.filter(action="crew.shared").count() == 1
    told = entry("crew.shared")
    assert (told.before, told.after) == ({"visibility": "private"}, {"visibility": "shared"})


class TestMembers:
    def test_a_member_may_be_given_another_level(self):
        crew, friend = CrewFactory(), UserFactory()
        sharing.grant(crew, friend, "viewer", by=crew.owner)
        assert not can(friend, Action.CHANGE, crew)
        sharing.grant(crew, friend, "editor", by=crew.owner)
        assert can(friend, Action.CHANGE, crew)
        assert [member.user for member in sharing.members(crew)] == [friend]
        assert entry("access.granted").before == {"user": friend.username, "level": "viewer"}

    def test_who_is_let_in_directly_needs_no_invitation_any_more(self):
        crew, friend = CrewFactory(), UserFactory()
        invitations.invite(crew, level="viewer", user=friend, by=crew.owner)
        sharing.grant(crew, friend, "editor", by=UserFactory(admin=True))
        assert not invitations.open_for(friend).exists()

    def test_neither_the_owner_nor_who_is_deactivated_is_let_in(self):
        crew = CrewFactory()
        for user in (crew.owner, UserFactory(is_active=False)):
            with pytest.raises(Conflict):
                sharing.grant(crew, user, "viewer", by=crew.owner)

    def test_who_was_let_in_may_go_and_send_nobody_away(self):
        crew = CrewFactory()
        around = people_around(crew)
        with pytest.raises(PermissionDenied):
            sharing.withdraw(crew, around["viewer"], by=around["editor"])
        sharing.withdraw(crew, around["editor"], by=around["editor"])
        assert not can(around["editor"], Action.SEE, crew)
        assert entry("access.withdrawn").before == {"user": around["editor"].username, "level": "editor"}


class TestHandingOn:
    def test_the_new_owner_may_all_and_the_old_one_stays_as_an_editor(self):
        crew, heir, guest = CrewFactory(), UserFactory(), UserFactory()
        old = crew.owner
        sharing.grant(crew, heir, "viewer", by=old)
        _invitation, _token = invitations.invite(crew, level="editor", user=guest, by=old)
        sharing.hand_on(crew, to=heir, by=old)
        crew = fresh(crew)
        assert crew.owner == heir
        assert can(heir, Action.DELETE, crew)
        assert can(old, Action.CHANGE, crew)
        assert not can(old, Action.SHARE, crew)
        assert [(member.user, member.level) for member in sharing.members(crew)] == [(old, "editor")]
        assert not invitations.open_for(guest).exists()
        told = entry("access.handed_on")
        assert (told.before, told.after["owner"]) == ({"owner": old.username}, heir.username)

    def test_the_old_owner_may_go_for_good(self):
        crew, heir = CrewFactory(), UserFactory()
        old = crew.owner
        sharing.hand_on(crew, to=heir, by=old, keep=None)
        assert not can(old, Action.SEE, fresh(crew))

    def test_an_admin_hands_on_what_belongs_to_who_is_gone(self):
        crew, heir = CrewFactory(owner=UserFactory(is_active=False)), UserFactory()
        sharing.hand_on(crew, to=heir, by=UserFactory(admin=True), keep=None)
        assert fresh(crew).owner == heir

    @pytest.mark.parametrize("fields", [{"viewer": True}, {"is_active": False}])
    def test_who_could_not_use_it_does_not_get_it(self, fields):
        crew = CrewFactory()
        with pytest.raises(Conflict):
            sharing.hand_on(crew, to=UserFactory(**fields), by=crew.owner)
        with pytest.raises(Conflict):
            sharing.hand_on(crew, to=crew.owner, by=crew.owner)

    def test_what_was_handed_on_meanwhile_is_not_handed_on_again(self):
        crew, first, second = CrewFactory(), UserFactory(), UserFactory()
        old, stale = crew.owner, Crew.objects.select_related("access__owner").get(pk=crew.pk)
        sharing.hand_on(crew, to=first, by=old)
        with pytest.raises(PermissionDenied):
            sharing.hand_on(stale, to=second, by=old)
        assert fresh(crew).owner == first


def test_what_is_gone_is_not_found():
    crew = CrewFactory()
    stale = Crew.objects.select_related("access__owner").get(pk=crew.pk)
    actions.delete_crew(crew=crew)
    with pytest.raises(Http404):
        sharing.set_visibility(stale, Visibility.SHARED, by=stale.owner)


def test_a_thing_is_found_by_its_access_list_and_by_its_owner():
    crew = CrewFactory()
    agent = AgentFactory(owner=crew.owner)
    assert sharing.thing_of(crew.access) == crew
    assert sharing.thing_of(agent.access) == agent
    assert set(sharing.owned_by(crew.owner)) == {crew, agent}
    assert sharing.name_of(Agent(role="Writer")) == "Agent: Writer"
