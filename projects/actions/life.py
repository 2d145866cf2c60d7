"""Starting a project, holding it, and ending it."""

import uuid
from contextlib import suppress

from django.db import transaction
from django.utils.translation import gettext as _

from executions import actions as runs
from executions.errors import InvalidTransition, TransitionLost
from executions.status import Status
from portal.accounts import audit
from portal.accounts.models import Role, User
from portal.accounts.permissions import require_role
from portal.lib.problems import Conflict
from projects.actions.ground import hold, of, stages_of
from projects.actions.progress import follow, move_to
from projects.actions.putback import put_back, to_draft
from projects.actions.runs import abandon, close
from projects.actions.stages import begin
from projects.actions.starting import unmet
from projects.models import Project, Stage, StageRun
from projects.status import ProjectStatus, StageStatus


def start(project: Project, by: User, *, api_key_id: uuid.UUID | None = None) -> Project:
    """Start every stage that can start; resume a paused project, and try again where stages have failed.

    Raises `InvalidValues` when a role's model cannot be used, `Conflict` when there is nothing to start: the
    project is archived, completed or cancelled, or everything that can go on does.
    """
    with transaction.atomic():
        hold(project)
        before = project.status
        if before == ProjectStatus.CANCELLED:
            raise Conflict(
                _("This project is cancelled."), code="project_cancelled", hint=_("Restart it: a new round begins.")
            )
        if before == ProjectStatus.COMPLETED:
            raise Conflict(
                _("This project is completed."),
                code="project_completed",
                hint=_("Roll back to a stage, or restart it: a new round begins."),
            )
        begun = _begin(project, by, api_key_id)
        if not begun and before != ProjectStatus.PAUSED:
            raise Conflict(
                _("There is nothing to start: what can go on does."),
                code="nothing_to_start",
                hint=_("Look at the stages: they say what they wait for."),
            )
        told = {"stages": [stage.stage_name for stage in begun]}
        action = "project.resumed" if before == ProjectStatus.PAUSED else "project.started"
        audit.record(action, by=by, target=project, after=told)
        follow(project, begun=True)
    return project


def _begin(project: Project, by: User, api_key_id: uuid.UUID | None) -> list[Stage]:
    """Resume, retry and start what can; returns the stages that go on. The project's row is locked."""
    begun = _resume_runs(project, by)
    stages = stages_of(project)
    for stage in stages:
        if stage.stage_status == StageStatus.FAILED and not unmet(stage):
            begin(stage, by, api_key_id=api_key_id)
            begun.append(stage)
    # Without anybody's word only the first ones start in a project that does not go on by itself.
    rests = not any(stage.is_at_work or stage.stage_status == StageStatus.REVIEW for stage in stages)
    if project.auto_advance or (rests and not begun):
        for stage in stages:
            if stage.stage_status == StageStatus.PENDING and not unmet(stage):
                begin(stage, by, api_key_id=api_key_id)
                begun.append(stage)
    return begun


def _resume_runs(project: Project, by: User) -> list[Stage]:
    """Let the runs that are paused go on, and take back what they were asked to."""
    resumed = []
    for run in _open_runs(project):
        if run.execution.status == Status.PAUSED or run.execution.is_pausing:
            with suppress(InvalidTransition, TransitionLost):  # it ends in this moment
                runs.resume(run.execution, by)
                stage = of(run.stage, project)
                if stage.stage_status == StageStatus.BLOCKED:
                    stage.move_to(StageStatus.IN_PROGRESS, problem="")
                resumed.append(stage)
    return resumed


def _open_runs(project: Project) -> list[StageRun]:
    found = StageRun.objects.filter(stage__project=project, settled_at=None)
    return list(found.select_related("execution", "stage").order_by("pk"))


def pause(project: Project, by: User) -> Project:
    """Start nothing more, and pause the runs that go on after their current task.

    Raises `Conflict` unless the project is in progress or in review.
    """
    with transaction.atomic():
        hold(project)
        if project.status == ProjectStatus.PAUSED:
            return project
        move_to(project, ProjectStatus.PAUSED)
        for run in _open_runs(project):
            # One that waits to start is paused when it does.
            if run.execution.status == Status.RUNNING:
                with suppress(InvalidTransition, TransitionLost):  # it ends in this moment
                    runs.pause(run.execution, by)
        audit.record("project.paused", by=by, target=project)
    return project


def cancel(project: Project, by: User) -> Project:
    """End it: runs are stopped, stages at work or in review go back to the start, approved work stays.

    Raises `Conflict` when it is cancelled already, completed or archived.
    """
    with transaction.atomic():
        hold(project)
        if project.status in {ProjectStatus.CANCELLED, ProjectStatus.COMPLETED}:
            raise Conflict(_("This project has ended already."), code="project_ended")
        for stage in stages_of(project):
            if stage.stage_status not in {StageStatus.PENDING, StageStatus.COMPLETED}:
                put_back(stage, by)
        audit.record("project.cancelled", by=by, target=project, before={"status": project.status})
        follow(project)
        move_to(project, ProjectStatus.CANCELLED)
    return project


def restart(project: Project, by: User, *, api_key_id: uuid.UUID | None = None) -> Project:
    """Begin a new round: every stage is to be done again, in new versions. Runs that go on are stopped.

    Raises `Conflict` for an archived project and what `start` raises.
    """
    with transaction.atomic():
        hold(project)
        before = {"status": project.status, "round": project.round}
        for stage in stages_of(project):
            put_back(stage, by)
        if StageRun.objects.filter(stage__project=project, round=project.round).exists():
            project.round += 1
            project.save(update_fields=["round", "updated_at"])
        _begin(project, by, api_key_id)
        audit.record("project.restarted", by=by, target=project, before=before, after={"round": project.round})
        follow(project, begun=True)
    return project


def force_complete(project: Project, by: User) -> Project:
    """Close the project as it is, whatever is open: for admins.

    Raises `PermissionDenied` for anybody else, `Conflict` when it is completed or archived.
    """
    require_role(by, Role.ADMIN)
    with transaction.atomic():
        hold(project)
        if project.status == ProjectStatus.COMPLETED:
            raise Conflict(_("This project is completed."), code="project_completed")
        before = {"status": project.status}
        closed = []
        for stage in stages_of(project):
            abandon(stage, by)
            to_draft(stage)
            if stage.stage_status != StageStatus.COMPLETED:
                close(stage, is_stale=False)
                closed.append(stage.stage_name)
            elif stage.is_stale:
                stage.is_stale = False
                stage.save(update_fields=["is_stale"])
        audit.record("project.force_completed", by=by, target=project, before=before, after={"closed": closed})
        follow(project, begun=True)
    return project
