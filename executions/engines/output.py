"""What an engine says: JSON lines in the events file of its attempt, and a bell after each."""

import contextlib
import json
import os
import threading
from datetime import UTC, datetime
from typing import Any, Literal

from executions.engines.protocol import Line

MAX_TEXT = 200_000  # characters kept of one text in an event
MAX_LINE = 256 * 1024  # bytes of an event's line; results are never cut
Reason = Literal["error", "bad_output", "missing"]
CUT = "… [cut]"


class Failed(Exception):
    """The run ended in a failure that the engine can explain; str() is the sentence for people."""

    def __init__(self, message: str, reason: Reason = "error") -> None:
        super().__init__(message)
        self.reason = reason


class Output:
    """Writes lines in the order of the calls, from any thread, each in one `write`.

    `events` is opened for appending; `bell` is a non-blocking pipe or None. A full bell is fine: it
    rings already.
    """

    def __init__(self, events: int, bell: int | None = None) -> None:
        self._events = events
        self._bell = bell
        self._lock = threading.Lock()
        self._is_closed = False

    def event(
        self, type_: str, *, task: str | None = None, role: str | None = None, data: dict[str, Any] | None = None
    ) -> None:
        line: Line = {"kind": "event", "type": type_, "at": "", "data": _bounded(data or {})}
        if task is not None:
            line["task"] = task
        if role is not None:
            line["role"] = role
        self._write(line)

    def result(self, output: str) -> None:
        self._write({"kind": "result", "output": output})

    def failure(self, reason: Reason, message: str) -> None:
        self._write({"kind": "failure", "reason": reason, "message": message[:MAX_TEXT]})

    def _write(self, line: Line) -> None:
        with self._lock:
            if self._is_closed:  # the last line is the last: threads that still run have no say any more
                return
            self._is_closed = line["kind"] != "event"
            if not self._is_closed:
                line["at"] = datetime.now(UTC).isoformat()  # here, so that times rise from line to line
            raw = _encode(line)
            while raw:  # a regular file takes it whole unless the disk is full
                raw = raw[os.write(self._events, raw) :]
        if self._bell is not None:
            with contextlib.suppress(OSError):  # full, or nobody listens: the file has the line either way
                os.write(self._bell, b"\0")


def _encode(line: Line) -> bytes:
    raw = _json_of(line)
    if len(raw) > MAX_LINE and "data" in line:
        whole = json.dumps(line["data"], ensure_ascii=False, default=str)
        raw = _json_of({**line, "data": {"cut": whole[: MAX_LINE // 8] + CUT}})
    return raw + b"\n"


def _json_of(line: Line) -> bytes:
    return json.dumps(line, ensure_ascii=False, default=str).encode("utf-8", "replace")


def _bounded(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else value[:MAX_TEXT] + CUT
    if isinstance(value, dict):
        return {str(key): _bounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_bounded(item) for item in value]
    return value
