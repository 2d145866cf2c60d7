"""What tools do in the portal itself: each in the transaction that records the call, so that it happens once."""

from collections.abc import Callable
from typing import Any

from crews.builtin_tools import LEAVE_NOTE
from executions import events
from executions.gateway.catalog import Caller


def _leave_note(caller: Caller, task: str, role: str, arguments: dict[str, Any]) -> None:
    data = {"kind": "note", "message": str(arguments["message"]).strip()}
    note = events.NewEvent("log", data, task=task, role=role, attempt=caller.attempt)
    events.append(caller.run, [note])


# By the tool's name; called after `run` took the arguments, with the caller, the task's key and the agent's role.
OWN: dict[str, Callable[[Caller, str, str, dict[str, Any]], None]] = {LEAVE_NOTE: _leave_note}
