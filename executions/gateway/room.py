"""Requests that wait until calls under way give back what they hold of a budget."""

import asyncio
import uuid
from collections import deque
from collections.abc import Iterable

# Other gateways settle calls too, so whoever waits looks again by itself; the longer the line, the less often.
LOOK_SECONDS = 0.5
LOOK_SECONDS_EACH = 0.05


class Room:
    """The lines of requests that wait for room under a limit. Belongs to one event loop; needs no lock."""

    def __init__(self) -> None:
        self._lines: dict[uuid.UUID, deque[asyncio.Future[None]]] = {}

    async def wait(self, key: uuid.UUID) -> None:
        """Until it is worth another try: `key`, the row of the limit, was freed, or some time has gone."""
        line = self._lines.setdefault(key, deque())
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.append(turn)
        try:
            await asyncio.wait((turn,), timeout=LOOK_SECONDS + LOOK_SECONDS_EACH * len(line))
        except asyncio.CancelledError:
            if turn.done():
                self.freed([key])  # it was our turn, and we go
            raise
        finally:
            if not turn.done():
                turn.cancel()
                line.remove(turn)
            if not line and self._lines.get(key) is line:
                del self._lines[key]

    def freed(self, keys: Iterable[uuid.UUID]) -> None:
        """There may be room again: the first in line may try. Who then finds room says so again, for the next."""
        for key in keys:
            line = self._lines.get(key)
            if line:
                line.popleft().set_result(None)
