"""The files that an engine's tasks work on, as an archive: packed when a task is done, unpacked where the run goes on.

Both happen inside the run's isolation; nobody outside looks into an archive. The same files make the same
archive, byte for byte. Standard library only.
"""

import contextlib
import gzip
import os
import posixpath
import re
import stat
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from executions.engines.output import Failed

KEY = "workspace"  # in the data of a task's last event: the archive's name in the work folder
MAX_BYTES = 150 << 20  # of all files together; an archive stays below the largest file that a run may write
MAX_FILES = 20_000
MIB = 1 << 20
_NAME = re.compile(r"portal-workspace-\d+\.tar\.gz")
_WHEN = 315_619_200  # January 1980: the earliest time that other archives know


class Keeper:
    """Keeps the files of one attempt, task by task, also of tasks that end side by side."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self._lock = threading.Lock()

    def restore(self) -> None:
        """Put back what an earlier attempt kept, if anything was placed here. Raises Failed."""
        unpack(self._folder)

    def keep(self) -> dict[str, str]:
        """Pack the folder; what the task's event says about it. Raises Failed."""
        with self._lock:
            self._count += 1
            name = f"portal-workspace-{self._count}.tar.gz"
            pack(self._folder, self._folder / name)
        return {KEY: name}


def pack(folder: Path, archive: Path) -> None:
    """Write all of `folder` but earlier archives to `archive`, which is there whole or not at all.

    Links that lead out of the folder, what is neither file nor folder, and what a task beside this one removes
    meanwhile are left out. Raises Failed when there is more than can be kept, or no room for it.
    """
    torn = archive.with_suffix(".part")
    try:
        with (
            torn.open("wb") as raw,
            gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            size = 0
            for count, item in enumerate(_items(folder, torn.name), start=1):
                size += item.size
                if size > MAX_BYTES or count > MAX_FILES:
                    limit = f"at most {MAX_BYTES // MIB} MB in {MAX_FILES} files are"
                    raise Failed(f"The run's files are too many to be kept: {limit}.")
                if item.isreg():
                    with contextlib.suppress(FileNotFoundError), _open(folder / item.name) as file:
                        tar.addfile(item, file)
                else:
                    tar.addfile(item)
        torn.rename(archive)
    except OSError as exc:
        raise Failed(f"The run's files could not be kept: {exc.strerror or exc}.") from exc
    finally:
        torn.unlink(missing_ok=True)


def unpack(folder: Path) -> None:
    """Put back the files from the archive in `folder`, if there is one, and remove it. Raises Failed."""
    found = sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
    for archive in found[-1:]:
        try:
            with tarfile.open(archive) as tar:
                size = 0
                for item in tar:
                    size += item.size
                    if size > MAX_BYTES:
                        raise Failed("The run's files could not be put back: there are too many.")
                    _check(item)
                    tar.extract(item, folder)
        except (OSError, EOFError, tarfile.TarError) as exc:
            raise Failed(f"The run's files could not be put back: {exc}.") from exc
    for archive in found:
        archive.unlink()


def _check(item: tarfile.TarInfo) -> None:
    """Refuse what `pack` never wrote. (`tarfile`'s own filters came with later releases of Python 3.11.)"""
    is_known = item.isreg() or item.isdir() or item.issym()
    if not is_known or _leads_out("", item.name) or (item.issym() and _leads_out(item.name, item.linkname)):
        raise tarfile.TarError(f"{item.name} does not belong into the run's folder")


def _items(folder: Path, leave_out: str) -> Iterator[tarfile.TarInfo]:
    for place, folders, files in os.walk(folder):
        folders.sort()  # also the order in which they are entered
        inside = Path(place).relative_to(folder).as_posix()
        for name in sorted([*folders, *files]):
            path = posixpath.normpath(posixpath.join(inside, name))
            if _NAME.fullmatch(path) or path == leave_out:
                continue
            try:
                found = os.lstat(folder / path)
                target = str((folder / path).readlink()) if stat.S_ISLNK(found.st_mode) else ""
            except FileNotFoundError:
                continue
            item = tarfile.TarInfo(path)
            item.mtime = _WHEN
            item.mode = 0o755 if found.st_mode & stat.S_IXUSR else 0o644
            if stat.S_ISDIR(found.st_mode):
                item.type = tarfile.DIRTYPE
            elif stat.S_ISLNK(found.st_mode):
                item.type = tarfile.SYMTYPE
                item.linkname = target
                if _leads_out(path, item.linkname):
                    continue
            elif stat.S_ISREG(found.st_mode):
                item.size = found.st_size
            else:
                continue
            yield item


def _leads_out(path: str, target: str) -> bool:
    end = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    return posixpath.isabs(target) or end.split("/")[0] == ".."


def _open(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
