"""What the tasks of a crew wait for, and whose outputs they are given. Standard library only.

The engine starts tasks by this, and a fork finds by it what an edited task makes stale.
"""

from executions.engines.protocol import RunSpec


def needs(spec: RunSpec) -> dict[str, frozenset[str]]:
    """The tasks that must be finished before each task starts.

    *parallel*: the tasks whose output it takes, nothing else. *sequential*: as CrewAI does it, a task
    waits for all before it, but an asynchronous one only for its context and the synchronous ones.
    *hierarchical*: all before it, since there is one manager.
    """
    found: dict[str, frozenset[str]] = {}
    before: list[str] = []
    synchronous: list[str] = []
    for task in spec["tasks"]:
        if spec["process"] == "parallel":
            found[task["key"]] = frozenset(task["context"])
        elif task["async_execution"] and spec["process"] == "sequential":
            found[task["key"]] = frozenset(task["context"]) | frozenset(synchronous)
        else:
            found[task["key"]] = frozenset(before)
            synchronous.append(task["key"])
        before.append(task["key"])
    return found


def takes(spec: RunSpec) -> dict[str, list[str]]:
    """The tasks whose outputs each task is given, in the order of the tasks: what it asks for, or CrewAI's default."""
    found: dict[str, list[str]] = {}
    order = [task["key"] for task in spec["tasks"]]
    before: list[str] = []
    synchronous: list[str] = []
    for task in spec["tasks"]:
        is_async = task["async_execution"] and spec["process"] == "sequential"
        if task["context"]:
            found[task["key"]] = sorted(task["context"], key=order.index)
        elif spec["process"] == "parallel":
            found[task["key"]] = []
        elif is_async:
            found[task["key"]] = synchronous[-1:]
        else:
            found[task["key"]] = list(before)
        before.append(task["key"])
        if not task["async_execution"]:
            synchronous.append(task["key"])
    return found


def dependants(spec: RunSpec, key: str) -> set[str]:
    """The tasks that another output of the task `key` may change: those that take it, and so on; not `key` itself."""
    given = takes(spec)
    found: set[str] = set()
    reached = {key}
    while reached:
        reached = {task for task, taken in given.items() if reached & set(taken)} - found - {key}
        found |= reached
    return found
