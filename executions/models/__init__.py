"""Everything that happens when something runs."""

from executions.models.approval import Approval
from executions.models.budget import Budget
from executions.models.calls import LLMCall, ToolCall
from executions.models.execution import Execution
from executions.models.journal import JournalEntry
from executions.models.parts import Attempt, RoleModel, TaskRun
from executions.models.stream import EventStream, ExecutionEvent
from executions.models.worker import GatewayInstance, Worker

__all__ = [
    "Approval",
    "Attempt",
    "Budget",
    "EventStream",
    "Execution",
    "ExecutionEvent",
    "GatewayInstance",
    "JournalEntry",
    "LLMCall",
    "RoleModel",
    "TaskRun",
    "ToolCall",
    "Worker",
]
