"""The life cycles of a project and of its stages: their statuses, and the two tables of permitted moves.

A stage:

    pending ──► in_progress ──► review ──► completed
       ▲          │   ▲  │         │           │
       │          │   └──│─────────┘ (sent back with comments)
       │          ▼      ▼                     │
       │       blocked  failed                 │
       └───────────────────────────────────────┘ (rolled back, restarted, cancelled)

A stage that cannot be started by itself (a model that cannot be used, say) fails too, from wherever it was to start.

The status of a project follows from those of its stages (`projects.actions.progress`), except for what a person
decides about the whole: paused and cancelled.
"""

from django.db import models
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy


class ProjectStatus(models.TextChoices):
    PLANNING = "planning", _("Planning")
    IN_PROGRESS = "in_progress", _("In progress")
    REVIEW = "review", _("In review")
    COMPLETED = "completed", _("Completed")
    PAUSED = "paused", _("Paused")
    FAILED = "failed", _("Failed")
    CANCELLED = "cancelled", _("Cancelled")

    @property
    def tone(self) -> str:
        """The colour family of the status badge."""
        return _PROJECT_LOOKS[self.value][0]

    @property
    def icon(self) -> str:
        """The name of the lucide icon beside the label."""
        return _PROJECT_LOOKS[self.value][1]


class StageStatus(models.TextChoices):
    PENDING = "pending", pgettext_lazy("stage", "To do")
    IN_PROGRESS = "in_progress", _("In progress")
    REVIEW = "review", _("In review")
    COMPLETED = "completed", _("Completed")
    BLOCKED = "blocked", _("Blocked")
    FAILED = "failed", _("Failed")

    @property
    def tone(self) -> str:
        return _STAGE_LOOKS[self.value][0]

    @property
    def icon(self) -> str:
        return _STAGE_LOOKS[self.value][1]


_PROJECT_LOOKS = {
    "planning": ("neutral", "pencil-ruler"),
    "in_progress": ("info", "loader"),
    "review": ("warning", "user-round"),
    "completed": ("success", "check"),
    "paused": ("warning", "pause"),
    "failed": ("danger", "triangle-alert"),
    "cancelled": ("neutral", "square"),
}
_STAGE_LOOKS = {
    "pending": ("neutral", "clock"),
    "in_progress": ("info", "loader"),
    "review": ("warning", "user-round"),
    "completed": ("success", "check"),
    "blocked": ("warning", "pause"),
    "failed": ("danger", "triangle-alert"),
}

_P, _S = ProjectStatus, StageStatus
PROJECT_MOVES: dict[ProjectStatus, frozenset[ProjectStatus]] = {
    _P.PLANNING: frozenset({_P.IN_PROGRESS, _P.REVIEW, _P.COMPLETED, _P.FAILED, _P.CANCELLED}),
    _P.IN_PROGRESS: frozenset({_P.REVIEW, _P.COMPLETED, _P.PAUSED, _P.FAILED, _P.CANCELLED}),
    _P.REVIEW: frozenset({_P.IN_PROGRESS, _P.COMPLETED, _P.PAUSED, _P.FAILED, _P.CANCELLED}),
    _P.PAUSED: frozenset({_P.IN_PROGRESS, _P.REVIEW, _P.COMPLETED, _P.FAILED, _P.CANCELLED}),
    _P.FAILED: frozenset({_P.IN_PROGRESS, _P.REVIEW, _P.COMPLETED, _P.CANCELLED}),
    _P.COMPLETED: frozenset({_P.IN_PROGRESS, _P.REVIEW, _P.FAILED}),
    _P.CANCELLED: frozenset({_P.IN_PROGRESS, _P.COMPLETED}),
}
STAGE_MOVES: dict[StageStatus, frozenset[StageStatus]] = {
    _S.PENDING: frozenset({_S.IN_PROGRESS, _S.COMPLETED, _S.FAILED}),
    _S.IN_PROGRESS: frozenset({_S.REVIEW, _S.COMPLETED, _S.BLOCKED, _S.FAILED, _S.PENDING}),
    _S.REVIEW: frozenset({_S.IN_PROGRESS, _S.COMPLETED, _S.FAILED, _S.PENDING}),
    _S.BLOCKED: frozenset({_S.IN_PROGRESS, _S.REVIEW, _S.COMPLETED, _S.FAILED, _S.PENDING}),
    _S.FAILED: frozenset({_S.IN_PROGRESS, _S.COMPLETED, _S.PENDING}),
    _S.COMPLETED: frozenset({_S.PENDING, _S.IN_PROGRESS}),
}
# A run of the stage may still do something.
STAGE_AT_WORK = frozenset({_S.IN_PROGRESS, _S.BLOCKED})
# Nothing happens in the project until a person starts it again.
PROJECT_ENDED = frozenset({_P.COMPLETED, _P.CANCELLED})
