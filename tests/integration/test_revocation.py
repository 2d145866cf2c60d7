"""What stays open closes within a second of losing what it rests on, also when another process took it away."""

import asyncio
import time
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.db import OperationalError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from executions.status import Status
from portal.accounts import keys, watch
from portal.accounts.credentials import Credential
from portal.accounts.models import AccessGrant, ApiKey, Role, Scope, Session, User
from portal.accounts.watch import Permit, judge
from portal.asgi import application
from tests.deadlines import DEADLINE
from tests.factories.accounts import AccessListFactory, UserFactory, key_of
from tests.factories.executions import execution_in
from tests.integration.test_execution_sockets import Socket

pytestmark = pytest.mark.django_db(transaction=True)


class Open:
    """Somebody who watches a run that goes on, by every way there is."""

    def __init__(self, **fields):
        self.owner = UserFactory()
        self.access = AccessListFactory(owner=self.owner)
        self.run = execution_in(Status.RUNNING, created_by=self.owner, access=self.access)
        self.user = UserFactory(**fields)
        AccessGrant.objects.create(access=self.access, user=self.user, level=AccessGrant.Level.VIEWER)
        self.key = key_of(self.user, Scope.READ)
        self.client = Client()
        self.client.force_login(self.user)

    def headers(self, way):
        if way == "key":
            return [(b"authorization", f"Api-Key {self.key}".encode())]
        return [(b"cookie", f"sessionid={self.client.cookies['sessionid'].value}".encode())]


class Stream(ApplicationCommunicator):
    """A client of the run's server-sent events."""

    def __init__(self, run, headers):
        scope = {
            "type": "http", "http_version": "1.1", "method": "GET", "path": f"/api/executions/{run.pk}/stream",
            "query_string": b"", "headers": [(b"host", b"localhost"), *headers],
        }  # fmt: skip
        super().__init__(application, scope)

    async def open(self):
        await self.send_input({"type": "http.request"})
        assert (await self.receive_output(timeout=DEADLINE))["status"] == 200
        assert b"execution.started" in (await self.receive_output(timeout=DEADLINE))["body"]

    async def end(self):
        while (await self.receive_output(timeout=DEADLINE)).get("more_body"):
            pass


@asynccontextmanager
async def watching(opened, way):
    """A socket and a stream of the same watcher; yields a function that waits for their ends: (code, seconds)."""
    socket = Socket(f"/ws/executions/{opened.run.pk}", opened.headers(way))
    stream = Stream(opened.run, opened.headers(way))
    assert await socket.open()
    assert (await socket.receive_output(timeout=DEADLINE))["type"] == "websocket.send"
    await stream.open()

    async def ended():
        began = time.monotonic()
        _frames, code = await socket.frames()
        await stream.end()
        return code, time.monotonic() - began

    yield ended


def expire(model, **which):
    model.objects.filter(**which).update(
        **{"expire_date" if model is Session else "expires_at": timezone.now() - timedelta(seconds=1)}
    )


TAKEN_AWAY = {
    "the key is revoked": ("key", 4401, lambda o: keys.revoke(ApiKey.objects.get(user=o.user), by=o.user)),
    "the key expires": ("key", 4401, lambda o: expire(ApiKey, user=o.user)),
    "the session ends": ("session", 4401, lambda o: o.client.post("/sign-out")),
    "the session expires": ("session", 4401, lambda o: expire(Session, user=o.user)),
    "the password changes": ("session", 4401, lambda o: User.objects.filter(pk=o.user.pk).update(password="other")),
    "the user is deactivated": ("key", 4401, lambda o: User.objects.filter(pk=o.user.pk).update(is_active=False)),
    "the user is deleted": ("session", 4401, lambda o: o.user.delete()),
    "the grant is withdrawn": ("key", 4404, lambda o: AccessGrant.objects.filter(user=o.user).delete()),
}


@pytest.mark.parametrize("what", TAKEN_AWAY)
async def test_it_closes_within_a_second(what):
    way, wanted, take_away = TAKEN_AWAY[what]
    opened = await sync_to_async(Open)()
    async with watching(opened, way) as ended:
        await sync_to_async(take_away)(opened)
        code, seconds = await ended()
    assert (code, seconds < 1) == (wanted, True), seconds


async def test_an_admin_who_becomes_a_user_sees_others_runs_no_longer():
    opened = await sync_to_async(Open)(admin=True)
    await sync_to_async(AccessGrant.objects.all().delete)()
    async with watching(opened, "session") as ended:
        await sync_to_async(User.objects.filter(pk=opened.user.pk).update)(role=Role.USER)
        assert (await ended())[0] == 4404


async def test_without_a_database_nobody_goes_on_watching(monkeypatch):
    opened = await sync_to_async(Open)()

    def away(_permits):
        raise OperationalError("the connection is lost")

    async with watching(opened, "key") as ended:
        monkeypatch.setattr(watch, "judge", away)
        assert (await ended())[0] == 1013


async def test_who_may_goes_on_and_who_left_is_forgotten():
    opened = await sync_to_async(Open)()
    socket = Socket(f"/ws/executions/{opened.run.pk}", opened.headers("key"))
    async with watching(opened, "session"):
        assert await socket.open()
        assert (await socket.receive_output(timeout=DEADLINE))["type"] == "websocket.send"
        asked = asyncio.Event()
        real = watch.judge

        def judged(permits):
            assert len(permits) == 3
            assert real(permits) == {}
            loop.call_soon_threadsafe(asked.set)
            return {}

        loop = asyncio.get_running_loop()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(watch, "judge", judged)
            await asyncio.wait_for(asked.wait(), DEADLINE)
        await socket.send_input({"type": "websocket.disconnect", "code": 1000})
        await socket.wait(DEADLINE)
        assert len(watch._watches[loop]._held) == 2


# --- What is asked ------------------------------------------------------------------------------------


def permits_of(opened, kinds=("session", "api_key", "bearer", None)):
    key = ApiKey.objects.get(user=opened.user)
    session = Session.objects.get(user=opened.user)
    later = timezone.now() + timedelta(minutes=5)
    shown = {
        "session": Credential("session", session.pk, "session"),
        "api_key": Credential("api_key", str(key.pk), "api_key", key.scope_set),
        "bearer": Credential("bearer", "jti", "bearer", None, later),
        None: None,
    }
    return [Permit(opened.user, shown[kind], Role.VIEWER, opened.access.pk) for kind in kinds]


def test_the_number_of_queries_is_the_same_however_many_are_open():
    few = permits_of(Open())
    many = few + [permit for _ in range(10) for permit in permits_of(Open())]
    counts = []
    for permits in (few, many):
        with CaptureQueriesContext(
            connection,
        ) as queries:
            assert judge(permits) == {}
        counts.append(len(queries))
    assert counts == [5, 5]


def test_each_permit_is_judged_by_what_it_rests_on():
    opened = Open()
    permits = permits_of(opened)
    over = timezone.now() - timedelta(seconds=1)
    old = Permit(opened.user, Credential("bearer", "jti", "bearer", None, over), Role.VIEWER, opened.access.pk)
    other = Permit(UserFactory(), permits[1].credential, Role.VIEWER, None)
    needs_more = Permit(opened.user, permits[1].credential, Role.USER, opened.access.pk)
    assert judge([*permits, old, other, needs_more]) == {old: 4401, other: 4401, needs_more: 4403}
    opened.access.visibility = "shared"
    opened.access.save()
    AccessGrant.objects.all().delete()
    assert judge(permits) == {}
    opened.access.visibility = "private"
    opened.access.save()
    assert judge(permits) == dict.fromkeys(permits, 4404)
    User.objects.filter(pk=opened.user.pk).update(role=Role.ADMIN)
    key = permits[1]
    assert judge(permits) == {key: 4404}, "a key that only reads does not see as an admin"
