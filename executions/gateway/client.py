"""The one who asked, at the other end of the ASGI connection."""

from collections.abc import Mapping
from typing import Any

from executions.gateway import answers
from executions.gateway.answers import Answer

_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Client:
    """Sends an answer or an error, in the form that the client asked for.

    `streams`: it wants events; `started`: bytes of an answer have been sent, and nothing can be
    tried again; `gone`: nobody listens any more, and nothing is sent. `call_id` is told with the answer.
    """

    def __init__(self, send: Any, *, streams: bool, call_id: str) -> None:
        self._send = send
        self.call_id = call_id
        self.streams = streams
        self.started = False
        self.gone = False

    async def forward(self, raw: bytes) -> None:
        """Pass a part of a streamed answer on."""
        if self.gone:
            return
        await self._start()
        await self._send({"type": "http.response.body", "body": raw, "more_body": True})

    async def finish(self, answer: Answer, usage: dict[str, Any]) -> None:
        """The end of the stream, or the whole answer at once."""
        if self.gone:
            return
        if not self.streams:
            await self._json(200, answer.completion(usage))
            return
        await self._start()
        await self._send({"type": "http.response.body", "body": answer.ending(usage), "more_body": False})

    async def fail(self, status: int, body: dict[str, Any], headers: Mapping[str, str] | None = None) -> None:
        """An error; in a stream that has begun, as its last event."""
        if self.gone:
            return
        if self.started:
            raw = answers.event(body)
            await self._send({"type": "http.response.body", "body": raw, "more_body": False})
            return
        await self._json(status, body, headers)

    def _call_header(self) -> tuple[bytes, bytes]:
        return b"x-portal-call", self.call_id.encode()

    async def _start(self) -> None:
        if not self.started:
            self.started = True
            headers = [*_STREAM_HEADERS, self._call_header()]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _json(self, status: int, body: dict[str, Any], more: Mapping[str, str] | None = None) -> None:
        raw = answers.dumps(body)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(raw)).encode()),
            self._call_header(),
            *((name.lower().encode(), value.encode()) for name, value in (more or {}).items()),
        ]
        if not more or "Retry-After" not in more:
            # The gateway has tried again as often as it makes sense: OpenAI's clients obey this.
            headers.append((b"x-should-retry", b"false"))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": raw})
