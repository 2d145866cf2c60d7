"""What is asked about projects: one of each owner, with a stage in review, a run, a deliverable and a template."""

import uuid
from collections.abc import Mapping
from typing import Any

from django.utils import timezone

from crews.models import LLMModel
from executions import events
from executions.models import EventStream, Execution
from executions.status import Status
from portal.accounts.models import AccessGrant, AccessList, User
from projects.models import (
    Attachment,
    Comment,
    Deliverable,
    DeliverableAccess,
    DeliverableFile,
    Project,
    RoleLLMMapping,
    Stage,
    StageRun,
    Template,
)
from projects.status import ProjectStatus, StageStatus
from tests.factories.executions import TaskRunFactory, execution_in

# The parts of a thing by which its project is known, each with a word of its own; and further words.
PARTS = ("project", "stage", "deliverable", "attachment", "template", "stagerun")
MORE_WORDS = ("requirement", "content", "file", "comment", "stagework")


def add_project(
    owner: User, people: Mapping[str, User], grants: Mapping[str, str], *, is_shared: bool, mark: str, model: LLMModel
) -> dict[str, Any]:
    """A project in review with all that belongs to it, and a template; returns the ids of its parts."""
    visibility = "shared" if is_shared else "private"
    access, own = (AccessList.objects.create(owner=owner, visibility=visibility) for _ in range(2))
    for person, level in grants.items():
        for one in (access, own):
            AccessGrant.objects.create(access=one, user=people[person], level=level)
    pk = uuid.uuid4()
    project = Project.objects.create(
        id=pk,
        stream=EventStream.objects.create(id=pk),
        access=access,
        name=f"zqproject{mark}",
        requirement=f"zqrequirement{mark}",
        selected_ai=Project.Engine.META_GPT,
        status=ProjectStatus.REVIEW,
        current_stage=Stage.Name.REQUIREMENT,
    )
    RoleLLMMapping.objects.create(project=project, role_name="Product Manager", llm_model=model)
    stage = _stages(project, mark)
    run = _run(stage, owner, mark)
    deliverable = _deliverable(stage, run, mark)
    Comment.objects.create(deliverable=deliverable, author=owner, text=f"zqcomment{mark}")
    DeliverableAccess.objects.create(deliverable=deliverable, project=project, accessed_by=owner, access_type="read")
    attachment = Attachment.objects.create(project=project, name=f"zqattachment{mark}.md", content="# Notes", size=7)
    template = Template.objects.create(
        id=f"zqtemplate{mark}",
        name=f"zqtemplate{mark}",
        project_type=Project.Type.API,
        selected_ai=Project.Engine.META_GPT,
        stages=[{"stage_name": "requirement", "responsible_role": "Product Manager", "depends_on": []}],
        access=own,
        created_by=owner,
    )
    # Whoever follows it gets this, and then the end.
    events.append(project.stream_id, [events.NewEvent("status", data={"status": "completed"})])
    return {
        "project": project.pk,
        "stage": stage.pk,
        "deliverable": deliverable.pk,
        "attachment": attachment.pk,
        "template": template.pk,
        "stagerun": run.pk,
        "project_access": access.pk,
    }


def _stages(project: Project, mark: str) -> Stage:
    first = Stage.objects.create(
        project=project,
        stage_name=Stage.Name.REQUIREMENT,
        stage_order=1,
        stage_status=StageStatus.REVIEW,
        responsible_role="Product Manager",
        notes=f"zqstage{mark}",
        review_since=timezone.now(),
    )
    second = Stage.objects.create(
        project=project, stage_name=Stage.Name.DESIGN, stage_order=2, responsible_role="Architect"
    )
    second.depends_on.add(first)
    return first


def _run(stage: Stage, owner: User, mark: str) -> Execution:
    run = execution_in(
        Status.COMPLETED,
        access=stage.project.access,
        created_by=owner,
        name=f"zqstagerun{mark}",
        engine="metagpt",
        trigger="project",
    )
    TaskRunFactory(execution=run, task=stage.stage_name, name=stage.stage_name, output=f"zqstagework{mark}")
    StageRun.objects.create(stage=stage, execution=run, started_by=owner, settled_at=timezone.now())
    return run


def _deliverable(stage: Stage, run: Execution, mark: str) -> Deliverable:
    deliverable = Deliverable.objects.create(
        project=stage.project,
        stage=stage,
        deliverable_type=Deliverable.Type.REQUIREMENT,
        title=f"zqdeliverable{mark}",
        content=f"zqcontent{mark}",
        search_text=f"zqdeliverable{mark} zqcontent{mark}",
        sha256="0" * 64,
        status=Deliverable.Status.REVIEW,
        created_by_role="Product Manager",
        execution=run,
    )
    DeliverableFile.objects.create(deliverable=deliverable, path="notes.md", content=f"zqfile{mark}", size=7)
    return deliverable
