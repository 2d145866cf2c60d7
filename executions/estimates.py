"""What a run of a crew will probably take, from the crew's own history: money, tokens and time."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from statistics import median, quantiles
from typing import Any

from crews.models import Crew
from executions.models import Attempt, Execution
from executions.status import Status
from portal.accounts.models import User

NEWEST = 50  # so many runs are looked at
FEWEST = 3  # from fewer nothing is concluded
FEWEST_FOR_TENTHS = 10  # with fewer, the spread is from the smallest to the largest


@dataclass(frozen=True)
class Spread:
    """The middle of what was measured; `low` and `high` are its first and last tenth, or with few its ends."""

    median: Any
    low: Any
    high: Any


@dataclass(frozen=True)
class Estimate:
    """From `runs` completed runs; what is not known yet is None.

    `cost_usd` counts only runs whose calls all had a price. `seconds` is time at work: neither in the
    queue nor waiting for people.
    """

    runs: int
    cost_usd: Spread | None = None
    tokens: Spread | None = None
    seconds: Spread | None = None

    @property
    def is_known(self) -> bool:
        return self.tokens is not None


def of(crew: Crew, user: User) -> Estimate:
    """What the next run of `crew` will probably take, from the runs that `user` may see.

    Others' runs of a shared crew would tell what they cost. Two queries, however long its history is.
    """
    runs = (
        Execution.objects.visible_to(user)
        .filter(crew=crew, status=Status.COMPLETED, forked_from=None, forked_task="")
        .order_by("-created_at", "-id")
        .values_list("pk", "cost_usd", "unpriced_calls", "prompt_tokens", "completion_tokens")[:NEWEST]
    )
    rows = list(runs)
    if len(rows) < FEWEST:
        return Estimate(len(rows))
    seconds: dict[Any, float] = defaultdict(float)
    attempts = Attempt.objects.filter(execution__in=[row[0] for row in rows], ended_at__isnull=False)
    for execution, started, ended in attempts.values_list("execution_id", "started_at", "ended_at"):
        seconds[execution] += (ended - started).total_seconds() if ended else 0
    costs = [cost for _pk, cost, unpriced, _read, _written in rows if not unpriced]
    return Estimate(
        runs=len(rows),
        cost_usd=_spread(costs, lambda value: round(Decimal(value), 8)),
        tokens=_spread([read + written for *_rest, read, written in rows], round),
        seconds=_spread(list(seconds.values()), lambda value: round(value, 1)),
    )


def _spread(values: Sequence[Any], rounded: Any) -> Spread | None:
    if len(values) < FEWEST:
        return None
    low, high = min(values), max(values)
    if len(values) >= FEWEST_FOR_TENTHS:
        tenths = quantiles(values, n=10, method="inclusive")
        low, high = tenths[0], tenths[-1]
    return Spread(rounded(median(values)), rounded(low), rounded(high))
