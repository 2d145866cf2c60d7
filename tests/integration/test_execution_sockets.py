"""Runs over WebSockets: who may watch, what they get, and how it ends."""

import json
import uuid

import pytest
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.db import OperationalError
from django.test import Client

from executions import events
from executions.status import Status
from portal.accounts.models import ApiKey
from portal.asgi import application
from tests.deadlines import DEADLINE
from tests.factories.accounts import AccessListFactory, UserFactory, key_of
from tests.factories.crews import CrewFactory
from tests.factories.executions import execution_in

pytestmark = pytest.mark.django_db(transaction=True)


def a_run(status=Status.COMPLETED):
    """A run, and what its owner sends."""
    user = UserFactory()
    access = AccessListFactory(owner=user)
    run = execution_in(status, created_by=user, access=access, crew=CrewFactory(owner=user))
    run.created_by = user
    return by_key(user), run


def by_key(user):
    return [(b"authorization", b"Api-Key " + key_of(user).encode())]


def by_session(user):
    client = Client()
    client.force_login(user)
    return [(b"cookie", f"sessionid={client.cookies['sessionid'].value}".encode())]


class Socket(ApplicationCommunicator):
    """A WebSocket client of the portal's ASGI application."""

    def __init__(self, address, headers=()):
        path, _, query = address.partition("?")
        scope = {"type": "websocket", "path": path, "query_string": query.encode(), "headers": list(headers)}
        super().__init__(application, scope)

    async def open(self):
        """Whether the handshake was accepted."""
        await self.send_input({"type": "websocket.connect"})
        return (await self.receive_output(timeout=DEADLINE))["type"] == "websocket.accept"

    async def frames(self):
        """Every frame until the close, and the code of that."""
        seen = []
        while (answer := await self.receive_output(timeout=DEADLINE))["type"] != "websocket.close":
            seen.append(json.loads(answer["text"]))
        return seen, answer["code"]


async def close_code(address, headers=()):
    socket = Socket(address, headers)
    assert await socket.open(), "a refusal accepts first, so that browsers learn the code"
    seen, code = await socket.frames()
    assert seen == []
    return code


async def test_a_stranger_is_told_4401():
    assert await close_code(f"/ws/executions/{uuid.uuid4()}") == 4401


async def test_a_header_that_is_refused_is_a_stranger_whatever_cookie_comes_with_it():
    headers, run = await sync_to_async(a_run)()
    cookie = await sync_to_async(by_session)(run.created_by)
    for wrong in (b"Basic eDp5", b"Bearer ap_12345678_wrong", b"Api-Key", b"Bearer run_1", b"Bearer ey.ey.ey"):
        refused = [(b"authorization", wrong), *cookie]
        assert await close_code(f"/ws/executions/{run.pk}", refused) == 4401, wrong
    assert await close_code(f"/ws/executions/{run.pk}", [*headers, *headers, *cookie]) == 4401, "sent twice"
    key = headers[0][1].removeprefix(b"Api-Key ").decode()
    assert await close_code(f"/ws/executions/{run.pk}?api_key={key}&authorization=Bearer%20{key}") == 4401


async def test_a_session_and_a_key_as_bearer_open_it_too():
    headers, run = await sync_to_async(a_run)()
    bearer = [(b"authorization", headers[0][1].replace(b"Api-Key", b"Bearer"))]
    for way in (bearer, await sync_to_async(by_session)(run.created_by)):
        socket = Socket(f"/ws/executions/{run.pk}", way)
        assert await socket.open()
        assert (await socket.frames())[1] == 1000


async def test_a_key_that_comes_too_often_is_told_to_come_back():
    headers, run = await sync_to_async(a_run)()
    await sync_to_async(ApiKey.objects.update)(requests_per_minute=1)
    codes = {await close_code(f"/ws/executions/{run.pk}?after=x", headers) for _ in range(2)}
    assert codes == {4400, 1013}


async def test_what_a_person_may_not_see_is_not_there():
    _, run = await sync_to_async(a_run)()
    other = await sync_to_async(lambda: by_key(UserFactory()))()
    assert await close_code(f"/ws/executions/{run.pk}", other) == 4404
    assert await close_code(f"/ws/executions/{uuid.uuid4()}", other) == 4404


async def test_a_run_under_another_crew_is_not_there():
    headers, run = await sync_to_async(a_run)()
    assert await close_code(f"/api/crews/{uuid.uuid4()}/executions/{run.pk}/logs", headers) == 4404


async def test_after_must_be_a_number():
    headers, run = await sync_to_async(a_run)()
    assert await close_code(f"/ws/executions/{run.pk}?after=x", headers) == 4400


async def test_a_page_of_another_site_is_refused():
    headers, run = await sync_to_async(a_run)()
    for way in (headers, await sync_to_async(by_session)(run.created_by)):
        elsewhere = [*way, (b"origin", b"https://elsewhere.example")]
        assert not await Socket(f"/ws/executions/{run.pk}", elsewhere).open()


@pytest.mark.parametrize("address", ["/ws/executions/{run}", "/api/crews/{crew}/executions/{run}/logs/"])
async def test_an_ended_run_is_told_whole_and_closed_with_1000(address):
    headers, run = await sync_to_async(a_run)()
    socket = Socket(address.format(run=run.pk, crew=run.crew_id), headers)
    assert await socket.open()
    seen, code = await socket.frames()
    assert seen == await sync_to_async(events.read)(run.stream_id)
    assert code == 1000


async def test_a_watcher_goes_on_after_what_it_has_and_hears_news():
    headers, run = await sync_to_async(a_run)(Status.RUNNING)
    socket = Socket(f"/ws/executions/{run.pk}?after=1", headers)
    assert await socket.open()
    await sync_to_async(run.complete)("done")
    seen, code = await socket.frames()
    assert [event["type"] for event in seen] == ["execution.completed"]
    assert code == 1000


async def test_a_watcher_whose_database_goes_away_is_told_to_come_back(monkeypatch):
    headers, run = await sync_to_async(a_run)(Status.RUNNING)
    read = events.read
    answers = iter([read])

    def breaks_off(*args, **kwargs):
        return next(answers, _away)(*args, **kwargs)

    monkeypatch.setattr(events, "read", breaks_off)
    socket = Socket(f"/ws/executions/{run.pk}", headers)
    assert await socket.open()
    seen, code = await socket.frames()
    assert [event["type"] for event in seen] == ["execution.started"]
    assert code == 1013


def _away(*_, **__):
    raise OperationalError("the connection is lost")
