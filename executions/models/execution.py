"""One run of a frozen crew, and what hangs on it."""

import uuid
from datetime import datetime, timedelta
from typing import Any, Self

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from crews.models import Crew
from executions.errors import ErrorCode, Failure
from executions.models.moves import Moves
from executions.models.stream import EventStream
from executions.status import ACTIVE, Status, WaitingFor
from portal.accounts.models import AccessQuerySet, Guarded

# One step of priority is worth this much waiting: who waits long enough goes before anyone who comes later.
PRIORITY_STEP = timedelta(minutes=5)


class ExecutionQuerySet(AccessQuerySet):
    def active(self) -> Self:
        return self.filter(status__in=ACTIVE)

    def queued(self) -> Self:
        """Pending and due, best first: by priority (9 before 1) and age."""
        is_due = Q(not_before=None) | Q(not_before__lte=Now())
        return self.filter(is_due, status=Status.PENDING).order_by("queue_rank", "pk")

    def renew_leases(self, worker: str, lease: timedelta) -> dict[uuid.UUID, int]:
        """Keep the leases that `worker` has on these executions for `lease` more; id → attempt of those it has."""
        held = self.filter(status=Status.RUNNING, lease_worker=worker)
        held.update(lease_until=Now() + lease)
        return dict(held.values_list("pk", "attempt"))


class Execution(Moves, Guarded):
    """One run, from kickoff to end. The status machine is drawn in `executions.status`.

    Asking to stop is a fact (`stop_requested_at`), not a status. Its id is also its event stream's.
    """

    class Trigger(models.TextChoices):
        MANUAL = "manual", _("By hand")
        API = "api", _("Through the API")
        SCHEDULE = "schedule", _("On schedule")
        CHAT = "chat", _("From a chat")
        PROJECT = "project", _("By a project")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    stream = models.OneToOneField(EventStream, on_delete=models.PROTECT, related_name="execution")
    crew = models.ForeignKey(Crew, on_delete=models.SET_NULL, null=True, related_name="executions", db_index=False)
    name = models.CharField(_("name"), max_length=200, help_text=_("The crew's name at kickoff."))
    engine = models.CharField(_("engine"), max_length=20)
    status = models.CharField(_("status"), max_length=10, choices=Status.choices, default=Status.PENDING)
    inputs = models.JSONField(_("inputs"), default=dict)
    snapshot = models.JSONField(_("snapshot"), help_text=_("The RunSpec without what belongs to one attempt."))
    priority = models.PositiveSmallIntegerField(
        _("priority"), default=5, validators=[MinValueValidator(1), MaxValueValidator(9)]
    )
    trigger = models.CharField(_("trigger"), max_length=10, choices=Trigger.choices, default=Trigger.MANUAL)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="executions"
    )
    api_key = models.ForeignKey(
        "accounts.ApiKey", on_delete=models.SET_NULL, null=True, related_name="+", help_text=_("That started it.")
    )
    idempotency_key = models.CharField(max_length=200, blank=True)
    request_hash = models.CharField(max_length=64, blank=True, help_text=_("Of the body that came with the key."))
    attempt = models.PositiveIntegerField(_("attempt"), default=0)
    max_attempts = models.PositiveSmallIntegerField(_("automatic recoveries at most"), default=3)
    recoveries = models.PositiveSmallIntegerField(
        default=0, help_text=_("Automatic recoveries since a person last started it.")
    )
    restarted_attempt = models.PositiveIntegerField(
        default=0, help_text=_("The attempt after which a person last started it anew: limits count from there.")
    )
    quarantine_reason = models.TextField(
        _("quarantined"), blank=True, help_text=_("Why it is not started again by itself.")
    )
    created_at = models.DateTimeField(_("created"), default=timezone.now)
    # Its place in the queue: when it came, moved forward by its priority. The smallest goes first.
    queue_rank = models.DateTimeField(default=timezone.now)
    not_before = models.DateTimeField(null=True, help_text=_("Recovery waits until then (database clock)."))
    started_at = models.DateTimeField(_("started"), null=True)
    ended_at = models.DateTimeField(_("ended"), null=True)
    final_output = models.TextField(_("result"), blank=True)
    error_code = models.CharField(_("error code"), max_length=20, choices=ErrorCode.choices, blank=True)
    error_message = models.TextField(_("error"), blank=True)
    waiting_for = models.CharField(_("waits for"), max_length=10, choices=WaitingFor.choices, blank=True)
    # What the call that met a limit would have reserved.
    needs_usd = models.DecimalField(null=True, max_digits=16, decimal_places=8)
    needs_tokens = models.PositiveBigIntegerField(null=True)
    budget_usd = models.DecimalField(_("budget, US$"), max_digits=12, decimal_places=6, null=True)
    budget_tokens = models.PositiveBigIntegerField(_("budget, tokens"), null=True)
    # What the calls under way may cost at most; the gateway reserves it before each and settles it after.
    reserved_usd = models.DecimalField(default=0, max_digits=16, decimal_places=8)
    reserved_tokens = models.PositiveBigIntegerField(default=0)
    max_llm_calls = models.PositiveIntegerField(_("LLM calls at most"), default=200)
    calls_before_restart = models.PositiveIntegerField(default=0)
    # Totals of the ledger, kept by the gateway as calls close.
    llm_calls_count = models.PositiveIntegerField(_("LLM calls"), default=0)
    prompt_tokens = models.PositiveBigIntegerField(_("tokens read"), default=0)
    completion_tokens = models.PositiveBigIntegerField(_("tokens written"), default=0)
    cost_usd = models.DecimalField(_("cost, US$"), default=0, max_digits=16, decimal_places=8)
    unpriced_calls = models.PositiveIntegerField(_("unpriced calls"), default=0)
    # The lease: which runner carries it, and until when it must be heard of again (database clock).
    lease_worker = models.CharField(max_length=200, blank=True)
    lease_until = models.DateTimeField(null=True)
    stop_requested_at = models.DateTimeField(null=True)
    stop_requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+"
    )
    pause_requested_at = models.DateTimeField(null=True)
    pause_requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+"
    )
    pause_at_once = models.BooleanField(default=False, help_text=_("Do not wait for the end of the current tasks."))
    # Rises when a role gets another model, so that the gateway's next call sees it.
    roles_version = models.PositiveIntegerField(default=0)
    forked_from = models.ForeignKey(
        "self", on_delete=models.SET_NULL, null=True, related_name="forks", verbose_name=_("forked from")
    )
    forked_task = models.CharField(max_length=40, blank=True, help_text=_("The task from which the fork runs anew."))

    objects = ExecutionQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at", "-id"]
        indexes = [
            models.Index(fields=["-created_at", "-id"]),
            models.Index(fields=["crew", "-created_at"]),
            models.Index(fields=["created_by", "-created_at"]),
            models.Index(fields=["status", "-created_at", "-id"], name="executions_by_status"),
            models.Index(fields=["engine", "-created_at", "-id"], name="executions_by_engine"),
            models.Index(fields=["queue_rank", "id"], condition=Q(status="pending"), name="executions_by_rank"),
            models.Index(fields=["waiting_for"], condition=Q(status="waiting"), name="executions_waiting"),
            models.Index(fields=["lease_until"], condition=Q(status="running"), name="executions_leases"),
        ]
        constraints = [
            models.CheckConstraint(condition=Q(status__in=Status.values), name="execution_status_is_known"),
            models.CheckConstraint(
                condition=Q(status__in=["completed", "failed", "stopped"], ended_at__isnull=False)
                | Q(status__in=["pending", "running", "waiting", "paused"], ended_at__isnull=True),
                name="execution_ended_at_matches_status",
            ),
            models.CheckConstraint(
                condition=Q(status="running", lease_until__isnull=False)
                | (~Q(status="running") & Q(lease_until__isnull=True)),
                name="execution_runs_under_a_lease",
            ),
            models.CheckConstraint(
                condition=~Q(status="failed") | ~Q(error_code=""), name="execution_failure_has_a_code"
            ),
            models.CheckConstraint(
                condition=Q(status="waiting", waiting_for__in=WaitingFor.values)
                | (~Q(status="waiting") & Q(waiting_for="")),
                name="execution_waits_for_something",
            ),
            models.CheckConstraint(condition=Q(priority__range=(1, 9)), name="execution_priority_in_range"),
            models.UniqueConstraint(
                fields=["created_by", "idempotency_key"],
                condition=~Q(idempotency_key=""),
                name="execution_idempotency_key_is_unique",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} {self.id}"

    # --- Questions ---------------------------------------------------------------------------

    @property
    def is_active(self) -> bool:
        return self.status in ACTIVE

    @property
    def is_stopping(self) -> bool:
        return self.is_active and self.stop_requested_at is not None

    @property
    def duration_seconds(self) -> float | None:
        """From the first start to the end, or to now; None before the start."""
        if self.started_at is None:
            return None
        return ((self.ended_at or timezone.now()) - self.started_at).total_seconds()

    @property
    def failure(self) -> Failure | None:
        return Failure(ErrorCode(self.error_code), self.error_message) if self.error_code else None

    def place_in_queue(self) -> int | None:
        """1 for the next to start; None when it does not wait to start. One query."""
        if self.status != Status.PENDING:
            return None
        return Execution.objects.filter(status=Status.PENDING, queue_rank__lt=self.queue_rank).count() + 1

    @property
    def is_pausing(self) -> bool:
        return self.status == Status.RUNNING and self.pause_requested_at is not None

    @staticmethod
    def rank(priority: int, since: datetime) -> datetime:
        """The place in the queue of an execution of `priority` that came at `since`."""
        return since - priority * PRIORITY_STEP

    def save(self, *args: Any, **kwargs: Any) -> None:
        if self._state.adding:
            self.queue_rank = self.rank(self.priority, self.created_at)
        super().save(*args, **kwargs)
