"""Checking the audit log: every row's seals, the chain from its first row to its head, and the heads kept outside.

Reads the log once, some hundred rows at a time and without a long transaction, so that it takes the same
memory however long the log is and holds nobody up; what is sealed meanwhile at its end does no harm.
Rows are read as somebody may have left them who writes to the database with other tools than ours.
"""

import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.db import DatabaseError, connection
from django.utils import timezone

from portal.accounts.audit import heads, sealing
from portal.accounts.models import AuditEntry, AuditHead

CHUNK = 500
MAX_FAULTS = 100  # that are named; all are counted
SEALED_WITHIN = timedelta(minutes=10)
# What reading a row raises in which a column holds what it never could.
UNREADABLE = (ValueError, TypeError, AttributeError, OverflowError, DatabaseError)


@dataclass(frozen=True)
class Fault:
    """What is wrong. `number`: of the row (None: it has none, or it is about the whole)."""

    kind: str  # altered, deleted, inserted, moved, repeated, unreadable, head, cut_off, key
    number: int | None
    detail: str


@dataclass
class Report:
    """What a check found. `notes` are no faults: things to know."""

    rows: int = 0
    not_sealed: int = 0
    head: "heads.Head | None" = None
    faults: list[Fault] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        return not self.kinds

    def add(self, kind: str, number: Any, detail: str) -> None:
        self.kinds[kind] += 1
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(Fault(kind, number if isinstance(number, int) else None, detail))


def verify(*exported: heads.Head) -> Report:
    """Check the whole log, and that it still holds what `exported` heads say."""
    report = Report()
    # What is kept outside is read first: the log can only have grown since.
    outside = [*_outside(report), *exported]
    first = AuditHead.objects.filter(pk=1).first()
    chain_id = _chain_id(first, outside)
    last = _check_rows(report, chain_id)
    _check_head(report, first, chain_id, last)
    for head in outside:
        _check_outside(report, head, chain_id)
    _check_noted(report)
    _check_repeated(report)
    _check_waiting(report)
    report.head = heads.stored()
    return report


# --- The chain --------------------------------------------------------------------------------------


def _chain_id(row: AuditHead | None, outside: list[heads.Head]) -> uuid.UUID:
    """Which chain this is: the one under which its first row is right, where the database's own word is forged."""
    candidates = [*([row.chain_id] if row else []), *(head.chain_id for head in outside)]
    for entry in _read("number IS NOT NULL", "number", limit=1):
        if isinstance(entry, AuditEntry):
            for candidate in candidates:
                if sealing.same(entry.digest, sealing.digest_of(entry, chain_id=candidate, previous="")):
                    return candidate
    return candidates[0] if candidates else uuid.UUID(int=0)


def _check_rows(report: Report, chain_id: uuid.UUID) -> tuple[int, str]:
    """Walk along the chain; number and digest of its last row."""
    expected, previous = 1, ""
    knows_previous = True
    for entry in _read("number IS NOT NULL", "number"):
        report.rows += 1
        number = entry.number
        if not isinstance(number, int):
            report.add("unreadable", None, f"A row's number is no number: {number!r:.50}")
            continue
        if number > expected:
            missing = f"{expected}" if number == expected + 1 else f"{expected} to {number - 1}"
            report.add("deleted", expected, f"Missing: {missing}.")
            knows_previous = False
        elif number < expected:
            report.add("inserted", number, "There is more than one row of this number, or it is below 1.")
        if isinstance(entry, _Unreadable):
            report.add("unreadable", number, f"A column holds what it never could: {entry.why}")
            expected, knows_previous = number + 1, False
            continue
        is_said = sealing.same(entry.mac, sealing.mac_of(entry))
        if knows_previous or number == 1:
            is_chained = sealing.same(
                entry.digest, sealing.digest_of(entry, chain_id=chain_id, previous=previous if number > 1 else "")
            )
        else:
            is_chained = True  # what stood before it is gone: its own mac has to do
        if not is_said:
            report.add("altered", number, "It does not say what it said when it was written.")
        elif not is_chained:
            report.add("moved", number, "Its seal is not of this row at this place.")
        expected, previous, knows_previous = number + 1, entry.digest, True
    return expected - 1, previous


def _check_head(report: Report, first: AuditHead | None, chain_id: uuid.UUID, last: tuple[int, str]) -> None:
    now = AuditHead.objects.filter(pk=1).first()
    if now is None or first is None:
        if last[0] or now is not first:
            report.add("head", None, "The database does not say where the log ends.")
        return
    if now.chain_id != chain_id:
        report.add("head", None, "The database names another chain than its rows belong to.")
    if (first.number, first.digest) != _row(first.number):
        report.add("head", first.number, "The log does not end as the database says.")
    elif now.number < last[0] or (now.number == last[0] and now.digest != last[1]):
        report.add("head", now.number, f"The database says that the log ends here; its last row is {last[0]}.")


def _row(number: int) -> tuple[int, str | None]:
    if number == 0:
        return 0, ""
    return number, AuditEntry.objects.filter(number=number).values_list("digest", flat=True).first()


# --- Heads kept outside of the database --------------------------------------------------------------


def _outside(report: Report) -> list[heads.Head]:
    try:
        head = heads.kept()
    except heads.BadHead as exc:
        report.add("head", None, f"head.json: {exc}")
        return []
    if head is None:
        report.notes.append("No head of the log is kept on this machine: hold an exported one against it.")
        return []
    return [head]


def _check_outside(report: Report, head: heads.Head, chain_id: uuid.UUID) -> None:
    if head.chain_id != chain_id:
        report.add("cut_off", head.number, f"At {head.at} this was another log ({head.chain_id}).")
    elif (head.number, head.digest) != _row(head.number):
        report.add("cut_off", head.number, f"At {head.at} the log ended with this row; it is not there as it was.")


def _check_noted(report: Report) -> None:
    accepted = -1
    for position, head in enumerate(heads.noted()):
        if isinstance(head, heads.Head) and head.event == heads.ACCEPTED:
            accepted = position
            report.notes.append(f"At {head.at} somebody accepted the log as it stood, at {head.number}: {head.reason}")
    for position, head in enumerate(heads.noted()):
        if position <= accepted:
            continue
        if isinstance(head, heads.BadHead):
            report.add("head", None, f"heads.log, line {position + 1}: {head}")
        elif head.event == heads.CONFLICT:
            report.add("cut_off", head.number, f"At {head.at} the log ended with this row; later it did not hold it.")
        elif not heads.agrees(head):
            report.add("cut_off", head.number, f"At {head.at} the log ended with this row; it is not there as it was.")


# --- Rows that have no place in the chain yet, and rows that are there twice ---------------------------


def _check_waiting(report: Report) -> None:
    late = 0
    for entry in _read("number IS NULL", "id"):
        report.not_sealed += 1
        if isinstance(entry, _Unreadable):
            report.add("unreadable", None, f"A column of the row with id {entry.pk} holds what it never could.")
        elif not sealing.same(entry.mac, sealing.mac_of(entry)):
            report.add("altered", None, f"The row with id {entry.pk}, not sealed yet, does not say what it said.")
        else:
            late += entry.at < timezone.now() - SEALED_WITHIN
    if late:
        report.notes.append(f"{late} entries have waited long to be sealed: does a runner run?")


def _check_repeated(report: Report) -> None:
    """Entries that were put in again: only where the database's own rule was taken away. The database compares."""
    table = connection.ops.quote_name(AuditEntry._meta.db_table)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT MIN(number) FROM {table} GROUP BY uid HAVING COUNT(*) > 1 LIMIT %s",  # noqa: S608 - our own table
            [MAX_FAULTS],
        )
        for (number,) in cursor.fetchall():
            report.add("repeated", number, "It was put in again.")


# --- Reading -------------------------------------------------------------------------------------------


@dataclass
class _Unreadable:
    pk: Any
    number: Any
    why: str


def _read(where: str, order: str, *, limit: int | None = None) -> Iterator[AuditEntry | _Unreadable]:
    """The rows `where`, by `order` (and id), chunk by chunk; with values that are compared as they are stored."""
    table = connection.ops.quote_name(AuditEntry._meta.db_table)
    size = limit or CHUNK
    place: tuple[Any, Any] | None = None
    while True:
        beyond = f"AND ({order}, id) > (%s, %s)" if place else ""
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT {order}, id, number FROM {table} WHERE {where} {beyond} ORDER BY {order}, id LIMIT %s",  # noqa: S608
                [*(place or ()), size],
            )
            found = cursor.fetchall()
        yield from _entries([(pk, number) for _order, pk, number in found])
        if len(found) < size or limit:
            return
        place = found[-1][:2]


def _entries(found: list[tuple[Any, Any]]) -> Iterator[AuditEntry | _Unreadable]:
    try:
        entries = AuditEntry.objects.in_bulk([pk for pk, _number in found])
    except UNREADABLE:
        entries = {}
    for pk, number in found:
        try:
            entry = entries.get(pk) or AuditEntry.objects.get(pk=pk)
        except AuditEntry.DoesNotExist:
            continue  # deleted in this moment; where it stood is missed
        except UNREADABLE as exc:
            yield _Unreadable(pk, number, str(exc)[:200])
            continue
        if entry.number != number:
            yield _Unreadable(pk, number, "there is more than one row of this id")
        else:
            yield entry
