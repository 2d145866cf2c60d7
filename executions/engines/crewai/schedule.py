"""Running the tasks of a crew, each as soon as it may start: CrewAI's own scheduling refuses most graphs."""

import contextvars
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


def run(order: Sequence[str], waits_for: Mapping[str, frozenset[str]], execute: Callable[[str], T]) -> dict[str, T]:
    """Execute every key of `order` as soon as what it waits for is done; the results by key.

    Independent ones run side by side, each in a thread with a copy of the caller's context; one that
    is alone runs in the caller's thread. After a failure nothing new starts, what runs may finish
    (it is paid for), then the first failure is raised. Raises ValueError for a cycle.
    """
    done: dict[str, T] = {}
    failures: list[BaseException] = []
    started: set[str] = set()
    finished: queue.SimpleQueue[tuple[str, T | None, BaseException | None]] = queue.SimpleQueue()

    def attempt(key: str) -> None:
        try:
            finished.put((key, execute(key), None))
        except BaseException as exc:  # noqa: BLE001 - raised again by the caller's thread
            finished.put((key, None, exc))

    running = 0
    while len(done) < len(order):
        ready = [] if failures else [key for key in order if key not in started and waits_for[key] <= done.keys()]
        if not ready and not running:
            if failures:
                raise failures[0]
            raise ValueError("these tasks wait for each other: " + ", ".join(k for k in order if k not in started))
        started.update(ready)
        alone = len(ready) == 1 and not running
        for key in ready:
            running += 1
            if alone:
                attempt(key)
            else:
                target = contextvars.copy_context().run
                threading.Thread(target=target, args=(attempt, key), name=f"task-{key}", daemon=True).start()
        key, result, failure = finished.get()
        running -= 1
        if failure is not None:
            failures.append(failure)
        else:
            done[key] = result  # type: ignore[assignment]
    return done
