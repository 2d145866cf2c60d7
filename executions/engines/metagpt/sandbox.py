"""Running generated Python programs: each in a folder of its own, without network, rights or much of anything.

What runs here is a child of a run that the engine's isolation holds already; `confined` takes the rest from it. Where
the kernel cannot hold a program, none is run, and the result says so.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from executions.engines import landlock, seccomp
from executions.engines.metagpt.confined import UNCONFINED
from executions.engines.wire import MARKER

LAUNCHER = Path(__file__).with_name("confined.py")
MOST_OUTPUT = 20_000  # characters kept of what a program said, from its end
_NO_START = "Fatal Python error: init"  # the interpreter itself could not read what it needs
NONE, LANDLOCK = "none", "landlock"


@dataclass(frozen=True)
class Result:
    """What came of a program. `exit_code` is None when it was still running at the end of its time."""

    exit_code: int | None
    output: str
    error: str

    @property
    def said(self) -> str:
        return "\n".join(filter(None, [self.output.strip(), self.error.strip()]))


class Unavailable(Exception):
    """Programs cannot be held here, so none is run."""


def kind() -> str:
    """What holds programs here: `landlock` or `none`."""
    return LANDLOCK if landlock.version() > 0 and seccomp.is_known() else NONE


@contextlib.contextmanager
def folder(files: Mapping[str, str]) -> Iterator[Path]:
    """A new folder with these files, gone afterwards."""
    made = Path(tempfile.mkdtemp(prefix="program-")).resolve()
    try:
        for path, content in files.items():
            place = (made / path).resolve()
            if not place.is_relative_to(made):
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(content)
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def run(place: Path, arguments: list[str], *, seconds: float, stdin: str = "") -> Result:
    """Run Python with these arguments in a folder that `folder` made. Raises Unavailable."""
    if kind() == NONE:
        raise Unavailable("this machine cannot hold generated programs, so none is run")
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as error, tempfile.TemporaryFile() as entered:
        entered.write(stdin.encode())
        entered.seek(0)
        command = [sys.executable, "-I", str(LAUNCHER), str(place), str(int(seconds) + 1), *arguments]
        child = subprocess.Popen(
            command, cwd=place, env=_environment(place), stdin=entered, stdout=output, stderr=error, process_group=0
        )
        try:
            code: int | None = child.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        result = Result(code, _told(output, place), _told(error, place))
    if code == UNCONFINED or _NO_START in result.error:  # not the program's fault, so never counted as one
        raise Unavailable("this machine cannot hold generated programs, so none is run")
    return result


def _environment(place: Path) -> dict[str, str]:
    """All that a program gets to see. The marker lets what it leaves behind be found when the run ends."""
    marker = {MARKER: os.environ[MARKER]} if MARKER in os.environ else {}
    return {
        "PATH": "/nowhere",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "HOME": str(place),
        "TMPDIR": str(place),
        "PYTHONHASHSEED": "0",
        "PYTHONIOENCODING": "utf-8",
        **marker,
    }


def _told(stream: IO[bytes], place: Path) -> str:
    """The end of what a program wrote, without what differs from run to run."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - MOST_OUTPUT * 4))
    return steady(stream.read().decode("utf-8", "replace").replace(str(place), "."))[-MOST_OUTPUT:]


def steady(text: str) -> str:
    """A program's words without times, addresses and random names: models are shown them, and answers recorded."""
    text = re.sub(r"\bin \d+\.\d+s\b", "in 0.000s", text)
    text = re.sub(r"\b0x[0-9a-f]{6,16}\b", "0x0", text)
    return re.sub(r"\btmp[a-z0-9_]{8}\b", "tmp", text)
