"""Storing what an engine wrote: its event file, read in order, each line exactly once."""

import json
import logging
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from django.db import transaction
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from executions import events
from executions.engines.protocol import ENGINE_EVENTS, Line
from executions.models import Attempt, Execution, TaskRun

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
# An engine keeps its lines below this; one that does not has gone wrong.
MAX_LINE_BYTES = 4 << 20
KINDS = frozenset({"event", "result", "failure", "paused", "waiting"})


class LeaseLost(Exception):
    """This runner no longer carries the attempt: what it read must not be stored."""


class BadLine(Exception):
    """The engine wrote something that is no line of the protocol."""


@dataclass(frozen=True)
class Batch:
    """What one read gave: whether there is more, and the attempt's closing line if it was among it."""

    is_full: bool
    closing: Line | None


class Intake:
    """Reads one attempt's event file from where the database says, and stores it in batches.

    The offset moves in the same transaction that stores the events, so a runner that dies anywhere
    loses and doubles nothing; a torn last line is left until it is whole.
    """

    def __init__(self, execution: Execution, path: Path) -> None:
        self.execution = execution
        self.path = path
        self.attempt = execution.attempts.get(number=execution.attempt)
        self.running: dict[str, datetime] = {}  # task key → when it started

    def read(self) -> Batch:
        """Store what is new, at most a megabyte. Raises `LeaseLost` and `BadLine`. A handful of queries."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.attempt.events_offset)
                raw = file.read(CHUNK_BYTES)
        except FileNotFoundError:
            return Batch(is_full=False, closing=None)
        whole = raw[: raw.rfind(b"\n") + 1]
        if not whole:
            if len(raw) >= CHUNK_BYTES:
                raise BadLine(f"a line longer than {CHUNK_BYTES} bytes")
            return Batch(is_full=False, closing=None)
        lines = [_parse(line) for line in whole.splitlines()]
        closing = next((line for line in lines if line["kind"] != "event"), None)
        new = [self._event(line) for line in lines if line["kind"] == "event"]
        offset = self.attempt.events_offset + len(whole)
        with transaction.atomic():
            held = Attempt.objects.filter(
                pk=self.attempt.pk,
                events_offset=self.attempt.events_offset,
                ended_at=None,
                execution__lease_worker=self.attempt.worker,
            ).update(events_offset=offset)
            if not held:
                raise LeaseLost(f"attempt {self.attempt} is not this runner's any more")
            for event in new:
                self._apply(event)
            events.append(self.execution.stream_id, new)
        self.attempt.events_offset = offset
        return Batch(is_full=len(raw) == CHUNK_BYTES, closing=closing)

    def _event(self, line: Line) -> events.NewEvent:
        if line.get("type") not in ENGINE_EVENTS:
            raise BadLine(f"an engine may not write {line.get('type')!r}")
        return events.NewEvent(
            line["type"],
            data=line.get("data") or {},
            task=str(line.get("task") or "")[:40],
            role=str(line.get("role") or "")[:200],
            attempt=self.attempt.number,
            at=parse_datetime(line.get("at") or "") or timezone.now(),
        )

    def _apply(self, event: events.NewEvent) -> None:
        """Bring the task's row in line with the event."""
        if not event.task or not event.type.startswith("task."):
            return
        rows = TaskRun.objects.filter(execution=self.execution, task=event.task)
        at = event.at or timezone.now()
        if event.type == "task.started":
            self.running[event.task] = timezone.now()
            rows.update(status=TaskRun.Status.RUNNING, started_at=at, ended_at=None, attempt=event.attempt, error="")
        elif event.type == "task.completed":
            self.running.pop(event.task, None)
            rows.update(status=TaskRun.Status.COMPLETED, ended_at=at, output=str(event.data.get("output") or ""))
        elif event.type == "task.failed":
            self.running.pop(event.task, None)
            rows.update(status=TaskRun.Status.FAILED, ended_at=at, error=str(event.data.get("error") or ""))


def _parse(line: bytes) -> Line:
    try:
        parsed: Any = json.loads(line)
    except ValueError as exc:
        raise BadLine(f"not JSON: {line[:80]!r}") from exc
    if not isinstance(parsed, dict) or parsed.get("kind") not in KINDS:
        raise BadLine(f"no line of the protocol: {line[:80]!r}")
    return cast(Line, parsed)
