"""What all actions stand on: the lock of a project, and its news."""

from typing import Any

from django.db.models import Model
from django.http import Http404
from django.utils.translation import gettext as _

from executions import events
from portal.lib.problems import Conflict, Problem
from projects.models import Deliverable, Project, Stage


def hold(project: Project, *, archived_too: bool = False) -> Project:
    """Lock a project until the transaction ends, and read it anew into `project`.

    Raises `Http404` when it was deleted meanwhile, `Conflict` when it is archived, unless that is all right.
    """
    _lock(project)
    project.refresh_from_db()
    if project.is_archived and not archived_too:
        raise Conflict(
            _("This project is archived."), code="project_archived", hint=_("Take it out of the archive first.")
        )
    return project


def hold_stage(stage: Stage) -> Stage:
    """Lock a stage's project, and read both anew into `stage`. Raises as `hold` does."""
    hold(stage.project)
    return read_again(stage)


def hold_deliverable(deliverable: Deliverable) -> Deliverable:
    """Lock a deliverable's project, and read all three anew into `deliverable`. Raises as `hold` does."""
    project = hold(deliverable.project)
    _again(deliverable)
    deliverable.project = deliverable.stage.project = project
    return deliverable


def read_again(stage: Stage) -> Stage:
    """A stage as it is in the database, of the same project in memory."""
    project = stage.project
    _again(stage)
    return of(stage, project)


def of(stage: Stage, project: Project) -> Stage:
    """The stage, of this project in memory: what is changed of one is seen in the other."""
    stage.project = project
    return stage


def stages_of(project: Project) -> list[Stage]:
    """All stages of a project, in order. One query."""
    return [of(stage, project) for stage in project.stages.order_by("stage_order")]


def _lock(project: Project) -> None:
    if not Project.objects.select_for_update(no_key=True).filter(pk=project.pk).values_list("pk").first():
        raise Http404


def _again(row: Model) -> None:
    try:
        row.refresh_from_db()
    except type(row).DoesNotExist as exc:  # type: ignore[attr-defined]
        raise Http404 from exc


def tell(project: Project, kind: str, *, role: str = "", **data: Any) -> None:
    """Add an event to the project's stream."""
    events.append(project.stream_id, [events.NewEvent(kind, data=data, role=role)])


def tell_created(deliverable: Deliverable) -> None:
    """Say that there is a new version of a deliverable."""
    tell(
        deliverable.project,
        "deliverable_created",
        role=deliverable.created_by_role,
        deliverable_id=str(deliverable.pk),
        deliverable_type=deliverable.deliverable_type,
        title=deliverable.title,
        version=deliverable.version,
        status=deliverable.status,
        stage_name=deliverable.stage.stage_name,
        created_by_role=deliverable.created_by_role,
    )


def sentence(problem: Problem) -> str:
    """A problem in one text for people: what is wrong, field by field, and what to do."""
    return " ".join(filter(None, [problem.detail, *(error.detail for error in problem.errors), problem.hint]))
