"""Which model answers: a role's, or one of the catalog by its id; with the models to fall back on."""

import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from django.conf import settings

from crews.models import LLMModel, LLMProvider
from crews.models.catalog import LLMFallback
from executions import budgets
from executions.gateway.faults import Refusal
from executions.models import Execution, RoleModel
from executions.status import ACTIVE, Status

ROLE = "role:"
FRESH_SECONDS = 1.0  # no older than this may anything be that was read


@dataclass(frozen=True)
class Target:
    """A model as the gateway needs it: where it is, how to speak to it and what it costs."""

    id: str
    provider: str
    kind: str
    api_base: str
    api_key: str = field(repr=False)
    route: str
    defaults: dict[str, Any]
    native_tools: bool
    max_concurrency: int
    context_window: int
    price_in: Decimal | None
    price_out: Decimal | None
    why_not_runnable: str
    created: int
    allow_private: bool = False

    @property
    def model(self) -> str:
        """What an OpenAI-compatible server calls it: the route without its first part."""
        return self.route.partition("/")[2] or self.route

    @classmethod
    def of(cls, model: LLMModel) -> "Target":
        provider = model.provider
        embedded = provider.kind == LLMProvider.Kind.EMBEDDED
        price_in, price_out = budgets.prices_of(model)
        return cls(
            id=model.pk,
            provider=provider.name,
            kind=provider.kind,
            api_base=f"{settings.MODEL_URL}/v1" if embedded else provider.api_base.rstrip("/"),
            api_key=provider.api_key if provider.has_key else "",
            route=model.route,
            defaults=model.defaults,
            native_tools=model.native_tools,
            max_concurrency=model.max_concurrency,
            context_window=model.context_window,
            price_in=price_in,
            price_out=price_out,
            why_not_runnable=model.why_not_runnable,
            created=int(model.created_at.timestamp()),
            allow_private=provider.may_go_private,
        )


class StaleRun(Exception):
    """The run has other models or limits than those that were read: read again."""


@dataclass(frozen=True)
class Caller:
    """Who asks: one attempt of one execution; or, without an execution, a person, perhaps with an API key."""

    execution: uuid.UUID | None
    attempt: int = 0
    user: uuid.UUID | None = None
    api_key: uuid.UUID | None = None

    @property
    def run(self) -> uuid.UUID:
        """The execution. Raises `RuntimeError` for a caller without one."""
        if self.execution is None:
            raise RuntimeError("this caller has no run")
        return self.execution


@dataclass(frozen=True)
class Run:
    """What the gateway needs to know of a running attempt, or of a person who calls. `roles`: agent key → (role,
    catalog id).

    `has_past`: requests may have been answered before it began, so the journal is looked into first.
    """

    user: uuid.UUID | None
    roles: dict[str, tuple[str, str]]
    roles_version: int
    limits: budgets.Limits
    has_past: bool
    read_at: float
    api_key: uuid.UUID | None = None


@dataclass(frozen=True)
class Catalog:
    """Every model, and for each the ids to fall back on, in order."""

    targets: dict[str, Target]
    fallbacks: dict[str, list[str]]
    read_at: float

    def chain(self, model: str) -> list[Target]:
        """`model` and what may stand in for it."""
        return [self.targets[name] for name in (model, *self.fallbacks.get(model, ())) if name in self.targets]


class Directory:
    """Reads catalog and runs, and remembers them for at most a second.

    `read` calls a function with arguments where queries may run.
    """

    def __init__(self, read: Callable[..., Awaitable[Any]]) -> None:
        self._read = read
        self._catalog: Catalog | None = None
        self._runs: dict[Caller, Run] = {}

    async def catalog(self) -> Catalog:
        if self._catalog is None or time.monotonic() - self._catalog.read_at > FRESH_SECONDS:
            self._catalog = await self._read(read_catalog)
        return self._catalog

    async def run(self, caller: Caller) -> Run:
        """The caller's run. Raises `Refusal` when its token is not good any more, up to a second late.

        A request is refused at once all the same: opening it looks again (`executions.gateway.ledger`).
        """
        now = time.monotonic()
        run = self._runs.get(caller)
        if run is None or now - run.read_at > FRESH_SECONDS:
            self._runs = {key: known for key, known in self._runs.items() if now - known.read_at <= FRESH_SECONDS}
            read = read_person if caller.execution is None else read_run
            self._runs[caller] = run = await self._read(read, caller)
        return run

    async def run_anew(self, caller: Caller) -> Run:
        """The caller's run as it is now. Raises `Refusal`."""
        self._runs.pop(caller, None)
        return await self.run(caller)

    async def resolve(self, run: Run, model: str) -> list[Target]:
        """The models to try for what a request calls `model`. Raises `Refusal`."""
        name = model
        if model.startswith(ROLE):
            _role, name = run.roles.get(model.removeprefix(ROLE), ("", ""))
        catalog = await self.catalog()
        if name and name not in catalog.targets:
            self._catalog = None  # it may have been made a moment ago
            catalog = await self.catalog()
        if name not in catalog.targets:
            raise Refusal(404, "model_not_found", f"There is no model “{model}”.", param="model")
        return catalog.chain(name)


def read_catalog() -> Catalog:
    """Two queries."""
    read_at = time.monotonic()
    targets = {model.pk: Target.of(model) for model in LLMModel.objects.select_related("provider")}
    fallbacks: dict[str, list[str]] = {}
    for model, fallback in LLMFallback.objects.order_by("position", "pk").values_list("model_id", "fallback_id"):
        fallbacks.setdefault(model, []).append(fallback)
    return Catalog(targets, fallbacks, read_at)


def alive(caller: Caller) -> Any:
    """The caller's execution, as a queryset that is empty once the token is dead."""
    return Execution.objects.filter(
        pk=caller.run, status=Status.RUNNING, attempt=caller.attempt, stop_requested_at=None
    )


def hold(caller: Caller) -> None:
    """Lock the caller's execution until the transaction ends: the log of a run rests once it has ended.

    Raises `Refusal` when the token is dead.
    """
    if not alive(caller).select_for_update(no_key=True).values_list("pk").first():
        raise dead_token()


def is_wanted(execution: uuid.UUID) -> bool:
    """Whether a run may still use an answer: it has not ended, and is neither to stop nor to fail."""
    wanted = Execution.objects.filter(pk=execution, status__in=ACTIVE, stop_requested_at=None, error_code="")
    return bool(wanted.exists())


def dead_token() -> Refusal:
    return Refusal(401, "invalid_token", "This run token is not good any more: its attempt has ended or is stopping.")


def read_run(caller: Caller) -> Run:
    """Two queries, and one more for the budgets of a user who has some. Raises `Refusal` when the token is dead."""
    read_at = time.monotonic()
    # The version before the roles: one that is too old only means to read once more.
    names = (
        *("created_by_id", "api_key_id", "access_id"),
        *("roles_version", "forked_from_id", "budget_usd", "budget_tokens"),
    )
    found = alive(caller).annotate(has_budget=budgets.HAS_BUDGET).values_list(*names, "has_budget").first()
    if found is None:
        raise dead_token()
    user, api_key, access, version, origin, usd, tokens, has_budget = found
    limits = budgets.limits_of(user, usd, tokens, api_key=api_key, access=access, has_budget=has_budget)
    rows = RoleModel.objects.filter(execution_id=caller.run)
    roles = {key: (role, model) for key, role, model in rows.values_list("key", "role", "llm_model_id")}
    return Run(user, roles, version, limits, caller.attempt > 1 or origin is not None, read_at, api_key)


def read_person(caller: Caller) -> Run:
    """What limits a person who calls without a run. One query."""
    read_at = time.monotonic()
    limits = budgets.limits_of(caller.user, api_key=caller.api_key)
    return Run(caller.user, {}, 0, limits, False, read_at, caller.api_key)
