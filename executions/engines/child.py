"""From the fork to the end of one run: the part of an engine process that is the same for every engine."""

import contextlib
import ctypes
import fcntl
import json
import os
import random
import secrets
import signal
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NoReturn, cast

from executions.engines import isolation, workspace
from executions.engines.output import Failed, GatewayLost, Output, Unfinished
from executions.engines.protocol import RunSpec
from executions.engines.registry import Engine
from executions.engines.wire import MARKER

EXIT_FAILED = 1
EXIT_CRASHED = 70
EXIT_ORPHANED = 75
PR_SET_PDEATHSIG = 1

_EVENTS, _BELL, _SPEC = 3, 4, 5  # where the descriptors go; nothing above them stays open


@dataclass(frozen=True)
class Start:
    """What the host knows about a run."""

    run: str  # "<execution>/<attempt>"
    work: Path
    uid: int | None  # of its own, in the tier that has one
    host: int  # pid


def main(engine: Engine, adapter: ModuleType, tier: isolation.Tier, start: Start, descriptors: list[int]) -> NoReturn:
    """Carry one run in a freshly forked process and end the process; never returns to the host's code."""
    _become_a_run(start)
    _take_over(descriptors)
    code = EXIT_CRASHED
    try:
        spec = cast(RunSpec, json.loads(_read_all(_SPEC)))
        os.close(_SPEC)
        _prepare(start, tier)
        isolation.enter(tier, isolation.Need.of(engine, adapter, start.work, spec["gateway"]["base_url"], start.uid))
        _follow_host(start.host)  # again: a change of user clears it
        code = _carry(adapter, spec, workspace.Keeper(start.work) if engine.keeps_files else None)
    except BaseException:  # noqa: BLE001 - the last line of defence of the process
        _trace()
    finally:
        with contextlib.suppress(OSError):  # the log's disk is full
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)  # the exit handlers are the host's


def _carry(adapter: ModuleType, spec: RunSpec, keeper: workspace.Keeper | None) -> int:
    output = Output(_EVENTS, _BELL, keeper.keep if keeper else None)
    try:
        if keeper:
            keeper.restore()
        output.result(adapter.run(spec, output))
    except Unfinished as exc:
        output.unfinished(exc.why)
    except GatewayLost as exc:
        output.failure("gateway", str(exc))
        _trace()
        return EXIT_FAILED
    except Failed as exc:
        output.failure(exc.reason, str(exc))
        _trace()
        return EXIT_FAILED
    except Exception as exc:  # noqa: BLE001 - an engine may raise anything; the run must say so
        output.failure("error", f"{type(exc).__name__}: {exc}")
        _trace()
        return EXIT_FAILED
    return 0


def _trace() -> None:
    with contextlib.suppress(OSError):  # the log's disk is full
        traceback.print_exc()


def _become_a_run(start: Start) -> None:
    os.setpgid(0, 0)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    _follow_host(start.host)
    # What this process forks ends with it, even when it leaves the group.
    os.register_at_fork(after_in_child=_die_with_parent)


def _follow_host(host: int) -> None:
    _die_with_parent()
    if os.getppid() != host:
        os._exit(EXIT_ORPHANED)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _take_over(descriptors: list[int]) -> None:
    """Keep the run's four descriptors, and nothing of the host's."""
    spec, events, bell, log = (fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in descriptors)
    null = os.open("/dev/null", os.O_RDONLY)
    for descriptor, place in ((null, 0), (log, 1), (log, 2), (events, _EVENTS), (bell, _BELL), (spec, _SPEC)):
        os.dup2(descriptor, place, inheritable=place < _EVENTS)
    os.closerange(_SPEC + 1, os.sysconf("SC_OPEN_MAX"))


def _read_all(descriptor: int) -> bytes:
    parts = []
    while part := os.read(descriptor, 1 << 20):
        parts.append(part)
    return b"".join(parts)


def _prepare(start: Start, tier: isolation.Tier) -> None:
    home = str(start.work)
    os.environ.update({"HOME": home, "TMPDIR": home, "CREWAI_STORAGE_DIR": home, MARKER: start.run})
    os.chdir(start.work)
    tempfile.tempdir = None  # the host's, remembered
    random.seed(secrets.randbits(128))  # or every run would draw the host's numbers
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(secrets.randbits(32))
