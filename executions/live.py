"""News about streams, from whoever writes to whoever watches.

Writers call `publish` (events, after their commit) or `publish_delta` (text as it streams); both
return at once, and lose nothing that matters: the log is the truth, and `follow` reads it again on
any gap. With `REDIS_URL` news travels through the channel layer; without, the one web process owns
a Unix socket in `RUN_DIR` that the others push to, and hands on through its in-memory layer.

Watchers (WebSocket, SSE, pages, commands) iterate `follow(stream, after)`.
"""

import asyncio
import contextlib
import json
import logging
import queue
import socket
import threading
import uuid
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path
from typing import Any

from channels.db import database_sync_to_async
from channels.layers import get_channel_layer
from django.conf import settings
from redis.exceptions import RedisError

from executions import events
from executions.models.calls import LLMCall

logger = logging.getLogger(__name__)

# A watcher looks into the log this often even without news, in case news was lost.
POLL_SECONDS = 2.0
MAX_LINE_BYTES = 8 * events.MAX_NEWS_CHARACTERS  # of news on the socket
# A web process that takes no news for so long is not waited for.
SEND_SECONDS = 5.0


# Watchers read side by side, and hold no connection while nothing happens.
_in_thread = partial(database_sync_to_async, thread_sensitive=False)


def socket_path() -> Path:
    """The Unix socket of the web process of this machine (used without Redis)."""
    return Path(settings.RUN_DIR) / "live.sock"


def group_name(stream_id: uuid.UUID | str) -> str:
    return f"stream.{stream_id}"


# --- Writing ------------------------------------------------------------------------------------


class _Publisher:
    """Sends news from a thread of its own, so that no writer ever waits for a watcher."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name="live-publisher", daemon=True)
        self._thread.start()

    def send(self, message: dict[str, Any]) -> None:
        self._queue.put(message)

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        loop: asyncio.AbstractEventLoop | None = None
        while True:
            batch = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    batch.append(self._queue.get_nowait())
            try:
                if settings.REDIS_URL:
                    loop = loop or asyncio.new_event_loop()
                    loop.run_until_complete(self._send_by_layer(batch))
                else:
                    self._send_by_socket(batch)
            except (OSError, RedisError) as exc:
                # Nobody listens, or Redis is away: watchers find the events in the log.
                logger.debug("live news not delivered: %s", exc)

    async def _send_by_layer(self, batch: list[dict[str, Any]]) -> None:
        layer = get_channel_layer()
        for message in batch:
            await layer.group_send(group_name(message["stream"]), {"type": "stream.news", **message})

    def _send_by_socket(self, batch: list[dict[str, Any]]) -> None:
        path = socket_path()
        if self._socket is None and not path.exists():
            return  # without a web process there is nobody to tell
        data = b"".join(json.dumps(message, ensure_ascii=False).encode() + b"\n" for message in batch)
        if self._socket is not None:
            try:
                self._socket.sendall(data)
                return
            except OSError:
                # The web process was started again: once more, to the new one.
                self._socket.close()
                self._socket = None
        fresh = socket.socket(socket.AF_UNIX)
        try:
            fresh.settimeout(SEND_SECONDS)
            fresh.connect(str(path))
            fresh.sendall(data)
        except OSError:
            fresh.close()
            raise
        self._socket = fresh


_publisher: _Publisher | None = None
_lock = threading.Lock()


def _publish(message: dict[str, Any]) -> None:
    global _publisher
    with _lock:
        if _publisher is None or not _publisher.is_alive():  # also after a fork
            _publisher = _Publisher()
    _publisher.send(message)


def publish(stream_id: uuid.UUID, last: int, news: list[dict[str, Any]]) -> None:
    """Tell watchers that events up to `last` are stored. `news`: the newest of them, as `events.read` has them;
    empty when they are too large to travel, and watchers read the log."""
    message: dict[str, Any] = {"stream": str(stream_id), "last": last}
    if news:
        message["events"] = news
    _publish(message)


def publish_delta(stream_id: uuid.UUID, delta: dict[str, Any]) -> None:
    """Pass on text of an open call: `{call, try, offset, text}` with `task` and `role`; never stored.

    `offset` counts the characters of the call's text before this piece; a later try begins at 0 again.
    """
    _publish({"stream": str(stream_id), "delta": delta})


# --- Receiving, without Redis: the web process's socket ------------------------------------------


async def serve_socket() -> asyncio.Server:
    """Open this machine's live socket and hand what arrives to the in-memory channel layer."""
    path = socket_path()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.unlink(missing_ok=True)

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        layer = get_channel_layer()
        try:
            while line := await reader.readline():
                message = json.loads(line)
                await layer.group_send(group_name(message["stream"]), {"type": "stream.news", **message})
        except (ValueError, ConnectionError) as exc:
            logger.warning("live socket: %s", exc)
        finally:
            writer.close()

    server = await asyncio.start_unix_server(receive, path=str(path), limit=MAX_LINE_BYTES)
    path.chmod(0o600)
    return server


# --- Watching -------------------------------------------------------------------------------------


async def follow(
    stream_id: uuid.UUID, after: int = 0, *, deltas: bool = True, poll_seconds: float = POLL_SECONDS
) -> AsyncGenerator[dict[str, Any], None]:
    """Everything that happens in a stream after `after`: first what is stored, then live, each event once.

    Yields events as `events.read` has them, and `{"type": "llm.delta", "data": {call, offset,
    text}, …}` without a `seq` while calls are open. Ends after the stream's last event. A watcher
    that comes back passes the last `seq` it saw, and misses nothing. The log is looked at every
    `poll_seconds` even without news; a command outside the web process, which hears none without
    Redis, asks for a shorter time.
    """
    layer = get_channel_layer()
    channel = await layer.new_channel()
    await layer.group_add(group_name(stream_id), channel)
    texts = _Texts(stream_id) if deltas else None
    # One wait for news outlasts the looks into the log: cancelled, it would leave the channel. Nor does
    # `asyncio.wait` ever swallow the watcher's own cancellation, as `wait_for` of Python 3.11 may.
    receiving: asyncio.Task[dict[str, Any]] | None = None
    try:
        ended = False
        fresh: list[dict[str, Any]] | None = None  # None: read the log
        while True:
            if fresh is None:
                while rows := await _in_thread(events.read)(stream_id, after):
                    for row in rows:
                        yield row
                        after, ended = row["seq"], events.is_last(row)
                if texts is not None and not ended and not texts.started:
                    for delta in await texts.so_far():
                        yield delta
            else:
                for row in fresh:
                    yield row
                    after, ended = row["seq"], events.is_last(row)
            if ended:
                return
            receiving = receiving or asyncio.ensure_future(layer.receive(channel))
            await asyncio.wait((receiving,), timeout=poll_seconds)
            if not receiving.done():
                fresh = None
                continue
            fresh = []
            news, receiving = receiving.result(), None
            if "delta" in news:
                if texts is not None:
                    for delta in await texts.add(news["delta"]):
                        yield delta
            elif news["last"] > after:
                rows = [row for row in news.get("events", ()) if row["seq"] > after]
                fresh = rows if rows and rows[0]["seq"] == after + 1 else None
    finally:
        if receiving is not None:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)
        await layer.group_discard(group_name(stream_id), channel)


class _Texts:
    """The text of the open calls as one watcher knows it, without holes: what was missed is read from the ledger."""

    def __init__(self, stream_id: uuid.UUID) -> None:
        self.stream_id = stream_id
        self.known: dict[str, int] = {}  # call → characters passed on
        self.tries: dict[str, int] = {}  # call → the latest try
        self.started = False

    async def so_far(self) -> list[dict[str, Any]]:
        """The saved text of every open call of the execution."""
        self.started = True
        rows = await _in_thread(self._open)()
        self.tries |= {str(row.call_id): row.try_number for row in rows}
        return [
            _delta(
                {
                    "call": str(row.call_id),
                    "offset": 0,
                    "text": row.text,
                    "task": row.task,
                    "role": row.role,
                }
            )
            for row in rows
            if self._advance(str(row.call_id), 0, row.text)
        ]

    async def add(self, delta: dict[str, Any]) -> list[dict[str, Any]]:
        call, offset, text = delta["call"], delta["offset"], delta["text"]
        if (number := delta.get("try", 1)) > self.tries.get(call, 1):
            self.tries[call], self.known[call] = number, 0  # a new try writes its text from the beginning
        have = self.known.get(call, 0)
        if offset > have:
            saved = next((row.text for row in await _in_thread(self._open)() if str(row.call_id) == call), "")
            if len(saved) < offset:
                return []  # not saved yet: the next piece tries again
            text, offset = saved[have:offset] + text, have
        if not self._advance(call, offset, text):
            return []
        cut = max(0, have - offset)
        return [_delta({**delta, "offset": offset + cut, "text": text[cut:]})]

    def _advance(self, call: str, offset: int, text: str) -> bool:
        end = offset + len(text)
        if end <= self.known.get(call, 0):
            return False
        self.known[call] = end
        return True

    def _open(self) -> list[LLMCall]:
        return list(LLMCall.objects.filter(execution_id=self.stream_id, status=LLMCall.Status.OPEN))


def _delta(data: dict[str, Any]) -> dict[str, Any]:
    """A delta in the shape of an event; `task` and `role` stand beside `data`, as in events."""
    data = {name: value for name, value in data.items() if name != "try"}
    out: dict[str, Any] = {"type": events.DELTA}
    for name in ("task", "role"):
        if value := data.pop(name, ""):
            out[name] = value
    out["data"] = data
    return out
