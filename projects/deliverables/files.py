"""Which files a code bundle may hold, and what may be uploaded: the rules, and what is wrong with what breaks them.

A path is relative, with forward slashes, and leads out of no folder that the bundle is unpacked in, on any system.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from django.conf import settings
from django.utils.translation import gettext as _

from executions.events import plain
from portal.lib.bodies import TooLarge
from portal.lib.problems import FieldError, InvalidValues
from projects.models import Deliverable

MAX_PATH = 250  # characters
MAX_FILES = 500
MAX_BYTES = 5_000_000  # of content and files together
_DRIVE = re.compile(r"[A-Za-z]:")
_HEADS = 16  # bytes that tell what an upload is
FileType = Deliverable.FileType


@dataclass(frozen=True)
class Upload:
    """A PDF or an image as it was uploaded, told by its first bytes."""

    name: str
    content: bytes
    file_type: str
    content_type: str
    extension: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def path_fault(path: str) -> str:
    """What is wrong with the path of a file, as a sentence; empty when nothing is."""
    parts = path.split("/")
    if not path.strip():
        return _("A file needs a path.")
    if len(path) > MAX_PATH:
        return _("A path has at most %(limit)d characters.") % {"limit": MAX_PATH}
    if any(unicodedata.category(character)[0] == "C" for character in path) or {*"\u2028\u2029"} & {*path}:
        return _("A path holds no control characters.")
    if "\\" in path:
        return _("Write paths with forward slashes.")
    if path.startswith("/") or _DRIVE.match(path):
        return _("A path is relative: it starts with no slash and no drive.")
    if ".." in parts:
        return _("A path leads to no folder above.")
    if any(part in {"", "."} or part != part.strip() for part in parts):
        return _("A path has no empty part, and none that begins or ends with a space.")
    return ""


def cleaned(files: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """`files` (`{path, content}` each) as path → content, in the order of paths.

    Raises `InvalidValues` that names each fault as `files.<number>.path`.
    """
    found, faults = _sorted_out(files)
    if faults:
        raise InvalidValues(faults)
    return found


def fitting(files: Iterable[Mapping[str, Any]], *, beside: int = 0) -> tuple[dict[str, str], list[str]]:
    """As `cleaned`, without those that break a rule, and why each of them was left out.

    `beside`: bytes that the content takes of what content and files may have together.
    """
    found, faults = _sorted_out(files)
    reasons = [fault.detail for fault in faults]
    room = MAX_BYTES - beside
    for path in list(found):
        size = len(found[path].encode())
        if size > room:
            del found[path]
            reasons.append(_("“%(path)s” is too large.") % {"path": path})
        else:
            room -= size
    return found, reasons


def check_size(content: str, files: Mapping[str, str]) -> int:
    """The bytes of a version. Raises `InvalidValues` when they are too many."""
    size = len(content.encode()) + sum(len(text.encode()) for text in files.values())
    if size > MAX_BYTES:
        detail = _("Content and files have at most %(limit)d MB together.") % {"limit": MAX_BYTES // 1_000_000}
        raise InvalidValues([FieldError("files" if files else "content", "too_large", detail)])
    return size


def uploaded(file: Any) -> Upload:
    """What was uploaded (a Django `File`), checked. Raises `TooLarge`, `InvalidValues` for what is no PDF or image."""
    if file.size > settings.MAX_BODY_BYTES:
        megabytes = settings.MAX_BODY_BYTES // 1_000_000
        raise TooLarge(_("A file may have at most %(megabytes)d MB.") % {"megabytes": megabytes})
    file.seek(0)
    content = file.read()
    kind = _kind_of(content[:_HEADS])
    if kind is None:
        detail = _("Upload a PDF, PNG, JPEG or WebP file; text goes into “content” or “files”.")
        raise InvalidValues([FieldError("file", "unknown_type", detail)])
    file_type, content_type, extension = kind
    # The name is shown and offered for download; the file itself is stored under another.
    name = PurePosixPath(plain(str(file.name or "")).replace("\\", "/")).name
    name = "".join(character for character in name if unicodedata.category(character)[0] != "C")[:200]
    return Upload(name or f"file{extension}", content, file_type, content_type, extension)


def _kind_of(head: bytes) -> tuple[str, str, str] | None:
    if head.startswith(b"%PDF-"):
        return FileType.PDF, "application/pdf", ".pdf"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return FileType.IMAGE, "image/png", ".png"
    if head.startswith(b"\xff\xd8\xff"):
        return FileType.IMAGE, "image/jpeg", ".jpg"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return FileType.IMAGE, "image/webp", ".webp"
    return None


def _sorted_out(files: Iterable[Mapping[str, Any]]) -> tuple[dict[str, str], list[FieldError]]:
    """The files that can stand in a bundle, by path, and what is wrong with the others."""
    found: dict[str, str] = {}
    taken: dict[str, str] = {}  # paths and their folders in one case: some systems know no other
    faults = []
    for number, file in enumerate(files):
        path, content = file.get("path"), file.get("content", "")
        field = f"files.{number}.path"
        if number >= MAX_FILES:
            detail = _("A bundle has at most %(limit)d files.") % {"limit": MAX_FILES}
            faults.append(FieldError("files", "too_many", detail))
            break
        if not isinstance(path, str) or not isinstance(content, str):
            faults.append(FieldError(field, "invalid", _("A file is {“path”: text, “content”: text}.")))
            continue
        path = unicodedata.normalize("NFC", path)
        if fault := path_fault(path):
            faults.append(FieldError(field, "invalid_path", f"{fault} ({plain(path)[:MAX_PATH]!r})"))
            continue
        folders = [folder.casefold() for folder in _folders(path)]
        if path.casefold() in taken or any(taken.get(folder) == "file" for folder in folders):
            detail = _("“%(path)s” stands there twice, as a file or a folder.") % {"path": path}
            faults.append(FieldError(field, "taken", detail))
            continue
        taken.update(dict.fromkeys(folders, "folder"))
        taken[path.casefold()] = "file"
        found[path] = plain(content)
    return dict(sorted(found.items())), faults


def _folders(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: depth + 1]) for depth in range(len(parts))]
