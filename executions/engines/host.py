"""The warm host of an engine: imports the framework once, then forks a child for each run.

    python -m executions.engines.host crewai --socket PATH [--parent PID]

The host is one process with one thread, so that forking it is safe: it never builds a crew, and never
reads a RunSpec, which goes to the child in a descriptor with its token. A run lives as long as its
connection (`wire`); the host and its runs end when the parent of the host does.
"""

import argparse
import contextlib
import ctypes
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from executions.engines import child, isolation, pausing, sweep, wire
from executions.engines.protocol import PAUSE_SIGNAL
from executions.engines.registry import ENGINES, Engine

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
DESCRIPTORS = 4


@dataclass
class Run:
    """A run that was forked and whose connection is open."""

    name: str
    pid: int
    connection: socket.socket
    uid: int | None


class Host:
    def __init__(self, engine: Engine, adapter: ModuleType, tier: isolation.Tier) -> None:
        self.engine = engine
        self.adapter = adapter
        self.tier = tier
        self.pid = os.getpid()
        self.runs: dict[int, Run] = {}
        self.selector = selectors.DefaultSelector()
        self.slots = isolation.Slots(tier)

    def serve(self, path: Path) -> None:
        """Serve for ever on `path`; a stale socket there is replaced."""
        listener = wire.new_socket()
        path.unlink(missing_ok=True)
        mask = os.umask(0o177)
        listener.bind(str(path))
        os.umask(mask)
        listener.listen(128)
        listener.setblocking(False)
        news, alarm = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        pausing.hold_back()  # runs inherit it: a request may come before a run has taken its first step
        signal.signal(signal.SIGCHLD, _ignore)
        signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)
        self.selector.register(listener, selectors.EVENT_READ)
        self.selector.register(news, selectors.EVENT_READ)
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is listener:
                    self._accept(listener)
                elif key.fileobj == news:
                    os.read(news, 4096)
                    self._reap()
                elif isinstance(key.fileobj, socket.socket):
                    self._hear(key.fileobj)

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:  # the other side is gone already
            return
        connection.setblocking(False)
        self.selector.register(connection, selectors.EVENT_READ, None)

    def _hear(self, connection: socket.socket) -> None:
        try:
            packet, descriptors, _, _ = socket.recv_fds(connection, wire.MAX_PACKET, DESCRIPTORS)
        except BlockingIOError:
            return
        except OSError:
            packet, descriptors = b"", []
        run = self._run_of(connection)
        try:
            message = wire.unpack(packet) if packet else {}
            if run is not None:
                if not packet or message.get("kill"):
                    sweep.kill_group(run.pid)
                if not packet:
                    self._forget(connection)
                elif message.get("pause"):
                    os.kill(run.pid, PAUSE_SIGNAL)  # not reaped yet, so the number is still the run's
            elif "start" in message and len(descriptors) == DESCRIPTORS:
                self._start(connection, message["start"], descriptors)
            elif "hello" in message:
                self._say(connection, self._about())
            elif packet:
                self._say(connection, {"refused": "unknown message"})
            else:
                self._forget(connection)
        except (ValueError, KeyError, TypeError) as exc:
            self._say(connection, {"refused": str(exc)})
        except OSError as exc:  # no process to be had
            self._say(connection, {"refused": str(exc)})
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _about(self) -> dict[str, object]:
        return {
            "engine": self.engine.key,
            "version": self.engine.version() or "",
            "isolation": self.tier.value,
            "pid": self.pid,
        }

    def _start(self, connection: socket.socket, order: dict[str, str], descriptors: list[int]) -> None:
        uid = self.slots.take()
        start = child.Start(run=str(order["run"]), work=Path(order["work"]), uid=uid, host=self.pid)
        pid = os.fork()
        if pid == 0:
            try:
                child.main(self.engine, self.adapter, self.tier, start, descriptors)
            finally:
                os._exit(child.EXIT_CRASHED)
        with contextlib.suppress(OSError):  # on both sides: whoever learns the pid may kill the group at once
            os.setpgid(pid, pid)
        self.runs[pid] = Run(start.run, pid, connection, uid)
        self._say(connection, {"pid": pid})

    def _reap(self) -> None:
        """Collect everything that ended; a run takes what it left behind with it."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            run = self.runs.pop(ended.si_pid, None)
            if run is not None:
                # Not reaped yet, so its number cannot have been given to anybody else.
                sweep.kill_group(run.pid)
                self._sweep(run)
            os.waitpid(ended.si_pid, 0)
            if run is not None:
                self.slots.give_back(run.uid)
                was_exit = ended.si_code == os.CLD_EXITED
                self._say(run.connection, {"exit" if was_exit else "signal": ended.si_status})

    def _sweep(self, run: Run) -> None:
        """Kill what escaped: it carries the marker, runs as the run's user, or came back to the host as an orphan."""
        alive = {other.name for other in self.runs.values()}

        def belongs(pid: int) -> bool:
            if pid in self.runs or pid == run.pid:
                return False
            name = sweep.run_of(pid)
            if name == run.name:
                return True
            if run.uid is not None and sweep.uid_of(pid) == run.uid:
                return True
            return sweep.parent_of(pid) == self.pid and name not in alive

        sweep.kill_all(belongs)

    def _run_of(self, connection: socket.socket) -> Run | None:
        return next((run for run in self.runs.values() if run.connection is connection), None)

    def _say(self, connection: socket.socket, message: dict[str, object]) -> None:
        with contextlib.suppress(OSError):  # gone; its close is heard next
            connection.send(wire.pack(message))

    def _forget(self, connection: socket.socket) -> None:
        try:
            self.selector.unregister(connection)
        except KeyError:
            return
        connection.close()


def warm_up(engine: Engine) -> ModuleType:
    """Import the adapter, its framework, and the modules that a run would import late, and let it prepare.

    Raises RuntimeError when that left a thread behind: the host could not be forked safely.
    """
    adapter = importlib.import_module(engine.module)
    late = Path(str(adapter.__file__)).with_name("preload.txt")
    for name in late.read_text().split() if late.exists() else []:
        try:
            importlib.import_module(name)
        except ImportError:  # another version of something beneath: the run imports what it finds
            continue
    adapter.prepare()
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1 or threading.active_count() != 1:
        raise RuntimeError(f"importing {engine.module} left {threads} threads")
    gc.collect()
    gc.freeze()  # or every collection in a child would copy the pages of the framework
    return adapter


def die_with(parent: int | None) -> None:
    """Have the kernel kill this process when its parent ends; exits when that happened already."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        raise SystemExit(0)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="host", description="Warm host of an engine.")
    parser.add_argument("engine", choices=sorted(ENGINES))
    parser.add_argument("--socket", type=Path, required=True, help="where to listen; it appears when the host is warm")
    parser.add_argument("--parent", type=int, help="pid of the process that this one must not outlive")
    options = parser.parse_args(argv)
    die_with(options.parent)
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)
    began = time.monotonic()
    engine = ENGINES[options.engine]
    adapter = warm_up(engine)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # what escapes from a run comes back to be reaped
    tier = isolation.best_tier(Path(str(adapter.__file__)).parent, options.socket.parent)
    ready = {"engine": engine.key, "isolation": tier.value, "seconds": round(time.monotonic() - began, 2)}
    print(json.dumps(ready), file=sys.stderr, flush=True)
    Host(engine, adapter, tier).serve(options.socket)


def _ignore(*_: object) -> None:
    """A handler, so that the signal wakes the selector."""


def _leave(*_: object) -> None:
    os._exit(0)  # the runs follow: the kernel tells them that their parent died


if __name__ == "__main__":
    main()
