"""What projects hear from runs (`executions.hooks`), and of people."""

import uuid

from django.utils.translation import gettext as _

from executions.models import Execution
from executions.status import Status
from portal.accounts import audit
from portal.accounts.models import User
from portal.lib.problems import Conflict
from projects import actions
from projects.models import Approver, StageRun


def run_moved(execution_id: uuid.UUID, status: Status) -> None:
    """Receiver of every move of a run: its project, if it has one, takes it in."""
    actions.settle(execution_id)


def refuse_while_of_a_stage(execution: Execution) -> None:
    """Raise `Conflict` for a run of a project's stage: its deliverables say that they are from there."""
    if StageRun.objects.filter(execution=execution).exists():
        raise Conflict(
            _("This run belongs to a project."), code="run_of_project", hint=_("It goes when the project is deleted.")
        )


def forget_the_deactivated(*, user: User, by: User | None, **rest: object) -> None:
    """Receiver of `user_deactivated`: who may do nothing any more is no approver either."""
    for row in Approver.objects.filter(user=user).select_related("stage__project"):
        stage = row.stage
        row.delete()
        audit.record(
            "stage.approver_removed",
            by=by,
            target=stage,
            name=f"{stage.project}: {stage.label}",
            before={"approver": user.get_username()},
        )
