"""The event log: the only truth about what happened, and the one way to write it.

`append` gives each event its `seq`: from 1, without gaps, in the order in which transactions
commit, because the stream's row is locked from the moment its `last_seq` is raised. Keep nothing
slow in a transaction that appends.
"""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from django.db import connection, transaction
from django.utils import timezone

from executions.models.stream import EventStream, ExecutionEvent
from portal.lib.rows import insert

# What may stand in the log (SPEC, event types); `llm.delta` is live only and never stored.
TYPES = frozenset(
    {
        *("execution.queued", "execution.started", "execution.paused", "execution.resumed", "execution.waiting"),
        *("execution.completed", "execution.failed", "execution.stopped", "execution.recovered"),
        *("task.started", "task.completed", "task.failed"),
        *("agent.started", "agent.thought", "agent.completed"),
        *("tool.started", "tool.completed", "tool.failed"),
        *("llm.started", "llm.completed", "llm.failed", "llm.replayed"),
        *("approval.requested", "approval.answered", "deliverable.created", "log"),
    }
)
DELTA = "llm.delta"
SMALL_BATCH = 20  # most appends are of one event, and are on somebody's way
# After one of these a stream rests, until somebody retries the execution.
LAST = frozenset({"execution.completed", "execution.failed", "execution.stopped"})


@dataclass(frozen=True)
class NewEvent:
    """An event that has no number yet. `task` is a RunSpec key, `role` an agent's role."""

    type: str
    data: dict[str, Any] = field(default_factory=dict)
    task: str = ""
    role: str = ""
    attempt: int = 0
    at: datetime | None = None

    def __post_init__(self) -> None:
        if self.type not in TYPES:
            raise ValueError(f"{self.type} is not an event type")


def append(stream_id: uuid.UUID, new: Sequence[NewEvent]) -> list[ExecutionEvent]:
    """Add events to a stream, in order, and tell watchers once the transaction has committed.

    Raises `EventStream.DoesNotExist` when there is no such stream. Two queries.
    """
    if not new:
        return []
    # Whoever appends within a transaction of its own cannot go on without the events: no savepoint.
    with transaction.atomic(savepoint=False):
        last = _take_numbers(stream_id, len(new))
        now = timezone.now()
        rows = [
            ExecutionEvent(
                stream_id=stream_id,
                seq=last - len(new) + index,
                type=event.type,
                at=event.at or now,
                attempt=event.attempt,
                task=event.task,
                role=event.role,
                data=event.data,
            )
            for index, event in enumerate(new, start=1)
        ]
        if len(rows) <= SMALL_BATCH:
            insert(rows)
        else:
            ExecutionEvent.objects.bulk_create(rows)
        transaction.on_commit(partial(_announce, stream_id, [wire(row) for row in rows]))
    return rows


def _take_numbers(stream_id: uuid.UUID, count: int) -> int:
    """Raise the stream's `last_seq` by `count` and return it; the row stays locked until commit."""
    table = connection.ops.quote_name(EventStream._meta.db_table)
    key = EventStream._meta.get_field("id").get_db_prep_value(stream_id, connection)
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {table} SET last_seq = last_seq + %s WHERE id = %s RETURNING last_seq",  # noqa: S608
            [count, key],
        )
        row = cursor.fetchone()
    if row is None:
        raise EventStream.DoesNotExist(f"no event stream {stream_id}")
    return int(row[0])


def _announce(stream_id: uuid.UUID, events: list[dict[str, Any]]) -> None:
    from executions import live  # live reads the log, so it stands above this module

    live.publish(stream_id, events)


def wire(event: ExecutionEvent) -> dict[str, Any]:
    """An event as it leaves the portal: `{seq, type, at, task?, role?, data}`, JSON values only."""
    out: dict[str, Any] = {"seq": event.seq, "type": event.type, "at": event.at.isoformat()}
    if event.task:
        out["task"] = event.task
    if event.role:
        out["role"] = event.role
    out["data"] = event.data
    return out


def read(stream_id: uuid.UUID, after: int = 0, limit: int = 1000) -> list[dict[str, Any]]:
    """At most `limit` events with a `seq` above `after`, in order. One query."""
    rows: Iterable[ExecutionEvent] = ExecutionEvent.objects.filter(stream_id=stream_id, seq__gt=after).order_by("seq")[
        :limit
    ]
    return [wire(row) for row in rows]
