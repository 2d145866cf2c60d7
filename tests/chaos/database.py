"""What the scene's database says, and a notebook in it of every change that the checker must see.

The notebook (`chaos_notebook`) is filled by triggers: whoever writes, and however late, is noted in the
order of the row's own changes.
"""

import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from tests.deadlines import DEADLINE

Row = dict[str, Any]
# Of each table: the column that names the execution, what is noted, and which changes are worth a note.
WATCHED: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "executions_execution": (
        "id",
        ("status", "attempt", "lease_worker", "ended_at", "error_code", "cost_usd", "reserved_usd", "budget_usd"),
        ("status", "attempt", "lease_worker", "ended_at", "cost_usd", "reserved_usd"),
    ),
    "executions_attempt": (
        "execution_id",
        ("number", "worker", "ended_at", "outcome", "reason", "events_offset"),
        ("ended_at", "outcome", "reason", "worker", "number"),
    ),
    "executions_taskrun": ("execution_id", ("task", "status", "attempt"), ("status",)),
    "executions_approval": ("execution_id", ("task", "round", "status", "text", "feedback"), ("status", "text")),
    "executions_llmcall": (
        "execution_id",
        ("status", "prompt_tokens", "completion_tokens", "cost_usd"),
        ("status", "prompt_tokens", "completion_tokens", "cost_usd"),
    ),
    "executions_journalentry": ("execution_id", ("state", "holder", "attempt", "task"), ("state", "holder")),
}


class Database:
    """One connection that comes back after faults; safe to use from several threads."""

    def __init__(self, url: str, file: Path) -> None:
        self._url, self._file = url, file
        self._lock = threading.RLock()
        self._connection: Any = None

    @property
    def is_postgres(self) -> bool:
        return bool(self._url)

    def rows(self, query: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Rows as dictionaries; UUIDs as 32 hex digits, numbers as they are. Waits while the database is away."""
        end = time.monotonic() + DEADLINE
        while True:
            try:
                return self._ask(query, parameters)
            except (psycopg.OperationalError, sqlite3.OperationalError):
                self.close()
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def of(
        self, table: str, executions: Sequence[str], column: str = "execution_id", *, order: str = "id"
    ) -> list[Row]:
        """The rows of a table that belong to these executions (hex ids)."""
        if not executions:
            return []
        marks = ", ".join(["%s"] * len(executions))
        keys = [uuid.UUID(hex=key) if self.is_postgres else key for key in executions]
        return self.rows(f"SELECT * FROM {table} WHERE {column} IN ({marks}) ORDER BY {order}", keys)  # noqa: S608

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _ask(self, query: str, parameters: Sequence[object]) -> list[Row]:
        with self._lock:
            if self._connection is None:
                self._connection = self._connect()
            if self.is_postgres:
                cursor = self._connection.execute(query.encode(), parameters or None)
                found = cursor.fetchall() if cursor.description else []
            else:
                cursor = self._connection.execute(query.replace("%s", "?"), list(parameters))
                found = [dict(row) for row in cursor.fetchall()]
                self._connection.commit()
        return [{name: _plain(value) for name, value in row.items()} for row in found]

    def _connect(self) -> Any:
        if self.is_postgres:
            return psycopg.connect(self._url, autocommit=True, row_factory=dict_row, connect_timeout=5)
        lite = sqlite3.connect(self._file, timeout=DEADLINE, check_same_thread=False)
        lite.row_factory = sqlite3.Row
        return lite

    # --- The notebook ---------------------------------------------------------------------------

    def keep_notebook(self) -> None:
        """Make the notebook and the triggers that fill it."""
        key = "bigserial PRIMARY KEY" if self.is_postgres else "integer PRIMARY KEY AUTOINCREMENT"
        self.rows(f"CREATE TABLE chaos_notebook (id {key}, kind text, pk text, execution text, old text, new text)")
        for table, watched in WATCHED.items():
            for statement in self._triggers(table, *watched):
                self.rows(statement)

    def _triggers(self, table: str, owner: str, noted: Sequence[str], watched: Sequence[str]) -> list[str]:
        kind = table.removeprefix("executions_")
        build = "jsonb_build_object" if self.is_postgres else "json_object"

        def values(row: str) -> str:
            pairs = ", ".join(f"'{name}', {row}.{name}" for name in noted)
            text = "::text" if self.is_postgres else ""
            return f"{build}({pairs}){text}"

        def insert(old: str) -> str:
            hexed = f"replace(NEW.{owner}::text, '-', '')" if self.is_postgres else f"NEW.{owner}"
            pk = "NEW.id::text" if self.is_postgres else "NEW.id"
            return (
                "INSERT INTO chaos_notebook (kind, pk, execution, old, new) "  # noqa: S608
                f"VALUES ('{kind}', {pk}, {hexed}, {old}, {values('NEW')});"
            )

        different = "IS DISTINCT FROM" if self.is_postgres else "IS NOT"
        changed = " OR ".join(f"OLD.{name} {different} NEW.{name}" for name in watched)
        if not self.is_postgres:
            return [
                f"CREATE TRIGGER chaos_{kind}_i AFTER INSERT ON {table} BEGIN {insert('NULL')} END",
                f"CREATE TRIGGER chaos_{kind}_u AFTER UPDATE ON {table} WHEN {changed} "
                f"BEGIN {insert(values('OLD'))} END",
            ]
        body = "CREATE FUNCTION {0}() RETURNS trigger AS $$ BEGIN {1} RETURN NULL; END $$ LANGUAGE plpgsql"
        return [
            body.format(f"chaos_{kind}_i", insert("NULL")),
            body.format(f"chaos_{kind}_u", insert(values("OLD"))),
            f"CREATE TRIGGER chaos_{kind}_i AFTER INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION chaos_{kind}_i()",
            f"CREATE TRIGGER chaos_{kind}_u AFTER UPDATE ON {table} FOR EACH ROW WHEN ({changed}) "
            f"EXECUTE FUNCTION chaos_{kind}_u()",
        ]

    def notes(self, executions: Sequence[str]) -> list[Row]:
        """The notebook's pages about these executions, oldest first; `old` and `new` as dictionaries."""
        if not executions:
            return []
        marks = ", ".join(["%s"] * len(executions))
        found = self.rows(f"SELECT * FROM chaos_notebook WHERE execution IN ({marks}) ORDER BY id", list(executions))  # noqa: S608
        for row in found:
            row["old"] = json.loads(row["old"]) if row["old"] else None
            row["new"] = json.loads(row["new"])
        return found


def _plain(value: Any) -> Any:
    return value.hex if isinstance(value, uuid.UUID) else value
