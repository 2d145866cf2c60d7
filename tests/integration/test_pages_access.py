"""Who may see and edit a thing, on its page: members, invitations, visibility, ownership."""

import re

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from portal.accounts import invitations, sharing
from portal.accounts.models import AccessGrant, Invitation
from tests.factories.accounts import UserFactory
from tests.factories.crews import CrewFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def mina(client):
    user = UserFactory(username="mina")
    client.force_login(user)
    return user


@pytest.fixture
def crew(mina):
    return CrewFactory(owner=mina, name="Herb growers")


def at(crew, rest):
    return f"/access/{crew.access_id}/{rest}"


def back(crew):
    return {"next": f"/crews/{crew.pk}"}


class TestPanel:
    def test_the_owner_sees_all_of_it_and_others_only_who_is_in(self, client, crew):
        joon = UserFactory(username="joon", first_name="Joon")
        sharing.grant(crew, joon, "viewer", by=crew.owner)
        invitations.invite(crew, level="viewer", by=crew.owner, email="guest@example.org")
        text = client.get(f"/crews/{crew.pk}").text
        for shown in ("joon", "guest@example.org", 'name="who"', "Hand it on…", "Show to all"):
            assert shown in text
        client.force_login(joon)
        text = client.get(f"/crews/{crew.pk}").text
        assert "Leave" in text
        for hidden in ("guest@example.org", 'name="who"', "Hand it on…", "Show to all", f'/members/{joon.pk}"'):
            assert hidden not in text

    def test_it_costs_the_same_however_many_are_in(self, client, crew):
        def queries():
            with CaptureQueriesContext(connection) as caught:
                assert client.get(f"/crews/{crew.pk}").status_code == 200
            return len(caught)

        def more():
            sharing.grant(crew, UserFactory(), "viewer", by=crew.owner)
            invitations.invite(crew, level="viewer", by=crew.owner, user=UserFactory())

        more()
        before = queries()
        more()
        more()
        assert queries() == before


class TestWhoMay:
    def test_others_change_nothing(self, client, crew):
        editor, stranger, viewer = UserFactory(), UserFactory(), UserFactory(viewer=True)
        sharing.grant(crew, editor, "editor", by=crew.owner)
        sharing.grant(crew, viewer, "viewer", by=crew.owner)
        invitation, _token = invitations.invite(crew, level="viewer", by=crew.owner, email="guest@example.org")
        posts = {
            "visibility": {"visibility": "shared"}, "invite": {"who": "x@example.org", "level": "viewer"},
            f"invitations/{invitation.pk}": {}, f"members/{viewer.pk}": {"level": "editor"},
            f"members/{crew.owner.pk}/leave": {}, "hand-on": {"to": editor.username},
        }  # fmt: skip
        for user, status in [(editor, 403), (stranger, 404), (viewer, 403)]:
            client.force_login(user)
            assert {client.post(at(crew, rest), sent).status_code for rest, sent in posts.items()} == {status}
        assert (crew.access.visibility, Invitation.objects.get().answer) == ("private", "")

    def test_an_unknown_list_is_not_there(self, client, mina):
        nowhere = "/access/00000000-0000-0000-0000-000000000000"
        assert client.post(f"{nowhere}/visibility", {"visibility": "shared"}).status_code == 404
        assert client.get(f"{nowhere}/invite").status_code == 404


class TestVisibility:
    def test_it_is_shown_to_all_and_taken_back(self, client, crew):
        for wanted in ("shared", "private"):
            answer = client.post(at(crew, "visibility"), {"visibility": wanted, **back(crew)})
            assert answer["Location"] == f"/crews/{crew.pk}#access"
            crew.access.refresh_from_db()
            assert crew.access.visibility == wanted
        assert client.post(at(crew, "visibility"), {"visibility": "nonsense"}).status_code == 404

    def test_it_never_leads_to_another_site(self, client, crew):
        sent = {"visibility": "shared", "next": "https://evil.example/"}
        assert client.post(at(crew, "visibility"), sent)["Location"] == "/#access"


class TestInviting:
    def test_a_person_here_by_name(self, client, crew):
        joon = UserFactory(username="joon")
        answer = client.post(at(crew, "invite"), {"who": "JOON", "level": "editor", **back(crew)})
        assert answer["Location"] == f"/crews/{crew.pk}#access"
        invitation = Invitation.objects.get()
        assert (invitation.user, invitation.level) == (joon, "editor")
        assert "joon" in client.get(f"/crews/{crew.pk}").text

    def test_a_mail_address_without_mail_gives_the_link_once(self, client, crew):
        answer = client.post(at(crew, "invite"), {"who": "guest@example.org", "level": "viewer", **back(crew)})
        link = re.search(r'id="invitation-link">([^<]+)<', answer.text)[1]
        assert answer.status_code == 201
        assert link not in client.get(f"/crews/{crew.pk}").text
        client.force_login(guest := UserFactory())
        client.post(link[link.index("/invitations") :], {"answer": "accept"})
        assert AccessGrant.objects.get(access=crew.access).user == guest

    def test_faults_are_said(self, client, crew):
        for who, said in [("nobody", "nobody of that name"), ("not@an@address", "valid email"), ("mina", "owner")]:
            answer = client.post(at(crew, "invite"), {"who": who, "level": "viewer", **back(crew)})
            assert answer.status_code == 422
            assert said in answer.text
            assert f'href="/crews/{crew.pk}"' in answer.text
        assert not Invitation.objects.exists()

    def test_people_are_suggested_as_one_types(self, client, mina):
        UserFactory(username="joon", first_name="Joon", last_name="Park")
        UserFactory(username="gone", first_name="Joona", is_active=False)
        text = client.get("/access/people?who=park").text
        assert text.count("<option") == 1
        assert 'value="joon">Joon Park' in text
        assert "<option" not in client.get("/access/people?who=").text
        assert "<option" not in client.get("/access/people?who=mina").text
        client.force_login(UserFactory(viewer=True))
        assert client.get("/access/people?who=park").status_code == 403

    def test_one_is_withdrawn(self, client, crew):
        invitation, _token = invitations.invite(crew, level="viewer", by=crew.owner, email="guest@example.org")
        address = at(crew, f"invitations/{invitation.pk}")
        client.post(address, back(crew))
        assert "guest@example.org" not in client.get(f"/crews/{crew.pk}").text
        assert "not open any more" in client.post(address, back(crew), follow=True).text


class TestMembers:
    def test_the_level_is_changed_and_the_way_closed(self, client, crew):
        joon = UserFactory(username="joon")
        sharing.grant(crew, joon, "viewer", by=crew.owner)
        client.post(at(crew, f"members/{joon.pk}"), {"level": "editor", **back(crew)})
        assert AccessGrant.objects.get().level == "editor"
        client.post(at(crew, f"members/{joon.pk}/leave"), back(crew))
        assert not AccessGrant.objects.exists()

    def test_a_member_leaves_and_is_not_left_before_a_closed_door(self, client, crew):
        joon = UserFactory(username="joon", viewer=True)
        sharing.grant(crew, joon, "viewer", by=crew.owner)
        client.force_login(joon)
        answer = client.post(at(crew, f"members/{joon.pk}/leave"), back(crew))
        assert answer["Location"] == "/"
        assert not AccessGrant.objects.exists()


class TestHandingOn:
    def test_it_asks_and_does(self, client, crew):
        joon = UserFactory(username="joon")
        page = client.get(at(crew, f"hand-on?next=/crews/{crew.pk}"))
        assert "Hand on “Herb growers”" in page.text
        wrong = client.post(at(crew, "hand-on"), {"to": UserFactory(viewer=True).username, **back(crew)})
        assert wrong.status_code == 422
        assert "cannot own this" in wrong.text
        answer = client.post(at(crew, "hand-on"), {"to": "joon", "stay": "on", **back(crew)})
        assert answer["Location"] == f"/crews/{crew.pk}#access"
        crew.access.refresh_from_db()
        assert crew.access.owner == joon
        assert AccessGrant.objects.get().level == "editor"

    def test_who_does_not_stay_is_led_home(self, client, crew):
        UserFactory(username="joon")
        assert client.post(at(crew, "hand-on"), {"to": "joon", **back(crew)})["Location"] == "/"
        assert client.get(f"/crews/{crew.pk}").status_code == 404
