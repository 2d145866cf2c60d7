"""From which pages a WebSocket is opened, and what it answers while nobody can say who asks."""

import uuid

import pytest
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.test import Client

from portal.accounts.audit import refusals
from portal.accounts.models import AuditEntry, RateWindow
from portal.asgi import application
from tests.deadlines import DEADLINE
from tests.factories.accounts import UserFactory

pytestmark = pytest.mark.django_db(transaction=True)
NOBODY_HERE = 4404  # what is asked for is not there: whoever hears that has come past everything that is tested here


@pytest.fixture
def cookie():
    client = Client()
    client.force_login(UserFactory())
    return ("cookie", f"sessionid={client.cookies['sessionid'].value}")


async def close_code(*headers, scheme="ws", path="executions"):
    """How a socket ends; None: it was not even accepted."""
    scope = {
        "type": "websocket",
        "scheme": scheme,
        "path": f"/ws/{path}/{uuid.uuid4()}",
        "query_string": b"\xff=%C2%B2",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
    }
    socket = ApplicationCommunicator(application, scope)
    await socket.send_input({"type": "websocket.connect"})
    if (await socket.receive_output(timeout=DEADLINE))["type"] != "websocket.accept":
        return None
    return (await socket.receive_output(timeout=DEADLINE))["code"]


OURS = [  # Origin, Host
    ("http://localhost:8000", "localhost:8000"),
    ("http://127.0.0.1:8000", "127.0.0.1:8000"),
    ("http://[::1]:8000", "[::1]:8000"),
    ("http://localhost", "localhost"),
    ("https://portal.example:8443", "whatever-the-proxy-says"),  # of PORTAL_URL
]
FOREIGN = [
    ("http://localhost:3000", "localhost:8000"),
    ("http://localhost", "localhost:8000"),
    ("https://localhost:8000", "localhost:8000"),
    ("http://127.0.0.1:8000", "localhost:8000"),
    ("http://localhost.example:8000", "localhost:8000"),
    ("http://elsewhere.example", "elsewhere.example"),  # a name that was led here (DNS rebinding)
    ("https://portal.example", "localhost:8000"),
    ("http://portal.example:8443", "localhost:8000"),
    ("http://[", "localhost:8000"),
    ("http://[", "["),
    ("http://localhost:99999999", "localhost:8000"),
    ("null", "localhost:8000"),
    ("", ""),
    ("\xff", "\xff"),
]


@pytest.mark.parametrize(("origin", "host"), OURS)
async def test_pages_of_the_portal_are_let_in(cookie, settings, origin, host):
    settings.PORTAL_URL = "https://portal.example:8443"
    assert await close_code(cookie, ("host", host), ("origin", origin)) == NOBODY_HERE


@pytest.mark.parametrize(("origin", "host"), FOREIGN)
async def test_pages_of_other_sites_and_ports_are_not(cookie, settings, origin, host):
    settings.PORTAL_URL = "https://portal.example:8443"
    assert await close_code(cookie, ("host", host), ("origin", origin)) is None


async def test_two_origins_are_none(cookie):
    ours = ("origin", "http://localhost:8000")
    assert await close_code(cookie, ("host", "localhost:8000"), ours, ours) is None


async def test_a_proxy_says_that_it_is_https_where_it_is_believed(cookie, settings):
    sent = [cookie, ("host", "localhost"), ("origin", "https://localhost"), ("x-forwarded-proto", "https")]
    assert await close_code(*sent) is None
    assert await close_code(*sent, scheme="wss") == NOBODY_HERE
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    assert await close_code(*sent) == NOBODY_HERE
    assert await close_code(*sent[:2], ("origin", "http://localhost"), sent[3]) is None


async def test_scripts_say_no_origin(cookie):
    assert await close_code(cookie) == NOBODY_HERE


async def test_who_cannot_be_told_now_comes_back_and_is_counted_nowhere(idp, settings):
    settings.RATE_LIMIT_ADDRESS_PER_MINUTE = 1
    idp.is_down = True
    token = idp.access_token(idp.person("olga", roles=["user"]))
    for _ in range(3):
        assert await close_code(("authorization", f"Bearer {token}")) == 1013
    await sync_to_async(refusals.flush)()
    assert not await AuditEntry.objects.aexists()
    assert not await RateWindow.objects.aexists()
