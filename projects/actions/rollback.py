"""Going back to an earlier stage."""

from django.db import transaction
from django.utils.translation import gettext as _

from portal.accounts import audit
from portal.accounts.models import User
from portal.lib.problems import Conflict
from projects.actions.ground import hold_stage, tell
from projects.actions.progress import BY_PEOPLE, follow
from projects.actions.putback import dependants, has_work, put_back
from projects.actions.starting import start_by_itself, unmet
from projects.models import Stage
from projects.status import ProjectStatus


def roll_back(stage: Stage, by: User, *, reason: str = "") -> Stage:
    """Go back to `stage`: it and every stage that depends on it and has work are to be done again, no other.

    Their runs are stopped, what is in review becomes a draft, what is approved stays. It starts at once where the
    project goes on by itself. Raises `Conflict` when the stage has no work, and for an archived or cancelled project.
    """
    with transaction.atomic():
        hold_stage(stage)
        project = stage.project
        if project.status == ProjectStatus.CANCELLED:
            raise Conflict(
                _("This project is cancelled."), code="project_cancelled", hint=_("Restart it: a new round begins.")
            )
        if not has_work(stage):
            raise Conflict(
                _("“%(stage)s” has not begun, so there is nothing to go back to.") % {"stage": stage.label},
                code="nothing_to_roll_back",
            )
        again = go_back(stage, by)
        tell(
            project,
            "stage_rolled_back",
            stage_id=str(stage.pk),
            stage_name=stage.stage_name,
            by=by.get_username(),
            reason=reason,
        )
        told = {"reason": reason, "again": [one.stage_name for one in again]}
        audit.record("stage.rolled_back", by=by, target=stage, after=told, name=f"{project}: {stage.label}")
        if project.auto_advance and project.status not in BY_PEOPLE and not unmet(stage):
            start_by_itself(stage)
        follow(project)
    return stage


def go_back(stage: Stage, by: User) -> list[Stage]:
    """Put `stage` and what depends on it and has work back; returns them, the first one first."""
    again = [stage, *(other for other in dependants(stage) if has_work(other))]
    for one in again:
        put_back(one, by, is_stale=True)
    return again
