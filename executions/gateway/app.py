"""The gateway: OpenAI's protocol in, every model of the catalog out. An ASGI application of its own.

    POST /v1/chat/completions   streamed or not; `model` is `role:<agent key>` or a catalog id
    GET  /v1/models
    POST /v1/tools/{name}       {"arguments": {…}} → {"result": "…"}; for runs alone
    GET  /health

`Authorization: Bearer run_…` names the attempt of a run that calls. People and scripts call models with an
API key (`ap_…`) or an access token of the identity provider: without a run there is no journal and no
log, only the ledger, and the budgets of the person and of the key. Errors have OpenAI's shape, with
the portal's own `code`.
"""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from django.conf import settings
from django.utils.translation import gettext as _
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from executions.engines.protocol import HEADER_ORDINAL, HEADER_ROLE, HEADER_TASK
from executions.gateway import journal, shapes
from executions.gateway.callers import CALL, LIST, Visitor, counted, ended, identify
from executions.gateway.catalog import ROLE, Caller, Run, Target
from executions.gateway.client import Client
from executions.gateway.exchange import Exchange
from executions.gateway.faults import Refusal
from executions.gateway.orders import Order
from executions.gateway.state import State, needs_litellm
from executions.gateway.tools import ToolOrder, Tools
from portal.accounts import watch

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
    handlers: Any = {Refusal: _refused, HTTPException: _no_route}
    return Starlette(routes=routes, lifespan=_lifespan, exception_handlers=handlers)


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
    try:
        orjson.dumps(body)  # it goes less deep than `loads`, and stands between here and every provider
    except TypeError:
        raise Refusal(400, "invalid_json", "The body is nested too deeply.") from None
    return body


class _ChatCompletions:
    """An ASGI application, since it has to hear of a client that goes away at any moment."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            visitor = await identify(request, CALL)
            with counted(visitor):
                await self._serve(request, receive, send, visitor)
        except Refusal as refusal:
            await Client(send, streams=False, call_id="").fail(refusal.status, refusal.body(), refusal.headers)

    async def _serve(self, request: Request, receive: Receive, send: Send, visitor: Visitor) -> None:
        body = await self._read(request, send)
        if body is None:
            return
        call_id = uuid.uuid4()
        client = Client(send, streams=bool(body.get("stream")), call_id=str(call_id))
        try:
            order, chain = await self._order(request, visitor.caller, body, call_id)
        except Refusal as refusal:
            await client.fail(refusal.status, refusal.body(), refusal.headers)
            return
        exchange = Exchange(request.app.state.gateway, order, client)
        work = asyncio.ensure_future(exchange.run(chain))
        gone = asyncio.ensure_future(_until_gone(receive))
        if visitor.permit is None:
            await self._until_done(exchange, client, work, gone)
            return
        over: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        with watch.hold(visitor.permit, over.set_result):
            await self._until_done(exchange, client, work, gone, over)
        if over.done() and work.cancelled():
            end = ended()
            await client.fail(end.status, end.body(), end.headers)
        over.cancel()

    async def _until_done(
        self,
        exchange: Exchange,
        client: Client,
        work: "asyncio.Future[None]",
        *ends: "asyncio.Future[Any]",
    ) -> None:
        """Until the `work` is done, or one of the `ends` has come: the first of them, that the client has gone."""
        gone = ends[0]
        try:
            await asyncio.wait((work, *ends), return_when=asyncio.FIRST_COMPLETED)
            client.gone = gone.done()
            # If the engine died, its next attempt asks for the answer that is on its way.
            while not work.done() and exchange.may_go_on and await exchange.is_wanted():
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
            await Client(send, streams=False, call_id="").fail(refusal.status, refusal.body(), refusal.headers)
        except ClientDisconnect:
            pass
        return None

    async def _order(
        self, request: Request, caller: Caller, body: dict[str, Any], call_id: uuid.UUID
    ) -> tuple[Order, list[Target]]:
        """What a request asks for, and the models to try. Raises `Refusal`."""
        state: State = request.app.state.gateway
        headers = dict(request.scope["headers"])
        shapes.require(body)
        run = await state.directory.run(caller)
        model = str(body.get("model") or "")
        if caller.execution is None and model.startswith(ROLE):
            sentence = _("Only runs have roles. Name a model of the catalog; GET /v1/models lists them.")
            raise Refusal(400, "role_without_run", sentence, param="model")
        chain = await state.directory.resolve(run, model)
        who = _Who("", "", "", None) if caller.execution is None else _Who.of(headers, run, model)
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


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _models(request: Request) -> Response:
    """The models that can be used now."""
    state: State = request.app.state.gateway
    visitor = await identify(request, LIST)
    if visitor.permit is None:
        await state.directory.run(visitor.caller)
    catalog = await state.directory.catalog()
    usable = [target for target in catalog.targets.values() if not target.why_not_runnable]
    rows = [{"id": t.id, "object": "model", "created": t.created, "owned_by": t.provider} for t in usable]
    return _json({"object": "list", "data": rows})


async def _tool(request: Request) -> Response:
    """Call a tool for the run whose token it is."""
    state: State = request.app.state.gateway
    headers = dict(request.scope["headers"])
    caller = (await identify(request, None)).caller
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
    return _json(refusal.body(), refusal.status, refusal.headers)


async def _no_route(request: Request, exc: HTTPException) -> Response:
    return _json(Refusal(exc.status_code, "no_such_route", exc.detail).body(), exc.status_code, exc.headers)


def _json(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status, headers, media_type="application/json")
