"""The way to providers that do not speak OpenAI's protocol: litellm translates.

litellm takes seconds and 200 MB to import, so it is imported only where a provider needs it, and
never on the event loop's thread.
"""

import asyncio
import contextlib
import importlib
import logging
from collections.abc import AsyncGenerator
from typing import Any

import httpx
from django.conf import settings

from executions.errors import ErrorCode
from executions.gateway import answers, faults
from executions.gateway.answers import Piece
from executions.gateway.catalog import Target
from executions.gateway.upstream import parameters


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
        request = {
            **parameters(target, body),
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
            raise _fault(litellm, exc) from exc
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


def _import() -> Any:
    litellm: Any = importlib.import_module("litellm")
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
