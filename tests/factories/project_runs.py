"""Projects, and runs of their stages that end as a test says."""

from typing import Any

from crews.models import EMBEDDED, LLMModel
from executions import events
from executions.errors import ErrorCode, Failure
from executions.models import Execution, TaskRun
from portal.accounts.models import User
from projects import actions
from projects.models import Deliverable, Project, Stage
from tests.factories.accounts import UserFactory
from tests.factories.crews import LLMModelFactory, LLMProviderFactory
from tests.factories.executions import LEASE

WORKER = "machine"


def embedded_model() -> LLMModel:
    """The model that every role has when no other can be reached."""
    found = LLMModel.objects.filter(pk=EMBEDDED).first()
    provider = None if found else LLMProviderFactory(kind="embedded", name="Embedded", api_base="")
    return found or LLMModelFactory(id=EMBEDDED, provider=provider, is_local=True)


def project_of(owner: User | None = None, **fields: Any) -> Project:
    """A MetaGPT project, as a person makes it, with the embedded model for every role."""
    embedded_model()
    values = {"name": "A tea shop", "selected_ai": Project.Engine.META_GPT, "requirement": "Sell tea.", **fields}
    return actions.create(by=owner or UserFactory(), **values)


def crew_project(owner: User | None = None, **fields: Any) -> Project:
    """As `project_of`, with CrewAI: research and writing side by side, then planning."""
    return project_of(owner, selected_ai=Project.Engine.CREW_AI, **fields)


def stage_of(project: Project, name: str) -> Stage:
    """One of its stages, as it is in the database."""
    return Stage.objects.select_related("project__access__owner").get(project=project, stage_name=name)


def run_of(stage: Stage) -> Execution:
    """The newest run of a stage, as it is in the database."""
    return Execution.objects.select_related("access__owner").filter(stage_run__stage=stage).latest("stage_run__pk")


def take(execution: Execution) -> Execution:
    """A runner takes a run that waits to start."""
    execution.refresh_from_db()
    execution.start(worker=WORKER, lease=LEASE)
    return execution


def made(kind: str = "requirement", content: str = "# Requirements", **fields: Any) -> dict[str, Any]:
    """A deliverable as an engine gives it."""
    return {"type": kind, "title": kind.replace("_", " ").capitalize(), "content": content, **fields}


def finish(execution: Execution, *deliverables: dict[str, Any], output: str = "Done.", settle: bool = True) -> None:
    """A run ends with what its engine gave; its project takes it in, unless `settle` is False."""
    execution.refresh_from_db()
    if execution.status == "pending":
        take(execution)
    task = execution.snapshot["spec"]["tasks"][0]["key"]
    TaskRun.objects.filter(execution=execution, task=task).update(status=TaskRun.Status.COMPLETED, output=output)
    data: dict[str, Any] = {"output": output, **({"deliverables": list(deliverables)} if deliverables else {})}
    events.append(execution.stream_id, [events.NewEvent("task.completed", data=data, task=task)])
    execution.complete(output)
    if settle:
        actions.settle(execution.pk)


def fail(execution: Execution, code: ErrorCode = ErrorCode.LLM_UNAVAILABLE) -> None:
    """A run ends badly, and its project takes it in."""
    execution.refresh_from_db()
    if execution.status == "pending":
        take(execution)
    execution.fail(Failure(code))
    actions.settle(execution.pk)


KINDS: dict[str, tuple[str, ...]] = {
    "requirement": ("requirement",),
    "design": ("design_doc", "architecture"),
    "planning": ("task_plan",),
    "development": ("code",),
    "testing": ("test_plan",),
}


def work(project: Project, name: str, *, content: str = "") -> list[Deliverable]:
    """The run of a stage ends with what the stage is to produce; returns the latest versions of that."""
    stage = stage_of(project, name)
    text = content or f"# {name}"
    if project.selected_ai == Project.Engine.META_GPT:
        finish(run_of(stage), *(made(kind, text) for kind in KINDS[name]))
    else:
        finish(run_of(stage), output=text)
    return list(stage.deliverables.filter(is_latest=True).order_by("deliverable_type"))


def approve(project: Project, name: str, by: User | None = None) -> None:
    """A stage in review is approved."""
    actions.review_stage(stage_of(project, name), by or project.owner, decision="approved")


def through(project: Project, *names: str) -> None:
    """Stages, one after the other, from their run's end to their approval; the project has started."""
    for name in names:
        work(project, name)
        approve(project, name)


def news_of(project: Project) -> list[dict[str, Any]]:
    """The events of its stream."""
    return events.read(project.stream_id)


def settle_stopped(project: Project) -> None:
    """The runners have obeyed: every run that was asked to stop has stopped."""
    for run in Execution.objects.active().filter(stage_run__stage__project=project).exclude(stop_requested_at=None):
        run.stop()
        actions.settle(run.pk)
