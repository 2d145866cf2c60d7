"""What happens in one schedule: a handful of runs, what people do with them, and the faults beside them.

All of it is drawn from the schedule's own seed, so `--schedules 1 --seed <that>` plays it again. The
moments are the same then; what the machine makes of them is not, which is why a seed is played until
it fails again.
"""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

# How often each fault is drawn, beside the others. Those that cost a new warm host are the dear ones.
WEIGHTS = {
    "engine-kill": 10,
    "engine-freeze": 4,
    "runner-kill": 6,
    "runner-freeze": 5,
    "worker-kill": 2,
    "worker-freeze": 3,
    "host-kill": 2,
    "host-freeze": 2,
    "queue-kill": 2,
    "web-kill": 4,
    "web-freeze": 3,
    "gateway-kill": 6,
    "gateway-freeze": 4,
    "redis-restart": 3,
    "redis-flush": 3,
    "postgres-restart": 3,
    "postgres-terminate": 5,
    "postgres-exhaust": 2,
    "model-429": 3,
    "model-500": 3,
    "model-hang": 2,
    "model-broken": 3,
    "duplicate-kickoff": 3,
    "stop-race": 4,
    "disk-full": 2,
    "clock": 3,
    "big-output": 1,
    "event-flood": 2,
}
KILLS = ("engine-kill", "runner-kill", "worker-kill", "host-kill", "web-kill", "gateway-kill")
NEEDS_TEAM = {"redis-restart", "redis-flush", "postgres-restart", "postgres-terminate", "postgres-exhaust"}
# Crews of `cast`, and how often each is drawn.
CREWS = {
    "steps": 5,
    "beside": 4,
    "led": 2,
    "counting": 3,
    "noting": 4,
    "shimmed": 2,
    "asking": 4,
    "asking twice": 2,
    "long": 3,
}
WINDOW = 1.6  # seconds in which runs start and faults strike


@dataclass
class RunPlan:
    """One run and what people do with it. Moments are seconds since the schedule's start, or since the kickoff."""

    crew: str
    mark: str
    at: float
    priority: int = 5
    copies: int = 1  # kickoffs with one Idempotency-Key
    action: str = ""  # pause, pause at once, stop, stop and retry, budget, model, fork
    action_at: float = 0.0
    pause_for: float = 0.3
    answers: list[str] = field(default_factory=list)  # decisions, in the order of the questions
    racing: bool = False  # answers come twice at once, and differ


@dataclass
class FaultPlan:
    name: str
    at: float
    lasts: float
    pick: float  # of several victims, which


@dataclass
class Schedule:
    seed: int
    runs: list[RunPlan]
    faults: list[FaultPlan]

    def describe(self) -> dict[str, Any]:
        return asdict(self)


def seeds(seed: int, count: int) -> list[int]:
    """The seed of each schedule: the given one first, so that a printed seed is played again as it was."""
    chance = random.Random(seed)
    return [seed, *(chance.randrange(1, 10**9) for _ in range(count - 1))]


def draw(
    seed: int, *, team: bool, only: Sequence[str] = (), faults: int | None = None, only_kills: bool = False
) -> Schedule:
    """The schedule of a seed. `team`: there are PostgreSQL, Redis and two workers to hit; `only`: no other faults."""
    chance = random.Random(f"schedule {seed}")
    names = list(only or (KILLS if only_kills else [name for name in WEIGHTS if team or name not in NEEDS_TEAM]))
    count = faults or chance.choices((1, 2, 3, 4), (5, 4, 2, 1))[0]
    chosen = chance.choices(names, [WEIGHTS[name] for name in names], k=count)
    plans = [
        FaultPlan(name, round(chance.uniform(0.1, WINDOW), 3), round(_lasting(chance, name), 3), chance.random())
        for name in chosen
    ]
    runs = [_run(chance, f"{seed:x}-{n}", plain=only_kills) for n in range(chance.randint(3, 5))]
    if any(plan.name == "stop-race" for plan in plans):
        runs[0].action = "stop race"
    if any(plan.name == "duplicate-kickoff" for plan in plans):
        runs[-1].copies = 100
    return Schedule(seed, runs, sorted(plans, key=lambda plan: plan.at))


def _lasting(chance: random.Random, name: str) -> float:
    """How long a fault goes on: some freezes outlast a lease (5 s), so that a late worker comes back."""
    if name in {"runner-freeze", "worker-freeze"}:
        return chance.choice([0.5, 1.0, 7.0])
    if name.endswith("-freeze"):
        return chance.uniform(0.3, 2.5)
    if name == "clock":
        return chance.choice([-3600.0, 3600.0])  # seconds that it is wrong by
    return chance.uniform(0.2, 1.0)


def _run(chance: random.Random, mark: str, *, plain: bool) -> RunPlan:
    crew = chance.choices(list(CREWS), list(CREWS.values()))[0]
    actions = ["", "pause", "pause at once", "stop", "stop and retry", "budget", "model", "fork"]
    action = "" if plain else chance.choices(actions, (10, 2, 2, 1, 2, 2, 1, 2))[0]
    return RunPlan(
        crew=crew,
        mark=f"mark-{mark}.",
        at=round(chance.uniform(0, 0.5), 3),
        priority=chance.randint(1, 9),
        action=action,
        action_at=round(chance.uniform(0.1, 1.5), 3),
        pause_for=round(chance.uniform(0.0, 0.8), 3),
        answers=[*chance.choices(["approve", "edit", "reject"], (4, 2, 2), k=2), "approve"],
        racing=chance.random() < 0.4,
    )
