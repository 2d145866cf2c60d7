"""Everything that happens when something runs."""

from executions.models.calls import LLMCall, ToolCall
from executions.models.execution import Attempt, Execution, RoleModel, TaskRun
from executions.models.stream import EventStream, ExecutionEvent
from executions.models.worker import Worker

__all__ = [
    "Attempt",
    "EventStream",
    "Execution",
    "ExecutionEvent",
    "LLMCall",
    "RoleModel",
    "TaskRun",
    "ToolCall",
    "Worker",
]
