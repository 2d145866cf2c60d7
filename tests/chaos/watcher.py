"""Watchers of all runs of a schedule: WebSockets that come back after every break, where they were cut off."""

import asyncio
import contextlib
import json
import threading
import uuid
from collections.abc import Callable
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from tests.stack import Stack

Event = dict[str, Any]


class Watchers:
    """Runs its own event loop in a thread. `seen` has the stored events of each run (hex id) as they were sent."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.seen: dict[str, list[Event]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="watchers", daemon=True)
        self._thread.start()
        self._tasks: dict[str, asyncio.Future[None]] = {}

    def follow(self, execution: str) -> None:
        """Watch a run (hex id) from now on."""
        self.seen[execution] = []
        self._call(lambda: self._tasks.__setitem__(execution, asyncio.ensure_future(self._watch(execution))))

    def forget_all(self) -> None:
        """Hang up everywhere, and forget what was seen."""

        async def hang_up() -> None:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

        asyncio.run_coroutine_threadsafe(hang_up(), self._loop).result(30)
        self._tasks.clear()
        self.seen.clear()

    def close(self) -> None:
        self.forget_all()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _call(self, work: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(work)

    async def _watch(self, execution: str) -> None:
        """For ever: a run that has ended may be started again, and then goes on where it was."""
        seen = self.seen[execution]
        while True:
            url, headers = self._stack.socket(str(uuid.UUID(hex=execution)), seen[-1]["seq"] if seen else 0)
            with contextlib.suppress(OSError, WebSocketException, TimeoutError):
                async with connect(url, additional_headers=headers, open_timeout=5, max_size=None) as socket:
                    async for frame in socket:
                        event = json.loads(frame)
                        if event["type"] != "llm.delta":
                            seen.append(event)
            await asyncio.sleep(0.2)
