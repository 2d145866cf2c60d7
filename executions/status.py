"""The life cycle of an execution: its statuses, and the one table of permitted moves.

    pending ──► running ──► completed
       ▲           ├──► failed ──┐
       │           ├──► stopped ─┤ (retry)
       │           ├──► waiting ─┤ (answered)
       │           └──► paused ──┤ (resumed)
       └─────────────────────────┘

Only `Execution` moves a status (`executions.models.moves`); everything else asks it to.
"""

from django.db import models
from django.utils.translation import gettext_lazy as _


class Status(models.TextChoices):
    PENDING = "pending", _("Waiting to start")
    RUNNING = "running", _("Running")
    WAITING = "waiting", _("Waiting")
    PAUSED = "paused", _("Paused")
    COMPLETED = "completed", _("Completed")
    FAILED = "failed", _("Failed")
    STOPPED = "stopped", _("Stopped")

    @property
    def tone(self) -> str:
        """The colour family of the status badge (static/css/components/badges.css)."""
        return {
            Status.PENDING: "neutral",
            Status.RUNNING: "info",
            Status.WAITING: "warning",
            Status.PAUSED: "warning",
            Status.COMPLETED: "success",
            Status.FAILED: "danger",
            Status.STOPPED: "neutral",
        }[self]

    @property
    def icon(self) -> str:
        """The name of the lucide icon that stands beside the label, so that colour never speaks alone."""
        return {
            Status.PENDING: "clock",
            Status.RUNNING: "loader",
            Status.WAITING: "user-round",
            Status.PAUSED: "pause",
            Status.COMPLETED: "check",
            Status.FAILED: "triangle-alert",
            Status.STOPPED: "square",
        }[self]


class WaitingFor(models.TextChoices):
    """What a waiting execution waits for."""

    APPROVAL = "approval", _("a person's answer")
    BUDGET = "budget", _("a larger budget")


TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.PENDING: frozenset({Status.RUNNING, Status.STOPPED, Status.FAILED}),
    Status.RUNNING: frozenset(
        {Status.COMPLETED, Status.FAILED, Status.STOPPED, Status.WAITING, Status.PAUSED, Status.PENDING}
    ),
    Status.WAITING: frozenset({Status.PENDING, Status.STOPPED, Status.FAILED}),
    Status.PAUSED: frozenset({Status.PENDING, Status.STOPPED, Status.FAILED}),
    Status.FAILED: frozenset({Status.PENDING}),
    Status.STOPPED: frozenset({Status.PENDING}),
    Status.COMPLETED: frozenset(),
}

# An attempt has ended; `failed` and `stopped` may still be retried.
ENDED = frozenset({Status.COMPLETED, Status.FAILED, Status.STOPPED})
# May still do work: a crew with such a run cannot be deleted.
ACTIVE = frozenset(Status) - ENDED
