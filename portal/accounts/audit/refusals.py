"""Refusals, summed up: those that are alike within a minute stand in one row, whichever process refused.

They are counted in the process and written down at most once a second (`keeper`), so that a flood of
them is neither a flood of rows nor of transactions. What differs too much in one minute to be told
apart is summed up in one row more. A process that is killed loses what it counted in its last second.
"""

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

from django.contrib.auth.models import AnonymousUser
from django.db import DatabaseError, IntegrityError, models, transaction

from portal.accounts.audit import keeper, sealing
from portal.accounts.audit.origin import current_origin
from portal.accounts.audit.record import made
from portal.accounts.models import AuditEntry, User

MINUTE = 60
MAX_KINDS = 200  # that a process tells apart in one minute
OTHERS = "too many different refusals to tell apart"
_SUMMED_UP_BY = (
    "action", "actor_id", "actor_name", "credential", "address", "target_kind", "target_id", "target_name", "after",
)  # fmt: skip


class _Counter:
    """What this process has refused and not written down yet, by kind; a kind is what `refused` was told."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.minute = 0
        self.kinds: set[Any] = set()  # of this minute
        self.waiting: dict[Any, AuditEntry] = {}

    def add(self, kind: Any, entry: Callable[[], AuditEntry]) -> None:
        """One more of `kind`; `entry` makes the first of it. So most of a flood costs a look into a table."""
        minute = int(time.time()) // MINUTE
        with self.lock:
            if minute != self.minute:
                self.minute, self.kinds = minute, set()
            if kind not in self.kinds and len(self.kinds) >= MAX_KINDS:
                kind, entry = OTHERS, _others
            self.kinds.add(kind)
            place = (minute, kind)
            if known := self.waiting.get(place):
                known.count += 1
                return
            fresh = self.waiting[place] = entry()
            fresh.alike = _alike(fresh, minute)

    def take(self) -> dict[Any, AuditEntry]:
        with self.lock:
            taken, self.waiting = self.waiting, {}
        return taken

    def put_back(self, entries: dict[Any, AuditEntry]) -> None:
        with self.lock:
            for place, entry in entries.items():
                if known := self.waiting.get(place):
                    known.count += entry.count
                else:
                    self.waiting[place] = entry


def _others() -> AuditEntry:
    return AuditEntry(action="request.refused", outcome=AuditEntry.Outcome.REFUSED, after={"others": OTHERS})


_counter = _Counter()
# What is known of a refusal before it becomes an answer: `about` what, and whether it is counted already.
_request: ContextVar[dict[str, Any] | None] = ContextVar("audit_request", default=None)


def begin() -> dict[str, Any]:
    """A request begins, or a socket: what is refused from here on is noted in what this returns.

    `target`: what it was about; `counted`: `refused` was called already.
    """
    fresh: dict[str, Any] = {}
    _request.set(fresh)
    return fresh


def noted() -> dict[str, Any]:
    """What is noted of the request or socket that is looked at."""
    return _request.get() or {}


def about(target: models.Model) -> None:
    """Somebody is refused `target` now: they may not see it, or not do what they want with it."""
    if (current := _request.get()) is not None:
        current["target"] = target


def _alike(entry: AuditEntry, minute: int) -> str:
    kind = [minute, *(getattr(entry, name) for name in _SUMMED_UP_BY)]
    return hashlib.sha256(json.dumps(kind, sort_keys=True, default=str).encode()).hexdigest()


def refused(
    action: str,
    *,
    by: User | AnonymousUser | None,
    target: models.Model | None = None,
    after: Mapping[str, Any] | None = None,
    name: str = "",
    target_kind: str = "",
    address: str | None = None,
) -> None:
    """Count that somebody was refused; no database, so it may be called from anywhere, a coroutine too.

    `action`: `request.refused`, `user.sign_in_refused`… `after` says why, in few words that come again
    (`{"status": 403, "route": "api/crews/<uuid:pk>"}`): what is different in each request is not for it.
    The rest is as for `record`.
    """
    origin = current_origin()
    address = address or origin.address
    who = by.pk if isinstance(by, User) else None
    what = (target._meta.label, target.pk) if target is not None else (target_kind, name)
    kind = (action, who, origin.credential, address, what, repr(after))

    def entry() -> AuditEntry:
        return made(
            action,
            by=by,
            target=target,
            outcome=AuditEntry.Outcome.REFUSED,
            after=after,
            name=name,
            target_kind=target_kind,
            address=address,
        )

    if (current := _request.get()) is not None:
        current["counted"] = True
    _counter.add(kind, entry)
    keeper.wake()


def are_waiting() -> bool:
    return bool(_counter.waiting)


def flush() -> int:
    """Write down what was counted since the last time; how many rows were touched. Outside of any transaction.

    Raises `DatabaseError`, and then nothing is lost: it is written the next time.
    """
    waiting = _counter.take()
    for done, entry in enumerate(list(waiting.values())):
        try:
            _add(entry)
        except DatabaseError:
            _counter.put_back(dict(list(waiting.items())[done:]))
            raise
    return len(waiting)


def forget() -> None:
    """Count from nothing: in a fork, whose parent writes down what was counted until then."""
    global _counter
    _counter = _Counter()


os.register_at_fork(after_in_child=forget)


def _add(entry: AuditEntry) -> None:
    """Put a count into the row of its kind and minute; into a row of its own where that one is sealed already."""
    with transaction.atomic():
        same_kind = AuditEntry.objects.select_for_update().filter(alike=entry.alike)
        row = same_kind.first()
        if row is None:
            try:
                with transaction.atomic():
                    _insert(entry)
                return
            except IntegrityError:  # another process was as quick
                row = same_kind.get()
        if row.number is None:
            row.count += entry.count
            row.mac = sealing.mac_of(row)
            row.save(update_fields=["count", "mac"])
        else:
            entry.alike = None
            _insert(entry)


def _insert(entry: AuditEntry) -> None:
    entry.mac = sealing.mac_of(entry)
    entry.pk = None
    entry.save(force_insert=True)
