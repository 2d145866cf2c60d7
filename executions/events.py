"""The event log: the only truth about what happened, and the one way to write it.

`append` gives each event its `seq`: from 1, without gaps, in the order in which transactions
commit, because the stream's row is locked from the moment its `last_seq` is raised. Keep nothing
slow in a transaction that appends.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache, partial
from typing import Any

import orjson
from django.db import connection, transaction
from django.utils import timezone

from executions.models.stream import EventStream, ExecutionEvent
from portal.lib import rows
from portal.lib.redaction import redact

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
# What may stand in the stream of a project, which shares the log (SPEC, WebSockets).
PROJECT_TYPES = frozenset(
    {
        *("stage_started", "stage_completed", "stage_failed", "stage_rejected", "stage_stale", "stage_rolled_back"),
        *("deliverable_created", "deliverable_reviewed", "progress", "status"),
    }
)
DELTA = "llm.delta"
# More than this at once does not travel to watchers: they are told of it, and read it from the log.
MAX_NEWS_CHARACTERS = 64_000
MAX_LEVELS = 100  # of lists in lists, where there are too many to be written as they are
ENVELOPE_CHARACTERS = 250  # what an event has beside its data, about
# After one of these an execution's stream rests, until somebody retries it.
LAST = frozenset({"execution.completed", "execution.failed", "execution.stopped"})
# And a project's after a `status` of these, until somebody starts it again.
LAST_STATUSES = frozenset({"completed", "cancelled"})


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
        if self.type not in TYPES and self.type not in PROJECT_TYPES:
            raise ValueError(f"{self.type} is not an event type")


Numbered = tuple[int, NewEvent, str]  # with its seq, and its data as JSON


def append(stream_id: uuid.UUID, new: Sequence[NewEvent]) -> int:
    """Add events to a stream, in order, and tell watchers once the transaction has committed.

    Returns the `seq` of the last one, 0 when there was nothing to add. Raises `EventStream.DoesNotExist`
    when there is no such stream. Two queries.
    """
    if not new:
        return 0
    now = timezone.now()
    texts = [redact(_json(event.data)) for event in new]
    # Whoever appends within a transaction of its own cannot go on without the events: no savepoint.
    with transaction.atomic(savepoint=False):
        last = _take_numbers(stream_id, len(new))
        numbered = list(zip(range(last - len(new) + 1, last + 1), new, texts, strict=True))
        _store(stream_id, numbered, now)
        fits = sum(map(len, texts)) + len(texts) * ENVELOPE_CHARACTERS < MAX_NEWS_CHARACTERS
        transaction.on_commit(partial(_announce, stream_id, last, numbered if fits else [], now))
    return last


def _json(data: dict[str, Any]) -> str:
    """`data` as JSON that every reader has a place for."""
    try:
        text = orjson.dumps(data).decode()
    except TypeError:  # half a surrogate pair, a number beyond 64 bits, hundreds of levels
        text = ""
    return text if text and "\\u0000" not in text else orjson.dumps(plain(data)).decode()


def plain(value: Any, level: int = 1) -> Any:
    """What a model or a tool said, without what PostgreSQL or a browser has no place for."""
    if isinstance(value, str):
        return value.replace("\0", "").encode("utf-8", "replace").decode()
    if isinstance(value, dict | list | tuple) and level > MAX_LEVELS:
        return "…"
    if isinstance(value, dict):
        return {plain(str(key)): plain(item, level + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, level + 1) for item in value]
    if isinstance(value, int) and value.bit_length() > 63:
        return str(value)
    return value


@lru_cache
def _statements(vendor: str) -> tuple[str, str]:
    """How to store one event, and how many. Instances of the model would take ten times as long."""
    quote = connection.ops.quote_name
    columns = ("stream_id", "seq", "type", "at", "attempt", "task", "role", "data")
    table = f"{quote(ExecutionEvent._meta.db_table)} ({', '.join(map(quote, columns))})"
    insert = f"INSERT INTO {table} VALUES ({', '.join(['%s'] * len(columns))})"  # noqa: S608
    return insert, f"COPY {table} FROM STDIN" if vendor == "postgresql" else insert


def _store(stream_id: uuid.UUID, numbered: list[Numbered], now: datetime) -> None:
    key = rows.key(EventStream, stream_id)
    stored = connection.ops.adapt_datetimefield_value
    values = (
        (key, seq, event.type, stored(event.at or now), event.attempt, event.task, event.role, text)
        for seq, event, text in numbered
    )
    one, many = _statements(connection.vendor)
    with connection.cursor() as cursor:
        if len(numbered) == 1:
            cursor.execute(one, next(values))
        elif connection.vendor == "postgresql":
            with cursor.copy(many) as copy:
                for row in values:
                    copy.write_row(row)
        else:
            cursor.executemany(many, list(values))


@lru_cache
def _raise_last_seq(vendor: str) -> str:
    table = connection.ops.quote_name(EventStream._meta.db_table)
    return f"UPDATE {table} SET last_seq = last_seq + %s WHERE id = %s RETURNING last_seq"  # noqa: S608


def _take_numbers(stream_id: uuid.UUID, count: int) -> int:
    """Raise the stream's `last_seq` by `count` and return it; the row stays locked until commit."""
    with connection.cursor() as cursor:
        cursor.execute(_raise_last_seq(connection.vendor), [count, rows.key(EventStream, stream_id)])
        row = cursor.fetchone()
    if row is None:
        raise EventStream.DoesNotExist(f"no event stream {stream_id}")
    return int(row[0])


def _announce(stream_id: uuid.UUID, last: int, told: list[Numbered], now: datetime) -> None:
    from executions import live  # live reads the log, so it stands above this module

    news = [
        _wire(seq, event.type, event.at or now, event.task, event.role, orjson.loads(text)) for seq, event, text in told
    ]
    live.publish(stream_id, last, news)


def _wire(seq: int, type_: str, at: datetime, task: str, role: str, data: dict[str, Any]) -> dict[str, Any]:
    """An event as it leaves the portal: `{seq, type, at, task?, role?, data}`, JSON values only."""
    out: dict[str, Any] = {"seq": seq, "type": type_, "at": at.isoformat()}
    if task:
        out["task"] = task
    if role:
        out["role"] = role
    out["data"] = data
    return out


def is_last(event: Mapping[str, Any]) -> bool:
    """Whether a stream rests after `event`, as `read` has it."""
    if event["type"] == "status":
        return event["data"].get("status") in LAST_STATUSES
    return event["type"] in LAST


def read(stream_id: uuid.UUID, after: int = 0, limit: int = 1000) -> list[dict[str, Any]]:
    """At most `limit` events with a `seq` above `after`, in order, as they leave the portal. One query."""
    found = ExecutionEvent.objects.filter(stream_id=stream_id, seq__gt=after).order_by("seq")
    return [_wire(*row) for row in found.values_list("seq", "type", "at", "task", "role", "data")[:limit]]
