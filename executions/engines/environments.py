"""Interpreters of their own, for engines whose packages cannot live beside the portal's.

Each is a virtual environment in `PORTAL_ENGINE_DIR` (a cache of the user, like that of the models), in a folder named
by the engine and a digest of its lock: a new lock means a new folder, and an old one is never changed. A
marker that is written last says that it is whole. Standard library only: hosts read this, too.
"""

import functools
import hashlib
import os
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

VARIABLE = "PORTAL_ENGINE_DIR"
DEFAULT = Path("~/.cache/agent-portal/engines")
MARKER = "complete"
_DIGITS = 12


def root() -> Path:
    """Where all of them are."""
    return Path(os.environ.get(VARIABLE) or DEFAULT).expanduser().absolute()


@dataclass(frozen=True)
class Environment:
    """The interpreter of one engine. `lock` names its packages; `megabytes` is what they take, downloads included."""

    engine: str
    lock: Path
    megabytes: int

    @property
    def name(self) -> str:
        return f"{self.engine}-{_digest(self.lock)}"

    @property
    def folder(self) -> Path:
        return root() / self.name

    @property
    def python(self) -> Path:
        return python_of(self.folder)

    @property
    def guard(self) -> Path:
        """The lock file of whoever installs or removes it."""
        return root() / f".{self.name}.lock"

    def is_complete(self) -> bool:
        return (self.folder / MARKER).is_file()

    def version_of(self, distribution: str) -> str | None:
        """The version of a package in it, read without importing anything; None where it is not there."""
        if not self.is_complete():
            return None
        found = metadata.distributions(name=distribution, path=[str(packages_of(self.folder))])
        return next((package.version for package in found), None)

    def others(self) -> list[Path]:
        """Folders of other locks of this engine, and what broken installations left."""
        if not root().is_dir():
            return []
        starts = (f"{self.engine}-", f".{self.engine}-")
        found = (path for path in root().iterdir() if path.is_dir() and path.name.startswith(starts))
        return sorted(path for path in found if path != self.folder)


def python_of(folder: Path) -> Path:
    """The interpreter of the virtual environment in `folder`."""
    return folder / "bin" / "python"


def packages_of(folder: Path) -> Path:
    """Where the virtual environment in `folder` has its packages."""
    return folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


@functools.cache
def _digest(lock: Path) -> str:
    """Of the lock and the Python that the packages are for."""
    language = f"{sys.implementation.cache_tag} {sys.platform}\n".encode()
    return hashlib.sha256(language + lock.read_bytes()).hexdigest()[:_DIGITS]
