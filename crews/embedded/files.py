"""The model files of this machine: where they lie, and whether they are what they should be.

Hashing a gigabyte takes seconds, so what was checked is remembered by size and time of change in
`verified.json` beside the models.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings
from django.utils.translation import gettext as _

from crews.embedded.specs import SPECS, ModelSpec

CHUNK = 1 << 22

Moved = Callable[[int, int], None]  # (bytes done, bytes in all)


class ModelUnavailable(Exception):
    """The model cannot be had; the message says why, and what to do."""


@dataclass(frozen=True)
class Found:
    """A model file that was checked: its bytes are those of `spec`. `source` says where it came from."""

    spec: ModelSpec
    path: Path
    source: str


def folder() -> Path:
    return Path(settings.PORTAL_MODEL_DIR)


def wanted() -> ModelSpec:
    """The model that EMBEDDED_MODEL names."""
    return SPECS[settings.EMBEDDED_MODEL]


def sha256_of(path: Path, moved: Moved = lambda done, total: None) -> str:
    """The file's SHA-256 as hex, telling `moved` how far it is. Raises `OSError`."""
    digest, done, total = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            done += len(chunk)
            moved(done, total)
    return digest.hexdigest()


def find(spec: ModelSpec, moved: Moved = lambda done, total: None) -> Found | None:
    """The model's file where it would be used from, checked; None when it has to be fetched.

    EMBEDDED_MODEL_PATH goes first, and may hold any model that we know. Raises `ModelUnavailable` when
    that file cannot be used: falling back to another would hide a mistake.
    """
    if settings.EMBEDDED_MODEL_PATH:
        return _given(Path(settings.EMBEDDED_MODEL_PATH).expanduser().absolute(), moved)
    path = folder() / spec.file_name
    try:
        if path.stat().st_size != spec.size:
            return None
        digest, source = _checked(path, moved)
    except OSError:
        return None
    return Found(spec, path, source) if digest == spec.sha256 else None


def _given(path: Path, moved: Moved) -> Found:
    try:
        known = {spec.size for spec in SPECS.values()}
        digest, _source = _checked(path, moved) if path.stat().st_size in known else ("", "")
    except OSError as exc:
        raise ModelUnavailable(
            _("EMBEDDED_MODEL_PATH: cannot read %(path)s: %(reason)s") % {"path": path, "reason": exc.strerror}
        ) from exc
    for spec in SPECS.values():
        if spec.sha256 == digest:
            return Found(spec, path, "EMBEDDED_MODEL_PATH")
    raise ModelUnavailable(
        _("EMBEDDED_MODEL_PATH: %(path)s is neither %(names)s (its checksum differs)")
        % {"path": path, "names": _(" nor ").join(spec.name for spec in SPECS.values())}
    )


def remember(path: Path, digest: str, source: str) -> None:
    """Note that the file, as it is now, has this checksum. A folder that cannot be written costs a hash each time."""
    stat = path.stat()
    notes = _notes()
    notes[str(path)] = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": digest, "source": source}
    fresh = folder() / f".verified.{os.getpid()}"
    try:
        folder().mkdir(parents=True, exist_ok=True)
        fresh.write_text(json.dumps(notes, indent=1), encoding="utf-8")
        fresh.replace(folder() / "verified.json")
    except OSError:
        fresh.unlink(missing_ok=True)


def _checked(path: Path, moved: Moved) -> tuple[str, str]:
    """The checksum of a file and where it came from; from memory when the file has not changed since."""
    note, stat = _notes().get(str(path)), path.stat()
    if note is not None and (note["size"], note["mtime_ns"]) == (stat.st_size, stat.st_mtime_ns):
        return str(note["sha256"]), str(note["source"])
    digest = sha256_of(path, moved)
    source = str(_("already in PORTAL_MODEL_DIR"))
    remember(path, digest, source)
    return digest, source


def _notes() -> dict[str, dict[str, Any]]:
    try:
        notes = json.loads((folder() / "verified.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return notes if isinstance(notes, dict) else {}
