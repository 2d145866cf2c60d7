"""The text of an open call on its way to those who watch: pushed while it grows, saved for those who come late."""

import asyncio

from executions import events, live
from executions.gateway import ledger
from executions.gateway.state import State
from executions.models import LLMCall

PUSH_SECONDS = 0.05  # a person sees no difference, and many small pushes cost more
SAVE_SECONDS = 1.0


class LiveText:
    """Collects the pieces of one call's text; pushes at most every 50 ms, saves at most once a second.

    Hides itself (`is_shown` false) for calls whose text is not for people.
    """

    def __init__(self, state: State, row: LLMCall, *, is_shown: bool = True) -> None:
        self._state = state
        self._row = row
        self._is_shown = is_shown
        self._loop = asyncio.get_running_loop()
        self._parts: list[str] = []
        self._fresh: list[str] = []
        self._offset = 0
        self._pushed_at = 0.0
        self._saved_at = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._saving: asyncio.Future[None] | None = None

    def add(self, text: str) -> None:
        self._parts.append(text)
        self._fresh.append(text)
        if self._timer is None:
            wait = self._pushed_at + PUSH_SECONDS - self._loop.time()
            if wait <= 0:
                self._push()
            else:
                self._timer = self._loop.call_later(wait, self._push)

    def stop(self) -> None:
        """Push what is left; the closing of the call saves the whole text."""
        if self._timer is not None:
            self._timer.cancel()
        if self._fresh:
            self._push()

    def _push(self) -> None:
        self._timer = None
        now = self._pushed_at = self._loop.time()
        text = "".join(self._fresh)
        self._fresh.clear()
        row = self._row
        if self._is_shown and row.execution_id is not None:
            names = {"call": str(row.call_id), "try": row.try_number, "task": row.task, "role": row.role}
            live.publish_delta(row.execution_id, {**names, "offset": self._offset, "text": text})
        self._offset += len(text)
        idle = self._saving is None or self._saving.done()
        if now - self._saved_at >= SAVE_SECONDS and idle:
            self._saved_at = now
            self._saving = self._state.background(
                self._state.db(ledger.save_text, row.pk, events.plain("".join(self._parts)))
            )
