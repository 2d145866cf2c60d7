"""What the server takes from a client before anything of ours reads it: how much, and how slowly.

uvicorn bounds neither the size of a request's head nor how long a client may take for it. Bodies:
`portal.lib.bodies`.
"""

import asyncio
import http
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 32_768  # of request line and headers together
HEAD_SECONDS = 20.0  # for a whole head, from the connection or from its first byte
MAX_FRAME_BYTES = 65_536  # of what a client says over a WebSocket: our pages say next to nothing


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's protocol, which hangs up on heads that are too long (431) or do not come (408)."""

    _head_bytes = 0
    _in_head = True
    _is_refused = False
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._refuse, 408)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            if self._head_timer is None:  # the next request of a connection that was kept
                self._head_timer = self.loop.call_later(HEAD_SECONDS, self._refuse, 408)
            self._head_bytes += len(data)
        super().data_received(data)
        # A piece may end one head and begin a body: only what is still a head afterwards was all head.
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431)

    def on_headers_complete(self) -> None:
        self._stop_timer()
        self._in_head, self._head_bytes = False, 0
        head = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if head > MAX_HEAD_BYTES:
            self._refuse(431)
            return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_head = True
        if not self._is_refused:
            super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        self._stop_timer()
        super().handle_websocket_upgrade()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: int) -> None:
        self._stop_timer()
        if self._is_refused or self.transport.is_closing():
            return
        self._is_refused = True
        phrase = http.HTTPStatus(status).phrase
        self.transport.write(
            f"HTTP/1.1 {status} {phrase}\r\ncontent-type: text/plain\r\ncontent-length: {len(phrase)}\r\n"
            f"connection: close\r\n\r\n{phrase}".encode()
        )
        self.transport.close()
