"""Circles in who waits for whom."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crews.graph import find_cycle


@pytest.mark.parametrize(
    ("waits_for", "circle"),
    [
        ({}, set()),
        ({"a": ["b", "c"], "b": ["d"], "c": ["d"], "d": []}, set()),
        ({"a": ["a"]}, {"a"}),
        ({"a": ["b"], "b": ["c"], "c": ["b"]}, {"b", "c"}),
        ({"a": ["gone"]}, set()),
    ],
)
def test_circles(waits_for, circle):
    assert set(find_cycle(waits_for)) == circle


@given(st.dictionaries(st.integers(0, 8), st.lists(st.integers(0, 8), max_size=4), max_size=9))
def test_what_is_found_is_a_circle_and_what_is_not_can_be_sorted(waits_for):
    circle = find_cycle(waits_for)
    if circle:
        for key, following in zip(circle, [*circle[1:], circle[0]], strict=True):
            assert following in waits_for[key]
        return
    left = {key: set(before) & waits_for.keys() for key, before in waits_for.items()}
    while left:
        ready = [key for key, before in left.items() if not before]
        assert ready
        left = {key: before - set(ready) for key, before in left.items() if key not in ready}


def test_a_long_chain_is_no_problem():
    assert find_cycle({number: [number + 1] for number in range(20_000)}) == []
