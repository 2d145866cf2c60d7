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
from typing import Any

import orjson
from django.conf import settings
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from executions.engines.protocol import HEADER_ROLE, HEADER_TASK
from executions.gateway import ledger, tokens
from executions.gateway.catalog import Caller, Run
from executions.gateway.client import Client
from executions.gateway.exchange import Exchange, Order
from executions.gateway.faults import Refusal
from executions.gateway.state import State, needs_litellm
from executions.gateway.tools import Tools

logger = logging.getLogger(__name__)

MAX_BODY = 32_000_000  # bytes
_TASK = HEADER_TASK.lower().encode()
_ROLE = HEADER_ROLE.lower().encode()


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
    if closed := await state.write(ledger.close_orphans):
        logger.warning("closed %s calls that an earlier gateway left open", closed)
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


def _who(headers: dict[bytes, bytes], run: Run, role: str = "") -> tuple[str, str]:
    """Task and role that a request says it is for; unknown roles stay out of the ledger."""
    task = headers.get(_TASK, b"").decode("latin-1")[:40]
    key = headers.get(_ROLE, b"").decode("latin-1")
    return task, run.roles.get(key, (role, ""))[0]


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
        work = asyncio.ensure_future(self._answer(request, await self._read(request, send), send))
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
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

    async def _answer(self, request: Request, body: dict[str, Any] | None, send: Send) -> None:
        if body is None:
            return
        state: State = request.app.state.gateway
        headers = dict(request.scope["headers"])
        call_id = uuid.uuid4()
        client = Client(send, streams=bool(body.get("stream")), call_id=str(call_id))
        try:
            caller = _caller(headers)
            messages = body.get("messages")
            if not isinstance(messages, list) or not messages or not all(_is_message(m) for m in messages):
                raise Refusal(400, "invalid_input", "“messages” must be a list of messages.", param="messages")
            run = await state.directory.run(caller)
            chain, role = await state.directory.resolve(run, str(body.get("model") or ""))
        except Refusal as refusal:
            await client.fail(refusal.status, refusal.body())
            return
        task, role = _who(headers, run, role)
        order = Order(caller=caller, run=run, task=task, role=role, body=body, call_id=call_id)
        await Exchange(state, order, client).run(chain)


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
    task, role = _who(headers, await state.directory.run(caller))
    result = await request.app.state.tools.call(caller, request.path_params["name"], arguments, task=task, role=role)
    return _json({"result": result})


async def _health(request: Request) -> Response:
    slots = request.app.state.gateway.slots
    return _json({"status": "healthy", "version": settings.VERSION, "busy": slots.busy, "queued": slots.queued})


async def _refused(request: Request, refusal: Refusal) -> Response:
    return _json(refusal.body(), refusal.status)


def _json(body: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, media_type="application/json")
