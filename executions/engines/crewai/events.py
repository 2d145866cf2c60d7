"""CrewAI's events as ours: a sink that CrewAI calls in the emitting thread, in order, for every event.

`add_stream_sink` is an internal name of the pinned version; a contract test holds it.
"""

import traceback
from collections.abc import Callable
from typing import Any

from executions.engines.crewai.llm import GatewayClient
from executions.engines.output import Output

Mapped = tuple[str, dict[str, Any]]


class EventSink:
    """Writes what agents and tools do to the run's output; what tasks do, the adapter writes itself."""

    def __init__(self, output: Output, client: GatewayClient) -> None:
        self._output = output
        self._client = client
        self._map: dict[str, Callable[[Any], Mapped | None]] = {
            "agent_execution_started": lambda event: ("agent.started", {}),
            "agent_execution_completed": lambda event: ("agent.completed", {}),
            "agent_logs_execution": _thought,
            "tool_usage_started": lambda event: ("tool.started", _tool(event)),
            "tool_usage_finished": _tool_finished,
            "tool_usage_error": lambda event: ("tool.failed", {**_tool(event), "error": str(event.error)}),
            "tool_validate_input_error": lambda event: ("tool.failed", {**_tool(event), "error": str(event.error)}),
            "tool_selection_error": lambda event: ("tool.failed", {**_tool(event), "error": str(event.error)}),
        }

    def __call__(self, source: Any, event: Any) -> None:
        """Must not raise into the crew, whose work goes on whatever we think of an event."""
        translate = self._map.get(event.type)
        if translate is None:
            return
        try:
            mapped = translate(event)
            if mapped is not None:
                self._output.event(
                    mapped[0], task=self._client.task_key(), role=_role_of(source, event), data=mapped[1]
                )
        except Exception:  # noqa: BLE001
            traceback.print_exc()

    def thought(self, role: str, text: str) -> None:
        self._output.event("agent.thought", task=self._client.task_key(), role=role, data={"text": text})


def _role_of(source: Any, event: Any) -> str | None:
    for holder in (getattr(event, "agent", None), getattr(event, "from_agent", None), source):
        role = getattr(holder, "role", None)
        if isinstance(role, str):
            return role
    role = getattr(event, "agent_role", None)
    return role if isinstance(role, str) else None


def _thought(event: Any) -> Mapped | None:
    answer = event.formatted_answer
    text = (getattr(answer, "thought", "") or "").strip()
    return ("agent.thought", {"text": text}) if text and hasattr(answer, "tool") else None


def _tool(event: Any) -> dict[str, Any]:
    return {"tool": event.tool_name, "arguments": event.tool_args}


def _tool_finished(event: Any) -> Mapped:
    if event.failure is not None:
        return "tool.failed", {**_tool(event), "error": event.failure.message}
    return "tool.completed", {**_tool(event), "result": str(event.output)}
