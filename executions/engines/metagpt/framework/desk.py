"""What a role has before it while it works: one `Desk` for each task.

MetaGPT makes its actions deep inside of its roles, so they find the desk by `current`.
"""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from executions.engines.metagpt.asking import Interview
from executions.engines.metagpt.trials import Tested
from executions.engines.protocol import RunSpec, TaskSpec

_CURRENT: ContextVar["Desk"] = ContextVar("desk")


@dataclass
class Desk:
    """The task, what the role is told, and what has come of it so far."""

    spec: RunSpec
    task: TaskSpec
    interview: Interview
    tell: Callable[[str, dict[str, Any]], None]  # writes an event of this task
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)  # filled forms, by MetaGPT's name for them
    plan: list[str] = field(default_factory=list)  # the files to write, in order
    files: dict[str, str] = field(default_factory=dict)  # the program's files that are finished
    earlier: dict[str, str] = field(default_factory=dict)  # the files of work that was sent back
    tests: dict[str, str] = field(default_factory=dict)
    tested: dict[str, Tested] = field(default_factory=dict)
    findings: dict[str, str] = field(default_factory=dict)  # why tests fail, by their file

    @property
    def language(self) -> str:
        return self.spec["language"]

    def note(self, text: str, **data: Any) -> None:
        """Say in the run's log what happened."""
        self.tell("log", {"message": text, **data})


def put(desk: Desk) -> None:
    """Make it the desk at which this thread works."""
    _CURRENT.set(desk)


def current() -> Desk:
    return _CURRENT.get()
