"""What people and programs do with runs. Pages, API, commands and schedules all call these."""

from executions.actions.changes import KEPT, set_budget, set_priority, set_role_models
from executions.actions.control import pause, resume, retry, stop, stop_all, stop_runs_of, stop_runs_of_inactive
from executions.actions.starting import delete, inputs_folder, kickoff, launch
from executions.approvals import answer

__all__ = [
    "KEPT",
    "answer",
    "delete",
    "inputs_folder",
    "kickoff",
    "launch",
    "pause",
    "resume",
    "retry",
    "set_budget",
    "set_priority",
    "set_role_models",
    "stop",
    "stop_all",
    "stop_runs_of",
    "stop_runs_of_inactive",
]
