"""Questions about who waits for whom."""

from collections.abc import Iterable, Mapping
from typing import TypeVar

K = TypeVar("K")


def find_cycle(waits_for: Mapping[K, Iterable[K]]) -> list[K]:
    """The keys of one circle in `waits_for` (key → keys it waits for), in order; empty when there is none."""
    done: set[K] = set()
    for start in waits_for:
        path: list[K] = []
        on_path: set[K] = set()
        stack = [(start, iter(waits_for.get(start, ())))] if start not in done else []
        if stack:
            path.append(start)
            on_path.add(start)
        while stack:
            key, rest = stack[-1]
            following = next(rest, None)
            if following is None:
                stack.pop()
                done.add(path.pop())
                on_path.discard(key)
            elif following in on_path:
                return path[path.index(following) :]
            elif following not in done:
                stack.append((following, iter(waits_for.get(following, ()))))
                path.append(following)
                on_path.add(following)
    return []
