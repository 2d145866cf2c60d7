"""What may change about a run after its start: models, budgets, its place in the queue."""

from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final

from django.db import transaction
from django.db.models import F
from django.utils.translation import gettext as _

from crews.models import LLMModel
from executions import budgets, events
from executions.errors import TransitionLost
from executions.models import Execution, RoleModel
from executions.models.execution import PRIORITY_STEP
from executions.status import ACTIVE, Status
from executions.tasks import ring_soon
from portal.accounts import audit
from portal.accounts.models import User
from portal.lib.problems import Conflict, FieldError, InvalidValues


class Kept(Enum):
    """The type of `KEPT`, since None is a limit too: none."""

    KEPT = "kept"


KEPT: Final = Kept.KEPT  # a limit that is left as it is


def set_role_models(execution: Execution, by: User, models: Mapping[str, LLMModel]) -> Execution:
    """Give roles of an active run other models: from its very next call, roles that are not named keep theirs.

    `models`: role name (or key) → model; a name that several agents bear means all of them.
    Raises `InvalidValues` for unknown roles and models that no run can use now, what
    `budgets.require_priced` raises when the run has a budget of money and a model no price, and
    `Conflict` when the run has ended.
    """
    rows = list(execution.role_models.select_related("llm_model"))
    chosen = {row: model for row in rows for name, model in models.items() if name in {row.role, row.key}}
    known = {name for row in rows for name in (row.role, row.key)}
    errors = [
        FieldError("mappings", "unknown_role", _("The run has no role “%(name)s”.") % {"name": name})
        for name in models
        if name not in known
    ]
    errors += unusable_models({f"mappings.{row.role}": model for row, model in chosen.items()})
    if errors:
        raise InvalidValues(errors)
    budgets.require_priced(
        user=execution.created_by,
        models=chosen.values(),
        budget_usd=execution.budget_usd,
        api_key=execution.api_key_id,
        access=execution.access_id,
    )
    changed = {row: model for row, model in chosen.items() if row.llm_model_id != model.pk}
    if not changed:
        return execution
    with transaction.atomic():
        # The gateway reads the version with every call, and the models again when it has risen.
        _change(execution, roles_version=F("roles_version") + 1)
        for row, model in changed.items():
            RoleModel.objects.filter(pk=row.pk).update(llm_model=model)
        told = [
            events.NewEvent(
                "log",
                role=row.role,
                attempt=execution.attempt,
                data={
                    "kind": "role_model",
                    "message": _("%(role)s now works with %(model)s instead of %(before)s.")
                    % {"role": row.role, "model": model.pk, "before": row.llm_model_id},
                    "model": model.pk,
                    "by": by.get_username(),
                },
            )
            for row, model in changed.items()
        ]
        events.append(execution.stream_id, told)
        audit.record(
            "execution.models_changed",
            by=by,
            target=execution,
            before={row.role: row.llm_model_id for row in changed},
            after={row.role: model.pk for row, model in changed.items()},
        )
    execution.refresh_from_db()
    return execution


def unusable_models(models: Mapping[str, LLMModel]) -> list[FieldError]:
    """One error for each model (by field) that no run can use now."""
    return [
        FieldError(field, "model_not_runnable", _("The model %(model)s: %(why)s") % {"model": model.pk, "why": why})
        for field, model in models.items()
        if (why := model.why_not_runnable)
    ]


def set_budget(
    execution: Execution,
    by: User,
    *,
    budget_usd: Decimal | Kept | None = KEPT,
    budget_tokens: int | Kept | None = KEPT,
) -> Execution:
    """Set the run's limits in US$ and tokens; None takes a limit away, `KEPT` leaves it.

    A run that waits for a budget goes on when its next call fits now. A limit below what was used
    lets calls under way finish. Raises `Conflict` for a run that is completed, `InvalidValues` for a
    negative limit, and what `budgets.require_priced` raises.
    """
    wanted = {"budget_usd": budget_usd, "budget_tokens": budget_tokens}
    changes: dict[str, Any] = {name: value for name, value in wanted.items() if value is not KEPT}
    errors = [
        FieldError(name, "min_value", _("A limit cannot be negative."))
        for name, value in changes.items()
        if value is not None and value < 0
    ]
    if errors:
        raise InvalidValues(errors)
    if changes.get("budget_usd") is not None:
        models = [row.llm_model for row in execution.role_models.select_related("llm_model__provider")]
        budgets.require_priced(
            user=execution.created_by,
            models=models,
            budget_usd=changes["budget_usd"],
            api_key=execution.api_key_id,
            access=execution.access_id,
        )
    if not changes:
        return execution
    with transaction.atomic():
        _change(execution, *_NOT_COMPLETED, **changes)
        before = {name: getattr(execution, name) for name in changes}
        audit.record("execution.budget_changed", by=by, target=execution, before=before, after=changes)
        if Execution.objects.active().filter(pk=execution.pk).exists():  # else its log rests
            shown = ", ".join(_limits(changes))
            told = {"kind": "budget", "message": _("The limit is now: %(limits)s.") % {"limits": shown}}
            told["by"] = by.get_username()
            events.append(execution.stream_id, [events.NewEvent("log", data=told, attempt=execution.attempt)])
    execution.refresh_from_db()
    if execution.status == Status.WAITING and budgets.affordable(execution):
        try:
            execution.afforded(by=by)
        except TransitionLost:
            execution.refresh_from_db()  # a runner saw the room in this moment, or somebody stopped the run
        ring_soon()
    return execution


def _limits(changes: Mapping[str, Any]) -> list[str]:
    shown = []
    if "budget_usd" in changes:
        usd = changes["budget_usd"]
        shown.append(_("no limit of money") if usd is None else f"US$ {usd:f}")
    if "budget_tokens" in changes:
        tokens = changes["budget_tokens"]
        shown.append(_("no limit of tokens") if tokens is None else _("%(n)d tokens") % {"n": tokens})
    return shown


def set_priority(execution: Execution, by: User, priority: int) -> Execution:
    """Move a run forward or back in the queue: 1 to 9, 9 first; its age goes on counting.

    Raises `InvalidValues` for another number, `Conflict` when the run has ended.
    """
    if not 1 <= priority <= 9:
        raise InvalidValues([FieldError("priority", "invalid", _("Give a whole number from 1 to 9."))])
    with transaction.atomic():
        before = Execution.objects.select_for_update(no_key=True).get(pk=execution.pk).priority
        if before != priority:
            moved: timedelta = (before - priority) * PRIORITY_STEP
            _change(execution, priority=priority, queue_rank=F("queue_rank") + moved)
            message = _("Its priority is now %(now)d instead of %(before)d.") % {"now": priority, "before": before}
            told = {"kind": "priority", "message": message, "by": by.get_username()}
            events.append(execution.stream_id, [events.NewEvent("log", data=told, attempt=execution.attempt)])
            was, is_now = {"priority": before}, {"priority": priority}
            audit.record("execution.priority_changed", by=by, target=execution, before=was, after=is_now)
    execution.refresh_from_db()
    return execution


_NOT_COMPLETED = tuple(status for status in Status if status != Status.COMPLETED)


def _change(execution: Execution, *statuses: Status, **changes: Any) -> None:
    """Write to the row while it is in one of `statuses` (else: active). Raises `Conflict` when it is not."""
    among = statuses or tuple(ACTIVE)
    if not Execution.objects.filter(pk=execution.pk, status__in=among).update(**changes):
        raise Conflict(_("This run has ended."), code="run_ended", hint=_("Fork it, or start a new one."))
