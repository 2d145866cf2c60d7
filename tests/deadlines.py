"""How long tests wait: for conditions, never for a time.

A wait ends the moment its condition holds, so a generous deadline costs nothing while all is well,
and a machine that is twenty times slower for some minutes fails nothing. Every limit of a test
comes from here; `PORTAL_TEST_SLOWNESS=3` makes all of them three times as long.
"""

import asyncio
import inspect
import os
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

SLOWNESS = float(os.environ.get("PORTAL_TEST_SLOWNESS", "1"))
DEADLINE = 180.0 * SLOWNESS  # seconds; for anything that takes a moment on a quiet machine


def wait_for(
    predicate: Callable[[], T],
    what: str,
    deadline: float = DEADLINE,
    *,
    every: float = 0.05,
    on_timeout: Callable[[], str] | None = None,
) -> T:
    """The first truthy value of `predicate`, asked every `every` seconds.

    Raises `AssertionError` naming `what` after `deadline` seconds, with the last value seen and,
    if given, what `on_timeout` has to say.
    """
    end = time.monotonic() + deadline
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(_too_late(what, deadline, value, on_timeout))
        time.sleep(every)


async def wait_for_async(
    predicate: Callable[[], T | Awaitable[T]],
    what: str,
    deadline: float = DEADLINE,
    *,
    every: float = 0.05,
    on_timeout: Callable[[], str] | None = None,
) -> T:
    """As `wait_for`, for coroutines; `predicate` may be a function or a coroutine function."""
    end = time.monotonic() + deadline
    while True:
        answer = predicate()
        value: T = await answer if inspect.isawaitable(answer) else answer
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(_too_late(what, deadline, value, on_timeout))
        await asyncio.sleep(every)


def _too_late(what: str, deadline: float, value: object, on_timeout: Callable[[], str] | None) -> str:
    more = f"\n{on_timeout()}" if on_timeout else ""
    return f"not within {deadline:.0f} s: {what} (last seen: {value!r}){more}"
