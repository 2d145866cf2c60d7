"""Starting the run of a stage: the one place that makes runs of projects."""

import uuid
from collections.abc import Sequence
from typing import Any

from django.db import transaction
from django.utils import timezone, translation
from django.utils.translation import gettext as _

from executions import actions as runs
from executions.engines.protocol import Review
from executions.models import Execution
from portal.accounts.models import User
from portal.accounts.permissions import Action, can
from portal.lib.problems import Conflict, FieldError, InvalidValues, Problem
from projects import mapping, materials, plans, snapshot
from projects.actions.ground import of, read_again, sentence, tell
from projects.actions.progress import GOES_ON
from projects.deliverables import access
from projects.models import Deliverable, DeliverableAccess, Project, RoleLLMMapping, Stage, StageRun
from projects.status import StageStatus

Cause = StageRun.Cause


def unmet(stage: Stage) -> list[Stage]:
    """The stages that must be done before `stage` may start. One query."""
    return [other for other in stage.depends_on.order_by("stage_order") if not other.is_done]


def launch(stage: Stage, by: User, *, api_key_id: uuid.UUID | None = None) -> Execution:
    """Start a run of `stage`, whose project is locked: it is given the approved work of the stages before it.

    Raises `InvalidValues` that names the role and the model when that model cannot be used, and what
    `executions.actions.launch` raises.
    """
    project = stage.project
    chosen = require_usable(stage)
    cause = _cause(stage)
    given = materials.sources(stage)
    with transaction.atomic(), translation.override(project.language):
        execution = runs.launch(
            snapshot=snapshot.freeze(stage, chosen, given, _reviews(stage) if cause == Cause.REWORK else ()),
            name=f"{project.name}: {stage.label}"[:200],
            engine=project.engine,
            by=by,
            access=project.access,
            trigger=Execution.Trigger.PROJECT,
            api_key_id=api_key_id,
            max_llm_calls=snapshot.max_llm_calls(project),
            told={"project_id": project.pk, "stage_name": stage.stage_name},
        )
    run = StageRun.objects.create(stage=stage, execution=execution, round=project.round, cause=cause, started_by=by)
    run.sources.set(given)
    access.log_all(
        given, by, DeliverableAccess.Kind.READ, stage.responsible_role,
        execution_id=str(execution.pk), stage_name=stage.stage_name,
    )  # fmt: skip
    at_work(stage, run, is_stale=False)
    return execution


def at_work(stage: Stage, run: StageRun, **changes: Any) -> None:
    """A run of the stage begins, or begins again."""
    now = timezone.now()
    stage.move_to(
        StageStatus.IN_PROGRESS,
        start_date=now,
        end_date=None,
        problem="",
        review_since=None,
        review_due_at=None,
        escalated_at=None,
        **changes,
    )
    tell(
        stage.project,
        "stage_started",
        role=stage.responsible_role,
        stage_id=str(stage.pk),
        stage_name=stage.stage_name,
        responsible_role=stage.responsible_role,
        started_at=now.isoformat(),
        execution_id=str(run.execution_id),
        cause=str(run.cause),
    )


def require_usable(stage: Stage) -> RoleLLMMapping:
    """The model of the stage's role. Raises `InvalidValues` that names both when no run can use it now."""
    project = stage.project
    role = plans.role_named(project, stage.responsible_role) or stage.responsible_role
    chosen = mapping.of_role(project, role)
    if why := chosen.llm_model.why_not_runnable:
        detail = _("%(role)s works with the model %(model)s: %(why)s")
        named = {"role": role, "model": chosen.llm_model_id, "why": why}
        raise InvalidValues([FieldError(f"mappings.{role}", "model_not_runnable", detail % named)])
    return chosen


def _cause(stage: Stage) -> str:
    """Why the stage runs: for the first time in its round, since its work was sent back, or again."""
    if not stage.runs.filter(round=stage.project.round).exists():
        return Cause.START
    return Cause.RERUN if stage.is_stale or not _sent_back(stage) else Cause.REWORK


def _sent_back(stage: Stage) -> list[Deliverable]:
    latest = stage.deliverables.filter(is_latest=True, status=Deliverable.Status.REJECTED)
    return list(latest.prefetch_related("files").order_by("deliverable_type", "title", "pk"))


def _reviews(stage: Stage) -> Sequence[Review]:
    """What people said when they sent the stage's work back, in this round, oldest first."""
    earlier: list[Review] = []
    last = stage.runs.filter(round=stage.project.round).select_related("execution").order_by("-pk").first()
    if last is not None:
        earlier = last.execution.snapshot["spec"].get("reviews", {}).get(stage.stage_name, [])
    sent_back = _sent_back(stage)
    wishes = list(dict.fromkeys(filter(None, (one.review_comments.strip() for one in sent_back))))
    return [*earlier, Review(output="\n\n".join(map(whole_text, sent_back)), feedback="\n\n".join(wishes))]


def whole_text(deliverable: Deliverable) -> str:
    """A version as one Markdown text, its files too."""
    files = [f"### {file.path}\n\n```\n{file.content}\n```" for file in deliverable.files.all()]
    return "\n\n".join(filter(None, [f"## {deliverable.title}", deliverable.content.strip(), *files]))


# --- Without anybody asking -----------------------------------------------------------------------


def advance(project: Project) -> list[Stage]:
    """Start every stage that waits for nothing any more, where a project goes on by itself. Returns those begun."""
    if not project.auto_advance or project.is_archived or project.status not in GOES_ON:
        return []
    waiting = project.stages.filter(stage_status=StageStatus.PENDING).order_by("stage_order")
    return [stage for stage in waiting if not unmet(stage) and start_by_itself(of(stage, project))]


def start_by_itself(stage: Stage) -> bool:
    """Start `stage` in the name of whoever started the project's last run, else its owner's.

    Where that is not possible, the stage has failed and says why; whatever led here stands.
    """
    person, key = _in_whose_name(stage.project)
    try:
        with transaction.atomic():
            if person is None:
                raise Conflict(
                    _("Neither who started the project nor its owner may start runs any more."),
                    code="nobody_may_start",
                    hint=_("Hand the project on, or start the stage yourself."),
                )
            launch(stage, person, api_key_id=key)
    except Problem as problem:
        read_again(stage)
        failed(stage, sentence(problem), code=problem.code)
        return False
    return True


def failed(stage: Stage, problem: str, *, code: str) -> None:
    """The stage does not go on, and says why."""
    stage.move_to(StageStatus.FAILED, problem=problem, end_date=timezone.now())
    tell(
        stage.project,
        "stage_failed",
        role=stage.responsible_role,
        stage_id=str(stage.pk),
        stage_name=stage.stage_name,
        responsible_role=stage.responsible_role,
        error_code=code,
        problem=problem,
    )


def _in_whose_name(project: Project) -> tuple[User | None, uuid.UUID | None]:
    """Whose run the next one is, and with which of their API keys, as long as that is valid."""
    runs_so_far = StageRun.objects.filter(stage__project=project).select_related("started_by", "execution__api_key")
    last = runs_so_far.order_by("-pk").first()
    if last is not None and last.started_by is not None and can(last.started_by, Action.CHANGE, project):
        key = last.execution.api_key
        is_usable = key is not None and key.user_id == last.started_by_id and key.is_usable
        return last.started_by, key.pk if key is not None and is_usable else None
    owner = project.access.owner
    return (owner, None) if can(owner, Action.CHANGE, project) else (None, None)
