"""Which of several identical requests one is: what recorded answers are told apart by. Standard library only."""

import hashlib
import json
import threading
from collections import Counter
from typing import Any

# What changes nothing about the answer, or is the gateway's to choose.
_OTHER = frozenset({"model", "stream", "stream_options", "user", "metadata", "seed"})


class Ordinals:
    """Counts from 0 the requests of one attempt that are alike in path, task, agent and content. Thread-safe."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, str, str, str]] = Counter()
        self._lock = threading.Lock()

    def take(self, method: str, path: str, task: str, role: str, body: bytes) -> int:
        """The ordinal of this request; the next identical one gets the next."""
        key = (method, path, task, role, hashlib.sha256(canonical(body)).hexdigest())
        with self._lock:
            ordinal = self._counts[key]
            self._counts[key] += 1
        return ordinal


def canonical(body: bytes) -> bytes:
    """What tells a request from others of the same path, task and agent."""
    try:
        parsed = json.loads(body)
    except ValueError:
        return body
    if not isinstance(parsed, dict):
        return body
    return json.dumps(asked(parsed), sort_keys=True, separators=(",", ":")).encode()


def asked(request: dict[str, Any]) -> dict[str, Any]:
    """The part of a request that decides about its answer; ids of tool calls, drawn at random, by their place.

    The gateway's journal goes by it too: what counts as another request here must not be the same one there.
    """
    kept = {key: value for key, value in request.items() if key not in _OTHER and value is not None}
    if isinstance(kept.get("messages"), list):
        kept["messages"] = _numbered(kept["messages"])
    return kept


def _numbered(messages: list[Any]) -> list[Any]:
    numbers: dict[str, str] = {}

    def number(found: Any) -> str:
        return numbers.setdefault(str(found), f"call_{len(numbers)}")

    given = []
    for message in messages:
        if isinstance(message, dict):
            calls, answers = message.get("tool_calls"), message.get("tool_call_id")
            if isinstance(calls, list):
                numbered = [
                    {**call, "id": number(call.get("id"))} if isinstance(call, dict) else call for call in calls
                ]
                message = {**message, "tool_calls": numbered}
            if answers is not None:
                message = {**message, "tool_call_id": number(answers)}
        given.append(message)
    return given
