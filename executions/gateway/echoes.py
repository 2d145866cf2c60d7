"""Keeps a provider's own key out of what it answers: nobody beyond the gateway may see it, not even the engine."""

from collections.abc import Iterator
from typing import Any

from executions.gateway.answers import Piece, event
from portal.lib.redaction import Stream, forms_of


class Echoes:
    """Cleans one answer, piece by piece, of the key that was sent along with its request.

    A text that may be the beginning of the key waits for the piece after it. Pieces without it, all
    but none, pass as they came.
    """

    def __init__(self, key: str) -> None:
        self._forms = tuple(forms_of(key))
        self._streams: dict[tuple[Any, ...], Stream] = {}

    def clean(self, pieces: list[Piece]) -> list[Piece]:
        return [self._cleaned(piece) for piece in pieces] if self._forms else pieces

    def _cleaned(self, piece: Piece) -> Piece:
        is_changed = False
        for part in piece.chunk.get("choices") or ():
            index = part.get("index", 0)
            delta = part.get("delta") or {}
            for where, holder, name in _texts(delta):
                stream = self._streams.get((index, *where))
                if stream is None:
                    stream = self._streams[index, *where] = Stream(self._forms)
                safe = stream.feed(holder[name])
                if safe != holder[name]:
                    holder[name], is_changed = safe, True
            if part.get("finish_reason"):
                is_changed |= self._flush(index, part)
        return Piece(event(piece.chunk), piece.chunk) if is_changed else piece

    def _flush(self, index: int, part: dict[str, Any]) -> bool:
        """Add what was held back to the last piece of a choice."""
        is_changed = False
        for where, stream in self._streams.items():
            if where[0] == index and (rest := stream.end()):
                delta = part["delta"] = part.get("delta") or {}
                if len(where) == 2:
                    delta[where[1]] = (delta.get(where[1]) or "") + rest
                else:
                    delta.setdefault("tool_calls", []).append({"index": where[1], "function": {"arguments": rest}})
                is_changed = True
        return is_changed


def _texts(delta: dict[str, Any]) -> Iterator[tuple[tuple[Any, ...], dict[str, Any], str]]:
    """Every text of a delta: which it is, what holds it, and under what name."""
    for name, value in delta.items():
        if isinstance(value, str) and value and name != "role":
            yield (name,), delta, name
    for call in delta.get("tool_calls") or ():
        function = call.get("function") or {}
        if isinstance(function.get("arguments"), str) and function["arguments"]:
            yield (call.get("index", 0), "arguments"), function, "arguments"
