"""Starting a stage by whoever does not know whether it was started: it may have gone on by itself meanwhile."""

import uuid
from decimal import Decimal

from django.db import transaction

from executions.actions.starting import hash_of, started_with
from executions.models import Execution
from portal.accounts.models import User
from projects import plans
from projects.actions.ground import hold_stage
from projects.actions.stages import set_stage, start_stage
from projects.models import Stage
from projects.status import StageStatus

UNDER_WAY = frozenset({StageStatus.IN_PROGRESS, StageStatus.REVIEW})


def ensure_started(
    stage: Stage,
    by: User,
    *,
    responsible_role: str | None = None,
    estimated_hours: Decimal | None = None,
    api_key_id: uuid.UUID | None = None,
    idempotency_key: str = "",
) -> Execution:
    """As `start_stage`; of a stage that is at work or in review, the run that it is so with.

    With an `idempotency_key` that this person used in the last 24 hours, the run of that time comes back instead.
    Raises what `start_stage` raises, and `Conflict` when the key came with other values before.
    """
    request_hash = hash_of(stage.pk, responsible_role, estimated_hours) if idempotency_key else ""
    if idempotency_key and (earlier := started_with(by, idempotency_key, request_hash)):
        return earlier
    with transaction.atomic():
        hold_stage(stage)
        if (execution := _under_way(stage, responsible_role)) is not None:
            if estimated_hours is not None:
                set_stage(stage, by, estimated_hours=estimated_hours)
            return execution
        execution = start_stage(
            stage, by, responsible_role=responsible_role, estimated_hours=estimated_hours, api_key_id=api_key_id
        )
        if idempotency_key and not execution.idempotency_key and execution.created_by_id == by.pk:
            execution.idempotency_key, execution.request_hash = idempotency_key, request_hash
            execution.save(update_fields=["idempotency_key", "request_hash"])
    return execution


def _under_way(stage: Stage, role: str | None) -> Execution | None:
    """The run that a stage is at work or in review with; None when another role is to do it."""
    if stage.stage_status not in UNDER_WAY:
        return None
    if role is not None and plans.slug(role) != plans.slug(stage.responsible_role):
        return None
    last = stage.runs.filter(round=stage.project.round).select_related("execution").order_by("-pk").first()
    return last.execution if last is not None else None
