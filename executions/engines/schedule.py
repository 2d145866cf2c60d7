"""Running the tasks of a crew, each as soon as it may start. For any engine whose framework leaves that to us."""

import contextvars
import queue
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

from executions.engines.output import Unfinished

T = TypeVar("T")


def run(
    order: Sequence[str],
    waits_for: Mapping[str, frozenset[str]],
    execute: Callable[[str], T | None],
    *,
    finished: Mapping[str, T] | None = None,
    waiting: Collection[str] = (),
    may_start: Callable[[], bool] = lambda: True,
) -> dict[str, T]:
    """Execute every key of `order` as soon as what it waits for is done; the results by key.

    `execute` gives None for a task whose answer a person has to approve first; `waiting` are those that ask
    already; `finished` are not executed. Independent ones run side by side, each in a thread with a copy of
    the caller's context; one that is alone runs in the caller's thread. After a failure, and when `may_start`
    says no, nothing new starts, and what runs may finish (it is paid for).

    Raises the first failure, Unfinished when not all is done for another reason, ValueError for a cycle.
    """
    done: dict[str, T] = dict(finished or {})
    asking = set(waiting)
    started = {*done, *asking}
    failures: list[BaseException] = []
    ended: queue.SimpleQueue[tuple[str, T | None, BaseException | None]] = queue.SimpleQueue()

    def attempt(key: str) -> None:
        try:
            ended.put((key, execute(key), None))
        except BaseException as exc:  # noqa: BLE001 - raised again by the caller's thread
            ended.put((key, None, exc))

    running = 0
    while True:
        ready = [key for key in order if key not in started and waits_for[key] <= done.keys()]
        if failures or not may_start():
            ready = []
        if not ready and not running:
            break
        started.update(ready)
        alone = len(ready) == 1 and not running
        for key in ready:
            running += 1
            if alone:
                attempt(key)
            else:
                target = contextvars.copy_context().run
                threading.Thread(target=target, args=(attempt, key), name=f"task-{key}", daemon=True).start()
        key, result, failure = ended.get()
        running -= 1
        if failure is not None:
            failures.append(failure)
        elif result is None:
            asking.add(key)
        else:
            done[key] = result
    if failures:
        raise failures[0]
    if len(done) == len(order):
        return done
    if not may_start():
        raise Unfinished("paused")
    if asking:
        raise Unfinished("waiting")
    raise ValueError("these tasks wait for each other: " + ", ".join(key for key in order if key not in started))
