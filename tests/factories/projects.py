"""Projects, their stages and deliverables, as rows; `projects.actions` has the ways that people go."""

import uuid
from typing import Any

import factory
from factory.django import DjangoModelFactory

from projects.deliverables import versions
from projects.models import Deliverable, Project, Stage
from tests.factories.accounts import AccessListFactory
from tests.factories.executions import StreamFactory

METAGPT_STAGES = {
    "requirement": "Product Manager",
    "design": "Architect",
    "planning": "Project Manager",
    "development": "Engineer",
    "testing": "QA Engineer",
}


class ProjectFactory(DjangoModelFactory):
    """A project that is planned, without stages; its stream has the same id."""

    class Meta:
        model = Project

    id = factory.LazyFunction(uuid.uuid4)
    stream = factory.SubFactory(StreamFactory, id=factory.SelfAttribute("..id"))
    access = factory.SubFactory(AccessListFactory)
    name = factory.Sequence(lambda n: f"Project {n}")
    selected_ai = "meta-gpt"


class StageFactory(DjangoModelFactory):
    class Meta:
        model = Stage

    project = factory.SubFactory(ProjectFactory)
    stage_name = "requirement"
    stage_order = factory.LazyAttribute(lambda stage: stage.project.stages.count() + 1)
    responsible_role = factory.LazyAttribute(lambda stage: METAGPT_STAGES.get(stage.stage_name, "Researcher"))


def staged_project(**fields: Any) -> Project:
    """A MetaGPT project with its five stages, each after the one before."""
    project = ProjectFactory(**fields)
    before = None
    for name in METAGPT_STAGES:
        stage = StageFactory(project=project, stage_name=name)
        if before is not None:
            stage.depends_on.add(before)
        before = stage
    return project


def deliverable_of(stage: Stage, **fields: Any) -> Deliverable:
    """A deliverable as the role of `stage` makes it."""
    given = {"type": "document", "title": "A document", "content": "# It\n\nSays so.", "role": stage.responsible_role}
    return versions.make(project=stage.project, stage=stage, **{**given, **fields})
