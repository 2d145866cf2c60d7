"""What happened in a schedule, as plain data: from the database, the watchers and the fake model's ledger."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.cast import MODES
from tests.chaos.database import Database, Row
from tests.fakes.llm import Request

# What a request may carry without being another request.
NOT_CANONICAL = {
    *("model", "stream", "stream_options", "user", "metadata", "seed"),
    *("max_tokens", "max_completion_tokens"),  # what a budget leaves
}
MARK = re.compile(r"mark-[0-9a-f]+-\d+\.")


@dataclass(frozen=True)
class Sent:
    """One request that reached the model. `is_good`: the model was well, and answered or would have."""

    n: int
    mark: str
    logical: str
    model: str
    is_good: bool
    is_gone: bool
    prompt_tokens: int
    completion_tokens: int


@dataclass
class FamilyFacts:
    """A planned run with its forks, and what people did to it."""

    mark: str
    crew: str
    action: str
    executions: list[str]
    kicked_off: list[str] = field(default_factory=list)
    stops: int = 0
    retries: int = 0
    wrong: list[str] = field(default_factory=list)


@dataclass
class History:
    """Everything the checker looks at. Ids of executions are hex."""

    families: list[FamilyFacts] = field(default_factory=list)
    executions: list[Row] = field(default_factory=list)
    attempts: list[Row] = field(default_factory=list)
    tasks: list[Row] = field(default_factory=list)
    approvals: list[Row] = field(default_factory=list)
    calls: list[Row] = field(default_factory=list)
    journal: list[Row] = field(default_factory=list)
    budgets: list[Row] = field(default_factory=list)
    events: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    seen: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    notebook: list[Row] = field(default_factory=list)
    requests: list[Sent] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    kills: dict[str, int] = field(default_factory=dict)
    in_flight: int = 0  # answers on their way when a gateway was killed
    leftovers: list[str] = field(default_factory=list)  # found by whoever played the schedule

    def of(self, rows: Iterable[Row], execution: str) -> list[Row]:
        return [row for row in rows if row["execution_id"] == execution]


def read(database: Database, families: list[FamilyFacts]) -> History:
    """The database's part of a history."""
    ids = sorted({execution for family in families for execution in family.executions})
    events: dict[str, list[dict[str, Any]]] = {execution: [] for execution in ids}
    for row in database.of("executions_executionevent", ids, "stream_id", order="stream_id, seq"):
        events[row["stream_id"]].append(_event(row))
    return History(
        families=families,
        executions=database.of("executions_execution", ids, "id"),
        attempts=database.of("executions_attempt", ids),
        tasks=database.of("executions_taskrun", ids),
        approvals=database.of("executions_approval", ids),
        calls=database.of("executions_llmcall", ids),
        journal=database.of("executions_journalentry", ids),
        budgets=database.rows("SELECT * FROM executions_budget"),
        events=events,
        notebook=database.notes(ids),
    )


def _event(row: Row) -> dict[str, Any]:
    data = row["data"]
    return {
        "seq": row["seq"],
        "type": row["type"],
        "attempt": row["attempt"],
        "task": row["task"],
        "role": row["role"],
        "data": json.loads(data) if isinstance(data, str) else data,
    }


def requests(ledger: Iterable[Request]) -> list[Sent]:
    """The fake model's ledger, each request told by its mark and its body."""
    found = []
    for entry in ledger:
        text = json.dumps(entry.body.get("messages"), ensure_ascii=False)
        mark = MARK.search(text)
        found.append(
            Sent(
                n=entry.n,
                mark=mark[0] if mark else "",
                logical=logical(entry.body),
                model=entry.model,
                is_good=entry.mode in MODES.values() and entry.status == 200,
                is_gone=entry.client_gone,
                prompt_tokens=entry.prompt_tokens,
                completion_tokens=entry.completion_tokens,
            )
        )
    return found


def logical(body: dict[str, Any]) -> str:
    """Two requests with the same value ask the same thing."""
    kept = {key: value for key, value in body.items() if key not in NOT_CANONICAL}
    text = json.dumps(kept, sort_keys=True, ensure_ascii=False)
    for n, name in enumerate(dict.fromkeys(re.findall(r'"(?:tool_call_)?id": "([^"]+)"', text))):
        text = text.replace(f'"{name}"', f'"call {n}"')
    return hashlib.sha256(text.encode()).hexdigest()[:16]
