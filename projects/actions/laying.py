"""The stages of a new project: from its template, its engine's plan, or another project."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts.models import User
from portal.lib.problems import Conflict
from projects import materials, plans
from projects.deliverables import access, versions
from projects.deliverables.files import Upload, uploaded
from projects.models import Deliverable, DeliverableAccess, Project, Stage
from projects.status import StageStatus

# Of a stage of a template: what a stage of a project takes over as it stands.
GATE = ("requires_approval", "quorum", "excludes_author", "review_hours", "instructions", "estimated_hours")


def wanted_stages(project: Project) -> list[dict[str, Any]]:
    """The stages that a new project has, as a template describes them."""
    template = project.template
    if template is not None and template.selected_ai == project.selected_ai and template.stages:
        return list(template.stages)
    return default_stages(project.selected_ai)


def default_stages(selected_ai: str) -> list[dict[str, Any]]:
    """The stages of an engine's company, as a template describes them."""
    return [
        {
            "stage_name": str(plan.stage_name),
            "responsible_role": plan.role,
            "requires_approval": True,
            "depends_on": [str(name) for name in plan.depends_on],
        }
        for plan in plans.STAGES[selected_ai]
    ]


def lay_out(project: Project) -> list[Stage]:
    """Store the stages of a new project."""
    named: dict[str, Stage] = {}
    for order, wanted in enumerate(wanted_stages(project), start=1):
        stage = Stage.objects.create(
            project=project,
            stage_name=wanted["stage_name"],
            stage_order=order,
            responsible_role=wanted["responsible_role"],
            **{name: wanted[name] for name in GATE if wanted.get(name) is not None},
        )
        stage.depends_on.set([named[name] for name in wanted.get("depends_on", ())])
        named[stage.stage_name] = stage
    return list(named.values())


def as_template(project: Project) -> list[dict[str, Any]]:
    """The stages of a project as a template describes them. Two queries."""
    found = []
    for stage in project.stages.prefetch_related("depends_on").order_by("stage_order"):
        gate: Mapping[str, Any] = {name: getattr(stage, name) for name in GATE}
        hours = stage.estimated_hours
        found.append(
            {
                "stage_name": stage.stage_name,
                "responsible_role": stage.responsible_role,
                **{name: value for name, value in gate.items() if value not in (None, "")},
                **({"estimated_hours": float(hours)} if hours is not None else {}),
                "depends_on": [other.stage_name for other in stage.depends_on.all()],
            }
        )
    return found


def copy_stages(project: Project, copy: Project, by: User, *, until: Stage | None) -> list[str]:
    """Give `copy` the stages of `project`, and the approved work of those before `until`; returns the names of those.

    Raises `Conflict` when `until` needs one that is not completed.
    """
    stages = list(project.stages.prefetch_related("depends_on").order_by("stage_order"))
    kept = _kept(stages, until) if until is not None else []
    named: dict[str, Stage] = {}
    for stage in stages:
        made = Stage.objects.create(
            project=copy,
            stage_name=stage.stage_name,
            stage_order=stage.stage_order,
            responsible_role=stage.responsible_role,
            **{name: getattr(stage, name) for name in GATE},
        )
        made.depends_on.set([named[other.stage_name] for other in stage.depends_on.all()])
        named[made.stage_name] = made
    for stage in kept:
        made = named[stage.stage_name]
        _copy_work(stage, made, by)
        made.move_to(StageStatus.COMPLETED, start_date=stage.start_date, end_date=timezone.now())
    return [stage.stage_name for stage in kept]


def _kept(stages: list[Stage], until: Stage) -> list[Stage]:
    needed, later = materials.before(until), materials.after(until)
    if missing := [stage for stage in stages if stage.pk in needed and not stage.is_done]:
        names = ", ".join(stage.label for stage in missing)
        raise Conflict(
            _("“%(stage)s” needs what is not completed: %(others)s.") % {"stage": until.label, "others": names},
            code="stage_not_ready",
            hint=_("Copy from an earlier stage."),
        )
    return [stage for stage in stages if stage.pk not in {until.pk, *later} and stage.is_done]


def _copy_work(stage: Stage, made: Stage, by: User) -> None:
    for deliverable in materials.approved([stage.pk]):
        role = _role_of(deliverable)
        versions.make(
            project=made.project,
            stage=made,
            type=deliverable.deliverable_type,
            title=deliverable.title,
            description=deliverable.description,
            content=deliverable.content,
            files=[{"path": file.path, "content": file.content} for file in deliverable.files.all()],
            tags=deliverable.tags,
            by=None if role else deliverable.created_by,
            role=role,
            llm_model=deliverable.llm_model,
            prompt=deliverable.prompt,
            metadata={**deliverable.metadata, "copied_from": str(deliverable.pk)},
            file_type=deliverable.file_type,
            upload=_upload_of(deliverable),
            status=Deliverable.Status.APPROVED,
        )
        access.log(deliverable, by, DeliverableAccess.Kind.READ, copied_to=str(made.project_id))


def _role_of(deliverable: Deliverable) -> str:
    """The role that made the first version of a deliverable, whoever edited it since; empty: a person."""
    made = versions.of(deliverable).exclude(created_by_role="").order_by("created_at", "pk")
    return made.values_list("created_by_role", flat=True).first() or ""


def _upload_of(deliverable: Deliverable) -> Upload | None:
    if not deliverable.upload:
        return None
    with deliverable.upload.open("rb") as stored:
        found = uploaded(stored)
    return replace(found, name=deliverable.metadata.get("upload", {}).get("name") or found.name)
