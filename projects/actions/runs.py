"""The runs of stages: taking in how they ended."""

import logging
import uuid
from contextlib import suppress
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q
from django.http import Http404
from django.utils import timezone, translation
from django.utils.translation import gettext as _

from executions import actions as runs
from executions.errors import InvalidTransition, TransitionLost
from executions.models import Execution, ExecutionEvent
from executions.status import ACTIVE, ENDED, Status, WaitingFor
from portal.accounts.models import User
from portal.lib.problems import Problem
from projects import plans
from projects.actions.ground import hold, of, sentence, tell, tell_created
from projects.actions.progress import follow, hours_of
from projects.actions.starting import advance, at_work, failed
from projects.deliverables import versions
from projects.models import Deliverable, Stage, StageRun
from projects.status import ProjectStatus, StageStatus

logger = logging.getLogger(__name__)


def settle(execution_id: uuid.UUID) -> bool:
    """Bring a project in line with the run of one of its stages; True when something changed.

    A completed run: its deliverables are stored and the stage goes on, once, however often and from wherever this is
    called. A failed or stopped one: the stage has failed. One that waits or is paused blocks its stage. Does nothing
    for runs that belong to no project, or that their stage has left behind.
    """
    run = StageRun.objects.select_related("stage__project").filter(execution=execution_id).first()
    if run is None:
        return False
    project = run.stage.project
    try:
        with transaction.atomic():
            hold(project, archived_too=True)
            # Only now: somebody else may have settled it, or have gone on without it.
            run = StageRun.objects.select_related("stage", "execution").get(pk=run.pk)
            of(run.stage, project)
            with translation.override(project.language):
                changed = _take_in(run)
            if changed:
                follow(project)
    except Http404:  # the project was deleted in this moment
        return False
    return changed


def settle_all(most: int = 100) -> int:
    """Settle the runs whose project has not taken in what became of them; returns how many. A chore."""
    ended = Q(execution__status__in=ENDED)
    rests = Q(execution__status__in=[Status.WAITING, Status.PAUSED], stage__stage_status=StageStatus.IN_PROGRESS)
    goes = Q(execution__status__in=[Status.PENDING, Status.RUNNING], stage__stage_status=StageStatus.BLOCKED)
    to_pause = Q(execution__status=Status.RUNNING, execution__pause_requested_at=None)
    to_pause &= Q(stage__project__status=ProjectStatus.PAUSED)
    unsettled = StageRun.objects.filter(ended | rests | goes | to_pause, settled_at=None)
    # Somebody started a failed run again, on its own page.
    retried = StageRun.objects.filter(stage__stage_status=StageStatus.FAILED, execution__status__in=ACTIVE)
    retried = retried.exclude(settled_at=None).filter(execution__stop_requested_at=None)
    ids = [*unsettled.values_list("execution", flat=True)[:most], *retried.values_list("execution", flat=True)[:most]]
    count = 0
    for execution_id in ids:
        try:
            count += settle(execution_id)
        except Problem:  # one project that cannot go on keeps no other back
            logger.exception("run %s could not be settled", execution_id)
    return count


def abandon(stage: Stage, by: User) -> None:
    """Stop the stage's run, and take in nothing of it any more: whatever it still gives came too late."""
    open_run = stage.runs.filter(settled_at=None).select_related("execution").first()
    if open_run is None:
        return
    _settled(open_run)
    with suppress(InvalidTransition, TransitionLost):  # it ended in this moment
        runs.stop(open_run.execution, by)


def _take_in(run: StageRun) -> bool:
    execution, stage = run.execution, run.stage
    status = Status(execution.status)
    if run.settled_at is not None:
        return _reopened(run) or _measured_late(run)
    if status == Status.COMPLETED:
        _completed(run)
    elif status in ENDED:
        _settled(run)
        why = execution.failure.sentence if execution.failure else str(status.label)
        _failed(stage, why, code=execution.error_code)
    elif status in {Status.WAITING, Status.PAUSED}:
        if stage.stage_status != StageStatus.IN_PROGRESS:
            return False
        stage.move_to(StageStatus.BLOCKED, problem=_why_it_rests(execution), **hours_of(stage))
    else:
        return _goes_on(run)
    return True


def _reopened(run: StageRun) -> bool:
    """Whether somebody started the failed run of its stage again, on the run's own page."""
    execution, stage = run.execution, run.stage
    is_its_last = not stage.runs.filter(pk__gt=run.pk).exists() and run.round == stage.project.round
    if not (execution.is_active and not execution.is_stopping and is_its_last):
        return False
    if stage.stage_status != StageStatus.FAILED:
        return False
    again(run)
    return True


def _measured_late(run: StageRun) -> bool:
    """Whether a run that its stage had left behind has ended only now, and the hours it worked were added."""
    if run.execution.status not in ENDED:
        return False
    changes = {name: value for name, value in hours_of(run.stage).items() if getattr(run.stage, name) != value}
    for name, value in changes.items():
        setattr(run.stage, name, value)
    if changes:
        run.stage.save(update_fields=list(changes))
    return bool(changes)


def again(run: StageRun) -> None:
    """The failed run of a stage was started again: the stage is at work."""
    run.settled_at = None
    run.save(update_fields=["settled_at"])
    at_work(run.stage, run)


def _goes_on(run: StageRun) -> bool:
    """A run that waits to start, or runs."""
    execution, stage = run.execution, run.stage
    if stage.project.status == ProjectStatus.PAUSED and execution.status == Status.RUNNING:
        if execution.is_pausing or execution.is_stopping:
            return False
        try:
            # It had not started when the project was paused.
            runs.pause(execution, run.started_by or stage.project.access.owner)
        except (InvalidTransition, TransitionLost):
            return False  # it ends in this moment, and we hear of it
    if stage.stage_status == StageStatus.BLOCKED:
        stage.move_to(StageStatus.IN_PROGRESS, problem="")
        return True
    return False


def _why_it_rests(execution: Execution) -> str:
    if execution.status == Status.PAUSED:
        return _("Its run is paused.")
    if execution.waiting_for == WaitingFor.BUDGET:
        told = ExecutionEvent.objects.filter(stream_id=execution.stream_id, type="execution.waiting")
        message = told.order_by("-seq").values_list("data__message", flat=True).first()
        return str(message or _("Its next call would pass a limit."))
    return _("Its run waits for a person's answer.")


def _failed(stage: Stage, why: str, *, code: str) -> None:
    changes = hours_of(stage)
    for name, value in changes.items():
        setattr(stage, name, value)
    if changes:
        stage.save(update_fields=list(changes))
    failed(stage, why, code=code)


def _settled(run: StageRun) -> None:
    run.settled_at = timezone.now()
    run.save(update_fields=["settled_at"])


# --- A completed run ------------------------------------------------------------------------------


def _completed(run: StageRun) -> None:
    """Store what the run gave, and move its stage on."""
    stage = run.stage
    _settled(run)
    made = _given(run)
    if not made:
        _failed(stage, _("Its run gave no deliverable."), code="llm_bad_output")
        return
    try:
        with transaction.atomic():
            stored = _stored(run, made)
    except Problem as problem:
        _failed(stage, sentence(problem), code=problem.code)
        return
    for deliverable in stored:
        tell_created(deliverable)
    if stage.requires_approval:
        now = timezone.now()
        due = now + timedelta(hours=stage.review_hours) if stage.review_hours else None
        stage.move_to(
            StageStatus.REVIEW,
            review_since=now,
            review_due_at=due,
            escalated_at=None,
            end_date=now,
            problem="",
            **hours_of(stage),
        )
    else:
        complete(stage)


def complete(stage: Stage, **changes: Any) -> None:
    """The stage is done; what waited for it starts, where the project goes on by itself."""
    close(stage, **changes)
    advance(stage.project)


def close(stage: Stage, **changes: Any) -> None:
    """The stage is done."""
    now = timezone.now()
    given = {**hours_of(stage), **changes}
    stage.move_to(
        StageStatus.COMPLETED,
        end_date=now,
        problem="",
        review_since=None,
        review_due_at=None,
        escalated_at=None,
        **given,
    )
    tell(
        stage.project,
        "stage_completed",
        role=stage.responsible_role,
        stage_id=str(stage.pk),
        stage_name=stage.stage_name,
        responsible_role=stage.responsible_role,
        completed_at=now.isoformat(),
        actual_hours=float(stage.actual_hours),
    )


def _given(run: StageRun) -> list[dict[str, Any]]:
    """The deliverables that the engine gave; where it names none, its result is the one that the stage wants."""
    execution, stage = run.execution, run.stage
    told = ExecutionEvent.objects.filter(stream_id=execution.stream_id, type="task.completed", task=stage.stage_name)
    data = told.order_by("-seq").values_list("data", flat=True).first() or {}
    named = [one for one in data.get("deliverables") or () if isinstance(one, dict)]
    if named or not execution.final_output.strip():
        return named
    wanted = plans.stage_plan(stage.project.selected_ai, stage.stage_name).wanted[0]
    spec = execution.snapshot["spec"]
    return [
        {
            "type": wanted.type,
            "title": wanted.title.text(stage.project.language),
            "content": execution.final_output,
            "prompt": spec["tasks"][0]["description"],
        }
    ]


def _stored(run: StageRun, made: list[dict[str, Any]]) -> list[Deliverable]:
    """What a run made, as versions: the next ones of what the stage made before."""
    execution, stage = run.execution, run.stage
    models = dict(execution.role_models.values_list("role", "llm_model"))
    metadata = {} if stage.requires_approval else {"auto_approved": True}
    status = Deliverable.Status.REVIEW if stage.requires_approval else Deliverable.Status.APPROVED
    earlier = _made_before(stage)
    stored = []
    for one in made:
        lineages = earlier.get(_type_of(one), [])
        before = lineages.pop(0) if lineages else None
        deliverable = versions.take_in(
            {**one, "metadata": {**(one.get("metadata") or {}), **metadata}},
            project=stage.project,
            stage=stage,
            role=stage.responsible_role,
            execution=execution,
            llm_model=models.get(stage.responsible_role, ""),
            lineage_of=before,
            major=before is not None and run.cause != StageRun.Cause.REWORK,
            status=status,
        )
        stored.append(deliverable)
    return stored


def _type_of(made: dict[str, Any]) -> str:
    kind = str(made.get("type") or "")
    return kind if kind in Deliverable.Type.values else Deliverable.Type.DOCUMENT


def _made_before(stage: Stage) -> dict[str, list[Deliverable]]:
    """The latest versions of what runs of the stage made before, by type, in the order in which they came first."""
    by_role = Deliverable.objects.filter(stage=stage, created_by=None).exclude(created_by_role="")
    first = dict[uuid.UUID, int]()
    for position, lineage in enumerate(by_role.order_by("created_at", "pk").values_list("lineage", flat=True)):
        first.setdefault(lineage, position)
    found: dict[str, list[Deliverable]] = {}
    latest = Deliverable.objects.filter(lineage__in=list(first), is_latest=True)
    for deliverable in sorted(latest, key=lambda one: first[one.lineage]):
        found.setdefault(deliverable.deliverable_type, []).append(deliverable)
    return found
