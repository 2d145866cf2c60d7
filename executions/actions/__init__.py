"""What people and programs do with runs. Pages, API, commands and schedules all call these."""

from executions.actions.control import pause, resume, retry, stop, stop_all
from executions.actions.starting import delete, inputs_folder, kickoff
from executions.approvals import answer

__all__ = [
    "answer",
    "delete",
    "inputs_folder",
    "kickoff",
    "pause",
    "resume",
    "retry",
    "stop",
    "stop_all",
]
