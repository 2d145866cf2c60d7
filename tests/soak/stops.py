"""Runs stopped at random moments: does the model hear nothing of them any more, and is what they made kept?"""

import random
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from tests.deadlines import DEADLINE, wait_for
from tests.fakes.llm import FakeLLM, Request
from tests.stack import Stack

LIMIT_SECONDS = 2.0  # from the stop to the last request that reaches the model
SHARE = 0.99
LISTEN_SECONDS = 3.0  # how long after the end of a run its requests are still looked for
AT_ONCE = 4
# About four seconds each if nobody stops it: one writes long answers, the other asks again and again.
CREWS = {
    "writing": {"tasks": 4, "agents": 4, "models": ["long-80@20", "long-60@20", "long-70@20", "long-60@20"]},
    "asking": {"tasks": 30, "agents": 3, "mode": "delay-60"},
}
DESCRIPTION = {"inputs": ["topic"], "description": "Write about {topic}."}
LONGEST_WAIT = 5.0


@dataclass(frozen=True)
class Stop:
    """One stopped run. Seconds count from the moment at which the stop was asked for."""

    execution: str
    after_kickoff: float
    last_request: float  # 0 when none came after the stop
    last_token: float  # when the model's server was done with the run's last answer
    stopped: float
    finished_tasks: int
    wrong: tuple[str, ...]

    @property
    def is_in_time(self) -> bool:
        return self.last_request <= LIMIT_SECONDS


def run(stack: Stack, fake: FakeLLM, n: int, seed: int) -> dict[str, Any]:
    """Stop `n` runs; returns what was seen, with `ok` for all of it. `seed` fixes the moments."""
    mark = uuid.uuid4().hex[:6]
    crews = stack.make_crews({f"{name} {mark}": {**crew, **DESCRIPTION} for name, crew in CREWS.items()})
    chance = random.Random(seed)
    stops: list[Stop] = []
    too_late = 0
    lock = threading.Lock()

    def one(plan: tuple[str, float]) -> None:
        nonlocal too_late
        found = _stop_one(stack, fake, *plan)
        with lock:
            if found is None:
                too_late += 1
            else:
                stops.append(found)

    stack.client()  # made before threads share it
    with ThreadPoolExecutor(AT_ONCE) as threads:
        while len(stops) < n:
            batch = min(n - len(stops), 5 * AT_ONCE)
            plans = [(chance.choice(list(crews.values())), chance.uniform(0, LONGEST_WAIT)) for _ in range(batch)]
            list(threads.map(one, plans))
            if too_late > 10 * n + 10:
                raise AssertionError(f"{too_late} runs ended before they could be stopped")
    left = _engines_left(stack)
    in_time = sum(stop.is_in_time for stop in stops)
    wrong = [f"{stop.execution}: {what}" for stop in stops for what in stop.wrong]
    ordered = sorted(stop.last_request for stop in stops)
    return {
        "name": "stops",
        "n": len(stops),
        "seed": seed,
        "in_time": in_time,
        "limit_seconds": LIMIT_SECONDS,
        "last_request_seconds": {"p50": ordered[len(ordered) // 2], "max": ordered[-1]},
        "last_token_seconds_max": max(stop.last_token for stop in stops),
        "stopped_seconds_max": max(stop.stopped for stop in stops),
        "with_finished_tasks": sum(stop.finished_tasks > 0 for stop in stops),
        "ended_before_the_stop": too_late,
        "engine_processes_left": left,
        "wrong": wrong,
        "slowest": [asdict(stop) for stop in sorted(stops, key=lambda stop: -stop.last_request)[:3]],
        "ok": in_time >= SHARE * len(stops) and not left and not wrong,
    }


def _stop_one(stack: Stack, fake: FakeLLM, crew: str, pause: float) -> Stop | None:
    """None when the run had ended by itself."""
    topic = f"subject-{uuid.uuid4().hex}"
    execution = stack.kickoff(crew, inputs={"topic": topic})
    time.sleep(pause)  # the random moment, not a wait for anything
    asked = time.time()
    answer = stack.request_stop(execution)
    if answer.status_code == 409:
        return None
    wrong = [] if answer.status_code == 202 else [f"the stop was answered with {answer.status_code}: {answer.text}"]
    ended = stack.wait_for_status(execution)
    stopped = time.time() - asked
    if ended["status"] == "completed":
        return None  # its last word was under way
    time.sleep(LISTEN_SECONDS)
    requests = _requests_of(fake, topic)
    wrong += _what_is_wrong(stack, execution, ended)
    finished = sum(task["status"] == "completed" for task in ended["tasks"])
    return Stop(
        execution=execution,
        after_kickoff=round(pause, 3),
        last_request=round(max((entry.at - asked for entry in requests if entry.at > asked), default=0.0), 3),
        last_token=round(max([0.0, *((entry.ended_at or time.time()) - asked for entry in requests)]), 3),
        stopped=round(stopped, 3),
        finished_tasks=finished,
        wrong=tuple(wrong + (["the model still writes"] if any(not entry.ended_at for entry in requests) else [])),
    )


def _requests_of(fake: FakeLLM, topic: str) -> list[Request]:
    return [entry for entry in list(fake.ledger) if topic in str(entry.body.get("messages"))]


def _what_is_wrong(stack: Stack, execution: str, ended: dict[str, Any]) -> list[str]:
    wrong = []
    if (ended["status"], ended["error_code"]) != ("stopped", "stopped_by_user"):
        wrong.append(f"it is {ended['status']} ({ended['error_code']})")
    types = [name for _, name in stack.events_of(execution)]
    if types[-1:] != ["execution.stopped"] or types.count("execution.stopped") != 1:
        wrong.append(f"its events end in {types[-3:]}")
    completed = types.count("task.completed")
    kept = [task for task in ended["tasks"] if task["status"] == "completed"]
    if len(kept) != completed:
        wrong.append(f"{completed} tasks had finished, {len(kept)} are kept")
    wrong += [
        f"the output of {task['name']} is lost"
        for task in kept
        if not task["output"] or task["output"] not in ended["final_output"]
    ]
    wrong += [f"{task['name']} is {task['status']}" for task in ended["tasks"] if task["status"] == "running"]
    return wrong


def _engines_left(stack: Stack) -> list[str]:
    def gone() -> bool:
        return not stack.engine_processes()

    try:
        wait_for(gone, "no engine process is left", deadline=DEADLINE / 6)
    except AssertionError:
        return [str(process) for process in stack.engine_processes()]
    return []
