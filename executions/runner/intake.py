"""Storing what an engine wrote: its event file, read in order, each line exactly once."""

import json
import logging
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import orjson
from django.db import DataError, transaction
from django.db.models import Max
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from executions import events, workspace
from executions.engines.protocol import ENGINE_EVENTS, Line
from executions.models import Approval, Attempt, Execution, TaskRun
from portal.lib.redaction import redact

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
KINDS = frozenset({"event", "result", "failure", "paused", "waiting"})


class LeaseLost(Exception):
    """This runner no longer carries the attempt: what it read must not be stored."""


class BadLine(Exception):
    """The engine wrote something that is no line of the protocol."""


@dataclass(frozen=True)
class Batch:
    """What one read gave: whether there is more, the attempt's closing line if it was among it, new questions."""

    is_full: bool
    closing: Line | None
    asked: tuple[Approval, ...] = ()


class Intake:
    """Reads one attempt's event file from where the database says, and stores it in batches.

    The offset moves in the same transaction that stores the events, so a runner that dies anywhere
    loses and doubles nothing; a torn last line is left until it is whole. Whoever holds the lease of
    `execution` as it was read may store; everybody else is refused.
    """

    def __init__(self, execution: Execution, path: Path) -> None:
        self.execution = execution
        self.path = path
        self.attempt = execution.attempts.get(number=execution.attempt)
        self._lease = (execution.attempt, execution.lease_worker)
        self.running: dict[str, float] = {}  # task key → when it started, by this process's monotonic clock

    @property
    def written(self) -> int:
        """How many bytes the engine has written."""
        return self.path.stat().st_size if self.path.exists() else 0

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
        # What a task gave is kept in other places than the log too.
        safe = redact(whole.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
        lines = [_parse(line) for line in safe.splitlines()]
        closing = next((line for line in lines if line["kind"] != "event"), None)
        new = [self._kept(self._event(line)) for line in lines if line["kind"] == "event"]
        offset = self.attempt.events_offset + len(whole)
        asked: list[Approval] = []
        try:
            with transaction.atomic():
                self._hold(offset)
                events.append(self.execution.stream_id, [self._apply(event, asked) for event in new])
        except DataError as exc:
            raise BadLine(f"it cannot be stored: {exc}") from exc
        self.attempt.events_offset = offset
        for event in new:
            if workspace.KEY in event.data:
                workspace.drop(self.path.parent / "work", event.data[workspace.KEY])
        return Batch(is_full=len(raw) == CHUNK_BYTES, closing=closing, asked=tuple(asked))

    def _hold(self, offset: int) -> None:
        """Lock the execution and move the offset, if this is still the attempt's runner, or raise `LeaseLost`."""
        held = Execution.objects.select_for_update(no_key=True).filter(pk=self.execution.pk)
        if held.values_list("attempt", "lease_worker").first() == self._lease:
            unread = Attempt.objects.filter(pk=self.attempt.pk, events_offset=self.attempt.events_offset, ended_at=None)
            if unread.update(events_offset=offset):
                return
        raise LeaseLost(f"attempt {self.attempt} is not this runner's any more")

    def _event(self, line: Line) -> events.NewEvent:
        data = line.get("data") or {}
        if line.get("type") not in ENGINE_EVENTS or not isinstance(data, dict):
            raise BadLine(f"an engine may not write {line.get('type')!r}")
        return events.NewEvent(
            line["type"],
            data=data,
            task=_text(line.get("task"))[:40],
            role=_text(line.get("role"))[:200],
            attempt=self.attempt.number,
            at=_moment(line.get("at")),
        )

    def _kept(self, event: events.NewEvent) -> events.NewEvent:
        """The event, once the files that its task left are in storage, whence any machine can go on."""
        packed = event.data.get(workspace.KEY)
        if event.type not in {"task.completed", "approval.requested"} or not packed:
            return event
        try:
            name = workspace.keep(self.execution.pk, self.attempt.number, event.task, self.path.parent / "work", packed)
        except workspace.Unusable as exc:
            raise BadLine(str(exc)) from exc
        return replace(event, data={**event.data, workspace.KEY: name})

    def _apply(self, event: events.NewEvent, asked: list[Approval]) -> events.NewEvent:
        """Bring the task's row in line with the event, and return it with what the engine could not know."""
        if not event.task or not event.type.startswith(("task.", "approval.")):
            return event
        rows = TaskRun.objects.filter(execution=self.execution, task=event.task)
        at = event.at or timezone.now()
        if event.type == "task.started":
            self.running[event.task] = time.monotonic()
            rows.update(status=TaskRun.Status.RUNNING, started_at=at, ended_at=None, attempt=event.attempt, error="")
            return event
        self.running.pop(event.task, None)
        if event.type == "task.completed":
            rows.update(status=TaskRun.Status.COMPLETED, ended_at=at, output=_text(event.data.get("output")))
        elif event.type == "task.failed":
            rows.update(status=TaskRun.Status.FAILED, ended_at=at, error=_text(event.data.get("error")))
        elif event.type == "approval.requested":
            asked.append(self._ask(event, rows.first()))
            return replace(event, data={**event.data, "approval_id": str(asked[-1].pk), "round": asked[-1].round})
        return event

    def _ask(self, event: events.NewEvent, run: TaskRun | None) -> Approval:
        """Put the question to people; the task waits for their answer."""
        earlier = Approval.objects.filter(execution=self.execution, task=event.task)
        if run is None or earlier.filter(status=Approval.Status.OPEN).exists():
            raise BadLine(f"a question about {event.task!r} cannot be asked")
        limits = self.execution.snapshot["limits"]
        approval = Approval.objects.create(
            execution=self.execution,
            task=event.task,
            name=run.name,
            role=event.role or run.role,
            attempt=event.attempt,
            round=(earlier.aggregate(last=Max("round"))["last"] or 0) + 1,
            output=_text(event.data.get("output")),
            requested_at=Now(),
            expires_at=_in(limits.get("approval_timeout_seconds")),
            remind_at=_in(limits.get("approval_reminder_seconds")),
        )
        run.status, run.ended_at = TaskRun.Status.PENDING, None
        run.save(update_fields=["status", "ended_at"])
        return approval


def _in(seconds: int | None) -> Any:
    """That long after now, by the database's clock; None when it is not wanted."""
    return Now() + timedelta(seconds=seconds) if seconds else None


def _text(value: Any) -> str:
    """A text of an engine without what PostgreSQL has no place for: NUL and half characters."""
    return str(value or "").replace("\0", "").encode("utf-8", "replace").decode()


def _moment(text: Any) -> datetime:
    """When an engine says that something happened; now when it does not say so properly."""
    try:
        found = parse_datetime(text) if isinstance(text, str) else None
        return found.astimezone(UTC) if found is not None and timezone.is_aware(found) else timezone.now()
    except (ValueError, OverflowError):  # the latter at both ends of the calendar
        return timezone.now()


def _json_of(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except ValueError:  # or what an engine may write and orjson does not read: NaN, half a surrogate pair
        return json.loads(line)


def _parse(line: bytes) -> Line:
    try:
        parsed: Any = _json_of(line)
    except (ValueError, RecursionError) as exc:  # the latter for what is nested a hundred thousand times
        raise BadLine(f"not JSON: {line[:80]!r}") from exc
    if not isinstance(parsed, dict) or parsed.get("kind") not in KINDS:
        raise BadLine(f"no line of the protocol: {line[:80]!r}")
    return cast(Line, parsed)
