"""Questions that a row of the table does not hold: about lists, about what a body refers to, about second lines.

Each is a function of an `Asker` that raises `AssertionError`; `probe` takes it into `PROBES`, once for each of
the values that it is given.
"""

from collections.abc import Callable
from typing import Any

from tests.matrix.asking import Asker

Probe = Callable[[Asker], None]
PROBES: dict[str, Probe] = {}


def probe(*values: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Take a function in, with each of `values` as its second argument; without any, as it is."""

    def take_in(function: Callable[..., None]) -> Callable[..., None]:
        name = f"probe: {function.__name__.replace('_', ' ')}"
        for value in values:
            PROBES[f"{name}: {getattr(value, 'address', value)}"] = lambda asker, value=value: function(asker, value)
        if not values:
            PROBES[name] = function
        return function

    return take_in
