"""What an engine says: JSON lines in the events file of its attempt, and a bell after each."""

import contextlib
import json
import os
import threading
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal

from executions.engines.protocol import EXIT_NO_OUTPUT, MAX_LINE_BYTES, Line

MAX_TEXT = 200_000  # characters kept of one text in an event
MAX_EVENT = 256 * 1024  # bytes of an event's line
MAX_MESSAGE = 10_000  # characters kept of a failure's sentence
# What people asked for and later tasks are given: never cut, but refused above MAX_LINE_BYTES.
WHOLE = frozenset({"task.completed", "approval.requested"})
Reason = Literal["error", "bad_output", "missing", "gateway"]
CUT = "… [cut]"
MIB = 1 << 20


class Failed(Exception):
    """The run ended in a failure that the engine can explain; str() is the sentence for people."""

    def __init__(self, message: str, reason: Reason = "error") -> None:
        super().__init__(message)
        self.reason = reason


class GatewayLost(BaseException):
    """The gateway went away, which is no fault of the run: the attempt ends, and the next one goes on from here.

    Not an `Exception`, which a framework would hand to its agent as the result of a tool.
    """


class Unfinished(Exception):
    """The attempt ends before the run is done: it was asked to pause, or cannot go on without a person's answer."""

    def __init__(self, why: Literal["paused", "waiting"]) -> None:
        super().__init__(why)
        self.why = why


class Output:
    """Writes lines in the order of the calls, from any thread, each in one `write`.

    `events` is opened for appending; `bell` is a non-blocking pipe or None. A full bell is fine: it
    rings already. `keep_files` is called before the output of a task is written, and gives what the line
    says about the files that belong to it. A line that cannot be written ends the process: what is in the
    file up to there holds, and nobody goes on with work that leaves no trace.
    """

    def __init__(
        self, events: int, bell: int | None = None, keep_files: Callable[[], dict[str, Any]] | None = None
    ) -> None:
        self._events = events
        self._bell = bell
        self._keep_files = keep_files
        self._lock = threading.Lock()
        self._is_closed = False

    def event(
        self, type_: str, *, task: str | None = None, role: str | None = None, data: dict[str, Any] | None = None
    ) -> None:
        """Write an event. Raises Failed when it is a task's output that is too long to be kept."""
        line: Line = {"kind": "event", "type": type_, "at": "", "data": _bounded(data or {})}
        if type_ in WHOLE:
            line["data"] = {**(data or {}), **(self._keep_files() if self._keep_files else {})}
        if task is not None:
            line["task"] = task
        if role is not None:
            line["role"] = role
        self._write(line)

    def result(self, output: str) -> None:
        """End the attempt with what the run gave. Raises Failed when that is too long to be kept."""
        self._write({"kind": "result", "output": output})

    def failure(self, reason: Reason, message: str) -> None:
        self._write({"kind": "failure", "reason": reason, "message": message[:MAX_MESSAGE]})

    def unfinished(self, why: Literal["paused", "waiting"]) -> None:
        self._write({"kind": why})

    def _write(self, line: Line) -> None:
        with self._lock:
            if self._is_closed:  # the last line is the last: threads that still run have no say any more
                return
            if line["kind"] == "event":
                line["at"] = datetime.now(UTC).isoformat()  # here, so that times rise from line to line
            raw = _encode(line)
            self._is_closed = line["kind"] != "event"
            try:
                while raw:  # a regular file takes it whole unless the disk is full
                    raw = raw[os.write(self._events, raw) :]
            except OSError:
                # A torn line may be there now, after which none may follow.
                with contextlib.suppress(OSError):  # the log's disk may be the same
                    os.write(2, traceback.format_exc().encode())
                os._exit(EXIT_NO_OUTPUT)
        if self._bell is not None:
            with contextlib.suppress(OSError):  # full, or nobody listens: the file has the line either way
                os.write(self._bell, b"\0")


def _encode(line: Line) -> bytes:
    raw = _json_of(line) + b"\n"
    if line["kind"] == "event" and line["type"] not in WHOLE and len(raw) > MAX_EVENT:
        whole = json.dumps(line["data"], ensure_ascii=False, default=str)
        raw = _json_of({**line, "data": {"cut": whole[: MAX_EVENT // 8] + CUT}}) + b"\n"
    if len(raw) > MAX_LINE_BYTES:
        size, limit = len(raw) / MIB, MAX_LINE_BYTES / MIB
        raise Failed(f"The answer is too long to be kept: {size:.1f} MB, and at most {limit:.0f} MB are.")
    return raw


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
