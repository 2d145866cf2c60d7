"""Two runs side by side: what went in, what came out, what it took."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db.models import Count, Sum

from executions.engines.protocol import MANAGER_KEY
from executions.forks import AGENT_TEXTS, TASK_TEXTS
from executions.models import Execution, LLMCall, TaskRun
from portal.lib.differences import Piece, differences


@dataclass(frozen=True)
class Pair:
    """One thing of both runs. `pieces` lead from the left text to the right one, where both are texts that differ."""

    name: str
    left: Any
    right: Any

    @property
    def is_same(self) -> bool:
        return bool(self.left == self.right)

    @property
    def pieces(self) -> list[Piece]:
        if self.is_same or not (isinstance(self.left, str) and isinstance(self.right, str)):
            return []
        return differences(self.left, self.right)


@dataclass(frozen=True)
class Usage:
    """What a run or a task took. `cost_usd` leaves out `unpriced` calls; seconds are None before the start."""

    status: str
    seconds: float | None
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: Any = 0
    unpriced: int = 0


@dataclass(frozen=True)
class TaskPair:
    """A task of both runs, or of one: then the other side's `row`, texts and usage are None."""

    key: str
    name: str
    left: TaskRun | None
    right: TaskRun | None
    texts: list[Pair]
    output: Pair
    left_usage: Usage | None
    right_usage: Usage | None

    @property
    def is_same(self) -> bool:
        return self.output.is_same and all(text.is_same for text in self.texts)


@dataclass(frozen=True)
class Comparison:
    """Two runs, thing by thing."""

    left: Execution
    right: Execution
    inputs: list[Pair]
    tasks: list[TaskPair]
    output: Pair
    left_usage: Usage
    right_usage: Usage

    @property
    def is_same(self) -> bool:
        return (
            self.output.is_same and all(one.is_same for one in self.inputs) and all(one.is_same for one in self.tasks)
        )


@dataclass
class _Side:
    """What is read of one run: four queries, however many tasks it has."""

    run: Execution
    rows: dict[str, TaskRun] = field(init=False)
    tasks: dict[str, dict[str, Any]] = field(init=False)
    agents: dict[str, dict[str, Any]] = field(init=False)
    models: dict[str, str] = field(init=False)
    used: dict[str, dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        spec = self.run.snapshot.get("spec", {})
        self.rows = {row.task: row for row in self.run.task_runs.all()}
        self.tasks = {task["key"]: task for task in spec.get("tasks", ())}
        self.agents = {agent["key"]: agent for agent in spec.get("agents", ())}
        self.models = dict(self.run.role_models.values_list("key", "llm_model_id"))
        closed = self.run.llm_calls.exclude(status=LLMCall.Status.OPEN).order_by().values("task")
        sums = {"read": Sum("prompt_tokens"), "written": Sum("completion_tokens"), "cost": Sum("cost_usd")}
        self.used = {
            row["task"]: dict(row) for row in closed.annotate(calls=Count("pk"), priced=Count("cost_usd"), **sums)
        }

    def texts(self, key: str | None) -> dict[str, str]:
        """What a task's agent was told, and by which model it worked."""
        task = self.tasks.get(key or "", {})
        who = task.get("agent") or self.run.snapshot.get("spec", {}).get("manager") or MANAGER_KEY
        agent = self.agents.get(who, {})
        return {
            **{name: task.get(name, "") for name in TASK_TEXTS},
            **{name: agent.get(name, "") for name in AGENT_TEXTS},
            "model": self.models.get(who, "") if task else "",
        }

    def usage(self, row: TaskRun | None) -> Usage | None:
        if row is None:
            return None
        # An inherited task took nothing here: its times are the earlier run's.
        seconds = None if row.is_inherited else row.duration_seconds
        used = self.used.get(row.task)
        if used is None:
            return Usage(status=row.status, seconds=seconds)
        return Usage(
            status=row.status,
            seconds=seconds,
            calls=used["calls"],
            prompt_tokens=used["read"] or 0,
            completion_tokens=used["written"] or 0,
            cost_usd=used["cost"] or 0,
            unpriced=used["calls"] - used["priced"],
        )


def compare(left: Execution, right: Execution) -> Comparison:
    """`left` (the earlier, usually) and `right` side by side. Eight queries."""
    a, b = _Side(left), _Side(right)
    return Comparison(
        left=left,
        right=right,
        inputs=[Pair(name, left.inputs.get(name), right.inputs.get(name)) for name in left.inputs | right.inputs],
        tasks=[_task(a, b, *keys) for keys in _pairs(list(a.rows.values()), list(b.rows.values()))],
        output=Pair("final_output", left.final_output, right.final_output),
        left_usage=_usage(left),
        right_usage=_usage(right),
    )


def _usage(run: Execution) -> Usage:
    return Usage(
        status=run.status,
        seconds=run.duration_seconds,
        calls=run.llm_calls_count,
        prompt_tokens=run.prompt_tokens,
        completion_tokens=run.completion_tokens,
        cost_usd=run.cost_usd,
        unpriced=run.unpriced_calls,
    )


def _pairs(left: Sequence[TaskRun], right: Sequence[TaskRun]) -> list[tuple[str | None, str | None]]:
    """The keys of tasks that belong together: the same key, else (in runs of different crews) the same name."""
    rest = {row.task: row for row in right}
    found: list[tuple[str | None, str | None]] = []
    names = {row.name: row.task for row in right if row.task not in {other.task for other in left}}
    for row in left:
        match = row.task if row.task in rest else names.pop(row.name, None)
        rest.pop(match or "", None)
        found.append((row.task, match))
    return [*found, *((None, key) for key in rest)]


def _task(a: _Side, b: _Side, left: str | None, right: str | None) -> TaskPair:
    rows = a.rows.get(left or ""), b.rows.get(right or "")
    here, there = a.texts(left), b.texts(right)
    either = rows[0] or rows[1]
    assert either is not None  # noqa: S101 - a pair has at least one side
    return TaskPair(
        key=either.task,
        name=either.name,
        left=rows[0],
        right=rows[1],
        texts=[Pair(name, here[name], there[name]) for name in here],
        output=Pair("output", *(row.output if row else "" for row in rows)),
        left_usage=a.usage(rows[0]),
        right_usage=b.usage(rows[1]),
    )
