"""Budgets: what runs may use at most, in money and tokens.

A run has limits of its own, and its user's `Budget` rows hold over all of the user's runs. Before each
request the gateway reserves the most that it may cost, in the very statements that check the limits;
after it, the reserve goes back and what was used is added. So what is spent and reserved together
never passes a limit, however many requests are under way. Local models cost nothing.

Who takes several of these rows takes them in one order: the run's, then the budgets' by id, then the
event stream's.
"""

import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.core.exceptions import ValidationError
from django.db import connection
from django.db.models import Exists, OuterRef
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext as _

from crews.models import LLMModel, LLMProvider
from crews.models.catalog import LLMFallback
from executions.errors import TransitionLost
from executions.models import Budget, Execution
from executions.status import Status, WaitingFor
from executions.tasks import ring_soon
from portal.accounts.models import User
from portal.lib import rows
from portal.lib.problems import FieldError, Problem
from portal.lib.reading import Reading

USD, TOKENS = "usd", "tokens"
PASS = 500  # waiting runs that one look at the budgets takes in
# Of an execution's query: whether its user has a budget at all, so that most runs cost no query more.
USER_HAS_BUDGET = Exists(Budget.objects.filter(subject_kind=Budget.Subject.USER, subject_id=OuterRef("created_by_id")))


class ModelUnpriced(Problem):
    """A model that has no price cannot be held to a budget of money."""

    code = "model_unpriced"


@dataclass(frozen=True)
class Amount:
    """So much money and so many tokens."""

    usd: Decimal = Decimal(0)
    tokens: int = 0


@dataclass(frozen=True)
class Limits:
    """What is known of the limits that a run's calls are under; false when there are none."""

    in_usd: bool = False
    in_tokens: bool = False
    budgets: tuple[uuid.UUID, ...] = ()

    def __bool__(self) -> bool:
        return self.in_usd or self.in_tokens


@dataclass
class Room:
    """One limit, and what has gone of it; `key` names the row that it stands on."""

    key: uuid.UUID
    kind: str
    limit: Any
    spent: Any
    reserved: Any
    is_own: bool

    def lacks(self, needs: Amount) -> bool:
        """Whether `needs` would pass it even if nothing were reserved."""
        need = needs.usd if self.kind == USD else needs.tokens
        return bool(need) and self.spent + need > self.limit

    def fits(self, needs: Amount) -> bool:
        """Whether there is room for `needs` now."""
        need = needs.usd if self.kind == USD else needs.tokens
        return not need or self.spent + self.reserved + need <= self.limit

    def take(self, needs: Amount) -> None:
        self.reserved += needs.usd if self.kind == USD else needs.tokens

    def sentence(self, needs: Amount) -> str:
        """Why `needs` is too much, for people."""
        if self.kind == USD:
            named = {"needs": _money(needs.usd), "limit": _money(self.limit), "left": _money(self._left)}
            if self.is_own:
                text = _(
                    "The next LLM call may cost US$ %(needs)s; the run's budget of US$ %(limit)s has %(left)s left."
                )
            else:
                text = _(
                    "The next LLM call may cost US$ %(needs)s; the user's budget of US$ %(limit)s has %(left)s left."
                )
            return text % named
        named = {"needs": str(needs.tokens), "limit": str(self.limit), "left": str(self._left)}
        if self.is_own:
            text = _("The next LLM call may take %(needs)s tokens; the run's budget of %(limit)s has %(left)s left.")
        else:
            text = _("The next LLM call may take %(needs)s tokens; the user's budget of %(limit)s has %(left)s left.")
        return text % named

    @property
    def _left(self) -> Any:
        return max(self.limit - self.spent, 0)


def _money(value: Any) -> str:
    """US$, exact but without the zeros at the end."""
    return f"{Decimal(value).normalize():f}"


# --- Reserving and settling -----------------------------------------------------------------------

# The values beside a column are text to SQLite, so they are made numbers; and its sums are floating, so
# they are rounded to what the columns keep.
_RESERVE = """
UPDATE executions_budget
   SET reserved_usd = ROUND(reserved_usd + CAST(%s AS NUMERIC), 8), reserved_tokens = reserved_tokens + %s
 WHERE id IN ({ids})
   AND (limit_usd IS NULL OR CAST(%s AS NUMERIC) = 0
        OR ROUND(spent_usd + reserved_usd + CAST(%s AS NUMERIC), 8) <= limit_usd)
   AND (limit_tokens IS NULL OR spent_tokens + reserved_tokens + %s <= limit_tokens)
"""
_SETTLE = """
UPDATE executions_budget
   SET reserved_usd = ROUND(reserved_usd - CAST(%s AS NUMERIC), 8), reserved_tokens = reserved_tokens - %s,
       spent_usd = ROUND(spent_usd + CAST(%s AS NUMERIC), 8), spent_tokens = spent_tokens + %s
 WHERE id IN ({ids})
"""
# A run's own: counts the call and reserves, where the token's attempt is running and within its limits.
_RESERVE_OWN = """
UPDATE executions_execution
   SET llm_calls_count = llm_calls_count + 1,
       reserved_usd = ROUND(reserved_usd + CAST(%s AS NUMERIC), 8), reserved_tokens = reserved_tokens + %s
 WHERE id = %s AND status = %s AND attempt = %s AND stop_requested_at IS NULL
   AND llm_calls_count - calls_before_restart < max_llm_calls
   AND (budget_usd IS NULL OR CAST(%s AS NUMERIC) = 0
        OR ROUND(cost_usd + reserved_usd + CAST(%s AS NUMERIC), 8) <= budget_usd)
   AND (budget_tokens IS NULL OR prompt_tokens + completion_tokens + reserved_tokens + %s <= budget_tokens)
RETURNING roles_version, budget_usd, budget_tokens
"""
_SETTLE_OWN = """
UPDATE executions_execution
   SET reserved_usd = ROUND(reserved_usd - CAST(%s AS NUMERIC), 8), reserved_tokens = reserved_tokens - %s,
       cost_usd = ROUND(cost_usd + CAST(%s AS NUMERIC), 8),
       prompt_tokens = prompt_tokens + %s, completion_tokens = completion_tokens + %s,
       unpriced_calls = unpriced_calls + %s
 WHERE id = %s
RETURNING status
"""


def reserve_own(execution: uuid.UUID, attempt: int, most: Amount) -> tuple[int, bool] | None:
    """Count a call of a running attempt and reserve the `most` it may use, on the run itself. One statement.

    Returns the run's `roles_version` and whether it has limits of its own; None when the attempt is over
    or stopping, or a limit leaves no room.
    """
    usd, tokens = most.usd, most.tokens
    key = rows.key(Execution, execution)
    with connection.cursor() as cursor:
        cursor.execute(_RESERVE_OWN, [usd, tokens, key, Status.RUNNING, attempt, usd, usd, tokens])
        found = cursor.fetchone()
    # SQLite 3.40 says of every column that it returns that it IS NOT NULL, so that is asked here.
    return None if found is None else (int(found[0]), found[1] is not None or found[2] is not None)


def settle_own(
    execution: uuid.UUID,
    reserved: Amount,
    *,
    prompt_tokens: int,
    completion_tokens: int,
    cost_usd: Decimal,
    is_unpriced: bool,
) -> str | None:
    """Give a call's reserve back and add what it used to the run's totals.

    Returns the run's status, None when the run was deleted.
    """
    used = [cost_usd, prompt_tokens, completion_tokens, int(is_unpriced)]
    found = rows.one(_SETTLE_OWN, [reserved.usd, reserved.tokens, *used, rows.key(Execution, execution)])
    return found[0] if found else None


def reserve(budgets: Sequence[str], most: Amount) -> bool:
    """Reserve `most` on all of `budgets` (ids); False when one leaves no room: then roll back."""
    if not budgets:
        return True
    keys = _locked(budgets)
    sql = _RESERVE.format(ids=", ".join(["%s"] * len(keys)))
    usd, tokens = most.usd, most.tokens
    return rows.execute(sql, [usd, tokens, *keys, usd, usd, tokens]) == len(keys)


def settle(budgets: Sequence[str], reserved: Amount, used: Amount) -> None:
    """Give a reserve back on all of `budgets` (ids) that are still there, and add what was used."""
    if not budgets:
        return
    keys = _locked(budgets)
    sql = _SETTLE.format(ids=", ".join(["%s"] * len(keys)))
    rows.execute(sql, [reserved.usd, reserved.tokens, used.usd, used.tokens, *keys])


def _locked(budgets: Sequence[str]) -> list[Any]:
    """The keys of `budgets`; several are locked in the order of their ids, as one UPDATE would not promise."""
    ids = sorted(uuid.UUID(name) for name in budgets)
    if len(ids) > 1 and connection.features.has_select_for_update:
        list(Budget.objects.select_for_update().filter(pk__in=ids).order_by("pk").values_list("pk"))
    return [rows.key(Budget, one) for one in ids]


# --- What there is --------------------------------------------------------------------------------


def prices_of(model: LLMModel) -> tuple[Decimal | None, Decimal | None]:
    """US$ per million tokens read and written: nothing for a local model, None where there is no price."""
    if model.is_local or model.provider.kind == LLMProvider.Kind.EMBEDDED:
        return Decimal(0), Decimal(0)
    return model.price_in, model.price_out


def limits_of(user: uuid.UUID | None, usd: Decimal | None, tokens: int | None, *, user_has_budget: bool) -> Limits:
    """The limits of a run with `usd` and `tokens` of its own. A query only where the user has budgets."""
    found = of_user(user) if user and user_has_budget else []
    return Limits(
        in_usd=usd is not None or any(budget.limit_usd is not None for budget in found),
        in_tokens=tokens is not None or any(budget.limit_tokens is not None for budget in found),
        budgets=tuple(budget.pk for budget in found),
    )


def of_user(user: uuid.UUID) -> list[Budget]:
    """The budgets of a person, each in its current period."""
    return current(Budget.objects.filter(subject_kind=Budget.Subject.USER, subject_id=user))


def current(budgets: Any) -> list[Budget]:
    """Budgets in the order of their ids; those whose period is over begin the next one, by the database's clock."""
    found = list(budgets.annotate(now=Now()).order_by("pk"))
    for budget in found:
        start = period_start(budget.period, budget.now)
        if start is not None and budget.window_start < start:
            fresh = {"spent_usd": Decimal(0), "spent_tokens": 0, "window_start": start}
            # Whoever comes first begins it. What is still reserved goes on, into the new period.
            if Budget.objects.filter(pk=budget.pk, window_start__lt=start).update(**fresh):
                budget.spent_usd, budget.spent_tokens, budget.window_start = Decimal(0), 0, start
            else:
                budget.refresh_from_db()
    return found


def period_start(period: str, now: datetime) -> datetime | None:
    """When the period in which `now` lies began, in the portal's time zone; None for one without end."""
    midnight = timezone.localtime(now).replace(hour=0, minute=0, second=0, microsecond=0)
    return {Budget.Period.DAY: midnight, Budget.Period.MONTH: midnight.replace(day=1)}.get(Budget.Period(period))


def rooms(execution: Execution, budgets: Iterable[Budget]) -> list[Room]:
    """Every limit that the calls of `execution` are under: its own, and those of `budgets`."""
    tokens = execution.prompt_tokens + execution.completion_tokens
    found = [
        Room(execution.pk, USD, execution.budget_usd, execution.cost_usd, execution.reserved_usd, True),
        Room(execution.pk, TOKENS, execution.budget_tokens, tokens, execution.reserved_tokens, True),
    ]
    for budget in budgets:
        found += _rooms_of(budget)
    return [room for room in found if room.limit is not None]


def _rooms_of(budget: Budget) -> list[Room]:
    return [
        Room(budget.pk, USD, budget.limit_usd, budget.spent_usd, budget.reserved_usd, False),
        Room(budget.pk, TOKENS, budget.limit_tokens, budget.spent_tokens, budget.reserved_tokens, False),
    ]


def check(budget: Budget) -> None:
    """Raise `ValidationError`, by field, for a budget that makes no sense or is there already. Two queries."""
    errors: dict[str, ValidationError] = {}
    for name in ("limit_usd", "limit_tokens"):
        if (limit := getattr(budget, name)) is not None and limit < 0:
            errors[name] = ValidationError(_("Give a number that is not negative."), code="min_value")
    if budget.limit_usd is None and budget.limit_tokens is None:
        errors["limit_usd"] = ValidationError(_("Limit money, tokens or both."), code="required")
    same = Budget.objects.filter(
        subject_kind=budget.subject_kind, subject_id=budget.subject_id, period=budget.period
    ).exclude(pk=budget.pk)
    if budget._state.adding and not User.objects.filter(pk=budget.subject_id).exists():
        errors["subject_id"] = ValidationError(_("There is no such user."), code="unknown_user")
    elif same.exists():
        detail = _("There is a budget for this period already. Change that one.")
        errors["period"] = ValidationError(detail, code="budget_exists")
    if errors:
        raise ValidationError(errors)


# --- Runs that wait for a budget ------------------------------------------------------------------


def affordable(execution: Execution) -> bool:
    """Whether the limits of a run that waits for a budget leave room for the call that it waits with. Two queries."""
    found = Execution.objects.get(pk=execution.pk)
    budgets = of_user(found.created_by_id) if found.created_by_id else []
    return all(room.fits(_needs(found)) for room in rooms(found, budgets))


def go_on(*, user: uuid.UUID | None = None, by: User | None = None) -> int:
    """Put the runs that wait for a budget (of `user`, if one is given) back into the queue where there is room.

    They share what there is: each takes what it needs from what the next may count on, so that not all
    start for the sake of a room that one of them fills. Returns how many go on.
    """
    waiting = Execution.objects.filter(status=Status.WAITING, waiting_for=WaitingFor.BUDGET)
    if user is not None:
        waiting = waiting.filter(created_by=user)
    runs = list(waiting.defer("snapshot", "inputs", "final_output").order_by("queue_rank", "pk")[:PASS])
    people = {run.created_by_id for run in runs} - {None}
    theirs: dict[uuid.UUID | None, list[Room]] = defaultdict(list)
    if people:
        for budget in current(Budget.objects.filter(subject_kind=Budget.Subject.USER, subject_id__in=people)):
            theirs[budget.subject_id] += [room for room in _rooms_of(budget) if room.limit is not None]
    count = 0
    for run in runs:
        needs, over = _needs(run), [*rooms(run, ()), *theirs[run.created_by_id]]
        if all(room.fits(needs) for room in over):
            with suppress(TransitionLost):
                run.afforded(by=by)
                count += 1
                for room in over:
                    room.take(needs)
    if count:
        ring_soon()
    return count


def _needs(execution: Execution) -> Amount:
    return Amount(execution.needs_usd or Decimal(0), execution.needs_tokens or 0)


# --- Models without a price -----------------------------------------------------------------------


def require_priced(*, user: User | None, models: Iterable[LLMModel], budget_usd: Decimal | None) -> None:
    """Refuse models without a price for a run under a budget of money, its own (`budget_usd`) or its user's.

    Their fallbacks too, as far as they can be used. Raises `ModelUnpriced`, which names them all. One
    query without such a budget, two with one (`models` with their `provider` read along).
    """
    if budget_usd is None and not (user and _MONEY_BUDGETS(user.pk)):
        return
    chosen = {model.pk: model for model in models}
    unpriced = [name for name, model in chosen.items() if None in prices_of(model)]
    fallbacks = LLMFallback.objects.filter(model__in=list(chosen)).select_related("fallback__provider")
    errors = [
        FieldError("model", ModelUnpriced.code, _("The model %(model)s has no price.") % {"model": name})
        for name in sorted(unpriced)
    ]
    for row in fallbacks.order_by("model_id", "position"):
        if row.fallback.is_runnable and None in prices_of(row.fallback) and row.fallback_id not in unpriced:
            detail = _("The model %(model)s falls back on %(fallback)s, which has no price.")
            named = {"model": row.model_id, "fallback": row.fallback_id}
            errors.append(FieldError("model", ModelUnpriced.code, detail % named))
    if errors:
        raise ModelUnpriced(
            _("A model without a price cannot be used under a budget of money."),
            hint=_("Give the model its prices, choose another one, or lift the budget."),
            errors=errors,
        )


_MONEY_BUDGETS = Reading(
    lambda user: Budget.objects.filter(subject_kind=Budget.Subject.USER, subject_id=user, limit_usd__isnull=False)
)
