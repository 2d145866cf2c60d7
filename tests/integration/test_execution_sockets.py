"""Runs over WebSockets: who may watch, what they get, and how it ends."""

import base64
import json
import uuid

import pytest
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.db import OperationalError

from executions import events
from executions.status import Status
from portal.asgi import application
from tests.deadlines import DEADLINE
from tests.factories.accounts import PASSWORD, AccessListFactory, UserFactory
from tests.factories.crews import CrewFactory
from tests.factories.executions import execution_in

pytestmark = pytest.mark.django_db(transaction=True)


def basic(user, password=PASSWORD):
    token = base64.b64encode(f"{user.username}:{password}".encode())
    return [(b"authorization", b"Basic " + token)]


def a_run(status=Status.COMPLETED):
    user = UserFactory()
    access = AccessListFactory(owner=user)
    run = execution_in(status, created_by=user, access=access, crew=CrewFactory(owner=user))
    return user, run


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


async def test_a_wrong_password_is_a_stranger():
    user, run = await sync_to_async(a_run)()
    assert await close_code(f"/ws/executions/{run.pk}", basic(user, "wrong")) == 4401


async def test_what_a_person_may_not_see_is_not_there():
    _, run = await sync_to_async(a_run)()
    other = await sync_to_async(UserFactory)()
    assert await close_code(f"/ws/executions/{run.pk}", basic(other)) == 4404
    assert await close_code(f"/ws/executions/{uuid.uuid4()}", basic(other)) == 4404


async def test_a_run_under_another_crew_is_not_there():
    user, run = await sync_to_async(a_run)()
    assert await close_code(f"/api/crews/{uuid.uuid4()}/executions/{run.pk}/logs", basic(user)) == 4404


async def test_after_must_be_a_number():
    user, run = await sync_to_async(a_run)()
    assert await close_code(f"/ws/executions/{run.pk}?after=x", basic(user)) == 4400


async def test_a_page_of_another_site_is_refused():
    user, run = await sync_to_async(a_run)()
    headers = [*basic(user), (b"origin", b"https://elsewhere.example")]
    assert not await Socket(f"/ws/executions/{run.pk}", headers).open()


@pytest.mark.parametrize("address", ["/ws/executions/{run}", "/api/crews/{crew}/executions/{run}/logs/"])
async def test_an_ended_run_is_told_whole_and_closed_with_1000(address):
    user, run = await sync_to_async(a_run)()
    socket = Socket(address.format(run=run.pk, crew=run.crew_id), basic(user))
    assert await socket.open()
    seen, code = await socket.frames()
    assert seen == await sync_to_async(events.read)(run.stream_id)
    assert code == 1000


async def test_a_watcher_goes_on_after_what_it_has_and_hears_news():
    user, run = await sync_to_async(a_run)(Status.RUNNING)
    socket = Socket(f"/ws/executions/{run.pk}?after=1", basic(user))
    assert await socket.open()
    await sync_to_async(run.complete)("done")
    seen, code = await socket.frames()
    assert [event["type"] for event in seen] == ["execution.completed"]
    assert code == 1000


async def test_a_watcher_whose_database_goes_away_is_told_to_come_back(monkeypatch):
    user, run = await sync_to_async(a_run)(Status.RUNNING)
    read = events.read
    answers = iter([read])

    def breaks_off(*args, **kwargs):
        return next(answers, _away)(*args, **kwargs)

    monkeypatch.setattr(events, "read", breaks_off)
    socket = Socket(f"/ws/executions/{run.pk}", basic(user))
    assert await socket.open()
    seen, code = await socket.frames()
    assert [event["type"] for event in seen] == ["execution.started"]
    assert code == 1013


def _away(*_, **__):
    raise OperationalError("the connection is lost")
