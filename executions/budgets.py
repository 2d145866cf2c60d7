"""Budgets: what runs may use at most, in money and tokens.

A run has limits of its own; its user's `Budget` rows hold over all that the user has models do, those
of the API key with which it was started over all that is done with the key, and those of its access list over
all runs that this guards together: a project's. Before each request the
gateway reserves the most that it may cost, in the very statements that check the limits (`executions.reserves`);
after it, the reserve goes back and what was used is added. So what is spent and reserved together
never passes a limit, however many requests are under way. Local models cost nothing.

Who takes several of these rows takes them in one order: the run's, then the budgets' by id, then the
event stream's.
"""

import uuid
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, Sum
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from crews.models import LLMModel, LLMProvider
from crews.models.catalog import LLMFallback
from executions.errors import TransitionLost
from executions.models import Budget, Execution
from executions.status import Status, WaitingFor
from executions.tasks import ring_soon
from portal.accounts.models import AccessList, ApiKey, User
from portal.lib.problems import FieldError, Problem
from portal.lib.reading import Reading

USD, TOKENS = "usd", "tokens"
OWN = "run"
PASS = 500  # waiting runs that one look at the budgets takes in
# Of an execution's query: whether there is a budget that it counts against, so that most runs cost no query more.
HAS_BUDGET = Exists(
    Budget.objects.filter(
        Q(subject_kind=Budget.Subject.USER, subject_id=OuterRef("created_by_id"))
        | Q(subject_kind=Budget.Subject.API_KEY, subject_id=OuterRef("api_key_id"))
        | Q(subject_kind=Budget.Subject.ACCESS, subject_id=OuterRef("access_id"))
    )
)


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
    """One limit, and what has gone of it; `key` names the row that it stands on, `whose` it is: OWN is the run's."""

    key: uuid.UUID
    kind: str
    limit: Any
    spent: Any
    reserved: Any
    whose: str

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
            return str(_IN_USD[self.whose]) % named
        named = {"needs": str(needs.tokens), "limit": str(self.limit), "left": str(self._left)}
        return str(_IN_TOKENS[self.whose]) % named

    @property
    def _left(self) -> Any:
        return max(self.limit - self.spent, 0)


_IN_USD = {
    OWN: gettext_lazy("The next LLM call may cost US$ %(needs)s; the run's budget of US$ %(limit)s has %(left)s left."),
    Budget.Subject.USER: gettext_lazy(
        "The next LLM call may cost US$ %(needs)s; the user's budget of US$ %(limit)s has %(left)s left."
    ),
    Budget.Subject.API_KEY: gettext_lazy(
        "The next LLM call may cost US$ %(needs)s; the API key's budget of US$ %(limit)s has %(left)s left."
    ),
    Budget.Subject.ACCESS: gettext_lazy(
        "The next LLM call may cost US$ %(needs)s; the project's budget of US$ %(limit)s has %(left)s left."
    ),
}
_IN_TOKENS = {
    OWN: gettext_lazy("The next LLM call may take %(needs)s tokens; the run's budget of %(limit)s has %(left)s left."),
    Budget.Subject.USER: gettext_lazy(
        "The next LLM call may take %(needs)s tokens; the user's budget of %(limit)s has %(left)s left."
    ),
    Budget.Subject.API_KEY: gettext_lazy(
        "The next LLM call may take %(needs)s tokens; the API key's budget of %(limit)s has %(left)s left."
    ),
    Budget.Subject.ACCESS: gettext_lazy(
        "The next LLM call may take %(needs)s tokens; the project's budget of %(limit)s has %(left)s left."
    ),
}


def _money(value: Any) -> str:
    """US$, exact but without the zeros at the end."""
    return f"{Decimal(value).normalize():f}"


# --- What there is --------------------------------------------------------------------------------


def prices_of(model: LLMModel) -> tuple[Decimal | None, Decimal | None]:
    """US$ per million tokens read and written: nothing for a local model, None where there is no price."""
    if model.is_local or model.provider.kind == LLMProvider.Kind.EMBEDDED:
        return Decimal(0), Decimal(0)
    return model.price_in, model.price_out


def limits_of(
    user: uuid.UUID | None,
    usd: Decimal | None = None,
    tokens: int | None = None,
    *,
    api_key: uuid.UUID | None = None,
    access: uuid.UUID | None = None,
    has_budget: bool = True,
) -> Limits:
    """The limits of calls of a user and an API key, in a run with `usd` and `tokens` of its own and an access list.

    A query only where there are budgets.
    """
    found = of(user, api_key, access) if has_budget else []
    return Limits(
        in_usd=usd is not None or any(budget.limit_usd is not None for budget in found),
        in_tokens=tokens is not None or any(budget.limit_tokens is not None for budget in found),
        budgets=tuple(budget.pk for budget in found),
    )


def of(user: uuid.UUID | None, api_key: uuid.UUID | None = None, access: uuid.UUID | None = None) -> list[Budget]:
    """The budgets that calls of a person count against, made with an API key and in a run under an access list.

    Each in its current period.
    """
    return current(_about([user], [api_key], [access])) if user or api_key or access else []


def of_user(user: uuid.UUID) -> list[Budget]:
    """The budgets of a person, each in its current period."""
    return of(user)


def of_person(user: uuid.UUID) -> list[Budget]:
    """The budgets of a person and of their keys, each in its current period."""
    keys = ApiKey.objects.filter(user=user).values("pk")
    return current(
        Budget.objects.filter(
            Q(subject_kind=Budget.Subject.USER, subject_id=user)
            | Q(subject_kind=Budget.Subject.API_KEY, subject_id__in=keys)
        )
    )


def of_access(access: uuid.UUID) -> list[Budget]:
    """The budgets over what an access list guards together, each in its current period."""
    return of(None, None, access)


def _about(
    users: Iterable[uuid.UUID | None],
    keys: Iterable[uuid.UUID | None] = (),
    accesses: Iterable[uuid.UUID | None] = (),
) -> Any:
    return Budget.objects.filter(
        Q(subject_kind=Budget.Subject.USER, subject_id__in=[user for user in users if user])
        | Q(subject_kind=Budget.Subject.API_KEY, subject_id__in=[key for key in keys if key])
        | Q(subject_kind=Budget.Subject.ACCESS, subject_id__in=[access for access in accesses if access])
    )


def of_people() -> Any:
    """The budgets that admins give: those of people and of API keys."""
    return Budget.objects.exclude(subject_kind=Budget.Subject.ACCESS)


class Left(NamedTuple):
    """What is left of a budget; None where it sets no limit."""

    usd: Decimal | None
    tokens: int | None


def left_of(budget: Budget) -> Left:
    """What calls may still take, if those under way take what they have reserved."""
    usd, tokens = budget.limit_usd, budget.limit_tokens
    return Left(
        None if usd is None else max(usd - budget.spent_usd - budget.reserved_usd, Decimal(0)),
        None if tokens is None else max(tokens - budget.spent_tokens - budget.reserved_tokens, 0),
    )


def owner_of(budget: Budget) -> uuid.UUID | None:
    """Whose calls a budget is about; None when they have been deleted."""
    if budget.subject_kind == Budget.Subject.USER:
        return budget.subject_id
    if budget.subject_kind == Budget.Subject.ACCESS:
        return AccessList.objects.filter(pk=budget.subject_id).values_list("owner_id", flat=True).first()
    return ApiKey.objects.filter(pk=budget.subject_id).values_list("user_id", flat=True).first()


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
        Room(execution.pk, USD, execution.budget_usd, execution.cost_usd, execution.reserved_usd, OWN),
        Room(execution.pk, TOKENS, execution.budget_tokens, tokens, execution.reserved_tokens, OWN),
    ]
    return [*(room for room in found if room.limit is not None), *rooms_of(budgets)]


def rooms_of(budgets: Iterable[Budget]) -> list[Room]:
    """Every limit of some budgets."""
    found = []
    for budget in budgets:
        whose = budget.subject_kind
        found += [
            Room(budget.pk, USD, budget.limit_usd, budget.spent_usd, budget.reserved_usd, whose),
            Room(budget.pk, TOKENS, budget.limit_tokens, budget.spent_tokens, budget.reserved_tokens, whose),
        ]
    return [room for room in found if room.limit is not None]


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
    is_users = budget.subject_kind == Budget.Subject.USER
    known = User.objects.filter(pk=budget.subject_id) if is_users else _usable_keys().filter(pk=budget.subject_id)
    if budget._state.adding and not known.exists():
        message = _("There is no such user.") if is_users else _("There is no such API key, or it was revoked.")
        errors["subject_id"] = ValidationError(message, code="unknown_user" if is_users else "unknown_key")
    elif same.exists():
        detail = _("There is a budget for this period already. Change that one.")
        errors["period"] = ValidationError(detail, code="budget_exists")
    if errors:
        raise ValidationError(errors)


def _usable_keys() -> Any:
    return ApiKey.objects.filter(revoked_at=None)


def set_for_access(access: uuid.UUID, *, limit_usd: Decimal | None, by: User | None) -> None:
    """Limit what the runs of an access list may spend together, from the first of them on; None takes the limit away.

    Calls that are under way when a limit is first set do not count against it. Runs that waited for it go on where
    there is room now, once the current transaction has committed.
    """
    named: dict[str, Any] = {"subject_kind": Budget.Subject.ACCESS, "subject_id": access}
    with transaction.atomic():
        budget = Budget.objects.filter(**named, period=Budget.Period.TOTAL).first()
        if limit_usd is None:
            if budget is not None:
                budget.delete()
        elif budget is None:
            Budget.objects.create(**named, limit_usd=limit_usd, **_spent_under(access))
        elif budget.limit_usd != limit_usd:
            budget.limit_usd = limit_usd
            # What is spent and reserved changes meanwhile, and is not written back.
            budget.save(update_fields=["limit_usd", "updated_at"])
        # Not here: who moves a run takes its row before those of budgets.
        transaction.on_commit(partial(go_on, access=access, by=by))


def _spent_under(access: uuid.UUID) -> dict[str, Any]:
    """What the runs of an access list have used so far."""
    used = Execution.objects.filter(access=access).aggregate(
        usd=Sum("cost_usd"), read=Sum("prompt_tokens"), written=Sum("completion_tokens")
    )
    tokens = (used["read"] or 0) + (used["written"] or 0)
    return {"spent_usd": round(Decimal(used["usd"] or 0), 8), "spent_tokens": tokens}


# --- Runs that wait for a budget ------------------------------------------------------------------


def affordable(execution: Execution) -> bool:
    """Whether the limits of a run that waits for a budget leave room for the call that it waits with. Two queries."""
    found = Execution.objects.get(pk=execution.pk)
    budgets = of(found.created_by_id, found.api_key_id, found.access_id)
    return all(room.fits(_needs(found)) for room in rooms(found, budgets))


def go_on(*, user: uuid.UUID | None = None, access: uuid.UUID | None = None, by: User | None = None) -> int:
    """Put the runs that wait for a budget (of `user`, under `access`) back into the queue where there is room.

    They share what there is: each takes what it needs from what the next may count on, so that not all
    start for the sake of a room that one of them fills. Returns how many go on.
    """
    waiting = Execution.objects.filter(status=Status.WAITING, waiting_for=WaitingFor.BUDGET)
    if user is not None:
        waiting = waiting.filter(created_by=user)
    if access is not None:
        waiting = waiting.filter(access=access)
    runs = list(waiting.defer("snapshot", "inputs", "final_output").order_by("queue_rank", "pk")[:PASS])
    theirs: dict[uuid.UUID | None, list[Room]] = defaultdict(list)
    if runs:
        about = [{named[kind] for named in map(_subjects, runs)} for kind in range(3)]
        for budget in current(_about(*about)):
            theirs[budget.subject_id] += rooms_of([budget])
    count = 0
    for run in runs:
        needs, over = _needs(run), rooms(run, ())
        for subject in filter(None, _subjects(run)):
            over += theirs[subject]
        if all(room.fits(needs) for room in over):
            with suppress(TransitionLost):
                run.afforded(by=by)
                count += 1
                for room in over:
                    room.take(needs)
    if count:
        ring_soon()
    return count


def _subjects(run: Execution) -> tuple[uuid.UUID | None, uuid.UUID | None, uuid.UUID | None]:
    """Whose budgets it counts against: its user's, its API key's, its access list's."""
    return run.created_by_id, run.api_key_id, run.access_id


def _needs(execution: Execution) -> Amount:
    return Amount(execution.needs_usd or Decimal(0), execution.needs_tokens or 0)


# --- Models without a price -----------------------------------------------------------------------


def require_priced(
    *,
    user: User | None,
    models: Iterable[LLMModel],
    budget_usd: Decimal | None,
    api_key: uuid.UUID | None = None,
    access: uuid.UUID | None = None,
) -> None:
    """Refuse models without a price for a run under a budget of money: its own (`budget_usd`), its user's, its key's
    or its access list's.

    Their fallbacks too, as far as they can be used. Raises `ModelUnpriced`, which names them all. One
    query without such a budget (one more with a key or an access list), two with one (`models` with their
    `provider` read along).
    """
    limited = (
        budget_usd is not None
        or (user and _OF_USER(user.pk))
        or (api_key and _OF_KEY(api_key))
        or (access and _OF_ACCESS(access))
    )
    if not limited:
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


_OF_USER = Reading(lambda user: _about([user]).filter(limit_usd__isnull=False))
_OF_KEY = Reading(lambda key: _about([], [key]).filter(limit_usd__isnull=False))
_OF_ACCESS = Reading(lambda access: _about([], [], [access]).filter(limit_usd__isnull=False))
