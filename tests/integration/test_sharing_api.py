"""Members, owners and invitations through the API."""

from typing import Any

import pytest
from rest_framework.test import APIClient

from portal.accounts.models import AccessGrant, Invitation, Scope, User
from tests.factories.accounts import UserFactory, key_of
from tests.factories.crews import AgentFactory, CrewFactory

pytestmark = pytest.mark.django_db


def client(user: User | None = None, key: str = "") -> APIClient:
    made = APIClient()
    if key:
        made.credentials(HTTP_AUTHORIZATION=f"Api-Key {key}")
    elif user:
        made.force_login(user)
    return made


@pytest.fixture
def thing() -> Any:
    return CrewFactory()


@pytest.fixture
def url(thing) -> str:
    return f"/api/crews/{thing.pk}"


@pytest.fixture
def owner(thing) -> APIClient:
    return client(thing.owner)


def let_in(thing: Any, user: User, level: str = "viewer") -> None:
    AccessGrant.objects.create(access=thing.access, user=user, level=level)


def link_token(answer: Any) -> str:
    assert answer.status_code == 201, answer.content
    return answer.json()["link"].rsplit("/", 1)[1]


def test_agents_have_the_same_routes():
    agent, heir = AgentFactory(), UserFactory()
    api, url = client(agent.owner), f"/api/agents/{agent.pk}"
    let_in(agent, heir)
    assert api.patch(f"{url}/members/{heir.pk}", {"level": "editor"}, format="json").status_code == 200
    assert api.get(f"{url}/invitations").json()["results"] == []
    assert api.post(f"{url}/owner", {"owner_id": str(heir.pk)}, format="json").status_code == 200
    assert client(heir).get(f"{url}/members").json()["results"][0]["username"] == agent.owner.username


class TestMembers:
    def test_an_invitation_is_answered_and_makes_a_member(self, url, thing, owner):
        user = UserFactory(first_name="Ann", last_name="Lee")
        answer = owner.post(f"{url}/members", {"user_id": str(user.pk), "level": "editor"}, format="json")
        assert answer.status_code == 201, answer.content
        assert answer.json()["member"] is None
        theirs = client(user)
        assert theirs.get(url).status_code == 404
        [mine] = theirs.get("/api/invitations").json()["results"]
        assert (mine["thing"].endswith(str(thing)), mine["invited_by"]) == (True, thing.owner.username)
        assert len(owner.get(f"{url}/invitations").json()["results"]) == 1
        done = theirs.post(f"/api/invitations/{mine['id']}/answer", {"decision": "accept"}, format="json")
        assert (done.status_code, done.json()["answer"]) == (200, "accepted")
        assert theirs.get(url).status_code == 200
        assert owner.get(f"{url}/members").json()["results"] == [
            {"user_id": str(user.pk), "username": user.username, "name": "Ann Lee", "level": "editor"}
        ]
        again = theirs.post(f"/api/invitations/{mine['id']}/answer", {"decision": "accept"}, format="json")
        assert again.status_code == 404

    def test_a_level_is_changed_and_a_member_sent_away(self, url, thing, owner):
        user = UserFactory()
        let_in(thing, user)
        changed = owner.patch(f"{url}/members/{user.pk}", {"level": "editor"}, format="json")
        assert changed.json()["level"] == "editor"
        assert owner.patch(f"{url}/members/{user.pk}", {"level": "owner"}, format="json").status_code == 400
        assert owner.delete(f"{url}/members/{user.pk}").status_code == 204
        assert client(user).get(url).status_code == 404
        assert owner.delete(f"{url}/members/{user.pk}").status_code == 404
        assert owner.patch(f"{url}/members/{user.pk}", {"level": "editor"}, format="json").status_code == 404

    def test_admins_let_in_without_asking_and_nobody_else(self, url, thing, owner):
        user = UserFactory()
        sent = {"user_id": str(user.pk), "level": "viewer", "direct": True}
        assert owner.post(f"{url}/members", sent, format="json").status_code == 403
        answer = client(UserFactory(admin=True)).post(f"{url}/members", sent, format="json")
        assert answer.status_code == 201
        assert answer.json()["member"]["user_id"] == str(user.pk)
        assert (answer.json()["invitation"], answer.json()["link"]) == (None, None)

    @pytest.mark.parametrize(
        "sent", [{}, {"user_id": "x"}, {"email": "nowhere"}, {"email": "a@example.com", "level": "owner"}]
    )
    def test_what_cannot_be_used_is_refused(self, url, owner, sent):
        assert owner.post(f"{url}/members", sent, format="json").status_code == 400

    def test_an_unknown_user_is_named(self, url, thing, owner):
        answer = owner.post(f"{url}/members", {"user_id": str(thing.pk)}, format="json")
        assert [error["field"] for error in answer.json()["errors"]] == ["user_id"]

    def test_a_member_goes_by_themselves_viewers_too(self, url, thing):
        for user in (UserFactory(), UserFactory(viewer=True)):
            let_in(thing, user)
            assert client(user).delete(f"{url}/members/{user.pk}").status_code == 204
        assert not AccessGrant.objects.filter(access=thing.access).exists()


class TestWhoMay:
    def test_members_see_who_is_in_and_only_the_owner_changes_it(self, url, thing):
        editor, viewer, friend = UserFactory(), UserFactory(viewer=True), UserFactory()
        let_in(thing, editor, "editor")
        let_in(thing, viewer)
        let_in(thing, friend)
        for user, status in ((None, 401), (UserFactory(), 404), (editor, 403), (viewer, 403)):
            asker = client(user)
            assert asker.get(f"{url}/members").status_code == (200 if status == 403 else status)
            assert asker.get(f"{url}/invitations").status_code == status
            for method, path, sent in (
                ("post", "members", {"email": "a@example.com"}),
                ("patch", f"members/{friend.pk}", {"level": "editor"}),
                ("delete", f"members/{friend.pk}", None),
                ("post", "owner", {"owner_id": str(editor.pk)}),
            ):
                answer = getattr(asker, method)(f"{url}/{path}", sent, format="json")
                assert answer.status_code == status, (user, method, path)
        assert AccessGrant.objects.filter(access=thing.access).count() == 3

    def test_a_key_needs_the_scope_to_write(self, url, thing):
        for scope, status in ((Scope.READ, 403), (Scope.RUN, 403), (Scope.WRITE, 201)):
            asker = client(key=key_of(thing.owner, scope))
            assert asker.get(f"{url}/members").status_code == 200
            answer = asker.post(f"{url}/members", {"email": "a@example.com"}, format="json")
            assert answer.status_code == status, scope

    def test_a_shared_thing_shows_its_members_to_everybody(self, url, thing, owner):
        assert owner.patch(url, {"visibility": "shared"}, format="json").status_code == 200
        assert client(UserFactory()).get(f"{url}/members").status_code == 200
        assert client(UserFactory()).get(f"{url}/invitations").status_code == 403


class TestTheOwner:
    def test_it_is_handed_on_once(self, url, thing, owner):
        heir = UserFactory()
        answer = owner.post(f"{url}/owner", {"owner_id": str(heir.pk)}, format="json")
        assert (answer.status_code, answer.json()) == (200, {"owner_id": str(heir.pk)})
        assert owner.get(url).json()["owner_id"] == str(heir.pk)
        assert owner.post(f"{url}/owner", {"owner_id": str(heir.pk)}, format="json").status_code == 403
        assert client(heir).delete(f"{url}/members/{thing.owner.pk}").status_code == 204
        assert owner.get(url).status_code == 404

    def test_the_owner_until_now_may_go(self, url, owner):
        assert (
            owner.post(f"{url}/owner", {"owner_id": str(UserFactory().pk), "stay": False}, format="json").status_code
            == 200
        )
        assert owner.get(url).status_code == 404

    def test_who_cannot_own_it_does_not_get_it(self, url, thing, owner):
        for user in (UserFactory(viewer=True), UserFactory(is_active=False), thing.owner):
            assert owner.post(f"{url}/owner", {"owner_id": str(user.pk)}, format="json").status_code == 409


class TestLinks:
    def test_whoever_holds_the_link_joins_once(self, url, thing, owner):
        token = link_token(owner.post(f"{url}/members", {"email": "a@example.com", "level": "editor"}, format="json"))
        sent = {"token": token, "decision": "accept"}
        assert client().post("/api/invitations/answer", sent, format="json").status_code == 401
        first, second = UserFactory(viewer=True), UserFactory()
        assert client(first).post("/api/invitations/answer", sent, format="json").status_code == 200
        late = client(second).post("/api/invitations/answer", sent, format="json")
        assert (late.status_code, late.json()["code"]) == (409, "invitation_closed")
        assert [grant.user for grant in AccessGrant.objects.filter(access=thing.access)] == [first]

    def test_what_was_withdrawn_opens_nothing(self, url, owner):
        answer = owner.post(f"{url}/members", {"email": "a@example.com"}, format="json")
        number = answer.json()["invitation"]["id"]
        user = client(UserFactory())
        for asker, status in ((user, 404), (owner, 204), (owner, 404)):
            assert asker.delete(f"/api/invitations/{number}").status_code == status
        sent = {"token": link_token(answer), "decision": "accept"}
        assert user.post("/api/invitations/answer", sent, format="json").status_code == 409

    def test_an_invitation_of_somebody_else_is_not_there(self, url, owner):
        user, other = UserFactory(), UserFactory()
        answer = owner.post(f"{url}/members", {"user_id": str(user.pk)}, format="json")
        number = answer.json()["invitation"]["id"]
        asker = client(other)
        assert asker.get("/api/invitations").json()["results"] == []
        assert asker.get(f"/api/invitations/{number}").status_code == 404
        for path, sent in (
            (f"/api/invitations/{number}/answer", {"decision": "accept"}),
            ("/api/invitations/answer", {"token": link_token(answer), "decision": "accept"}),
        ):
            assert asker.post(path, sent, format="json").status_code == 404
        declined = client(user).post(f"/api/invitations/{number}/answer", {"decision": "decline"}, format="json")
        assert declined.json()["answer"] == "declined"
        assert Invitation.objects.get().answered_by == user

    def test_it_is_mailed_where_mail_is_set_up(self, url, owner, settings, mailoutbox):
        settings.EMAIL_URL = "smtp://mail.example.com"
        answer = owner.post(f"{url}/members", {"email": "a@example.com"}, format="json")
        assert (answer.status_code, answer.json()["link"]) == (201, None)
        assert [mail.to for mail in mailoutbox] == [["a@example.com"]]
