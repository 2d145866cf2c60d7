"""What changed between two texts, for people to see."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

Kind = Literal["same", "added", "removed"]
# Beyond these a changed part is shown as a whole: comparing takes longer the more there is, and the more often
# the same stands in it.
MOST_LINES = 2_000
MOST_WORDS = 600
MOST_STEPS = 10_000_000  # a second or two at worst
MOST_STEPS_IN_ALL = 3 * MOST_STEPS
_WORDS = re.compile(r"\s+|\w+|[^\w\s]")


@dataclass(frozen=True)
class Piece:
    """A stretch of text that is in both, only in the new, or only in the old."""

    kind: Kind
    text: str


@dataclass
class Effort:
    """How much comparing may still take, of one text or of several that are shown together."""

    left: int = MOST_STEPS_IN_ALL

    def takes(self, steps: int) -> bool:
        """Take up `steps`; False when they are too many."""
        if steps > min(self.left, MOST_STEPS):
            return False
        self.left -= steps
        return True


def differences(old: str, new: str, effort: Effort | None = None) -> list[Piece]:
    """The way from `old` to `new`: by lines, and by words within lines that changed."""
    pieces: list[Piece] = []
    lines = old.splitlines(keepends=True), new.splitlines(keepends=True)
    for piece in _by_lines(*lines, effort or Effort()):
        if pieces and pieces[-1].kind == piece.kind:
            pieces[-1] = Piece(piece.kind, pieces[-1].text + piece.text)
        elif piece.text:
            pieces.append(piece)
    return pieces


def _by_lines(old: list[str], new: list[str], effort: Effort) -> Iterator[Piece]:
    matcher = _matcher(old, new, effort) if max(len(old), len(new)) <= MOST_LINES else None
    if matcher is None:
        yield from _step("equal" if old == new else "replace", "".join(old), "".join(new))
        return
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "replace":
            yield from _by_words("".join(old[a:b]), "".join(new[c:d]), effort)
        else:
            yield from _step(kind, "".join(old[a:b]), "".join(new[c:d]))


def _by_words(old: str, new: str, effort: Effort) -> Iterator[Piece]:
    before, after = _WORDS.findall(old), _WORDS.findall(new)
    matcher = _matcher(before, after, effort) if max(len(before), len(after)) <= MOST_WORDS else None
    # Two texts with little in common are read more easily one after the other.
    if matcher is None or matcher.ratio() < 0.3:
        yield from _step("replace", old, new)
        return
    for kind, a, b, c, d in matcher.get_opcodes():
        yield from _step(kind, "".join(before[a:b]), "".join(after[c:d]))


def _matcher(old: list[str], new: list[str], effort: Effort) -> SequenceMatcher[str] | None:
    """What finds the way from `old` to `new`; None when that would take too long."""
    # In long texts it takes what recurs all the time (blank lines) for no landmark, or it would take minutes.
    matcher = SequenceMatcher(None, old, new)
    places: dict[str, list[int]] = matcher.b2j  # type: ignore[attr-defined]
    pairs = sum(len(places.get(part, ())) for part in old)
    return matcher if effort.takes(pairs * min(len(old), len(new))) else None


def _step(kind: str, old: str, new: str) -> Iterator[Piece]:
    if kind == "equal":
        yield Piece("same", old)
        return
    if kind != "insert":
        yield Piece("removed", old)
    if kind != "delete":
        yield Piece("added", new)
