"""Stages, one at a time: starting, closing by hand, and their gates."""

import uuid
from datetime import timedelta
from decimal import Decimal
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils.translation import gettext as _

from executions import actions as runs
from executions.models import Execution
from executions.status import Status
from portal.accounts import audit
from portal.accounts.models import User
from portal.lib.problems import Conflict, FieldError, InvalidValues, model_errors
from projects import mapping, plans
from projects.actions.gates import settle_quorum
from projects.actions.ground import hold_stage
from projects.actions.people import check_people, replace_approvers
from projects.actions.progress import follow
from projects.actions.rollback import go_back
from projects.actions.runs import abandon, again, close
from projects.actions.starting import advance, launch, require_usable, unmet
from projects.models import Deliverable, Project, Stage, StageRun
from projects.status import ProjectStatus, StageStatus

OPTIONS = frozenset(
    {
        *("requires_approval", "quorum", "excludes_author", "review_hours", "escalate_to", "approvers"),
        *("responsible_role", "instructions", "estimated_hours", "notes"),
    }
)
MAX_TEXT = 20_000  # characters of instructions, and of notes


def start_stage(
    stage: Stage,
    by: User,
    *,
    responsible_role: str | None = None,
    estimated_hours: Decimal | None = None,
    api_key_id: uuid.UUID | None = None,
) -> Execution:
    """Start the stage's run. A failed one is tried again from where it was; one that is out of date begins anew.

    Raises `InvalidValues` for an unknown role, a model that cannot be used, or hours below zero, and `Conflict` when
    the stage is at work, in review or completed, what it depends on is not, or the project is paused or over.
    """
    with transaction.atomic():
        hold_stage(stage)
        _require_open(stage.project)
        options = {"responsible_role": responsible_role, "estimated_hours": estimated_hours}
        given = {name: value for name, value in options.items() if value is not None}
        _require_startable(stage)
        before = stage.responsible_role
        _set(stage, **given)
        if stage.stage_status == StageStatus.BLOCKED:
            execution = _resumed(stage, by)
        else:
            execution = begin(stage, by, api_key_id=api_key_id, is_other_role=before != stage.responsible_role)
        audit.record(
            "stage.started",
            by=by,
            target=stage,
            name=f"{stage.project}: {stage.label}",
            after={"execution_id": execution.pk, **given},
        )
        follow(stage.project)
    return execution


def begin(stage: Stage, by: User, *, api_key_id: uuid.UUID | None = None, is_other_role: bool = False) -> Execution:
    """Start a stage that can start: retry its failed run, else a new one. Its project is locked."""
    last = stage.runs.filter(round=stage.project.round).select_related("execution").order_by("-pk").first()
    may_retry = stage.stage_status == StageStatus.FAILED and not stage.is_stale and not is_other_role
    if may_retry and last is not None and _is_retriable(last.execution, stage.responsible_role):
        return _retried(stage, last, by)
    if stage.stage_status == StageStatus.COMPLETED:
        go_back(stage, by)
    return launch(stage, by, api_key_id=api_key_id)


def _is_retriable(execution: Execution, role: str) -> bool:
    """Whether it can go on from where it was: it has not been completed, and is of `role`, which can be changed."""
    has_ended = execution.status in {Status.FAILED, Status.STOPPED}
    return has_ended and execution.role_models.filter(key=plans.slug(role)).exists()


def _retried(stage: Stage, run: StageRun, by: User) -> Execution:
    """Its failed run goes on from where it was, with the model that its role has now."""
    chosen = require_usable(stage)
    run.stage = stage
    again(run)
    execution = runs.retry(run.execution, by)
    return runs.set_role_models(execution, by, {plans.slug(chosen.role_name): chosen.llm_model})


def _resumed(stage: Stage, by: User) -> Execution:
    run = stage.runs.select_related("execution").get(settled_at=None)
    if run.execution.status != Status.PAUSED:
        raise Conflict(
            stage.problem or _("Its run waits for somebody."),
            code="stage_blocked",
            hint=_("Raise the limit that it waits for, or roll the stage back."),
        )
    execution = runs.resume(run.execution, by)
    stage.move_to(StageStatus.IN_PROGRESS, problem="")
    return execution


def _require_open(project: Project) -> None:
    if project.status == ProjectStatus.PAUSED:
        raise Conflict(_("This project is paused."), code="project_paused", hint=_("Start the project to go on."))
    if project.status == ProjectStatus.CANCELLED:
        raise Conflict(
            _("This project is cancelled."), code="project_cancelled", hint=_("Restart it: a new round begins.")
        )


def _require_startable(stage: Stage) -> None:
    named = {"stage": stage.label}
    if stage.stage_status == StageStatus.IN_PROGRESS:
        raise Conflict(_("“%(stage)s” is at work already.") % named, code="stage_at_work")
    if stage.stage_status == StageStatus.REVIEW:
        raise Conflict(
            _("“%(stage)s” is in review.") % named,
            code="stage_in_review",
            hint=_("Approve its deliverables, or send them back with comments."),
        )
    if stage.is_done:
        raise Conflict(
            _("“%(stage)s” is completed.") % named, code="stage_completed", hint=_("To do it again, roll back to it.")
        )
    if missing := unmet(stage):
        names = ", ".join(other.label for other in missing)
        raise Conflict(
            _("“%(stage)s” waits for: %(others)s.") % {**named, "others": names},
            code="stage_not_ready",
            hint=_("It can start when these are approved."),
        )


def complete_stage(stage: Stage, by: User, *, actual_hours: Decimal | None = None, notes: str | None = None) -> Stage:
    """Close a stage by hand; a run that is still at work is stopped. Hours that are given override the measured ones.

    A stage that is completed takes new hours and notes, and counts as up to date again. Raises `Conflict` while a
    required approval is open, `InvalidValues` for hours below zero.
    """
    given: dict[str, Any] = {}
    if actual_hours is not None:
        given |= {"actual_hours": actual_hours, "has_given_hours": True}
    if notes is not None:
        given["notes"] = notes
    with transaction.atomic():
        hold_stage(stage)
        if stage.project.status == ProjectStatus.CANCELLED:
            _require_open(stage.project)
        _check(stage, given)
        in_review = stage.deliverables.filter(is_latest=True, status=Deliverable.Status.REVIEW)
        if stage.requires_approval and (stage.stage_status == StageStatus.REVIEW or in_review.exists()):
            raise Conflict(
                _("“%(stage)s” waits for an approval.") % {"stage": stage.label},
                code="approval_open",
                hint=_("Approve its deliverables, or send them back with comments."),
            )
        before = stage.stage_status
        if before == StageStatus.COMPLETED:
            given["is_stale"] = False
            _save(stage, given)
        else:
            abandon(stage, by)
            in_review.update(status=Deliverable.Status.APPROVED)
            close(stage, is_stale=False, **given)
        follow(stage.project)  # a project that had failed may go on now
        advance(stage.project)
        told = {"stage_status": stage.stage_status, **given}
        audit.record(
            "stage.completed",
            by=by,
            target=stage,
            name=f"{stage.project}: {stage.label}",
            before={"stage_status": before},
            after=told,
        )
        follow(stage.project)
    return stage


def set_stage(stage: Stage, by: User, **options: Any) -> Stage:
    """Change a stage's options: requires_approval, quorum, excludes_author, review_hours, escalate_to, approvers
    (people), responsible_role, instructions, estimated_hours, notes.

    What changes about the gate holds at once for quorum and time, and from the stage's next end for the rest.
    Raises `InvalidValues` by field, `Conflict` for an archived project.
    """
    with transaction.atomic():
        hold_stage(stage)
        if unknown := options.keys() - OPTIONS:
            raise InvalidValues([FieldError(name, "unknown", _("This cannot be changed.")) for name in sorted(unknown)])
        approvers = options.pop("approvers", None)
        before = {name: getattr(stage, name) for name in options}
        if (passed_on := options.get("escalate_to")) is not None:
            check_people(stage, [passed_on], field="escalate_to")
        _set(stage, **options)
        if "review_hours" in options and stage.review_since is not None and stage.escalated_at is None:
            hours = stage.review_hours
            _save(stage, {"review_due_at": stage.review_since + timedelta(hours=hours) if hours else None})
        after: dict[str, Any] = {name: getattr(stage, name) for name in options}
        changed = {name for name in options if before[name] != after[name]}
        if changed:
            audit.record(
                "stage.changed",
                by=by,
                target=stage,
                name=f"{stage.project}: {stage.label}",
                before={name: _shown(before[name]) for name in changed},
                after={name: _shown(after[name]) for name in changed},
            )
        if approvers is not None:
            replace_approvers(stage, by, approvers)
        if "quorum" in changed:
            settle_quorum(stage)
        follow(stage.project)
    return stage


def _shown(value: Any) -> Any:
    return value.get_username() if isinstance(value, User) else value


def _set(stage: Stage, **options: Any) -> None:
    """Check options and save them; a role is named as the project names it. Raises `InvalidValues`."""
    if (name := options.get("responsible_role")) is not None:
        role = plans.role_named(stage.project, str(name))
        if role is None:
            known = ", ".join(plans.roles_of(stage.project))
            detail = _("The project has no role “%(role)s”; it has: %(known)s.") % {"role": name, "known": known}
            raise InvalidValues([FieldError("responsible_role", "unknown_role", detail)])
        if role != stage.responsible_role and stage.is_at_work:
            raise Conflict(
                _("“%(stage)s” is at work; its role cannot change now.") % {"stage": stage.label}, code="stage_at_work"
            )
        options["responsible_role"] = role
        mapping.complete(stage.project)
    _check(stage, options)
    _save(stage, options)


def _check(stage: Stage, values: dict[str, Any]) -> None:
    """Raise `InvalidValues` for values that the stage cannot have; nothing is changed then."""
    errors = []
    for name, value in values.items():
        if name in {"instructions", "notes"} and len(str(value)) > MAX_TEXT:
            detail = _("At most %(limit)d characters, not %(n)d.") % {"limit": MAX_TEXT, "n": len(str(value))}
            errors.append(FieldError(name, "too_long", detail))
            continue
        field: Any = Stage._meta.get_field(name)
        try:
            field.clean(value.pk if isinstance(value, User) else value, stage)
        except ValidationError as exc:
            errors += model_errors(ValidationError({name: exc}))
    if errors:
        raise InvalidValues(errors)


def _save(stage: Stage, values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(stage, name, value)
    if values:
        stage.save(update_fields=list(values))
