"""The checker of histories finds what it looks for: one forged history for each thing that must not happen."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from tests.chaos import checker
from tests.chaos.history import FamilyFacts, History, Sent, logical

RUN = "a" * 32
MARK = "mark-1-0."
CALL = "00000000-0000-0000-0000-000000000001"


def event(seq: int, type_: str, /, *, attempt: int = 1, task: str = "", **data: Any) -> dict[str, Any]:
    return {"seq": seq, "type": type_, "attempt": attempt, "task": task, "role": "", "data": data}


def note(kind: str, old: dict[str, Any] | None, new: dict[str, Any], pk: str = RUN) -> dict[str, Any]:
    return {"id": 1, "kind": kind, "pk": pk, "execution": RUN, "old": old, "new": new}


def sent(n: int, **changes: Any) -> Sent:
    values: dict[str, Any] = {
        "n": n, "mark": MARK, "logical": f"request {n}", "model": "quick", "is_good": True, "is_gone": False,
        "prompt_tokens": 10, "completion_tokens": 5,
    }  # fmt: skip
    return Sent(**{**values, **changes})


def call(pk: int, **changes: Any) -> dict[str, Any]:
    values = {
        "id": pk, "call_id": f"{pk:032x}", "try_number": 1, "execution_id": RUN,
        "status": "completed", "model": "quick", "prompt_tokens": 10,
        "completion_tokens": 5, "is_estimated": False, "cost_usd": Decimal("0.000075"),
    }  # fmt: skip
    return {**values, **changes}


def attempt(number: int, ended: str | None) -> dict[str, Any]:
    return {"number": number, "worker": "a", "ended_at": ended, "outcome": "", "reason": "", "events_offset": 0}


def moved(status: str, number: int = 1, worker: str = "a") -> dict[str, Any]:
    return {"status": status, "attempt": number, "lease_worker": worker, "ended_at": None, "error_code": ""}


@pytest.fixture
def whole() -> History:
    """A run of one task, killed once, as it should be."""
    events = [
        event(1, "execution.queued", attempt=0),
        event(2, "execution.started"),
        event(3, "task.started", task="t"),
        event(4, "llm.started", task="t", call=CALL, **{"try": 1}),
        event(5, "llm.completed", task="t", call=CALL, latency_ms=5, **{"try": 1}),
        event(6, "execution.recovered"),
        event(7, "execution.started", attempt=2),
        event(8, "log", attempt=2, task="t", kind="note", message="Hello"),
        event(9, "task.completed", attempt=2, task="t", output="x"),
        event(10, "execution.completed", attempt=2),
    ]
    return History(
        families=[FamilyFacts(MARK, "steps", "", [RUN], [RUN])],
        executions=[
            {
                "id": RUN, "status": "completed", "attempt": 2, "lease_worker": "", "lease_until": None,
                "reserved_usd": Decimal(0), "reserved_tokens": 0, "prompt_tokens": 10, "completion_tokens": 5,
                "cost_usd": Decimal("0.000075"), "llm_calls_count": 1, "final_output": "x", "quarantine_reason": "",
                "error_code": "", "error_message": "",
            }
        ],
        attempts=[{"execution_id": RUN, "number": n, "ended_at": "then"} for n in (1, 2)],
        tasks=[{"execution_id": RUN, "task": "t", "status": "completed", "is_inherited": False, "position": 0}],
        calls=[call(1)],
        journal=[{"id": 1, "execution_id": RUN, "state": "done"}],
        events={RUN: events},
        seen={RUN: [{name: value for name, value in one.items() if name != "attempt" and value} for one in events]},
        notebook=[
            note("execution", moved("pending", 0, ""), moved("running")),
            note("attempt", None, attempt(1, None), "1"),
            note("attempt", attempt(1, None), attempt(1, "then"), "1"),
            note("execution", moved("running"), moved("pending", 1, "")),
            note("execution", moved("pending", 1, ""), moved("running", 2)),
            note("attempt", None, attempt(2, None), "2"),
        ],
        requests=[sent(1)],
        faults=["engine-kill"],
        kills={"engine": 1},
    )  # fmt: skip


def test_a_whole_history_has_no_violations(whole: History) -> None:
    assert checker.check(whole) == []


def _add_event(type_: str, /, **fields: Any) -> Callable[[History], None]:
    def forge(history: History) -> None:
        events = history.events[RUN]
        events.insert(-1, event(0, type_, **{"attempt": 2, **fields}))
        for seq, one in enumerate(events, 1):
            one["seq"] = seq
        history.seen = {}

    return forge


def _with(name: str, **changes: Any) -> Callable[[History], None]:
    return lambda history: getattr(history, name)[0].update(changes)


def _noted(*page: Any) -> Callable[[History], None]:
    return lambda history: history.notebook.append(note(*page))


def _without_note(history: History) -> None:
    history.families[0].crew = "noting"
    history.events[RUN][7]["data"] = {}


FORGED: dict[str, tuple[str, Callable[[History], None]]] = {
    "an attempt ends twice": ("ends_never_change", _noted("attempt", attempt(1, "then"), attempt(1, "later"), "1")),
    "a decision changes": ("ends_never_change", _noted("approval", {"status": "approved"}, {"status": "rejected"})),
    "a closed call changes": ("ends_never_change", _noted("llmcall", {"status": "completed"}, {"status": "failed"})),
    "a recorded answer is lost": ("ends_never_change", _noted("journalentry", {"state": "done"}, {"state": "lost"})),
    "a finished task undone": ("ends_never_change", _noted("taskrun", {"status": "completed"}, {"status": "failed"})),
    "two attempts live": ("one_live_attempt", _noted("attempt", None, attempt(3, None), "3")),
    "a move outside the table": ("moves_follow_the_table", _noted("execution", moved("completed"), moved("pending"))),
    "a fencing number given twice": (
        "moves_follow_the_table",
        _noted("execution", moved("pending", 3), moved("running", 2)),
    ),
    "a lease taken and kept": (
        "moves_follow_the_table", _noted("execution", moved("running", 2), moved("running", 2, "b")),
    ),
    "a run that runs for ever": ("all_is_at_rest", _with("executions", status="running")),
    "a lease at rest": ("all_is_at_rest", _with("executions", lease_worker="a")),
    "a reservation at rest": ("all_is_at_rest", _with("executions", reserved_tokens=1)),
    "an attempt without an end": ("all_is_at_rest", _with("attempts", ended_at=None)),
    "an open call": ("all_is_at_rest", _with("calls", status="open")),
    "an open journal entry": ("all_is_at_rest", _with("journal", state="open")),
    "an engine process left": ("all_is_at_rest", lambda history: history.leftovers.append("engine process 7")),
    "a run that fails of a kill": ("runs_survive", _with("executions", status="failed")),
    "a stop that nobody asked for": ("runs_survive", _with("executions", status="stopped")),
    "a gap": ("histories_have_no_gaps", lambda history: history.events[RUN].pop(3)),
    "a doubled number": ("histories_have_no_gaps", lambda history: history.events[RUN][3].update(seq=3)),
    "a missed event": ("watchers_saw_the_database", lambda history: history.seen[RUN].pop(3)),
    "an event seen twice": (
        "watchers_saw_the_database", lambda history: history.seen[RUN].insert(3, history.seen[RUN][3]),
    ),
    "another event seen": ("watchers_saw_the_database", lambda history: history.seen[RUN][3].update(type="log")),
    "a log that skips a move": ("logs_tell_what_happened", _add_event("execution.queued")),
    "a log that ends elsewhere": ("logs_tell_what_happened", _with("executions", status="paused")),
    "a late event of an old attempt": ("logs_tell_what_happened", _add_event("agent.started", attempt=1)),
    "work after the end": (
        "logs_tell_what_happened",
        lambda history: history.events[RUN].append(event(11, "agent.started", attempt=2)),
    ),
    "a call told twice": ("calls_are_told_once", _add_event("llm.completed", call=CALL, latency_ms=5, **{"try": 1})),
    "a call that never opened": (
        "calls_are_told_once", _add_event("llm.completed", call="d", latency_ms=5, **{"try": 1}),
    ),
    "a finished task starts again": ("no_finished_task_is_redone", _add_event("task.started", task="t")),
    "a task finished twice": ("no_finished_task_is_redone", _add_event("task.completed", task="t")),
    "a completed run with an open task": ("completed_runs_are_whole", _with("tasks", status="pending")),
    "a completed run without a result": ("completed_runs_are_whole", _with("executions", final_output="")),
    "a note left twice": ("effects_happen_once", _add_event("log", task="t", kind="note", message="Hello")),
    "a note that is missing": ("effects_happen_once", _without_note),
    "an answer to nothing": ("effects_happen_once", _add_event("approval.answered", task="t", approval_id="q")),
    "two runs of one key": ("one_run_a_key", lambda history: history.families[0].kicked_off.append("b" * 32)),
    "an answer of the API that is wrong": (
        "one_run_a_key", lambda history: history.families[0].wrong.append("a kickoff was answered with 500"),
    ),
    "a call paid twice": (
        "no_call_is_paid_twice", lambda history: history.requests.append(sent(2, logical="request 1")),
    ),
    "a call that the model does not know": ("ledgers_agree", lambda history: history.calls.append(call(2))),
    "a call that nobody paid for": ("ledgers_agree", lambda history: history.requests.append(sent(2))),
    "a token too many": ("ledgers_agree", _with("calls", prompt_tokens=11)),
    "a wild estimate": ("ledgers_agree", _with("calls", is_estimated=True, prompt_tokens=10_000)),
    "a total that is no sum": ("ledgers_agree", _with("executions", prompt_tokens=11)),
    "more spent than the limit": (
        "nobody_overspends",
        _noted("execution", None, {**moved("running"), "cost_usd": 0.7, "reserved_usd": 0.4, "budget_usd": 1}),
    ),
    "a cost without its tokens": ("ledgers_agree", _with("calls", cost_usd=Decimal(1))),
}  # fmt: skip


@pytest.mark.parametrize("forged", FORGED)
def test_each_violation_is_found(whole: History, forged: str) -> None:
    rule, forge = FORGED[forged]
    forge(whole)
    assert [what for what in checker.check(whole) if what.startswith(rule)], checker.check(whole)


def test_every_rule_is_seen_to_fail() -> None:
    assert {rule for rule, _ in FORGED.values()} == {rule.__name__ for rule in checker.RULES}


def test_a_killed_gateway_may_repeat_a_call_once_for_each_kill(whole: History) -> None:
    whole.kills, whole.in_flight = {"gateway": 1}, 2
    again = [sent(2, logical="request 1", prompt_tokens=0, completion_tokens=0)]
    whole.requests += again
    assert checker.check(whole) == []
    whole.requests += again
    assert [what for what in checker.check(whole) if "repeated 2 times" in what]
    whole.in_flight = 0
    assert [what for what in checker.check(whole) if "2 requests were repeated, 0 answers" in what]


def test_the_model_may_be_asked_again_when_it_failed(whole: History) -> None:
    whole.requests.insert(0, sent(0, logical="request 1", is_good=False, prompt_tokens=0, completion_tokens=0))
    assert checker.check(whole) == []


def test_a_run_may_fail_when_its_model_does(whole: History) -> None:
    whole.executions[0]["status"] = "failed"
    whole.faults = ["model-500"]
    assert not list(checker.runs_survive(whole))


def test_a_request_is_the_same_whatever_its_model_and_its_calls_are_called() -> None:
    def body(model: str, name: str) -> dict[str, Any]:
        asked = {"id": name, "type": "function", "function": {"name": "f", "arguments": "{}"}}
        told = {"role": "tool", "tool_call_id": name, "content": "2"}
        return {"model": model, "stream": True, "messages": [{"role": "assistant", "tool_calls": [asked]}, told]}

    assert logical(body("a", "call_1")) == logical(body("b", "call_9"))
    other = body("a", "call_1")
    other["messages"][1]["content"] = "3"
    assert logical(other) != logical(body("a", "call_1"))
