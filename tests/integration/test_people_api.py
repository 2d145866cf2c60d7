"""People and service accounts through the API."""

from typing import Any

import pytest
from rest_framework.test import APIClient

from portal.accounts import second_factor
from portal.accounts.models import Role, Scope, Session, User
from tests.factories.accounts import PASSWORD, UserFactory, key_of
from tests.factories.crews import CrewFactory

pytestmark = pytest.mark.django_db
USERS = "/api/admin/users"


def client(user: User | None = None, key: str = "") -> APIClient:
    made = APIClient()
    if key:
        made.credentials(HTTP_AUTHORIZATION=f"Api-Key {key}")
    elif user:
        made.force_login(user)
    return made


@pytest.fixture
def boss() -> User:
    return UserFactory(username="boss", admin=True)


@pytest.fixture
def api(boss) -> APIClient:
    return client(boss)


def fields(answer: Any) -> list[str]:
    return [error["field"] for error in answer.json().get("errors", [])]


class TestWhoMay:
    def test_only_admins_with_their_full_scope(self, boss):
        user = UserFactory()
        for asker, status in (
            (client(), 401),
            (client(UserFactory(viewer=True)), 403),
            (client(user), 403),
            (client(key=key_of(boss, Scope.READ, Scope.RUN, Scope.WRITE)), 403),
            (client(key=key_of(boss, Scope.ADMIN)), 200),
        ):
            assert asker.get(USERS).status_code == status
            assert asker.get(f"{USERS}/{user.pk}").status_code == status
            changed = asker.patch(f"{USERS}/{user.pk}", {"role": "user"}, format="json")
            assert changed.status_code == status

    def test_a_user_does_not_raise_themselves(self, boss):
        user = UserFactory()
        for asker in (client(user), client(key=key_of(user))):
            assert asker.patch(f"{USERS}/{user.pk}", {"role": "admin"}, format="json").status_code == 403
        user.refresh_from_db()
        assert user.role == Role.USER


class TestTheList:
    def test_it_is_searched_and_filtered(self, api):
        UserFactory(username="ann", first_name="Anna", email="a.lee@example.com")
        UserFactory(username="gone", is_active=False)
        api.post(USERS, {"username": "bot", "is_service": True}, format="json")

        def names(**query: Any) -> list[str]:
            answer = api.get(USERS, query)
            assert answer.status_code == 200, answer.content
            return [row["username"] for row in answer.json()["results"]]

        assert names() == ["ann", "boss", "bot", "gone"]
        assert names(search="lee") == ["ann"]
        assert names(role="admin") == ["boss"]
        assert names(is_active="false") == ["gone"]
        assert names(is_service="true") == ["bot"]
        assert names(ordering="-username", page_size=1) == ["gone"]
        assert api.get(USERS, {"count": 1}).json()["count"] == 4

    def test_it_costs_the_same_however_many_there_are(self, api, django_assert_max_num_queries):
        UserFactory.create_batch(20)
        with django_assert_max_num_queries(6):
            assert len(api.get(USERS).json()["results"]) == 21

    def test_no_secret_is_shown(self, api, boss):
        text = api.get(f"{USERS}/{boss.pk}").content.decode()
        boss.refresh_from_db()
        assert boss.password not in text
        assert {"password", "is_superuser", "is_staff"}.isdisjoint(api.get(f"{USERS}/{boss.pk}").json())


class TestMaking:
    def test_a_person_with_a_password(self, api):
        answer = api.post(USERS, {"username": "ann", "password": PASSWORD, "role": "viewer"}, format="json")
        assert answer.status_code == 201, answer.content
        body = answer.json()
        assert (body["role"], body["password_link"], body["has_password"]) == ("viewer", None, True)
        assert "password" not in body
        assert User.objects.get(pk=body["id"]).check_password(PASSWORD)

    def test_a_person_without_one_gets_a_link(self, api):
        answer = api.post(USERS, {"username": "ann", "email": "ann@example.com"}, format="json")
        assert "/password/" in answer.json()["password_link"]
        assert answer.headers["Cache-Control"] == "no-store"

    def test_a_service_account(self, api):
        answer = api.post(USERS, {"username": "bot", "is_service": True}, format="json")
        assert answer.status_code == 201
        assert (answer.json()["has_password"], answer.json()["password_link"]) == (False, None)
        link = api.post(f"{USERS}/{answer.json()['id']}/password-link")
        assert (link.status_code, link.json()["code"]) == (409, "no_local_password")

    @pytest.mark.parametrize(
        ("sent", "field"),
        [
            ({"password": "password"}, "password"),
            ({"username": "Boss"}, "username"),
            ({"role": "emperor"}, "role"),
            ({"is_service": True, "password": PASSWORD}, "password"),
            ({"email": "nowhere"}, "email"),
            ({"username": "a\x00b"}, "username"),
        ],
    )
    def test_what_cannot_be_used_is_named(self, api, sent, field):
        answer = api.post(USERS, {"username": "ann", "password": PASSWORD, **sent}, format="json")
        assert answer.status_code == 400, answer.content
        assert fields(answer) == [field]


class TestChanging:
    def test_all_at_once_or_nothing(self, api):
        user = UserFactory(viewer=True)
        sent = {"role": "user", "first_name": "Ann", "is_active": False}
        answer = api.patch(f"{USERS}/{user.pk}", sent, format="json")
        assert answer.status_code == 200, answer.content
        assert {name: answer.json()[name] for name in sent} == sent
        assert api.patch(f"{USERS}/{user.pk}", {"role": "admin", "email": "x"}, format="json").status_code == 400
        user.refresh_from_db()
        assert user.role == Role.USER

    def test_the_last_admin_stays(self, api, boss):
        for sent in ({"role": "user"}, {"is_active": False}):
            answer = api.patch(f"{USERS}/{boss.pk}", sent, format="json")
            assert (answer.status_code, answer.json()["code"]) == (409, "last_admin")
        assert api.delete(f"{USERS}/{boss.pk}").json()["code"] == "last_admin"

    def test_neither_names_nor_kinds_are_changed(self, api):
        user = UserFactory()
        api.patch(f"{USERS}/{user.pk}", {"username": "other", "is_service": True, "is_superuser": True}, format="json")
        same = User.objects.get(pk=user.pk)
        assert (same.username, same.is_service, same.is_superuser) == (user.username, False, False)

    def test_deactivation_ends_the_session_at_once(self, api):
        user = UserFactory()
        theirs = client(user)
        assert theirs.get("/api/me").status_code == 200
        api.patch(f"{USERS}/{user.pk}", {"is_active": False}, format="json")
        assert theirs.get("/api/me").status_code == 401
        assert not Session.objects.filter(user=user).exists()

    def test_a_lost_second_factor_is_taken_away(self, api):
        user = UserFactory()
        assert api.get(f"{USERS}/{user.pk}").json()["has_second_factor"] is False
        second_factor.begin(user)
        second_factor.SecondFactor.objects.update(confirmed_at="2026-01-01T00:00:00Z")
        assert api.get(f"{USERS}/{user.pk}").json()["has_second_factor"] is True
        assert api.delete(f"{USERS}/{user.pk}/second-factor").status_code == 204
        assert not second_factor.is_on(user)

    def test_who_owns_nothing_is_deleted(self, api):
        user, owner = UserFactory(), CrewFactory().owner
        assert api.delete(f"{USERS}/{user.pk}").status_code == 204
        answer = api.delete(f"{USERS}/{owner.pk}")
        assert (answer.status_code, answer.json()["code"]) == (409, "user_owns_things")


class TestFindingPeople:
    def test_by_two_characters_of_a_name_and_no_mail_address(self):
        UserFactory(username="annalee", first_name="Anna", last_name="Lee", email="secret@example.com")
        UserFactory(username="annagone", is_active=False)
        api = client(UserFactory(username="asker"))
        found = api.get("/api/users", {"search": "an le"}).json()["results"]
        assert [(row["username"], row["name"]) for row in found] == [("annalee", "Anna Lee")]
        assert set(found[0]) == {"id", "username", "name", "is_service"}
        assert api.get("/api/users", {"search": "secret"}).json()["results"] == []
        for text in ("", "a", " a ", "\x00\x00"):
            answer = api.get("/api/users", {"search": text})
            assert (answer.status_code, fields(answer)) == (400, ["search"])

    def test_not_for_viewers(self):
        assert client(UserFactory(viewer=True)).get("/api/users", {"search": "ann"}).status_code == 403
        assert client().get("/api/users", {"search": "ann"}).status_code == 401
