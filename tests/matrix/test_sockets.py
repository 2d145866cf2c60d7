"""Every WebSocket route × who asks × on what, through all of the ASGI application."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.http import Http404
from django.test import override_settings

from executions import consumers
from portal.accounts import credentials, sockets
from portal.accounts.models import ApiKey, User
from portal.asgi import application
from projects import consumers as projects
from tests.deadlines import DEADLINE
from tests.fakes.idp import SECRET, FakeIdp
from tests.matrix import rules
from tests.matrix.asking import questions
from tests.matrix.mutants import ALWAYS
from tests.matrix.people import BY_NAME, Who
from tests.matrix.rules import CROSSED
from tests.matrix.table_live import SOCKETS
from tests.matrix.things import World
from tests.matrix.walk import socket_routes

# How a refusal ends, and how a finished run does.
CODES = {rules.STRANGER: 4401, rules.FORBIDDEN: 4403, rules.HIDDEN: 4404, rules.ALLOWED: 1000}
PAGE = b"http://localhost:8000"


def test_every_socket_stands_in_the_table() -> None:
    assert sorted(socket_routes()) == sorted(SOCKETS), "add a row to tests/matrix/table_live.py, or take it away"


async def close_code(world: World, who: Who, address: str, origin: bytes = b"") -> tuple[int | None, list[str]]:
    """How a socket of `who` ends (None: it was not even accepted), and the events that came before that."""
    names = {"HTTP_COOKIE": b"cookie", "HTTP_AUTHORIZATION": b"authorization"}
    headers = [(names[name], value.encode()) for name, value in world.headers_of(who).items()]
    headers += [(b"host", b"localhost:8000"), *([(b"origin", origin)] if origin else [])]
    scope = {"type": "websocket", "path": address, "query_string": b"", "headers": headers, "client": ["127.0.0.1", 1]}
    socket = ApplicationCommunicator(application, scope)
    await socket.send_input({"type": "websocket.connect"})
    if (await socket.receive_output(timeout=DEADLINE))["type"] != "websocket.accept":
        return None, []
    seen = []
    while (answer := await socket.receive_output(timeout=DEADLINE))["type"] != "websocket.close":
        seen.append(str(json.loads(answer["text"])["type"]))
    return int(answer["code"]), seen


def address_of(world: World, pattern: str, thing: str) -> str:
    route = SOCKETS[pattern]
    parts = world.parts(route.path.values(), thing)
    return pattern.format(**{key: parts[part] for key, part in route.path.items()})


async def wrong_cells(world: World, everything: bool) -> tuple[int, list[str]]:
    cells, wrong = 0, []
    for pattern, route in SOCKETS.items():
        for method, who, thing in questions(route, everything):
            if method != "GET":
                continue
            cells += 1
            person = who.person if who.is_good else None
            is_there = thing not in {"missing", CROSSED}
            side = route.cells["GET"].side
            level = world.things[thing].level(side, person, who.acts_as) if is_there else None
            wanted = CODES[rules.expected(route, "GET", who, level)]
            origin = PAGE if who.shows == "session" else b""
            code, seen = await close_code(world, who, address_of(world, pattern, thing), origin)
            if code != wanted or bool(seen) != (wanted == 1000):
                wrong.append(f"{who.name}: {pattern} ({thing}): {code} after {seen}, and {wanted} was expected")
    return cells, wrong


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("everything", [False, pytest.param(True, marks=pytest.mark.slow)])
async def test_every_socket(everything: bool) -> None:
    with FakeIdp() as idp, override_settings(OIDC_ISSUER=idp.issuer, OIDC_CLIENT_SECRET=SECRET):
        world = await sync_to_async(World)(idp)
        cells, wrong = await wrong_cells(world, everything)
        assert cells >= 100
        assert not wrong, "\n".join([f"{len(wrong)} of {cells} cells:", *wrong[:25]])
        assert not await lets_other_sites_in(world)


async def lets_other_sites_in(world: World) -> bool:
    """Whether a page of another site opens a socket with the cookie of who looks at it."""
    answers = [
        await close_code(world, BY_NAME["user"], address_of(world, pattern, "own"), b"https://elsewhere.example")
        for pattern in SOCKETS
    ]
    return any(seen or code not in {None, 4401, 4403} for code, seen in answers)


# What guards sockets, and what stands in its place without it.
GUARDS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "things are found for everybody": lambda patch: patch.setattr(consumers, "find", _found_for_everybody),
    "projects are found for everybody": lambda patch: patch.setattr(projects, "find", _found_for_everybody),
    "a refused header falls back to the cookie": lambda patch: patch.setattr(credentials, "split", lambda header: None),
    "keys are not looked at": lambda patch: patch.setattr(ApiKey, "is_usable", True),
    "pages of other sites are let in": lambda patch: patch.setattr(
        sockets.OriginCheck, "__call__", lambda self, *channel: self.inner(*channel)
    ),
    "who is switched off is let in": lambda patch: patch.setattr(User, "is_active", ALWAYS),
}


def _found_for_everybody(queryset: Any, user: Any, action: Any, **lookup: Any) -> Any:
    if row := queryset.filter(**lookup).first():
        return row
    raise Http404


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
async def test_sockets_without_one_of_their_guards(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeIdp() as idp, override_settings(OIDC_ISSUER=idp.issuer, OIDC_CLIENT_SECRET=SECRET):
        world = await sync_to_async(World)(idp)
        survived = []
        for name, apply in GUARDS.items():
            with monkeypatch.context() as patch:
                apply(patch)
                _, wrong = await wrong_cells(world, everything=False)
                if not wrong and not await lets_other_sites_in(world):
                    survived.append(name)
        assert not survived
