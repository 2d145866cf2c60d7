"""Making and removing the interpreters of engines that have one of their own (`executions.engines.environments`).

Packages come from the index that pip is configured with, pinned by hash, and nothing else is resolved. An
environment is made beside its place and put there in one step, by one process at a time.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from django.utils.translation import gettext as _

from executions.engines import environments
from executions.engines.environments import Environment
from executions.engines.registry import ENGINES, Engine
from portal.lib import pip
from portal.lib.processes import AlreadyRunning, RunLock, holder, spawn, terminate

LOOK_EVERY = 1.0  # seconds; a look counts tens of thousands of files
STALL_SECONDS = 300.0  # without a byte, it is given up
SPARE_BYTES = 64 << 20
MEGABYTE = 10**6


class CannotInstall(Exception):
    """The engine cannot be had; the message says why, and what to do."""


class Report(Protocol):
    """Hears how it goes. `moved` comes often, `note` when there is something to say."""

    def moved(self, done: int, total: int, doing: str) -> None:
        """`done` of `total` bytes, about."""

    def note(self, text: str) -> None: ...


def command(engine: str) -> str:
    """What people type to install it."""
    return f"manage.py engine install {engine}"


def is_under_way(engine: Engine) -> bool:
    """Whether some process of this user installs it just now."""
    return engine.environment is not None and holder(engine.environment.guard) is not None


def ensure(key: str, report: Report) -> Path:
    """The folder of the engine's interpreter, made if need be. Raises `CannotInstall`."""
    engine = ENGINES[key]
    environment = engine.environment
    if environment is None:
        raise CannotInstall(
            _("%(engine)s belongs to the portal's own packages: install requirements.txt.") % {"engine": engine.label}
        )
    if environment.is_complete():
        return environment.folder
    told = False

    def wait() -> None:
        nonlocal told
        if not told:
            report.note(_("Another process is installing it; waiting for it."))
            told = True
        time.sleep(0.5)

    try:
        with RunLock(environment.guard).acquire(wait):
            if not environment.is_complete():  # the process that was waited for may have made it
                _make(engine, environment, report)
    except OSError as exc:
        raise CannotInstall(
            _("%(variable)s: cannot write to %(path)s: %(reason)s")
            % {"variable": environments.VARIABLE, "path": environments.root(), "reason": exc.strerror or exc}
        ) from exc
    return environment.folder


def remove(key: str) -> list[Path]:
    """Remove all interpreters of an engine, old ones too; the folders that there were. Raises `CannotInstall`."""
    environment = ENGINES[key].environment
    if environment is None:
        raise CannotInstall(_("%s has no interpreter of its own to remove.") % ENGINES[key].label)
    if not environments.root().is_dir():
        return []
    try:
        with RunLock(environment.guard).acquire():
            gone = [path for path in (environment.folder, *environment.others()) if path.exists()]
            for path in gone:
                (path / environments.MARKER).unlink(missing_ok=True)  # first: half of one is none
                shutil.rmtree(path)
    except AlreadyRunning as exc:
        raise CannotInstall(_("Another process is installing it just now.")) from exc
    except OSError as exc:
        raise CannotInstall(
            _("%(path)s cannot be removed: %(reason)s") % {"path": exc.filename, "reason": exc.strerror}
        ) from exc
    return gone


def size_of(folder: Path) -> int:
    """Bytes of all files in it; what vanishes meanwhile does not count."""
    total = 0
    for path, _folders, files in os.walk(folder):
        for file in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(path, file)).st_size  # noqa: PTH118 - tens of thousands of them
    return total


def _make(engine: Engine, environment: Environment, report: Report) -> None:
    root, total = environments.root(), environment.megabytes * MEGABYTE
    free = shutil.disk_usage(root).free
    if free < total + SPARE_BYTES:
        raise CannotInstall(
            _("%(variable)s: %(path)s has %(free)d MB free, and %(needed)d MB are needed for %(engine)s.")
            % {
                "variable": environments.VARIABLE,
                "path": root,
                "free": free // MEGABYTE,
                "needed": (total + SPARE_BYTES) // MEGABYTE + 1,
                "engine": engine.label,
            }
        )
    report.note(
        _("Installing %(engine)s into %(path)s (about %(size)d MB).")
        % {"engine": engine.label, "path": environment.folder, "size": environment.megabytes}
    )
    with _readable_for_all(), tempfile.TemporaryDirectory(prefix=f".{environment.name}-", dir=root) as scratch:
        made, work = Path(scratch, "made"), Path(scratch, "work")
        work.mkdir()
        _run([sys.executable, "-m", "venv", "--without-pip", str(made)], work)
        order = [sys.executable, "-m", "pip", "--python", str(environments.python_of(made)), "install", "--quiet"]
        order += ["--no-deps", "--require-hashes", "--no-input", "--disable-pip-version-check"]
        order += ["--no-warn-script-location", "--progress-bar", "off", *pip.timeouts()]
        order += ["--requirement", str(environment.lock)]
        _run(order, work, _Rising(report, total))
        if not environments.packages_of(made).is_dir():
            raise CannotInstall(_("The packages went into an unexpected folder."))
        (made / environments.MARKER).write_text(f"{engine.label}\n", encoding="utf-8")
        if environment.folder.exists():  # somebody took the marker away, or the disk lost it
            shutil.rmtree(environment.folder)
        made.chmod(0o755)
        made.rename(environment.folder)
    report.moved(total, total, _("installing"))
    for path in environment.others():
        shutil.rmtree(path, ignore_errors=True)


class _Rising:
    """Reports the size of what there is as far as it rises: pip deletes its downloads at the end."""

    def __init__(self, report: Report, total: int) -> None:
        self._report, self._total, self._most = report, total, 0

    def __call__(self, size: int) -> None:
        self._most = min(max(self._most, size), self._total)
        self._report.moved(self._most, self._total, _("installing"))


def _run(order: list[str], work: Path, look: Callable[[int], None] = lambda size: None) -> None:
    """Run a program to its end, telling `look` how much there is. Raises `CannotInstall` when it fails or hangs."""
    with (work / "said").open("w+b") as said:
        # Its temporary folder is ours: what it downloads is seen there.
        process = spawn(order, cwd=work, env={**os.environ, "TMPDIR": str(work)}, stdout=said, stderr=said)
        try:
            moved_at, size = time.monotonic(), -1
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(LOOK_EVERY)
                if (now := size_of(work.parent)) != size:
                    moved_at, size = time.monotonic(), now
                    look(size)
                elif time.monotonic() - moved_at > STALL_SECONDS:
                    raise CannotInstall(_("nothing came for %d seconds") % STALL_SECONDS)
        finally:
            terminate(process, grace_seconds=2)
        said.seek(0)
        words = said.read().decode(errors="replace")
    if process.returncode != 0:
        why = pip.reason(words) or _("%(program)s ended with exit code %(code)d") % {
            "program": order[2],
            "code": process.returncode,
        }
        if pip.had_no_connection(words):
            why = _("there is no connection to the package index (%s)") % why
        raise CannotInstall(why)


@contextlib.contextmanager
def _readable_for_all() -> Iterator[None]:
    """Engines may run as users of their own, who have to read their packages."""
    before = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(before)
