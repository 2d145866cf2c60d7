"""The runner's side of an engine host: start a run, hear that it wrote, wait for its end, kill it."""

import asyncio
import contextlib
import json
import os
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from executions.engines import sweep, wire
from executions.engines.protocol import RunSpec

ANSWER_SECONDS = 30.0  # a host answers within milliseconds, unless the machine is very busy


class EngineUnavailable(Exception):
    """The engine's host is not there (yet), or could not start the run; trying again later may help."""


@dataclass(frozen=True)
class HostInfo:
    """What a host says about itself; `isolation` is "user", "landlock" or "none"."""

    engine: str
    version: str
    isolation: str
    pid: int


@dataclass(frozen=True)
class Exit:
    """How an engine process ended; neither is known when its host died with it."""

    code: int | None = None
    signal: int | None = None


class EngineRun:
    """A run that a host carries. Belongs to the event loop that started it; close it when done."""

    def __init__(self, name: str, pid: int, connection: socket.socket, bell: int) -> None:
        self.pid = pid
        self._name = name
        self._connection: socket.socket | None = connection
        self._bell = bell
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._end: asyncio.Future[Exit] = self._loop.create_future()
        self._process = _open_pidfd(pid)
        self._loop.add_reader(connection, self._hear)
        self._loop.add_reader(bell, self._drain)

    @property
    def ended(self) -> bool:
        """Whether the process is gone: what its events file has now is all there will be."""
        return self._end.done()

    async def rang(self) -> None:
        """Return when the engine wrote something since the last call, or has ended."""
        await self._news.wait()
        if not self.ended:
            self._news.clear()

    async def wait(self) -> Exit:
        return await asyncio.shield(self._end)

    def pause(self) -> None:
        """Ask the engine to start no further task; it ends when those under way are done. Harmless after its end."""
        if self.ended or self._connection is None:
            return
        with contextlib.suppress(OSError):  # the host is gone, and the run with it
            self._connection.send(wire.pack({"pause": True}))

    def kill(self) -> None:
        """Kill all processes of the run, at once and without asking them; `wait` returns when they are gone."""
        if self.ended or self._connection is None:
            return
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process, signal.SIGKILL)
        with contextlib.suppress(OSError):
            self._connection.send(wire.pack({"kill": True}))

    def close(self) -> None:
        """Let go of the run; the host kills what is left of it."""
        if self._connection is None:
            return
        self._loop.remove_reader(self._connection)
        self._connection.close()
        self._connection = None
        if self._bell >= 0:
            self._loop.remove_reader(self._bell)
            os.close(self._bell)
            self._bell = -1
        if self._process is not None:
            os.close(self._process)
            self._process = None
        self._finish(Exit())

    def _hear(self) -> None:
        if self._connection is None:
            return
        try:
            packet = self._connection.recv(wire.MAX_PACKET)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if packet:
            message = wire.unpack(packet)
            if "exit" in message or "signal" in message:
                self._finish(Exit(code=message.get("exit"), signal=message.get("signal")))
            return
        if not self.ended:  # the host is gone: the run with it, and what escaped from the run is ours to end
            if self._process is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._process, signal.SIGKILL)
            sweep.kill_group(self.pid)
            sweep.kill_run(self._name)
            self._finish(Exit())
        self._loop.remove_reader(self._connection)

    def _drain(self) -> None:
        try:
            rang = os.read(self._bell, 65536)
        except BlockingIOError:
            return
        if not rang:
            self._loop.remove_reader(self._bell)
            os.close(self._bell)
            self._bell = -1
        self._news.set()

    def _finish(self, end: Exit) -> None:
        if not self._end.done():
            self._end.set_result(end)
        self._news.set()


async def start(host_socket: Path, spec: RunSpec, folder: Path) -> EngineRun:
    """Start a run in `folder`: `events.jsonl`, `engine.log` and `work/` are made in it.

    Raises EngineUnavailable.
    """
    name = f"{spec['execution']}/{spec['attempt']}"
    work = folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    order = {"start": {"run": name, "work": str(work)}}
    bell, ringer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    with contextlib.ExitStack() as passed, contextlib.ExitStack() as kept:
        passed.callback(os.close, ringer)
        kept.callback(os.close, bell)
        descriptors = [_spec_file(spec)]
        passed.callback(os.close, descriptors[0])
        for file in ("events.jsonl", "engine.log"):
            descriptors.append(os.open(folder / file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
            passed.callback(os.close, descriptors[-1])
        descriptors.insert(2, ringer)
        connection = await _connect(host_socket)
        kept.callback(connection.close)
        answer = await _ask(connection, order, descriptors)
        if "pid" not in answer:
            raise EngineUnavailable(f"The engine host refused the run: {answer.get('refused', 'no reason given')}.")
        kept.pop_all()
    return EngineRun(name, int(answer["pid"]), connection, bell)


async def hello(host_socket: Path) -> HostInfo:
    """What the host says about itself. Raises EngineUnavailable."""
    with await _connect(host_socket) as connection:
        answer = await _ask(connection, {"hello": True}, [])
    return HostInfo(**{field: answer[field] for field in ("engine", "version", "isolation", "pid")})


async def _connect(host_socket: Path) -> socket.socket:
    connection = wire.new_socket()
    connection.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(connection, str(host_socket))
    except OSError as exc:
        connection.close()
        raise EngineUnavailable("The engine's host is not running (yet).") from exc
    return connection


async def _ask(connection: socket.socket, message: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
    try:
        socket.send_fds(connection, [wire.pack(message)], descriptors)
        async with asyncio.timeout(ANSWER_SECONDS):
            packet = await asyncio.get_running_loop().sock_recv(connection, wire.MAX_PACKET)
    except OSError as exc:  # of which TimeoutError is one
        raise EngineUnavailable("The engine's host went away.") from exc
    if not packet:
        raise EngineUnavailable("The engine's host went away.")
    return wire.unpack(packet)


def _spec_file(spec: RunSpec) -> int:
    """A descriptor from which the spec can be read, of a file that has no name: it holds the run's token."""
    descriptor = os.memfd_create("spec", os.MFD_CLOEXEC)
    raw = json.dumps(spec).encode()
    while raw:
        raw = raw[os.write(descriptor, raw) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _open_pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError:  # an old kernel, or it has ended already
        return None
