"""How many requests a model takes at once, and the line in front of it: first come, first served."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter


@dataclass
class _Line:
    busy: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)


class Slots:
    """The lines of all models. Belongs to one event loop; needs no lock."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}

    @property
    def queued(self) -> int:
        return sum(len(line.waiting) for line in self._lines.values())

    @property
    def busy(self) -> int:
        return sum(line.busy for line in self._lines.values())

    @asynccontextmanager
    async def hold(
        self, model: str, limit: int, *, patience: float, on_wait: Callable[[int], Awaitable[None]]
    ) -> AsyncIterator[int]:
        """One of the `limit` places of `model`; gives the milliseconds that were spent in the line.

        Who waits longer than `patience` seconds has `on_wait(requests ahead)` awaited once.
        """
        line = self._lines.setdefault(model, _Line())
        queued_ms = 0
        if line.waiting or line.busy >= limit:
            began = perf_counter()
            await self._wait(line, limit, patience, on_wait)
            queued_ms = round((perf_counter() - began) * 1000)
        else:
            line.busy += 1
        try:
            yield queued_ms
        finally:
            line.busy -= 1
            self._advance(line, limit)

    @asynccontextmanager
    async def lent(self, model: str, limit: int) -> AsyncIterator[None]:
        """For whoever holds a place of `model`: others may have it meanwhile. In the end it waits for one again."""
        line = self._lines[model]
        line.busy -= 1
        self._advance(line, limit)
        is_back = False
        try:
            yield
            if line.waiting or line.busy >= limit:
                await self._wait(line, limit)
            else:
                line.busy += 1
            is_back = True
        finally:
            if not is_back:
                line.busy += 1  # who holds it gives it back

    async def _wait(
        self,
        line: _Line,
        limit: int,
        patience: float | None = None,
        on_wait: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.waiting.append(turn)
        self._advance(line, limit)  # the limit may have been raised since
        try:
            await asyncio.wait((turn,), timeout=patience)
            if on_wait is not None and not turn.done():
                await on_wait(line.busy + line.waiting.index(turn))
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                line.busy -= 1  # it was our turn, and we go
                self._advance(line, limit)
            elif turn in line.waiting:
                line.waiting.remove(turn)
            raise

    @staticmethod
    def _advance(line: _Line, limit: int) -> None:
        while line.waiting and line.busy < limit:
            turn = line.waiting.popleft()
            if not turn.done():
                line.busy += 1
                turn.set_result(None)
