"""The files that an engine's tasks work on, kept in storage at each task's end, so that any machine can go on.

An engine that keeps files packs its work folder into one archive before it says that a task is done; the
archive's name in that folder stands in the event (`KEY`). The runner puts it into Django's default storage
before it stores the event, which then names the archive there. The next attempt is given the newest one
under the same name, and unpacks it inside its isolation: here nobody looks into it.
"""

import contextlib
import os
import posixpath
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from django.core.files import File
from django.core.files.storage import default_storage

from executions.engines.registry import ENGINES
from executions.engines.workspace import KEY as KEY
from executions.models import Execution, ExecutionEvent

MAX_BYTES = 200 << 20  # as large as a file of an engine may become
FOLDER = "workspaces"
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


class Unusable(Exception):
    """What an engine calls its archive is none that can be kept."""


def keep(execution: uuid.UUID, attempt: int, task: str, folder: Path, packed: Any) -> str:
    """Store the archive `packed` of an attempt's work `folder`; its name in storage. Safe to repeat.

    Raises `Unusable` when it is not a plain file of that folder, or larger than `MAX_BYTES`.
    """
    if not (isinstance(packed, str) and _PLAIN.fullmatch(packed) and _PLAIN.fullmatch(task)):
        raise Unusable(f"no name of an archive: {packed!r}")
    name = f"{_folder(execution)}/{attempt}-{task}/{packed}"
    with _opened(folder, packed) as file:
        if default_storage.exists(name):
            default_storage.delete(name)  # kept by a runner that died before it had stored the event
        return default_storage.save(name, File(file))


def place(execution: Execution, folder: Path) -> str | None:
    """Put the newest archive of the run into the work `folder` of an attempt that has not started.

    Its name there; None when there is none. Raises `OSError` when storage does not give it.
    """
    engine = ENGINES.get(execution.engine)
    if engine is None or not engine.keeps_files:
        return None
    done = ExecutionEvent.objects.filter(
        stream_id=execution.stream_id, type__in=["task.completed", "approval.requested"], data__has_key=KEY
    )
    stored = done.order_by("-seq").values_list(f"data__{KEY}", flat=True).first()
    if stored is None:
        return None
    name = posixpath.basename(stored)
    folder.mkdir(parents=True, exist_ok=True)
    with default_storage.open(stored, "rb") as source, (folder / name).open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    (folder / name).chmod(0o644)  # the engine may run as a user of its own; nobody else gets into its folder
    return name


def drop(folder: Path, name: str) -> None:
    """Remove an archive from an attempt's work `folder`: it is in storage, and the event that names it is stored."""
    with contextlib.suppress(OSError):
        (folder / posixpath.basename(name)).unlink()


def forget(execution: uuid.UUID) -> None:
    """Delete all that was kept of a run."""
    folder = _folder(execution)
    with contextlib.suppress(FileNotFoundError):
        for part in default_storage.listdir(folder)[0]:
            for name in default_storage.listdir(f"{folder}/{part}")[1]:
                default_storage.delete(f"{folder}/{part}/{name}")
            default_storage.delete(f"{folder}/{part}")
        default_storage.delete(folder)


def _folder(execution: uuid.UUID) -> str:
    return f"{FOLDER}/{execution}"


@contextlib.contextmanager
def _opened(folder: Path, packed: str) -> Iterator[IO[bytes]]:
    """The archive, opened without following a link out of the folder: an engine may be hostile."""
    try:
        descriptor = os.open(folder / packed, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise Unusable(f"the archive {packed!r} cannot be read: {exc.strerror}") from exc
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_BYTES:
        os.close(descriptor)
        raise Unusable(f"the archive {packed!r} is no file of at most {MAX_BYTES} bytes")
    with os.fdopen(descriptor, "rb") as file:
        yield file
