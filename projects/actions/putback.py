"""Taking stages back to where nothing has been done yet, and marking what is out of date."""

import uuid
from collections.abc import Iterable
from typing import Any

from portal.accounts.models import User
from projects import materials
from projects.actions.ground import of, tell
from projects.actions.runs import abandon
from projects.models import Deliverable, Stage
from projects.status import StageStatus

_NOTHING: dict[str, Any] = {
    "start_date": None,
    "end_date": None,
    "problem": "",
    "review_since": None,
    "review_due_at": None,
    "escalated_at": None,
}


def put_back(stage: Stage, by: User, *, is_stale: bool = False) -> None:
    """To be done again: its run is stopped, what is in review becomes a draft, what is approved stays."""
    abandon(stage, by)
    to_draft(stage)
    changes = {**_NOTHING, "is_stale": is_stale}
    if stage.stage_status == StageStatus.PENDING:
        for name, value in changes.items():
            setattr(stage, name, value)
        stage.save(update_fields=list(changes))
    else:
        stage.move_to(StageStatus.PENDING, **changes)
    if is_stale:
        tell_stale(stage)


def to_draft(stage: Stage) -> None:
    """Nobody is asked about the stage's work any more."""
    stage.deliverables.filter(status=Deliverable.Status.REVIEW).update(status=Deliverable.Status.DRAFT)


def has_work(stage: Stage) -> bool:
    """Whether the stage has begun in this round. One query at most."""
    return stage.stage_status != StageStatus.PENDING or stage.runs.filter(round=stage.project.round).exists()


def dependants(stage: Stage) -> list[Stage]:
    """The stages that depend on `stage`, by however many steps, in order. Two queries."""
    found: Iterable[uuid.UUID] = materials.after(stage)
    return [of(one, stage.project) for one in Stage.objects.filter(pk__in=found).order_by("stage_order")]


def mark_stale(stage: Stage) -> list[Stage]:
    """What the stages that depend on `stage` were made from has changed; those that have begun are out of date."""
    marked = []
    for other in dependants(stage):
        if other.stage_status != StageStatus.PENDING and not other.is_stale:
            other.is_stale = True
            other.save(update_fields=["is_stale"])
            tell_stale(other)
            marked.append(other)
    return marked


def tell_stale(stage: Stage) -> None:
    tell(
        stage.project,
        "stage_stale",
        role=stage.responsible_role,
        stage_id=str(stage.pk),
        stage_name=stage.stage_name,
        responsible_role=stage.responsible_role,
    )
