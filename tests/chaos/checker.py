"""What must hold of every history, whatever was killed: each function names the violations of one invariant.

The table of moves stands here again, in its own words: a checker that took it from the product would
permit whatever the product does.
"""

import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

from tests.chaos.history import FamilyFacts, History

MOVES = {
    "pending": {"running", "stopped", "failed"},
    "running": {"completed", "failed", "stopped", "waiting", "paused", "pending"},
    "waiting": {"pending", "stopped", "failed"},
    "paused": {"pending", "stopped", "failed"},
    "failed": {"pending"},
    "stopped": {"pending"},
    "completed": set(),
}
ENDED = {"completed", "failed", "stopped"}
AT_REST = {*ENDED, "waiting", "paused"}
STATUS_OF = {
    "execution.queued": "pending",
    "execution.recovered": "pending",
    "execution.resumed": "pending",
    "execution.started": "running",
    "execution.paused": "paused",
    "execution.waiting": "waiting",
    "execution.completed": "completed",
    "execution.failed": "failed",
    "execution.stopped": "stopped",
}
PRICE_IN, PRICE_OUT = Decimal("2.5") / 1_000_000, Decimal(10) / 1_000_000
NOTES = 2  # the first tasks of the crew `noting` leave a note each
# Of these a run may fail; whatever else happens, it survives.
MAY_FAIL = {"model-429", "model-500", "model-hang", "model-broken", "disk-full", "big-output", "event-flood"}
Violations = Iterator[str]


def check(history: History) -> list[str]:
    """Every violation of a history, in words; empty when all holds."""
    return [f"{rule.__name__}: {what}" for rule in RULES for what in rule(history)]


# --- Attempts and moves -----------------------------------------------------------------------------


def ends_never_change(history: History) -> Violations:
    """How an attempt ended, a decision, a closed call, a recorded answer and a finished task stay as they are."""
    closed: dict[str, Callable[[dict[str, Any]], bool]] = {
        "attempt": lambda old: old["ended_at"] is not None,
        "approval": lambda old: old["status"] != "open",
        "llmcall": lambda old: old["status"] != "open",
        "journalentry": lambda old: old["state"] == "done",
        "taskrun": lambda old: old["status"] == "completed",
    }
    for note in history.notebook:
        is_closed = closed.get(note["kind"])
        if is_closed and note["old"] and is_closed(note["old"]):
            yield f"{note['kind']} {note['pk']} of {note['execution']} changed from {note['old']} to {note['new']}"


def one_live_attempt(history: History) -> Violations:
    live: dict[str, set[str]] = defaultdict(set)
    for note in history.notebook:
        if note["kind"] != "attempt":
            continue
        now = live[note["execution"]]
        (now.discard if note["new"]["ended_at"] else now.add)(note["pk"])
        if len(now) > 1:
            yield f"{note['execution']} has live attempts {sorted(now)}"


def moves_follow_the_table(history: History) -> Violations:
    taken: set[str] = set()
    for note in history.notebook:
        if note["kind"] != "execution" or not note["old"]:
            continue
        old, new = note["old"], note["new"]
        if all(old[name] == new[name] for name in ("status", "attempt", "lease_worker")):
            continue
        if old["status"] != new["status"] and new["status"] not in MOVES[old["status"]]:
            yield f"{note['pk']} moved from {old['status']} to {new['status']}"
        if new["attempt"] != old["attempt"] and (new["attempt"], new["status"]) != (old["attempt"] + 1, "running"):
            yield f"{note['pk']} went from attempt {old['attempt']} to {new['attempt']} as {new['status']}"
        taken.discard(note["pk"])
        # An expired lease is taken over for one purpose: to put the run back into the queue.
        if new["status"] == old["status"] == "running" and new["lease_worker"] != old["lease_worker"]:
            taken.add(note["pk"])
    yield from (f"{pk} was taken over and never put back" for pk in sorted(taken))


def all_is_at_rest(history: History) -> Violations:
    """Nothing runs or waits to run, nothing is under way, nothing is reserved."""
    for row in history.executions:
        if row["status"] not in AT_REST:
            yield f"{row['id']} is {row['status']}"
        if row["lease_worker"] or row["lease_until"]:
            yield f"{row['id']} is {row['status']} and has a lease"
        if row["reserved_usd"] or row["reserved_tokens"]:
            yield f"{row['id']} still reserves {row['reserved_usd']} US$, {row['reserved_tokens']} tokens"
    for budget in history.budgets:
        if budget["reserved_usd"] or budget["reserved_tokens"]:
            yield f"budget {budget['id']} still reserves {budget['reserved_usd']} US$"
    for attempt in history.attempts:
        if attempt["ended_at"] is None:
            yield f"attempt {attempt['number']} of {attempt['execution_id']} never ended"
    for call in history.calls:
        if call["status"] == "open":
            yield f"call {call['id']} of {call['execution_id']} is open"
    for entry in history.journal:
        if entry["state"] == "open":
            yield f"journal entry {entry['id']} of {entry['execution_id']} is open"
    yield from history.leftovers


def runs_survive(history: History) -> Violations:
    """A run fails only of what may fail a run, or after it was given up in plain words."""
    if MAY_FAIL & set(history.faults):
        return
    stopped = {execution for family in history.families if family.stops for execution in family.executions}
    for row in history.executions:
        if row["status"] == "failed" and not row["quarantine_reason"]:
            yield f"{row['id']} failed: {row['error_code']} {row['error_message']}"
        if row["status"] == "stopped" and row["id"] not in stopped:
            yield f"{row['id']} was stopped, and nobody asked for it"


# --- Events -----------------------------------------------------------------------------------------


def histories_have_no_gaps(history: History) -> Violations:
    for execution, events in history.events.items():
        seqs = [event["seq"] for event in events]
        if seqs != list(range(1, len(seqs) + 1)):
            yield f"{execution} has events {_ranges(seqs)}"


def watchers_saw_the_database(history: History) -> Violations:
    for execution, seen in history.seen.items():
        seqs = [event["seq"] for event in seen]
        if seqs != sorted(set(seqs)):
            yield f"{execution}: events came double or out of order: {seqs}"
        stored = {event["seq"]: event for event in history.events.get(execution, ())}
        if lost := sorted(set(stored) - set(seqs)):
            yield f"{execution}: the watcher missed {_ranges(lost)} of {len(stored)}"
        for event in seen:
            there = stored.get(event["seq"])
            if there is None or any(
                (event.get(name) or "") != (there[name] or "") for name in ("type", "task", "data")
            ):
                yield f"{execution}: the watcher saw {event}, stored is {there}"
                break


def logs_tell_what_happened(history: History) -> Violations:
    """The log's moves are those of the table, and lead to where the execution is; ended runs rest."""
    where = {row["id"]: row for row in history.executions}
    for execution, events in history.events.items():
        status, attempt = "", 0
        for event in events:
            new = STATUS_OF.get(event["type"])
            if new and status and new not in MOVES[status]:
                yield f"{execution}: the log goes from {status} to {new} at {event['seq']}"
            if (
                new is None
                and status in ENDED
                and event["type"].startswith(("task.", "agent.", "tool.", "llm.started"))
            ):
                yield f"{execution}: {event['type']} at {event['seq']}, after it was {status}"
            status = new or status
            if new == "running":
                attempt += 1
                if event["attempt"] != attempt:
                    yield f"{execution}: attempt {event['attempt']} started after attempt {attempt - 1}"
            elif event["type"].startswith(("task.", "agent.", "tool.")) and event["attempt"] not in {0, attempt}:
                yield f"{execution}: {event['type']} of attempt {event['attempt']} during attempt {attempt}"
        row = where.get(execution)
        if row and (status, attempt) != (row["status"], row["attempt"]):
            yield f"{execution} is {row['status']} at attempt {row['attempt']}; its log says {status}, {attempt}"


def calls_are_told_once(history: History) -> Violations:
    """Each try is opened in the log as often as it has rows (a decision and its answer share one call), and closed."""
    for execution, events in history.events.items():
        stored = Counter(
            (_dashed(call["call_id"]), call["try_number"]) for call in history.of(history.calls, execution)
        )
        opened, closed = Counter[Any](), Counter[Any]()
        for event in events:
            one = (event["data"].get("call"), event["data"].get("try"))
            if event["type"] == "llm.started":
                opened[one] += 1
            elif event["type"] in {"llm.completed", "llm.failed"} and "latency_ms" in event["data"]:
                closed[one] += 1  # what was refused before it was sent has no row and took no time
        for one in sorted(set(opened) | set(closed) | set(stored), key=str):
            if opened[one] != stored[one] or closed[one] > opened[one]:
                told = f"opened {opened[one]} and closed {closed[one]} times"
                yield f"{execution}: call {one} was {told} in the log, the ledger has {stored[one]}"


def no_finished_task_is_redone(history: History) -> Violations:
    for execution, events in history.events.items():
        finished: set[str] = set()
        for event in events:
            if event["type"] == "task.completed":
                if event["task"] in finished:
                    yield f"{execution}: task {event['task']} was finished twice"
                finished.add(event["task"])
            elif event["type"] in {"task.started", "llm.started", "tool.started"} and event["task"] in finished:
                yield f"{execution}: {event['type']} at {event['seq']} of task {event['task']}, which was finished"


def completed_runs_are_whole(history: History) -> Violations:
    for row in history.executions:
        if row["status"] != "completed":
            continue
        tasks = history.of(history.tasks, row["id"])
        if open_tasks := [task["task"] for task in tasks if task["status"] != "completed"]:
            yield f"{row['id']} is completed, its tasks {open_tasks} are not"
        told = {event["task"] for event in history.events[row["id"]] if event["type"] == "task.completed"}
        if silent := [task["task"] for task in tasks if not task["is_inherited"] and task["task"] not in told]:
            yield f"{row['id']} is completed, and its log does not tell of {silent}"
        if not row["final_output"]:
            yield f"{row['id']} is completed without a result"


# --- Once -------------------------------------------------------------------------------------------


def effects_happen_once(history: History) -> Violations:
    noting = {execution for family in history.families if family.crew == "noting" for execution in family.executions}
    where = {row["id"]: row["status"] for row in history.executions}
    for execution, events in history.events.items():
        notes = Counter(
            event["task"] for event in events if event["type"] == "log" and event["data"].get("kind") == "note"
        )
        yield from (f"{execution}: task {task} left {count} notes" for task, count in notes.items() if count > 1)
        if execution in noting and where[execution] == "completed":
            own = [task for task in history.of(history.tasks, execution) if not task["is_inherited"]]
            must = [task["task"] for task in own if task["position"] < NOTES]
            yield from (f"{execution}: task {task} left no note" for task in must if not notes[task])
        asked = Counter(event["data"].get("approval_id") for event in events if event["type"] == "approval.requested")
        answered = Counter(event["data"].get("approval_id") for event in events if event["type"] == "approval.answered")
        approvals = history.of(history.approvals, execution)
        yield from (f"{execution}: question {one} was answered {n} times" for one, n in answered.items() if n > 1)
        yield from (f"{execution}: question {one} was asked {n} times" for one, n in asked.items() if n > 1)
        if len(asked) != len(approvals):
            yield f"{execution}: the log asks {len(asked)} questions, the database has {len(approvals)}"
        decided = [row for row in approvals if row["status"] in {"approved", "edited", "rejected"}]
        if len(answered) != len(decided):
            yield f"{execution}: the log has {len(answered)} answers, the database {len(decided)}"


def one_run_a_key(history: History) -> Violations:
    for family in history.families:
        if len(family.kicked_off) > 1:
            yield f"{family.mark} was started {len(family.kicked_off)} times with one key: {family.kicked_off}"
        yield from (f"{family.mark}: {what}" for what in family.wrong)


def repeats(history: History) -> dict[tuple[str, str], int]:
    """How often each request was carried out once more although the model had been well: by mark and request."""
    stopped = {family.mark for family in history.families if family.stops}
    counts: Counter[tuple[str, str]] = Counter()
    for sent in history.requests:
        cancelled = sent.is_gone and sent.mark in stopped  # a person stopped it
        if sent.is_good and not cancelled:
            counts[sent.mark, sent.logical] += 1
    return {key: count - 1 for key, count in counts.items() if count > 1}


def no_call_is_paid_twice(history: History) -> Violations:
    """Only a killed gateway may lose answers, those on their way: each is asked for once more at most a kill."""
    allowed = history.kills.get("gateway", 0)
    if (total := sum(repeats(history).values())) > history.in_flight:
        yield f"{total} requests were repeated, {history.in_flight} answers were on their way as a gateway was killed"
    for (mark, logical), count in repeats(history).items():
        if count > allowed:
            numbers = [sent.n for sent in history.requests if (sent.mark, sent.logical) == (mark, logical)]
            yield f"{mark}: request {logical} was repeated {count} times (model's requests {numbers})"


# --- Money ------------------------------------------------------------------------------------------


def ledgers_agree(history: History) -> Violations:
    """Every row is a request that the model saw, to the token; estimates are within bounds; totals are sums."""
    for family in history.families:
        yield from _family_agrees(history, family)
    for row in history.executions:
        calls = history.of(history.calls, row["id"])
        for total, values in (
            ("prompt_tokens", [call["prompt_tokens"] for call in calls]),
            ("completion_tokens", [call["completion_tokens"] for call in calls]),
            ("cost_usd", [Decimal(str(call["cost_usd"] or 0)) for call in calls]),
            ("llm_calls_count", [1 for _ in calls]),
        ):
            if abs(Decimal(str(row[total])) - sum(values)) > Decimal("1e-7"):
                yield f"{row['id']}: {total} is {row[total]}, its calls say {sum(values)}"
        for call in calls:
            cost = call["prompt_tokens"] * PRICE_IN + call["completion_tokens"] * PRICE_OUT
            if call["status"] != "open" and abs(Decimal(str(call["cost_usd"] or 0)) - cost) > Decimal("2e-8"):
                yield f"call {call['id']} cost {call['cost_usd']}, its tokens say {cost}"


def nobody_overspends(history: History) -> Violations:
    """At no moment had a run spent and reserved more than its limit."""
    for note in history.notebook:
        if note["kind"] == "execution" and note["new"].get("budget_usd") is not None:
            spent, reserved, limit = (Decimal(str(note["new"][n])) for n in ("cost_usd", "reserved_usd", "budget_usd"))
            if spent + reserved > limit + Decimal("1e-8"):
                yield f"{note['pk']} has spent {spent} and reserved {reserved} of {limit} US$"


def _family_agrees(history: History, family: FamilyFacts) -> Violations:
    calls = [call for call in history.calls if call["execution_id"] in family.executions]
    sent = [entry for entry in history.requests if entry.mark == family.mark]
    exact = Counter(
        (call["model"], call["prompt_tokens"], call["completion_tokens"])
        for call in calls
        if not call["is_estimated"] and call["prompt_tokens"] + call["completion_tokens"]
    )
    theirs = Counter(
        (entry.model, entry.prompt_tokens, entry.completion_tokens)
        for entry in sent
        if entry.prompt_tokens + entry.completion_tokens
    )
    estimated = [call for call in calls if call["is_estimated"]]
    if unknown := exact - theirs:
        yield f"{family.mark}: the model knows nothing of {dict(unknown)}"
    unpaid = theirs - exact
    if unpaid.total() > len(estimated):
        yield f"{family.mark}: nobody paid for {dict(unpaid)} ({len(estimated)} estimates)"
    most_read = max((entry.prompt_tokens for entry in sent), default=0)
    most_written = max((entry.completion_tokens for entry in sent), default=0)
    for call in estimated:
        read, written = call["prompt_tokens"], call["completion_tokens"]
        if read > 3 * most_read + 200 or written > 3 * most_written + 200:
            yield f"{family.mark}: call {call['id']} is estimated at {read} + {written} tokens"


def _dashed(key: str) -> str:
    return str(uuid.UUID(hex=key))


def _ranges(seqs: list[int]) -> str:
    return f"{seqs[:5]}…{seqs[-5:]} ({len(seqs)})" if len(seqs) > 12 else str(seqs)


RULES: tuple[Callable[[History], Violations], ...] = (
    ends_never_change,
    one_live_attempt,
    moves_follow_the_table,
    all_is_at_rest,
    runs_survive,
    histories_have_no_gaps,
    watchers_saw_the_database,
    logs_tell_what_happened,
    calls_are_told_once,
    no_finished_task_is_redone,
    completed_runs_are_whole,
    effects_happen_once,
    one_run_a_key,
    no_call_is_paid_twice,
    ledgers_agree,
    nobody_overspends,
)
