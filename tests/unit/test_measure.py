"""The arithmetic of the benchmarks."""

import pytest

from tests.benchmarks.measure import Pairs, Result, bootstrap, interleaved, interval, ratio, share
from tests.benchmarks.portal import imported_by


def test_the_worse_side_of_the_interval_decides() -> None:
    steady = Pairs(ours=[2.0] * 20, bare=[1.0] * 20)
    assert ratio("steady", steady, aim=1, limit=2).ok
    wide = Pairs(ours=[1.0, 1.0, 1.0, 9.0, 9.0], bare=[1.0] * 5)
    found = ratio("wide", wide, aim=1, limit=2)
    assert (found.ratio, found.ok) == (1.0, False)
    assert found.low <= found.ratio <= found.high


def test_an_aim_above_the_limit_asks_for_at_least_the_limit() -> None:
    pairs = Pairs(ours=[2.0] * 20, bare=[1.0] * 20)
    assert (share("rate", pairs, aim=0.6, limit=0.5).ratio, share("rate", pairs, aim=0.6, limit=0.5).ok) == (0.5, True)
    assert not Result.judged("rate", 0.5, (0.4, 0.9), aim=0.6, limit=0.5, n=20).ok
    assert Result.judged("time", 0.5, (0.4, 0.5), aim=0.4, limit=0.5, n=20).ok


def test_pairs_are_measured_by_turns() -> None:
    order: list[str] = []
    pairs = interleaved(lambda: order.append("ours") or 1.0, lambda: order.append("bare") or 2.0, 4, warm_up=0)
    assert order == ["bare", "ours", "ours", "bare", "bare", "ours", "ours", "bare"]
    assert pairs == Pairs([1.0] * 4, [2.0] * 4)


def test_an_interval_leaves_out_the_extremes() -> None:
    assert interval(list(range(1001))) == pytest.approx((25, 975))
    assert bootstrap([1.0] * 10, max) == (1.0, 1.0)


def test_imports_are_read_from_what_python_writes() -> None:
    text = (
        "import time:       212 |        212 |   django.conf\nimport time: self [us] | cumulative | imported package\n"
    )
    assert imported_by(text + "2026 INFO x: import time of tea") == {"django.conf"}
