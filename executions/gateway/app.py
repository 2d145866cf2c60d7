"""The gateway: OpenAI's protocol in, every model of the catalog out. An ASGI application of its own.

    POST /v1/chat/completions   streamed or not; `model` is `role:<agent key>` or a catalog id
    GET  /v1/models
    POST /v1/tools/{name}       {"arguments": {…}} → {"result": "…"}
    GET  /health

`Authorization: Bearer run_…` names the attempt that calls. Errors have OpenAI's shape, with the
portal's own `code`.
"""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from django.conf import settings
from django.db import DatabaseError, InterfaceError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from executions.engines.protocol import HEADER_ORDINAL, HEADER_ROLE, HEADER_TASK
from executions.gateway import journal, tokens
from executions.gateway.catalog import ROLE, Caller, Run, Target, is_wanted
from executions.gateway.client import Client
from executions.gateway.exchange import Exchange
from executions.gateway.faults import Refusal
from executions.gateway.orders import Order
from executions.gateway.state import State, needs_litellm
from executions.gateway.tools import ToolOrder, Tools

logger = logging.getLogger(__name__)

MAX_BODY = 32_000_000  # bytes
DRAIN_CHECK_SECONDS = 1.0  # how often it is looked whether an answer that nobody waits for is still wanted
_TASK = HEADER_TASK.lower().encode()
_ROLE = HEADER_ROLE.lower().encode()
_ORDINAL = HEADER_ORDINAL.lower().encode()


def application() -> Starlette:
    """A gateway; one a process, since the places in front of each model are its own."""
    routes = [
        Route("/v1/chat/completions", _ChatCompletions(), methods=["POST"]),
        Route("/v1/models", _models, methods=["GET"]),
        Route("/v1/tools/{name}", _tool, methods=["POST"]),
        Route("/health", _health, methods=["GET"]),
    ]
    return Starlette(routes=routes, lifespan=_lifespan, exception_handlers={Refusal: _refused})  # type: ignore[dict-item]


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    state = app.state.gateway = State()
    app.state.tools = Tools(state)
    await state.open()
    loading = state.background(state.litellm.load()) if await state.write(needs_litellm) else None
    try:
        yield
    finally:
        if loading is not None:
            loading.cancel()
        app.state.tools.close()
        await state.close()


def _caller(headers: dict[bytes, bytes]) -> Caller:
    """Whose request it is. Raises `Refusal`."""
    scheme, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Refusal(401, "missing_token", "Send the run's token: Authorization: Bearer run_…")
    try:
        return Caller(*tokens.read(token.strip()))
    except tokens.InvalidToken:
        raise Refusal(401, "invalid_token", "This token was not issued here.") from None


@dataclass(frozen=True)
class _Who:
    """For whom a request says it is. An unknown role stays out of the ledger."""

    task: str
    role: str
    agent: str  # the role's key
    ordinal: int | None

    @classmethod
    def of(cls, headers: dict[bytes, bytes], run: Run, model: str = "") -> "_Who":
        task = headers.get(_TASK, b"").decode("latin-1")[:40]
        key = headers.get(_ROLE, b"").decode("latin-1")
        named = model.removeprefix(ROLE) if model.startswith(ROLE) else ""
        agent = key if key in run.roles else named
        number = headers.get(_ORDINAL, b"")
        ordinal = min(int(number[:12]), journal.MAX_ORDINAL) if number.isdigit() else None
        return cls(task, run.roles.get(agent, ("", ""))[0], agent, ordinal)


async def _json_body(request: Request) -> dict[str, Any]:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise Refusal(413, "too_large", "The request is larger than 32 MB.")
        parts.append(part)
    try:
        body = orjson.loads(b"".join(parts))
    except orjson.JSONDecodeError:
        raise Refusal(400, "invalid_json", "The body is not JSON.") from None
    if not isinstance(body, dict):
        raise Refusal(400, "invalid_json", "The body is not a JSON object.")
    return body


class _ChatCompletions:
    """An ASGI application, since it has to hear of a client that goes away at any moment."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = await self._read(request, send)
        if body is None:
            return
        state: State = request.app.state.gateway
        call_id = uuid.uuid4()
        client = Client(send, streams=bool(body.get("stream")), call_id=str(call_id))
        try:
            order, chain = await self._order(request, body, call_id)
        except Refusal as refusal:
            await client.fail(refusal.status, refusal.body())
            return
        exchange = Exchange(state, order, client)
        work = asyncio.ensure_future(exchange.run(chain))
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            client.gone = gone.done()
            # If the engine died, its next attempt asks for the answer that is on its way.
            while not work.done() and exchange.may_go_on and await _is_wanted(state, order.caller.execution):
                await asyncio.wait((work,), timeout=DRAIN_CHECK_SECONDS)
        finally:
            gone.cancel()
            if not work.done():
                work.cancel()
                await asyncio.wait((work,))
        if not work.cancelled():
            work.result()

    async def _read(self, request: Request, send: Send) -> dict[str, Any] | None:
        """The request's body; None when it was refused or the client has gone."""
        try:
            return await _json_body(request)
        except Refusal as refusal:
            await Client(send, streams=False, call_id="").fail(refusal.status, refusal.body())
        except ClientDisconnect:
            pass
        return None

    async def _order(self, request: Request, body: dict[str, Any], call_id: uuid.UUID) -> tuple[Order, list[Target]]:
        """What a request asks for, and the models to try. Raises `Refusal`."""
        state: State = request.app.state.gateway
        headers = dict(request.scope["headers"])
        caller = _caller(headers)
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages or not all(_is_message(m) for m in messages):
            raise Refusal(400, "invalid_input", "“messages” must be a list of messages.", param="messages")
        run = await state.directory.run(caller)
        model = str(body.get("model") or "")
        chain = await state.directory.resolve(run, model)
        who = _Who.of(headers, run, model)
        order = Order(
            caller=caller,
            run=run,
            task=who.task,
            role=who.role,
            agent=who.agent,
            ordinal=who.ordinal,
            body=body,
            call_id=call_id,
        )
        return order, chain


async def _is_wanted(state: State, execution: uuid.UUID) -> bool:
    """Whether a later attempt may ask for the answer that is under way."""
    try:
        return await state.db(is_wanted, execution)
    except (DatabaseError, InterfaceError):
        return True  # nobody knows; it is looked again in a second


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and isinstance(message.get("role"), str)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _models(request: Request) -> Response:
    """The models that can be used now."""
    state: State = request.app.state.gateway
    await state.directory.run(_caller(dict(request.scope["headers"])))
    catalog = await state.directory.catalog()
    usable = [target for target in catalog.targets.values() if not target.why_not_runnable]
    rows = [{"id": t.id, "object": "model", "created": t.created, "owned_by": t.provider} for t in usable]
    return _json({"object": "list", "data": rows})


async def _tool(request: Request) -> Response:
    """Call a tool for the run whose token it is."""
    state: State = request.app.state.gateway
    headers = dict(request.scope["headers"])
    caller = _caller(headers)
    arguments = (await _json_body(request)).get("arguments", {})
    if not isinstance(arguments, dict):
        raise Refusal(400, "invalid_input", "“arguments” must be an object.", param="arguments")
    run = await state.directory.run(caller)
    who = _Who.of(headers, run)
    order = ToolOrder(
        caller=caller,
        name=request.path_params["name"],
        arguments=arguments,
        task=who.task,
        role=who.role,
        agent=who.agent,
        ordinal=who.ordinal,
        has_past=run.has_past,
    )
    return _json({"result": await request.app.state.tools.call(order)})


async def _health(request: Request) -> Response:
    slots = request.app.state.gateway.slots
    return _json({"status": "healthy", "version": settings.VERSION, "busy": slots.busy, "queued": slots.queued})


async def _refused(request: Request, refusal: Refusal) -> Response:
    return _json(refusal.body(), refusal.status)


def _json(body: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, media_type="application/json")
