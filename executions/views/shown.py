"""What the page of a run shows: its tasks, attempts, calls, limits and events, put together from the rows."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from django.db.models import Count, Max, Q, Sum
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _

from executions import budgets
from executions.models import Approval, Attempt, Budget, Execution, ExecutionEvent, LLMCall, TaskRun
from executions.status import Status

EVENTS = 200  # shown at once
CALLS = 200
REPLAYS = 200
GROUPS = {
    "runs": ("execution.",),
    "tasks": ("task.", "agent.", "approval.", "deliverable."),
    "llm": ("llm.",),
    "tools": ("tool.",),
    "log": ("log",),
}


# --- Tasks ------------------------------------------------------------------------------------


@dataclass
class Step:
    """A task of the run, with what its model calls used, its questions and the text that is arriving."""

    row: TaskRun
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    stream: LLMCall | None = None
    questions: list[Approval] = field(default_factory=list)

    @property
    def is_asking(self) -> bool:
        return any(question.status == Approval.Status.OPEN for question in self.questions)

    @property
    def answered(self) -> list[Approval]:
        return [question for question in self.questions if question.answered_by_id or question.answered_via]

    @property
    def version(self) -> str:
        """Changes when the rendered step changes; streamed text is not part of it."""
        stream = f"{self.stream.call_id}.{self.stream.status}" if self.stream else ""
        asked = ".".join(question.status for question in self.questions)
        return f"{self.row.status}.{self.row.attempt}.{self.calls}.{self.completion_tokens}.{stream}.{asked}"


def steps_of(run: Execution, task_runs: Iterable[TaskRun], questions: Iterable[Approval]) -> list[Step]:
    """The run's tasks in order. Two queries at most."""
    steps = {row.task: Step(row) for row in task_runs}
    for question in questions:
        if step := steps.get(question.task):
            step.questions.append(question)
    # As in the run's totals, a call counts once it has closed: until then its tokens are a guess.
    closed = run.llm_calls.exclude(status=LLMCall.Status.OPEN)
    used = closed.values("task").annotate(
        calls=Count("pk"), read=Sum("prompt_tokens"), written=Sum("completion_tokens")
    )
    for row in used:
        if step := steps.get(row["task"]):
            step.calls, step.prompt_tokens, step.completion_tokens = row["calls"], row["read"] or 0, row["written"] or 0
    running = [key for key, step in steps.items() if step.row.status == TaskRun.Status.RUNNING]
    if running:
        newest = run.llm_calls.filter(task__in=running).order_by().values("task").annotate(newest=Max("pk"))
        for call in LLMCall.objects.filter(pk__in=newest.values("newest")):
            steps[call.task].stream = call
    return list(steps.values())


# --- Attempts ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Try:
    """An attempt, why it came, and after which finished task it goes on."""

    row: Attempt
    why: str
    after: str
    is_cut_off: bool


def attempts_of(run: Execution, task_runs: Iterable[TaskRun]) -> list[Try]:
    """The attempts, newest first. One query."""
    rows = list(run.attempts.all())
    finished = sorted(
        (row for row in task_runs if row.status == TaskRun.Status.COMPLETED and row.ended_at),
        key=lambda row: (row.attempt, row.ended_at),
    )
    tries = []
    before: Attempt | None = None
    for row in rows:
        after = next((task.name for task in reversed(finished) if task.attempt < row.number), "")
        is_cut_off = row.outcome == Status.FAILED and row.number != run.restarted_attempt
        if row is rows[-1] and run.status == Status.FAILED:
            is_cut_off = False
        tries.append(Try(row, _why(run, before), after, is_cut_off))
        before = row
    return tries[::-1]


def _why(run: Execution, before: Attempt | None) -> str:
    """Why the attempt after `before` came."""
    if before is None:
        return ""
    if before.number == run.restarted_attempt:
        return _("Somebody started it again.")
    if before.outcome == Status.PAUSED:
        return _("It was resumed after a pause.")
    if before.outcome == Status.WAITING:
        return before.why or _("A person has answered.")
    return before.why


def last_finished(task_runs: Iterable[TaskRun]) -> str:
    """The task after which the next attempt goes on; empty when none has finished."""
    done = [(row.ended_at, row.name) for row in task_runs if row.status == TaskRun.Status.COMPLETED and row.ended_at]
    return max(done)[1] if done else ""


def next_try(run: Execution, tries: list[Try], task_runs: Iterable[TaskRun]) -> dict[str, Any] | None:
    """What is said about an attempt that comes again by itself: the reason, where it goes on, and when."""
    if run.status == Status.PENDING and tries and tries[0].is_cut_off:
        wait = (run.not_before - timezone.now()).total_seconds() if run.not_before else 0
        return {
            "number": run.attempt + 1,
            "why": tries[0].row.why,
            "after": last_finished(task_runs),
            "wait": max(0, round(wait)) if run.not_before else None,
        }
    if run.status == Status.RUNNING and len(tries) > 1 and tries[1].is_cut_off:
        return {"number": run.attempt, "why": tries[0].why, "after": tries[0].after, "wait": None}
    return None


# --- Calls ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """A line of the table of model calls: a call, or an answer that came from the journal."""

    at: datetime
    task: str
    role: str
    model: str
    call: LLMCall | None


def calls_of(run: Execution, calls: list[LLMCall], names: Mapping[str, str]) -> list[Answer]:
    """Calls and replayed answers, newest first. A run whose first attempt still goes on was given none: no query."""
    lines = [Answer(call.opened_at, names.get(call.task, ""), call.role, call.model, call) for call in calls]
    if run.attempt > 1 or run.forked_from_id:
        replayed = ExecutionEvent.objects.filter(stream_id=run.stream_id, type="llm.replayed").order_by("-seq")
        lines += [
            Answer(event.at, names.get(event.task, ""), event.role, str(event.data.get("model", "")), None)
            for event in replayed[:REPLAYS]
        ]
        lines.sort(key=lambda line: line.at, reverse=True)
    return lines


# --- Limits -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gauge:
    """How much of a limit is used; without a limit there is nothing to fill."""

    unit: Literal["usd", "tokens"]
    spent: Decimal | int
    reserved: Decimal | int
    limit: Decimal | int | None

    @property
    def spent_percent(self) -> int:
        return self._percent(self.spent)

    @property
    def reserved_percent(self) -> int:
        return min(self._percent(self.spent + self.reserved), 100) - self.spent_percent

    @property
    def tone(self) -> str:
        used = self.spent_percent + self.reserved_percent
        return "danger" if self.spent_percent >= 100 else "warning" if used >= 80 else "accent"

    def _percent(self, value: Decimal | int) -> int:
        if self.limit is None:
            return 0
        if not value or not self.limit:
            return 0 if self.limit else 100
        return min(100, max(1, int(100 * value / self.limit)))


def gauges_of_run(run: Execution) -> list[Gauge]:
    """Money and tokens of a run."""
    return [
        Gauge("usd", run.cost_usd, run.reserved_usd, run.budget_usd),
        Gauge("tokens", run.prompt_tokens + run.completion_tokens, run.reserved_tokens, run.budget_tokens),
    ]


def gauges_of_project(run: Execution) -> list[Gauge]:
    """What limits the run together with the others of its project. No query for a run of no project."""
    found = budgets.of_access(run.access_id) if run.trigger == Execution.Trigger.PROJECT else []
    return [gauge for budget in found for gauge in gauges_of(budget)]


def gauges_of(budget: Budget) -> list[Gauge]:
    """What a budget limits."""
    both = [
        Gauge("usd", budget.spent_usd, budget.reserved_usd, budget.limit_usd),
        Gauge("tokens", budget.spent_tokens, budget.reserved_tokens, budget.limit_tokens),
    ]
    return [gauge for gauge in both if gauge.limit is not None]


# --- Events -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Log:
    """A piece of the event list, oldest first."""

    rows: list[ExecutionEvent]
    group: str
    last_seq: int  # of the stream as far as it was looked at
    has_earlier: bool

    @property
    def first_seq(self) -> int:
        return self.rows[0].seq if self.rows else 0


def log_of(request: HttpRequest, run: Execution) -> Log:
    """The events that `?group=`, `?after=` and `?before=` ask for. One query."""
    events = ExecutionEvent.objects.filter(stream_id=run.stream_id)
    group = request.GET.get("group", "")
    if group in GROUPS:
        wanted = Q()
        for start in GROUPS[group]:
            wanted |= Q(type__startswith=start)
        events = events.filter(wanted)
    else:
        group = ""
    after, before = _whole(request.GET.get("after")), _whole(request.GET.get("before"))
    if after is not None:
        rows = list(events.filter(seq__gt=after).order_by("seq")[:EVENTS])
        last = rows[-1].seq if len(rows) == EVENTS else max(run.stream.last_seq, after)
        return Log(rows, group, last, has_earlier=False)
    if before is not None:
        events = events.filter(seq__lt=before)
    rows = list(events.order_by("-seq")[: EVENTS + 1])
    return Log(rows[:EVENTS][::-1], group, run.stream.last_seq, has_earlier=len(rows) > EVENTS)


def _whole(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 18 else None


def groups() -> list[tuple[str, str]]:
    """The choices of the event list."""
    return [
        ("", _("All")),
        ("runs", _("Run")),
        ("tasks", _("Tasks")),
        ("llm", _("Models")),
        ("tools", _("Tools")),
        ("log", _("Log")),
    ]
