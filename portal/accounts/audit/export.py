"""The audit log as a file, CSV or one JSON object a line, chunk by chunk: the same memory however long it is."""

import csv
import io
import json
from collections.abc import AsyncIterator
from typing import Any

from channels.db import database_sync_to_async
from django.db.models import Max, QuerySet

from portal.accounts.models import AuditEntry

CHUNK = 500
COLUMNS = (
    "id", "number", "at", "action", "outcome", "count", "actor_id", "actor_name", "credential", "address", "user_agent",
    "target_kind", "target_id", "target_name", "before", "after", "digest",
)  # fmt: skip
# What spreadsheet programs take for a formula at the beginning of a cell (OWASP, "CSV Injection").
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "%", "＝", "＋", "－", "＠")


def facts(entry: AuditEntry) -> dict[str, Any]:
    """An entry as JSON values."""
    found = {name: getattr(entry, name) for name in COLUMNS}
    return {**found, "at": entry.at.isoformat(), "actor_id": str(entry.actor_id) if entry.actor_id else None}


async def rows(entries: "QuerySet[AuditEntry]", kind: str) -> AsyncIterator[bytes]:
    """`entries` from the oldest to the newest that there is now, as `csv` or `jsonl`."""
    if kind == "csv":
        yield _csv(COLUMNS)
    end, place = await database_sync_to_async(_end, thread_sensitive=False)(entries), 0
    while place < end:
        chunk = await database_sync_to_async(_read, thread_sensitive=False)(entries, place, end)
        if not chunk:
            return
        place = chunk[-1].pk
        yield b"".join(map(_as_csv if kind == "csv" else _as_json, chunk))


def _end(entries: "QuerySet[AuditEntry]") -> int:
    return entries.aggregate(end=Max("id"))["end"] or 0


def _read(entries: "QuerySet[AuditEntry]", after: int, end: int) -> list[AuditEntry]:
    return list(entries.filter(id__gt=after, id__lte=end).order_by("id")[:CHUNK])


def _as_json(entry: AuditEntry) -> bytes:
    return json.dumps(facts(entry), ensure_ascii=False).encode() + b"\n"


def _as_csv(entry: AuditEntry) -> bytes:
    values = facts(entry)
    return _csv([_cell(values[name]) for name in COLUMNS])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)
    return f"'{text}" if text.lstrip(" \u00a0\ufeff").startswith(_FORMULA) else text


def _csv(values: Any) -> bytes:
    line = io.StringIO()
    csv.writer(line).writerow(values)
    return line.getvalue().encode()
