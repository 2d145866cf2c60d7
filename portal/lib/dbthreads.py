"""Database work of an async process: on a bounded pool of threads, never on the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from django.db import close_old_connections, connections

P = ParamSpec("P")
T = TypeVar("T")


class DatabaseThreads:
    """Runs functions that use the ORM on `size` threads, each of which keeps one connection.

    A connection that broke is replaced before the next function; what broke it is raised to the caller.
    """

    def __init__(self, size: int, name: str = "database") -> None:
        self._executor = ThreadPoolExecutor(size, thread_name_prefix=name)

    async def __call__(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, lambda: self._run(function, args, kwargs)
        )

    @staticmethod
    def _run(function: Callable[..., T], args: Any, kwargs: Any) -> T:
        close_old_connections()
        try:
            return function(*args, **kwargs)
        finally:
            close_old_connections()

    def close(self) -> None:
        """Wait for what runs, and give every thread's connection back."""
        self._executor.submit(connections.close_all)
        self._executor.shutdown(wait=True)
