"""What follows from the stages: the project's status, progress, current stage and hours."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from django.db.models import F, Sum

from executions.models import Attempt
from portal.lib.problems import Conflict
from projects.actions.ground import stages_of, tell
from projects.models import Project, Stage
from projects.status import PROJECT_MOVES, ProjectStatus, StageStatus

# A person has said so; the stages change it only by being all completed.
BY_PEOPLE = frozenset({ProjectStatus.PAUSED, ProjectStatus.CANCELLED})
# New stages start by themselves.
GOES_ON = frozenset({ProjectStatus.IN_PROGRESS, ProjectStatus.REVIEW})


def status_of(stages: Sequence[Stage]) -> ProjectStatus:
    """The status of a project that has begun."""
    if any(stage.is_at_work for stage in stages):
        return ProjectStatus.IN_PROGRESS
    if any(stage.stage_status == StageStatus.FAILED for stage in stages):
        return ProjectStatus.FAILED
    if any(stage.stage_status == StageStatus.REVIEW for stage in stages):
        return ProjectStatus.REVIEW
    if stages and all(stage.is_done for stage in stages):
        return ProjectStatus.COMPLETED
    return ProjectStatus.IN_PROGRESS


def current_of(stages: Sequence[Stage]) -> str:
    """The first stage at work, else in review, else not done; empty when all are done."""
    for fits in (
        lambda stage: stage.is_at_work,
        lambda stage: stage.stage_status == StageStatus.REVIEW,
        lambda stage: not stage.is_done,
    ):
        if found := next((stage for stage in stages if fits(stage)), None):
            return found.stage_name
    return ""


def follow(project: Project, *, begun: bool = False) -> None:
    """Bring a project, which is locked, in line with its stages, and tell watchers what changed.

    `begun`: it is no longer planned, cancelled or paused. Call it as the last thing in a transaction: after
    `status` with an end the stream rests.
    """
    stages = stages_of(project)
    found = status_of(stages)
    kept = BY_PEOPLE if any(stage.stage_status != StageStatus.PENDING for stage in stages) else {*BY_PEOPLE, "planning"}
    is_all_done = found == ProjectStatus.COMPLETED and project.status == ProjectStatus.PAUSED
    if project.status in kept and not begun and not is_all_done:
        found = ProjectStatus(project.status)
    done = sum(stage.is_done for stage in stages)
    progress = {
        "progress_percentage": 100 * done // len(stages) if stages else 0,
        "current_stage": current_of(stages),
        "actual_hours": sum((stage.actual_hours for stage in stages), Decimal(0)),
    }
    changed = {name: value for name, value in progress.items() if getattr(project, name) != value}
    if changed:
        _write(project, changed)
        tell(
            project,
            "progress",
            progress_percentage=project.progress_percentage,
            current_stage=project.current_stage,
            stages_completed=done,
            total_stages=len(stages),
        )
    move_to(project, found)


def move_to(project: Project, status: ProjectStatus) -> None:
    """Make one move of the table, unless the project is there already. Its row is locked.

    Raises `Conflict` for a move that is not in the table.
    """
    old = ProjectStatus(project.status)
    if status == old:
        return
    if status not in PROJECT_MOVES[old]:
        raise Conflict(f"A project that is {old.value} cannot become {status.value}.", code="invalid_transition")
    _write(project, {"status": status})
    tell(project, "status", status=status.value, before=old.value)


def _write(project: Project, changes: dict[str, Any]) -> None:
    for name, value in changes.items():
        setattr(project, name, value)
    project.save(update_fields=[*changes, "updated_at"])


def measure(stage: Stage) -> Decimal:
    """The hours that runs have worked on a stage, in all rounds; waiting and pauses are not among them. One query."""
    attempts = Attempt.objects.filter(execution__stage_run__stage=stage).exclude(ended_at=None)
    spent = attempts.aggregate(spent=Sum(F("ended_at") - F("started_at")))["spent"]
    return round(Decimal(spent.total_seconds()) / 3600, 4) if spent else Decimal(0)


def hours_of(stage: Stage) -> dict[str, Any]:
    """What to save on a stage about its hours: nothing where a person has given them."""
    return {} if stage.has_given_hours else {"actual_hours": measure(stage)}
