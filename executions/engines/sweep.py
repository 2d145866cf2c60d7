"""Finding and killing what a run left behind: its process group, and what escaped from it."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from executions.engines.wire import MARKER

_ROUNDS = 20  # a process may fork while we look


def processes() -> Iterator[int]:
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            yield int(entry.name)


def parent_of(pid: int) -> int | None:
    """The parent's pid; None when the process is gone or only waits to be reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in {b"Z", b"X"} else int(fields[1])


def run_of(pid: int) -> str | None:
    """The run that a process belongs to, by the marker in the environment that it was started with."""
    prefix = f"{MARKER}=".encode()
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    return next((item[len(prefix) :].decode("utf-8", "replace") for item in variables if item.startswith(prefix)), None)


def kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def kill_run(run: str, uid: int | None = None) -> int:
    """Kill every process that carries the run's marker (or runs as its own user); how many there were."""

    def belongs(pid: int) -> bool:
        return run_of(pid) == run or (uid is not None and uid_of(pid) == uid)

    return kill_all(belongs)


def kill_all(belongs: Callable[[int], bool]) -> int:
    killed = set()
    for _ in range(_ROUNDS):
        found = [pid for pid in processes() if pid != os.getpid() and belongs(pid) and parent_of(pid) is not None]
        fresh = [pid for pid in found if pid not in killed]
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        killed.update(found)
        if not fresh:
            break
    return len(killed)


def uid_of(pid: int) -> int | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("Uid:")), None)
