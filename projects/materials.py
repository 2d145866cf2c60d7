"""What a stage is given: the latest approved work of the stages that it depends on, and the requirement's files."""

import uuid
from collections.abc import Iterable

from executions.engines.protocol import Material
from projects.models import Deliverable, Project, Stage


def links(project: Project) -> dict[uuid.UUID, set[uuid.UUID]]:
    """Which stages each stage of a project depends on, by id. One query."""
    found: dict[uuid.UUID, set[uuid.UUID]] = {}
    rows = Stage.depends_on.through.objects.filter(from_stage__project=project)
    for later, earlier in rows.values_list("from_stage_id", "to_stage_id"):
        found.setdefault(later, set()).add(earlier)
    return found


def before(stage: Stage) -> set[uuid.UUID]:
    """The stages that `stage` depends on, by however many steps. One query."""
    return _reach(links(stage.project), stage.pk)


def after(stage: Stage) -> set[uuid.UUID]:
    """The stages that depend on `stage`, by however many steps. One query."""
    return {pk for pk, earlier in _all(links(stage.project)).items() if stage.pk in earlier}


def _all(given: dict[uuid.UUID, set[uuid.UUID]]) -> dict[uuid.UUID, set[uuid.UUID]]:
    return {pk: _reach(given, pk) for pk in given}


def _reach(given: dict[uuid.UUID, set[uuid.UUID]], start: uuid.UUID) -> set[uuid.UUID]:
    found: set[uuid.UUID] = set()
    open_ones = {start}
    while open_ones:
        open_ones = {earlier for pk in open_ones for earlier in given.get(pk, ())} - found
        found |= open_ones
    return found


def sources(stage: Stage) -> list[Deliverable]:
    """The newest approved version of each deliverable of the stages that come before, in their order. Three queries."""
    return approved(before(stage))


def approved(stages: Iterable[uuid.UUID]) -> list[Deliverable]:
    """The newest approved version of each deliverable of some stages, in their order. Two queries."""
    found = Deliverable.objects.filter(stage__in=list(stages), status=Deliverable.Status.APPROVED)
    newest: dict[uuid.UUID, Deliverable] = {}
    for deliverable in found.select_related("stage").prefetch_related("files"):
        kept = newest.get(deliverable.lineage)
        if kept is None or _number(deliverable) > _number(kept):
            newest[deliverable.lineage] = deliverable
    return sorted(newest.values(), key=lambda one: (one.stage.stage_order, one.deliverable_type, one.title, one.pk))


def delivered(project: Project) -> list[Deliverable]:
    """Of each deliverable of a project the newest approved version, else the latest, stage by stage. Five queries."""
    found = approved(project.stages.values_list("pk", flat=True))
    open_ones = project.deliverables.filter(is_latest=True).exclude(lineage__in=[one.lineage for one in found])
    found += open_ones.select_related("stage").prefetch_related("files")
    return sorted(found, key=lambda one: (one.stage.stage_order, one.created_at, one.pk))


def _number(deliverable: Deliverable) -> tuple[int, ...]:
    return tuple(int(part) for part in deliverable.version.split("."))


def as_materials(project: Project, deliverables: Iterable[Deliverable]) -> list[Material]:
    """The requirement's files, then deliverables, as a run gets them. One query."""
    attached = [
        Material(
            key=f"attachment_{number}",
            title=attachment.name,
            kind="attachment",
            role="",
            version="",
            content=attachment.content,
            files=[],
        )
        for number, attachment in enumerate(project.attachments.all(), start=1)
    ]
    made = [
        Material(
            key=str(one.pk),
            title=one.title,
            kind=one.deliverable_type,
            role=one.created_by_role,
            version=one.version,
            content=one.content,
            files=[{"path": file.path, "content": file.content} for file in one.files.all()],
        )
        for one in deliverables
    ]
    return [*attached, *made]
