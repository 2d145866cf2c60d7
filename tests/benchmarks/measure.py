"""Pairs, ratios and their uncertainty."""

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self, TypeVar

T = TypeVar("T")

BOOTSTRAPS = 4000


@dataclass(frozen=True)
class Result:
    """The last line of a benchmark. `low` and `high` bound `ratio` with 95 % confidence.

    `aim` is where we want to be, and its side of `limit` says which way is better: with an aim below the
    limit `ratio` is at most `limit` (`ok`: `high` is), with an aim above it at least (`ok`: `low` is).
    """

    name: str
    ratio: float
    low: float
    high: float
    aim: float
    limit: float
    n: int
    ok: bool

    @classmethod
    def judged(cls, name: str, ratio: float, bounds: tuple[float, float], *, aim: float, limit: float, n: int) -> Self:
        """A result whose worse side decides."""
        low, high = bounds
        return cls(name, ratio, low, high, aim, limit, n, ok=low >= limit if aim > limit else high <= limit)

    def as_json(self) -> dict[str, Any]:
        return {key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Pairs:
    """Seconds of ours and of the bare thing, measured by turns."""

    ours: list[float]
    bare: list[float]

    def summary(self) -> str:
        ours, bare = statistics.median(self.ours) * 1000, statistics.median(self.bare) * 1000
        return f"portal {ours:.1f} ms, bare {bare:.1f} ms (medians of {len(self.ours)} pairs)"


def interleaved(ours: Callable[[], float], bare: Callable[[], float], n: int, *, warm_up: int = 3) -> Pairs:
    """`n` pairs, the one first that was second before, so that a slow moment of the machine hits both."""
    for _ in range(warm_up):
        ours()
        bare()
    pairs = Pairs([], [])
    for index in range(n):
        turns = [(ours, pairs.ours), (bare, pairs.bare)]
        for measure, results in turns if index % 2 else reversed(turns):
            results.append(measure())
    return pairs


def ratio(name: str, pairs: Pairs, *, aim: float, limit: float) -> Result:
    """How many times the bare thing's time ours is: the ratio of the medians, with a bootstrap over pairs."""
    both = list(zip(pairs.ours, pairs.bare, strict=True))
    bounds = bootstrap(both, _ratio_of_medians)
    return Result.judged(name, _ratio_of_medians(both), bounds, aim=aim, limit=limit, n=len(both))


def share(name: str, pairs: Pairs, *, aim: float, limit: float) -> Result:
    """How much of the bare thing's rate ours is, where both did the same work."""
    return ratio(name, Pairs(pairs.bare, pairs.ours), aim=aim, limit=limit)


def _ratio_of_medians(pairs: Sequence[tuple[float, float]]) -> float:
    return statistics.median(ours for ours, _ in pairs) / statistics.median(bare for _, bare in pairs)


def bootstrap(samples: Sequence[T], statistic: Callable[[Sequence[T]], float]) -> tuple[float, float]:
    """The 95 % interval of a statistic of `samples`; the same samples give the same interval."""
    chance = random.Random(20)
    return interval([statistic(chance.choices(samples, k=len(samples))) for _ in range(BOOTSTRAPS)])


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 2.5 % and 97.5 % quantiles."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return ordered[round(0.025 * last)], ordered[round(0.975 * last)]
