"""Sessions: whose they are, how they are listed and ended, and the development switch."""

import uuid
from datetime import timedelta

import pytest
from asgiref.sync import sync_to_async
from django.test import Client
from django.utils import timezone

from executions.status import Status
from portal.accounts import audit
from portal.accounts.models import AuditEntry, Scope, Session, User
from tests.factories.accounts import AccessListFactory, UserFactory, key_of
from tests.factories.executions import execution_in

AGENT = "Mozilla/5.0 (test)"


@pytest.fixture
def user(db):
    return UserFactory()


def browser_of(user):
    client = Client(headers={"User-Agent": AGENT}, REMOTE_ADDR="192.0.2.9")
    client.force_login(user)
    return client


def test_my_sessions_are_listed_and_ended_and_nobody_elses(user):
    here, there, other = browser_of(user), browser_of(user), browser_of(UserFactory())
    rows = here.get("/api/sessions").json()["results"]
    assert [row["is_current"] for row in rows] == [False, True]
    assert set(rows[0]) >= {"id", "method", "address", "user_agent", "created_at", "last_seen_at", "expires_at"}
    keys = set(Session.objects.values_list("session_key", flat=True))
    assert not [value for row in rows for value in row.values() if value in keys], "the key of a session is a secret"

    strangers = Session.objects.get(user=User.objects.exclude(pk=user.pk).get()).public_id
    for missing in (strangers, uuid.uuid4()):
        assert here.delete(f"/api/sessions/{missing}").status_code == 404
    assert here.delete(f"/api/sessions/{rows[0]['id']}").status_code == 204
    assert (there.get("/api/me").status_code, here.get("/api/me").status_code) == (401, 200)
    (ended,) = AuditEntry.objects.filter(action="session.ended")
    assert (ended.actor_id, ended.target_id, ended.before["session"]) == (user.pk, str(user.pk), rows[0]["id"])
    assert not [value for value in (ended.target_name, str(ended.before)) if any(key in value for key in keys)]

    browser_of(user), browser_of(user)
    assert here.post("/api/sessions/end-others").json() == {"ended": 2}
    assert here.get("/api/me").status_code == other.get("/api/me").status_code == 200


def test_a_key_ends_sessions_only_with_the_scope_admin(user):
    browser = browser_of(user)
    sent = {"headers": {"Authorization": f"Api-Key {key_of(user, Scope.WRITE, Scope.RUN)}"}}
    (row,) = Client().get("/api/sessions", **sent).json()["results"]
    assert row["is_current"] is False
    refused = Client().delete(f"/api/sessions/{row['id']}", **sent)
    assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")
    assert browser.get("/api/me").status_code == 200


def test_expired_sessions_and_those_of_the_inactive_are_nobodys(user):
    browser = browser_of(user)
    for change, back in (({"is_active": False}, {"is_active": True}), ({}, {})):
        User.objects.filter(pk=user.pk).update(**change)
        if not change:
            Session.objects.update(expire_date=timezone.now() - timedelta(seconds=1))
        assert browser.get("/api/me").status_code == 401
        assert browser.get("/crews").headers["Location"].startswith("/sign-in")
        User.objects.filter(pk=user.pk).update(**back)


def test_a_session_keeps_its_name_and_is_seen_once_a_minute(user, django_assert_num_queries):
    browser = browser_of(user)
    before = Session.objects.get()
    long_ago = timezone.now() - timedelta(minutes=2)
    Session.objects.update(last_seen_at=long_ago, created_at=long_ago)
    browser.get("/api/me")
    seen = Session.objects.get()
    assert timezone.now() - seen.last_seen_at < timedelta(minutes=1)
    with django_assert_num_queries(2):  # the session and its user
        browser.get("/api/me")
    assert Session.objects.get().last_seen_at == seen.last_seen_at
    store = browser.session
    store["something"] = 1
    store.save()
    after = Session.objects.get()
    assert (after.public_id, after.created_at, after.user_id) == (before.public_id, long_ago, user.pk)
    assert after.last_seen_at == seen.last_seen_at


def test_whoever_records_knows_who_came_from_where(user):
    browser_of(user).get("/api/me")
    origin = audit.current_origin()
    session = Session.objects.get()
    assert (origin.address, origin.user_agent) == ("192.0.2.9", AGENT)
    assert origin.credential == f"session:{session.public_id}"
    Client().get("/sign-in", headers={"Authorization": f"Api-Key {key_of(user)}"})
    assert audit.current_origin().credential == "", "what stands in the header opens no page"


class TestDevelopmentSwitch:
    @pytest.fixture
    def developer(self, user, settings):
        settings.DEBUG, settings.DEVELOPMENT_USER = True, user.username
        return user

    def test_everybody_is_that_user_on_pages_and_the_api(self, developer):
        assert Client().get("/crews").status_code == 200
        me = Client().get("/api/me").json()
        assert (me["username"], me["credential"]["kind"]) == (developer.username, "development")
        assert audit.current_origin().credential == "development"
        assert not Session.objects.exists()

    def test_who_shows_something_is_judged_by_that(self, developer):
        other = UserFactory()
        assert browser_of(other).get("/api/me").json()["username"] == other.username
        assert Client().get("/api/me", headers={"Authorization": "Bearer ap_1_2"}).status_code == 401

    def test_other_sites_cannot_use_it(self, developer):
        refused = Client(enforce_csrf_checks=True).post("/api/crews", {"name": "x"}, content_type="application/json")
        assert refused.status_code == 403

    def test_it_does_nothing_without_debug_and_for_nobody(self, developer, settings):
        settings.DEBUG = False
        assert Client().get("/api/me").status_code == 401
        settings.DEBUG, settings.DEVELOPMENT_USER = True, "nobody"
        assert Client().get("/api/me").status_code == 401
        settings.DEVELOPMENT_USER = developer.username
        User.objects.update(is_active=False)
        assert Client().get("/api/me").status_code == 401


@pytest.mark.django_db(transaction=True)
async def test_the_development_switch_opens_sockets(settings):
    from tests.integration.test_execution_sockets import Socket

    def prepare():
        user = UserFactory()
        settings.DEBUG, settings.DEVELOPMENT_USER = True, user.username
        return execution_in(Status.COMPLETED, created_by=user, access=AccessListFactory(owner=user))

    run = await sync_to_async(prepare)()
    codes = []
    for debug in (True, False):
        settings.DEBUG = debug
        socket = Socket(f"/ws/executions/{run.pk}")
        assert await socket.open()
        codes.append((await socket.frames())[1])
    assert codes == [1000, 4401]
