"""How many requests a model takes at once, and the line in front of it.

Owners take turns, so that nobody who asks for much keeps the others waiting; of one owner's requests the
first that came is served first.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import TypeAlias

_Turn: TypeAlias = "asyncio.Future[None]"


@dataclass
class _Line:
    busy: int = 0
    # Whoever has the next turn stands first.
    waiting: OrderedDict[Hashable, deque[_Turn]] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return sum(map(len, self.waiting.values()))

    def add(self, owner: Hashable, turn: _Turn) -> None:
        self.waiting.setdefault(owner, deque()).append(turn)

    def next(self) -> _Turn:
        owner, turns = self.waiting.popitem(last=False)
        turn = turns.popleft()
        if turns:
            self.waiting[owner] = turns  # behind the others
        return turn

    def leave(self, owner: Hashable, turn: _Turn) -> bool:
        """Take a turn out; False when it stands there no more."""
        turns = self.waiting.get(owner, ())
        if turn not in turns:
            return False
        self.waiting[owner].remove(turn)
        if not self.waiting[owner]:
            del self.waiting[owner]
        return True

    def ahead(self, owner: Hashable, turn: _Turn) -> int:
        """How many have their turn before this one, if nobody comes any more."""
        place = list(self.waiting[owner]).index(turn)
        before = True
        ahead = place
        for other, turns in self.waiting.items():
            if other == owner:
                before = False
            else:
                ahead += min(len(turns), place + before)
        return ahead


class Slots:
    """The lines of all models. Belongs to one event loop; needs no lock."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}

    @property
    def queued(self) -> int:
        return sum(map(len, self._lines.values()))

    @property
    def busy(self) -> int:
        return sum(line.busy for line in self._lines.values())

    @asynccontextmanager
    async def hold(
        self,
        model: str,
        limit: int,
        *,
        patience: float,
        on_wait: Callable[[int], Awaitable[None]],
        owner: Hashable = None,
    ) -> AsyncIterator[int]:
        """One of the `limit` places of `model`, for `owner`; gives the milliseconds that were spent in the line.

        Who waits longer than `patience` seconds has `on_wait(requests ahead)` awaited once.
        """
        line = self._lines.setdefault(model, _Line())
        queued_ms = 0
        if line.waiting or line.busy >= limit:
            began = perf_counter()
            await self._wait(line, limit, owner, patience, on_wait)
            queued_ms = round((perf_counter() - began) * 1000)
        else:
            line.busy += 1
        try:
            yield queued_ms
        finally:
            line.busy -= 1
            self._advance(line, limit)

    @asynccontextmanager
    async def lent(self, model: str, limit: int, *, owner: Hashable = None) -> AsyncIterator[None]:
        """For whoever holds a place of `model`: others may have it meanwhile. In the end it waits for one again."""
        line = self._lines[model]
        line.busy -= 1
        self._advance(line, limit)
        is_back = False
        try:
            yield
            if line.waiting or line.busy >= limit:
                await self._wait(line, limit, owner)
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
        owner: Hashable,
        patience: float | None = None,
        on_wait: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.add(owner, turn)
        self._advance(line, limit)  # the limit may have been raised since
        try:
            await asyncio.wait((turn,), timeout=patience)
            if on_wait is not None and not turn.done():
                await on_wait(line.busy + line.ahead(owner, turn))
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                line.busy -= 1  # it was our turn, and we go
                self._advance(line, limit)
            else:
                line.leave(owner, turn)
            raise

    @staticmethod
    def _advance(line: _Line, limit: int) -> None:
        while line.waiting and line.busy < limit:
            turn = line.next()
            if not turn.done():
                line.busy += 1
                turn.set_result(None)
