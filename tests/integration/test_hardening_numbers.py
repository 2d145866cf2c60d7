"""Numbers in addresses that are none, or none that anything has a place for: an answer that says so, never a fault."""

import base64
import json
import uuid
from decimal import Decimal

import pytest
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from rest_framework.test import APIClient

from executions.status import Status
from portal.asgi import application
from portal.lib import numbers
from tests.deadlines import DEADLINE
from tests.factories.accounts import AccessListFactory, UserFactory, key_of
from tests.factories.executions import execution_in

pytestmark = pytest.mark.django_db
NUMBERLESS = ["²", "１", "x", "-1", "+1", "1_0", " 1", "1.0", "", "9" * 19, "9" * 5000]


def test_a_whole_number_is_plain_digits():
    assert [numbers.whole(text) for text in ("0", "7", "007", "9" * 18)] == [0, 7, 7, 10**18 - 1]
    assert [numbers.whole(text) for text in NUMBERLESS] == [None] * len(NUMBERLESS)


@pytest.fixture
def user():
    return UserFactory()


@pytest.fixture
def api(user):
    client = APIClient(raise_request_exception=False)
    client.force_authenticate(user)
    return client


@pytest.mark.parametrize("after", NUMBERLESS)
def test_events_after_no_number(api, user, after):
    run = execution_in(Status.COMPLETED, created_by=user, access=AccessListFactory(owner=user))
    for path in ("events", "stream"):
        answer = api.get(f"/api/executions/{run.pk}/{path}", {"after": after})
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid")
    assert api.get(f"/api/executions/{run.pk}/events", {"after": "9" * 18}).json()["results"] == []


@pytest.mark.parametrize("size", [*NUMBERLESS, "0"])
def test_a_page_of_no_size(api, size):
    answer = api.get("/api/crews", {"page_size": size})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "page_size")
    assert api.get("/api/crews", {"page_size": "9" * 18}).status_code == 200


def as_cursor(text):
    return base64.urlsafe_b64encode(text.encode("utf-8", "surrogatepass")).decode().rstrip("=")


WHEN = "2031-01-01T00:00:00+00:00"
CURSORS = {
    "nested without end": as_cursor("[" * 100_000),
    "infinity for a number": as_cursor(json.dumps([0, ["-priority", "id"], [float("inf"), str(uuid.UUID(int=1))]])),
    "a number beyond all": as_cursor('[0, ["-priority", "id"], [1e999, "x"]]'),
    "infinity as text": as_cursor(json.dumps([0, ["cost_usd", "id"], ["Infinity", str(uuid.UUID(int=1))]])),
    "money beyond all": as_cursor(json.dumps([0, ["cost_usd", "id"], ["1e999999", str(uuid.UUID(int=1))]])),
    "digits without end": as_cursor(json.dumps([0, ["-priority", "id"], ["9" * 5000, str(uuid.UUID(int=1))]])),
    "before all dates": as_cursor(
        json.dumps([0, ["-created_at", "id"], ["0001-01-01T00:00:00+14:00", str(uuid.UUID(int=1))]])
    ),
    "after all dates": as_cursor(
        json.dumps([0, ["-created_at", "id"], ["9999-12-31T23:59:59-14:00", str(uuid.UUID(int=1))]])
    ),
    "a list for a date": as_cursor(json.dumps([0, ["-created_at", "id"], [[WHEN], str(uuid.UUID(int=1))]])),
    "a NUL in a name": as_cursor(json.dumps([0, ["name", "id"], ["a\0b", str(uuid.UUID(int=1))]])),
    "half a character": as_cursor(json.dumps([0, ["name", "id"], ["\ud800", str(uuid.UUID(int=1))]])),
}


@pytest.mark.parametrize("name", CURSORS)
def test_a_cursor_that_nobody_gave_out(api, user, name):
    execution_in(Status.COMPLETED, created_by=user, access=AccessListFactory(owner=user))
    for ordering in ("-priority", "cost_usd", "-created_at", "name"):
        answer = api.get("/api/executions", {"cursor": CURSORS[name], "ordering": ordering})
        if "dates" in name and answer.status_code == 200:
            continue  # PostgreSQL has a place for these
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "cursor"), ordering


@pytest.mark.parametrize("ordering", ["-priority", "cost_usd", "-created_at", "name"])
def test_cursors_that_were_given_out_are_taken(api, user, ordering):
    for number in range(3):
        execution_in(
            Status.COMPLETED, created_by=user, access=AccessListFactory(owner=user), priority=number + 1,
            cost_usd=Decimal(number // 2) / 3 + Decimal("0.00000001"),
        )  # fmt: skip
    page = api.get("/api/executions", {"page_size": 1, "ordering": ordering}).json()
    seen = [row["id"] for row in page["results"]]
    while page["next"]:
        page = api.get(page["next"]).json()
        seen += [row["id"] for row in page["results"]]
    assert len(set(seen)) == len(seen) == 3


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("path", ["/ws/executions/{}", "/ws/projects/{}/updates"])
@pytest.mark.parametrize("after", ["%C2%B2", "9" * 19, "9" * 5000])
async def test_sockets_after_no_number(path, after):
    user = await sync_to_async(UserFactory)()
    key = await sync_to_async(key_of)(user)
    scope = {
        "type": "websocket",
        "path": path.format(uuid.uuid4()),
        "query_string": f"after={after}".encode(),
        "headers": [(b"authorization", f"Api-Key {key}".encode())],
    }
    socket = ApplicationCommunicator(application, scope)
    await socket.send_input({"type": "websocket.connect"})
    assert (await socket.receive_output(timeout=DEADLINE))["type"] == "websocket.accept"
    assert (await socket.receive_output(timeout=DEADLINE))["code"] == 4400
