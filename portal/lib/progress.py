"""How far something is: a bar on a terminal, and now and then a line anywhere else."""

import json
import sys
import time
from typing import TextIO

MARK = "@progress "  # begins a line that is meant for the process that started this one
_WIDTH = 28


def bar(done: int, total: int, doing: str, width: int = _WIDTH) -> str:
    """One line: `[#####-----]  45 %  503 of 1117 MB  checking`."""
    share = min(1.0, done / total) if total else 0.0
    full = int(share * width)
    return f"[{'#' * full}{'-' * (width - full)}] {share:4.0%}  {done / 1e6:,.0f} of {total / 1e6:,.0f} MB  {doing}"


class Progress:
    """Shows bytes moved, and notes between, on `stream`.

    A terminal gets a bar that is redrawn; a file or pipe a line every tenth or every 30 s. With
    `marked`, lines begin with `MARK` and hold JSON, for `parse`.
    """

    def __init__(self, stream: TextIO | None = None, *, marked: bool = False) -> None:
        self._stream = stream or sys.stderr
        self._marked = marked
        self._live = not marked and self._stream.isatty()
        self._drawn = False
        self._shown_at, self._shown = 0.0, (-1, "")

    def moved(self, done: int, total: int, doing: str) -> None:
        now, tenth = time.monotonic(), (done * 10 // total if total else 0, doing)
        quick = self._live or self._marked
        due = now - self._shown_at >= (0.2 if quick else 30.0) or tenth != self._shown
        if not (due or done == total) or (quick and now - self._shown_at < 0.1 and done != total):
            return
        self._shown_at, self._shown = now, tenth
        if self._marked:
            self._write(MARK + json.dumps([done, total, doing]) + "\n")
        elif self._live:
            self._write(f"\r\x1b[K{bar(done, total, doing)}")
            self._drawn = True
        else:
            self._write(bar(done, total, doing) + "\n")

    def note(self, text: str) -> None:
        self.clear()
        self._write(text + "\n")

    def clear(self) -> None:
        """Take the bar away, so that other lines can be printed."""
        if self._drawn:
            self._write("\r\x1b[K")
            self._drawn = False

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def parse(line: str) -> tuple[int, int, str] | None:
    """(done, total, doing) of a line that a `marked` Progress wrote; None for any other line."""
    if not line.startswith(MARK):
        return None
    try:
        done, total, doing = json.loads(line.removeprefix(MARK))
    except ValueError:
        return None
    return int(done), int(total), str(doing)
