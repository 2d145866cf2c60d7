"""The way to providers that do not speak OpenAI's protocol: litellm translates.

litellm takes seconds and 200 MB to import, so it is imported only where a provider needs it, and
never on the event loop's thread.

litellm has many ways to reach out: HTTP clients that it makes where it needs one, addresses in dozens of
parameters, pictures that it fetches. So it is given transports that ask the guard for outgoing requests,
only parameters that say what to generate, and only pictures that are there already.
"""

import asyncio
import contextlib
import importlib
import logging
from collections.abc import AsyncGenerator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import httpx
from django.conf import settings
from django.utils.translation import gettext as _

from executions.errors import ErrorCode
from executions.gateway import answers, faults
from executions.gateway.answers import Piece
from executions.gateway.catalog import Target
from executions.gateway.upstream import parameters, refused
from portal.lib import outgoing
from portal.lib.outgoing import streams
from portal.lib.outgoing.requests import Transport

# What of a request is passed on. Beside these litellm takes addresses, keys and commands of its own.
PARAMETERS = frozenset(
    {
        *("messages", "stream", "stream_options", "n", "stop", "seed", "user", "modalities", "audio", "prediction"),
        *("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repeat_penalty"),
        *("max_tokens", "max_completion_tokens", "logit_bias", "logprobs", "top_logprobs", "response_format"),
        *("tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"),
        *("reasoning_effort", "verbosity", "thinking", "service_tier"),
    }
)

# Of litellm's providers those that reach out by clients of their own, past the transports that it is given: found
# by trying all of them (tests/integration/test_gateway_outgoing.py).
UNGUARDED = frozenset({"aiohttp_openai", "text-completion-inception", "text-completion-openai"})


@dataclass
class _Policy:
    """Where the request under way may go; and the guard's refusal, which litellm puts into words of its own."""

    allow_private: bool = False
    refusal: outgoing.Refused | None = None


_policy: ContextVar[_Policy | None] = ContextVar("outgoing_policy", default=None)


class Litellm:
    """Calls through litellm, which is imported on first use."""

    def __init__(self) -> None:
        self._importing: asyncio.Future[Any] | None = None

    async def load(self) -> Any:
        """The module; safe to call often. Who stops waiting for the import does not stop it."""
        if self._importing is None:
            self._importing = asyncio.ensure_future(asyncio.to_thread(_import))
        return await asyncio.shield(self._importing)

    async def stream(self, target: Target, body: dict[str, Any]) -> AsyncGenerator[list[Piece], None]:
        litellm = await self.load()
        try:
            if target.api_base:
                outgoing.check(target.api_base, allow_private=target.allow_private)
        except outgoing.Refused as exc:
            raise refused(exc) from exc
        _require_guarded(litellm, target)
        _require_inline(body)
        policy = _Policy(target.allow_private)
        _policy.set(policy)
        request = {
            **{name: value for name, value in parameters(target, body).items() if name in PARAMETERS},
            "model": target.route,
            "api_key": target.api_key or None,
            "api_base": target.api_base or None,
            "timeout": httpx.Timeout(settings.LLM_TOTAL_TIMEOUT, connect=settings.LLM_CONNECT_TIMEOUT),
            "max_retries": 0,
            "num_retries": 0,
            # Its MCP proxy is not used here, and wants a newer `mcp` than crewai allows.
            "_skip_mcp_handler": True,
            "drop_params": True,  # what a provider does not know is left out rather than refused
        }
        try:
            chunks = await litellm.acompletion(**request)
        except litellm.exceptions.OpenAIError as exc:
            raise refused(policy.refusal) if policy.refusal else _fault(litellm, exc) from exc
        try:
            async for chunk in chunks:
                data = chunk.model_dump(mode="json", exclude_none=True)
                yield [Piece(answers.event(data), data)]
        except litellm.exceptions.OpenAIError as exc:
            raise _fault(litellm, exc) from exc
        except httpx.HTTPError as exc:
            raise answers.bad_stream("the answer broke off") from exc
        finally:
            await _close(chunks)


class _Guarded(httpx.AsyncBaseTransport):
    """For one of litellm's clients: goes where the policy of the call under way lets it."""

    def __init__(self) -> None:
        self._ways = {allowed: streams.Transport(allow_private=allowed) for allowed in (False, True)}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        policy = _policy.get() or _Policy()
        try:
            return await self._ways[policy.allow_private].handle_async_request(request)
        except outgoing.Refused as exc:
            policy.refusal = exc
            raise

    async def aclose(self) -> None:
        for way in self._ways.values():
            await way.aclose()


class _GuardedSync(httpx.BaseTransport):
    """The same, for what litellm does without asyncio (tokens of some providers)."""

    def __init__(self) -> None:
        self._ways = {allowed: Transport(allow_private=allowed) for allowed in (False, True)}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        policy = _policy.get() or _Policy()
        try:
            return self._ways[policy.allow_private].handle_request(request)
        except outgoing.Refused as exc:
            policy.refusal = exc
            raise

    def close(self) -> None:
        for way in self._ways.values():
            way.close()


def _require_guarded(litellm: Any, target: Target) -> None:
    """Raise `Fault` for a route on which the guard would not be asked."""
    try:
        _model, provider, *_rest = litellm.get_llm_provider(model=target.route, api_base=target.api_base or None)
    except litellm.exceptions.OpenAIError as exc:
        raise _fault(litellm, exc) from exc
    if provider in UNGUARDED:
        sentence = _("Where requests of the route %(route)s go cannot be checked, so it is not used.")
        raise faults.Fault(ErrorCode.LLM_UNAVAILABLE, sentence=sentence % {"route": target.route}, is_passing=False)


def _require_inline(body: dict[str, Any]) -> None:
    """Raise `Fault` for pictures and files that litellm would fetch: it does so from wherever it is told."""
    for message in body.get("messages") or ():
        parts = message.get("content")
        for part in parts if isinstance(parts, list) else ():
            if isinstance(part, dict) and part.get("type") != "text" and _names_address(part):
                sentence = _("With this model's provider, send pictures and files as “data:” and not as an address.")
                raise faults.Fault(ErrorCode.INVALID_INPUT, sentence=sentence, is_passing=False)


def _names_address(value: Any) -> bool:
    if isinstance(value, str):
        return "://" in value[:100] and not value.startswith("data:")
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_names_address(child) for child in children)


def _import() -> Any:
    litellm: Any = importlib.import_module("litellm")
    clients: Any = importlib.import_module("litellm.llms.custom_httpx.http_handler")
    for owner, name, make in (
        (clients.AsyncHTTPHandler, "create_async_transport", staticmethod(lambda *_, **__: _Guarded())),
        (clients.AsyncHTTPHandler, "_create_async_transport", staticmethod(lambda *_, **__: _Guarded())),
        (clients.HTTPHandler, "_create_sync_transport", lambda self: _GuardedSync()),
    ):
        if not hasattr(owner, name):  # another release, in which the guard would not be asked
            raise RuntimeError(f"litellm makes its HTTP clients in another way: no {owner.__name__}.{name}")
        setattr(owner, name, make)
    litellm.client_session = httpx.Client(transport=_GuardedSync(), follow_redirects=False, trust_env=False)
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    litellm.turn_off_message_logging = True
    logging.getLogger("LiteLLM").setLevel(logging.WARNING)  # it reports every call otherwise
    # The exceptions that litellm raises all derive from the OpenAI client's.
    litellm.exceptions.OpenAIError = importlib.import_module("openai").OpenAIError
    return litellm


def _fault(litellm: Any, exc: Any) -> faults.Fault:
    known = litellm.exceptions
    detail = str(getattr(exc, "message", "") or exc)
    status = getattr(exc, "status_code", None)
    if isinstance(exc, known.ContextWindowExceededError):
        return faults.Fault(ErrorCode.CONTEXT_TOO_LONG, detail, status)
    if isinstance(exc, known.Timeout):
        return faults.Fault(ErrorCode.LLM_TIMEOUT, detail, status)
    if isinstance(exc, known.APIConnectionError):
        return faults.Fault(ErrorCode.LLM_UNAVAILABLE, detail, status)
    headers = getattr(getattr(exc, "response", None), "headers", None) or {}
    return faults.of_status(int(status or 502), detail, "", headers)


async def _close(chunks: Any) -> None:
    """End the request: a stream that was left in the middle goes on being paid for."""
    inner = getattr(chunks, "completion_stream", None)
    for stream in (inner, getattr(inner, "response", None)):
        close = getattr(stream, "aclose", None) or getattr(stream, "close", None)
        if close is None:
            continue
        with contextlib.suppress(httpx.HTTPError, RuntimeError):
            result = close()
            if asyncio.iscoroutine(result):
                await result
