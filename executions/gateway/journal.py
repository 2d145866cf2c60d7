"""The journal's rows: which request has been answered, which is under way, and how an answer is found again.

An entry is taken in the transaction that opens the upstream request, and recorded in the one that
closes it, so that journal and ledger never disagree. `call_id` is what fences: whoever took an entry
last is the only one who can record its answer or let it go.

Everything here is synchronous and runs on the database threads.
"""

import hashlib
import json
import uuid
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
from django.db import connection, transaction
from django.utils import timezone

from executions import events
from executions.engines import ordinals
from executions.gateway import answers
from executions.gateway.catalog import Caller, hold
from executions.models import Execution, GatewayInstance, JournalEntry
from portal.lib import rows

_State = JournalEntry.State
MAX_ORDINAL = 2**31 - 1
_TABLE = JournalEntry._meta.db_table
_KEY = "execution_id, kind, task, request_hash, ordinal"
# Two of these go with every request, so they are plain SQL.
_INSERT = (
    f"INSERT INTO {_TABLE} ({_KEY}, state, holder, attempt, role, model, call_id, answer, opened_at, closed_at) "  # noqa: S608
    f"VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT ({_KEY}) "
)
_IF_NEW = f"{_INSERT} DO NOTHING RETURNING id"
# Who holds an entry already may take it again: of two requests of one process only one comes so far.
_IF_FREE = (
    f"{_INSERT} DO UPDATE SET state = excluded.state, holder = excluded.holder, attempt = excluded.attempt, "
    "role = excluded.role, call_id = excluded.call_id, opened_at = excluded.opened_at, closed_at = NULL "
    f"WHERE {_TABLE}.state = 'lost' OR ({_TABLE}.state = 'open' AND {_TABLE}.holder = excluded.holder) RETURNING id"
)
# `call_id` is the last taker's.
_RECORD = (
    f"UPDATE {_TABLE} SET state = 'done', model = %s, answer = %s, closed_at = %s "  # noqa: S608
    "WHERE id = %s AND state = 'open' AND call_id = %s"
)
_LET_GO = f"UPDATE {_TABLE} SET state = 'lost', closed_at = %s WHERE id = %s AND state = 'open' AND call_id = %s"  # noqa: S608


class Taken(Exception):
    """Somebody else carries the request out, or has: look again."""


@dataclass(frozen=True)
class Key:
    """What tells a request from all others of its execution."""

    execution: uuid.UUID
    kind: str
    task: str
    request_hash: str
    ordinal: int

    def part(self, name: str) -> "Key":
        """The key of a step on the way to the answer."""
        return replace(self, request_hash=_digest(f"{self.request_hash} {name}".encode()))


@dataclass
class Entry:
    """A request as one gateway carries it out. `role` is the agent's key; `pk` is there once it was taken."""

    key: Key
    holder: str
    attempt: int
    role: str
    call_id: uuid.UUID
    pk: int | None = None


@dataclass(frozen=True)
class Record:
    """An answer to be recorded. `model` gave it (or the tool); `part` names a step that has no entry yet."""

    entry: Entry
    model: str
    answer: Any
    part: str = ""


@dataclass(frozen=True)
class Found:
    """An entry as it stands in the database; `answer` once it is done."""

    state: str
    holder: str
    call_id: uuid.UUID
    model: str
    attempt: int
    answer: Any = field(default=None, repr=False)

    @property
    def is_done(self) -> bool:
        return self.state == _State.DONE

    @property
    def is_lost(self) -> bool:
        return self.state == _State.LOST


# --- What makes two requests the same -----------------------------------------------------------


def chat_hash(body: dict[str, Any], agent: str) -> str:
    """Of a chat request of the agent with this key."""
    return _digest(_dumps([agent, ordinals.asked(body)]))


def tool_hash(name: str, arguments: dict[str, Any], agent: str) -> str:
    return _digest(_dumps([agent, name, arguments]))


def _dumps(value: Any) -> bytes:
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # halves of surrogate pairs, and integers that are very large
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


# --- The life of an entry -----------------------------------------------------------------------


def find(key: Key) -> Found | None:
    """One query."""
    found = JournalEntry.objects.filter(
        execution_id=key.execution,
        kind=key.kind,
        task=key.task,
        request_hash=key.request_hash,
        ordinal=key.ordinal,
    ).values_list("state", "holder", "call_id", "model", "attempt", "answer")
    for state, holder, call_id, model, attempt, answer in found:
        return Found(state, holder, call_id, model, attempt, None if answer is None else json.loads(answer))
    return None


def take(entry: Entry, *, again: bool = True) -> None:
    """Begin to carry a request out: nobody has, or, if it may be done `again`, who did lost it.

    Call it in the transaction that opens the request. Raises `Taken`.
    """
    taken = _insert(entry, entry.key, _IF_FREE if again else _IF_NEW)
    if taken is None:
        raise Taken
    entry.pk = taken


def record(record: Record) -> bool:
    """Store an answer; False when the entry is somebody else's by now, or the answer is there already.

    Call it in the transaction that closes the request.
    """
    entry, answer = record.entry, _text(record.answer)
    if record.part:
        return _insert(entry, entry.key.part(record.part), _IF_NEW, record.model, answer) is not None
    if entry.pk is None:
        return _insert(entry, entry.key, _IF_NEW, record.model, answer) is not None
    return bool(rows.execute(_RECORD, [record.model, answer, _now(), entry.pk, _uuid(entry.call_id)]))


def let_go(entry: Entry) -> None:
    """The request failed or is not wanted any more: whoever asks next carries it out again."""
    if entry.pk is not None:
        rows.execute(_LET_GO, [_now(), entry.pk, _uuid(entry.call_id)])


def _insert(entry: Entry, key: Key, sql: str, model: str = "", answer: str | None = None) -> int | None:
    """Add an entry, done if it has its answer; its id, None when the statement found another one."""
    state = _State.OPEN if answer is None else _State.DONE
    now = _now()
    named = [_uuid(key.execution), key.kind, key.task, key.request_hash, key.ordinal, state.value]
    held = [entry.holder, entry.attempt, entry.role[:40], model, _uuid(entry.call_id)]
    found = rows.one(sql, [*named, *held, answer, now, None if answer is None else now])
    return found[0] if found else None


def _text(answer: Any) -> str:
    """An answer as the column keeps it: text in JSON, which itself is text in JSON.

    A database's own JSON keeps neither the order of keys nor every character.
    """
    return orjson.dumps(answers.dumps(answer).decode()).decode()


def _now() -> Any:
    return connection.ops.adapt_datetimefield_value(timezone.now())


def _uuid(value: uuid.UUID) -> Any:
    return rows.key(Execution, value)


def lose_orphans() -> int:
    """Let go of what no living gateway holds; returns how many entries that were. One query."""
    living = GatewayInstance.objects.values("instance")
    orphans = JournalEntry.objects.filter(state=_State.OPEN).exclude(holder__in=living)
    return orphans.update(state=_State.LOST, closed_at=timezone.now())


def tell_replayed(entry: Entry, found: Found, caller: Caller, role: str) -> None:
    """Say in the run's log that an answer came from the journal. Raises `Refusal` when the token is dead."""
    with transaction.atomic():
        hold(caller)
        data = {"call": str(found.call_id), "model": found.model, "from_attempt": found.attempt}
        event = events.NewEvent("llm.replayed", data, task=entry.key.task, role=role, attempt=caller.attempt)
        events.append(caller.run, [event])
