"""Processes that never outlive the one that started them, and locks that say which of them run.

Whatever a process starts dies with it, even when it is killed with SIGKILL: the kernel signals the
child (`PR_SET_PDEATHSIG`). That signal follows the *thread* that forked, so start children from a
thread that lives as long as the process, or waits for the child.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
from django.conf import settings

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
# Loaded before any fork: a child between fork and exec must not load libraries.
_libc = ctypes.CDLL(None, use_errno=True)


# --- Nothing survives ----------------------------------------------------------------------------


def die_with_parent(parent: int | None = None) -> None:
    """Let the kernel kill this process with SIGKILL when the thread that forked it ends.

    `parent` is the pid of that parent: had it died before the kernel was told, this process ends
    at once. A change of user clears the wish, so call this after it.
    """
    if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def forks_die_with_parent() -> None:
    """From now on everything this process forks dies with it, and their forks with them.

    For libraries that fork by themselves (`multiprocessing`).
    """
    parent = 0

    def before() -> None:
        nonlocal parent
        parent = os.getpid()

    os.register_at_fork(before=before, after_in_child=lambda: die_with_parent(parent))


def dying_with_me() -> Callable[[], None]:
    """A `preexec_fn` for `subprocess` and `asyncio`: the child dies with this process."""
    parent = os.getpid()
    return lambda: die_with_parent(parent)


def spawn(command: Sequence[str], **options: Any) -> "subprocess.Popen[bytes]":
    """Start a program in a session of its own, which dies with this process.

    `options` go to `subprocess.Popen`. Its standard input is closed unless they say otherwise.
    """
    options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.Popen(command, start_new_session=True, preexec_fn=dying_with_me(), **options)


def kill_group(pid: int) -> None:
    """SIGKILL the process group that `pid` leads; nothing when it is gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def terminate(process: "subprocess.Popen[bytes]", grace_seconds: float = 10) -> int:
    """End a process that `spawn` started: SIGTERM, and after the grace SIGKILL for it and all below it.

    Returns its exit code, negative for a signal.
    """
    below: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        below = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(grace_seconds)
    kill_group(process.pid)
    for child in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    return process.wait()


# --- Locks: who runs -------------------------------------------------------------------------------


def lock_file(name: str) -> Path:
    """The lock of this data folder's process `name`: `up`, `web`, `gateway`, `worker`, `model`."""
    return Path(settings.RUN_DIR) / f"{name}.lock"


class AlreadyRunning(Exception):
    """Another process holds the lock; `facts` is what it wrote about itself."""

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        super().__init__(f"{path.stem} already runs for this data folder (process {facts.get('pid', 'unknown')})")
        self.facts = dict(facts)


class RunLock:
    """A file that only one process holds at a time, with facts about the holder (`pid`, `port`, …).

    The kernel gives it up when the holder ends, however it ends. Use as a context manager.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None
        self._facts: dict[str, Any] = {}

    def acquire(self, wait: Callable[[], None] | None = None, **facts: Any) -> Self:
        """Take the lock and write `facts` beside the pid. Raises `AlreadyRunning` when another process has it.

        With `wait`, it is called again and again until the lock is free (it should sleep).
        """
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        tries = 0
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                tries += 1
                if wait is not None:
                    wait()
                elif tries < 10:
                    time.sleep(0.02)  # somebody may only be looking (`holder`)
                else:
                    os.close(fd)
                    raise AlreadyRunning(self.path, _read(self.path)) from None
        self._fd = fd
        self._facts = {"pid": os.getpid()}
        self.update(**facts)
        return self

    def update(self, **facts: Any) -> None:
        """Change or add facts; only the holder may."""
        if self._fd is None:
            raise RuntimeError(f"{self.path} is not held")
        self._facts.update(facts)
        # One write, padded to at least the old length, so that a reader sees old or new and no mixture.
        text = json.dumps(self._facts).encode().ljust(os.fstat(self._fd).st_size)
        os.pwrite(self._fd, text, 0)

    def release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> Self:
        return self if self._fd is not None else self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _read(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def holder(path: Path) -> dict[str, Any] | None:
    """The facts of the process that holds this lock, or None when nobody does."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(path)
    finally:
        os.close(fd)
    return None


# --- Ports ------------------------------------------------------------------------------------------


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen on this address now. Raises `OSError` for an address that is not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # With it, binding fails for a port that somebody listens on, and for no port that is only resting.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            # No listening: somebody who waits for the real server would take the probe for it.
            probe.bind((host, port))
        except OSError as exc:
            if exc.errno in {errno.EADDRINUSE, errno.EACCES}:
                return False
            raise
    return True


def free_port(host: str, wanted: int, *, avoid: Sequence[int] = ()) -> int:
    """`wanted` when it is free, else one that the kernel picks; never one of `avoid`."""
    if wanted not in avoid and is_free(host, wanted):
        return wanted
    for port in _offered(host):
        if port not in avoid:
            return port
    raise AssertionError("the kernel offers ports without end")


def _offered(host: str) -> Iterator[int]:
    while True:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
            yield int(probe.getsockname()[1])


def is_listening(host: str, port: int, timeout: float = 0.5) -> bool:
    """Whether something answers on this address."""
    try:
        with socket.create_connection((host, port), timeout):
            return True
    except OSError:
        return False


# --- A word between processes of this machine ---------------------------------------------------------


def tell(path: Path, message: bytes) -> bool:
    """Send a datagram to a Unix socket, without waiting. False when nobody listens or it is too full to matter."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        try:
            sender.sendto(message, str(path))
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
            return False
    return True


def listen(path: Path) -> socket.socket:
    """A non-blocking datagram socket at `path`, for what `tell` sends. Callers hold a lock: only one may own it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.unlink(missing_ok=True)
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.setblocking(False)
    receiver.bind(str(path))
    path.chmod(0o600)
    return receiver
