"""Every route of the gateway × method × who asks, in this process."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from asgiref.sync import sync_to_async
from django.test import override_settings

from executions.gateway import app as app_module
from executions.gateway import callers
from executions.gateway.app import application
from executions.models import JournalEntry, LLMCall, ToolCall
from portal.accounts.credentials import Credential
from portal.accounts.models import ApiKey, User
from tests.fakes.idp import SECRET, FakeIdp
from tests.matrix.mutants import ALWAYS
from tests.matrix.people import EVERYBODY, Who
from tests.matrix.rules import METHODS, SAFE, Route
from tests.matrix.table_live import GATEWAY
from tests.matrix.things import World
from tests.matrix.walk import gateway_routes


def test_every_route_stands_in_the_table() -> None:
    found = {path: {method for method in methods if method != "HEAD"} for path, methods in gateway_routes()}
    assert found == {path: set(route.cells) for path, route in GATEWAY.items()}, "tests/matrix/table_live.py"


def expected(route: Route, method: str, who: Who) -> set[int]:
    """The statuses that may come. Only headers count here, so that a session is nobody."""
    cell = route.cell(method)
    if cell is None:
        return {405}
    if cell.role == "public":
        return set(cell.ok)
    if who.shows == "run token":
        return set(cell.ok)
    if who.shows not in {"key", "key as bearer", "token"}:
        return {401}
    if cell.role == "run":  # for runs alone
        return {403}
    is_let_in = who.has_scope(cell.scope or "read") and who.has_role(cell.role)
    return set(cell.ok) if is_let_in else {403}


@asynccontextmanager
async def a_gateway() -> AsyncIterator[tuple[World, httpx.AsyncClient]]:
    """A world, and a client of a gateway in this process."""
    with FakeIdp() as idp, override_settings(OIDC_ISSUER=idp.issuer, OIDC_CLIENT_SECRET=SECRET):
        world = await sync_to_async(World)(idp)
        app = application()
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                yield world, client


@pytest.mark.django_db(transaction=True)
async def test_every_route_of_the_gateway() -> None:
    async with a_gateway() as (world, client):
        before = await sync_to_async(_ledger)()
        cells, wrong = await _ask_all(world, client)
        assert cells > 500
        assert not wrong, "\n".join([f"{len(wrong)} of {cells} cells:", *wrong[:25]])
        assert await sync_to_async(_ledger)() == before, "a refused call stands in the ledger"


async def _ask_all(world: World, client: httpx.AsyncClient) -> tuple[int, list[str]]:
    cells, wrong = 0, []
    for path, route in GATEWAY.items():
        for method in METHODS:
            for who in EVERYBODY:
                cells += 1
                cell = route.cell(method)
                sent = {"json": cell.body if cell else {}} if method not in SAFE else {}
                answer = await client.request(
                    method, path.format(name="calculator"), headers=_headers(world, who), **sent
                )
                if answer.status_code not in expected(route, method, who):
                    wrong.append(f"{who.name}: {method} {path}: {answer.status_code} {answer.text[:200]}")
    return cells, wrong


def _headers(world: World, who: Who) -> dict[str, str]:
    names = {"HTTP_COOKIE": "cookie", "HTTP_AUTHORIZATION": "authorization"}
    return {names[name]: value for name, value in world.headers_of(who).items()}


def _ledger() -> list[int]:
    return [model._default_manager.count() for model in (LLMCall, ToolCall, JournalEntry)]


# What guards the gateway, and what stands in its place without it.
GUARDS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "people who only look may call": lambda patch: patch.setattr(app_module, "CALL", callers.LIST),
    "people may call tools": lambda patch: patch.setattr(app_module, "identify", _identify_for(callers.LIST)),
    "scopes are not asked for": lambda patch: patch.setattr(Credential, "allows", lambda self, scope: True),
    "roles are not asked for": lambda patch: patch.setattr(User, "has_role", lambda self, role: True),
    "revoked and expired keys are taken": lambda patch: patch.setattr(ApiKey, "is_usable", True),
    "who is switched off is let in": lambda patch: patch.setattr(User, "is_active", ALWAYS),
}


def _identify_for(need: callers.Need) -> Any:
    asked = callers.identify
    return lambda request, _need: asked(request, need)


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
async def test_the_gateway_without_one_of_its_guards(monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_gateway() as (world, client):
        survived = []
        for name, apply in GUARDS.items():
            with monkeypatch.context() as patch:
                apply(patch)
                if not (await _ask_all(world, client))[1]:
                    survived.append(name)
        assert not survived
