"""How much a request's body may be, and how slowly it may come."""

import asyncio
import json
from typing import Any

from django.conf import settings
from django.utils.translation import gettext as _

from portal.lib.problems import CONTENT_TYPE, Problem

BODY_SECONDS = 30.0  # between two pieces of a body


class TooLarge(Problem):
    """More was sent than a request may have."""

    status = 413
    code = "too_large"


class BoundedBody:
    """Refuses request bodies above MAX_BODY_BYTES, by what is announced or else while they arrive.

    The application behind it hears that the client has gone. Who stops in the middle of a body is
    answered 408: an open request holds a temporary file.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        limit = settings.MAX_BODY_BYTES
        headers = dict(scope["headers"])
        announced = headers.get(b"content-length", b"")
        if announced.isdigit() and int(announced[:20]) > limit:
            return await _answer(send, _too_large())
        if not announced.strip(b"0") and b"transfer-encoding" not in headers:
            return await self.app(scope, receive, send)
        size, is_whole, is_refused = 0, False, False

        async def bounded_receive() -> dict[str, Any]:
            nonlocal size, is_whole, is_refused
            if is_refused:
                return {"type": "http.disconnect"}
            if is_whole:
                return await receive()  # waits for the client to go
            problem: Problem | None = None
            try:
                async with asyncio.timeout(BODY_SECONDS):
                    message = await receive()
            except TimeoutError:
                problem = Problem(_("The request did not come to its end in time."), status=408, code="timeout")
            else:
                if message["type"] == "http.request":
                    size += len(message.get("body", b""))
                    is_whole = not message.get("more_body", False)
                    problem = _too_large() if size > limit else None
                if problem is None:
                    return message
            is_refused = True
            await _answer(send, problem)
            return {"type": "http.disconnect"}

        async def bounded_send(message: dict[str, Any]) -> None:
            if not is_refused:
                await send(message)

        return await self.app(scope, bounded_receive, bounded_send)


def _too_large() -> Problem:
    megabytes = settings.MAX_BODY_BYTES // 1_000_000
    return TooLarge(
        _("The request is larger than %(megabytes)d MB.") % {"megabytes": megabytes},
        hint=_("Send less, or ask an admin to raise MAX_REQUEST_MB."),
    )


async def _answer(send: Any, problem: Problem) -> None:
    """The problem as an answer, and the end of the connection: what is still on its way is not read."""
    body = json.dumps(problem.as_dict()).encode()
    headers = [
        (b"content-type", CONTENT_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
