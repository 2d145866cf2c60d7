"""One run of a frozen crew, and what hangs on it."""

import uuid
from typing import Any, Self

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models, transaction
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from crews.models import Crew, LLMModel
from executions import events
from executions.errors import ErrorCode, Failure, InvalidTransition, TransitionLost
from executions.models.stream import EventStream
from executions.status import ACTIVE, ENDED, TRANSITIONS, Status
from portal.accounts.models import AccessQuerySet, Guarded
from portal.lib import rows


class ExecutionQuerySet(AccessQuerySet):
    def active(self) -> Self:
        return self.filter(status__in=ACTIVE)

    def queued(self) -> Self:
        """Pending, best first: by priority (9 before 1), then by age."""
        return self.filter(status=Status.PENDING).order_by("-priority", "created_at", "pk")


class Execution(Guarded):
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
    idempotency_key = models.CharField(max_length=200, blank=True)
    request_hash = models.CharField(max_length=64, blank=True, help_text=_("Of the body that came with the key."))
    attempt = models.PositiveIntegerField(_("attempt"), default=0)
    max_attempts = models.PositiveSmallIntegerField(_("attempts at most"), default=3)
    created_at = models.DateTimeField(_("created"), default=timezone.now)
    started_at = models.DateTimeField(_("started"), null=True)
    ended_at = models.DateTimeField(_("ended"), null=True)
    final_output = models.TextField(_("result"), blank=True)
    error_code = models.CharField(_("error code"), max_length=20, choices=ErrorCode.choices, blank=True)
    error_message = models.TextField(_("error"), blank=True)
    budget_usd = models.DecimalField(_("budget, US$"), max_digits=12, decimal_places=6, null=True)
    max_llm_calls = models.PositiveIntegerField(_("LLM calls at most"), default=200)
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

    objects = ExecutionQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at", "-id"]
        indexes = [
            models.Index(fields=["-created_at", "-id"]),
            models.Index(fields=["crew", "-created_at"]),
            models.Index(fields=["created_by", "-created_at"]),
            models.Index(fields=["-priority", "created_at"], condition=Q(status="pending"), name="executions_queue"),
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
        before = Q(priority__gt=self.priority) | Q(priority=self.priority, created_at__lt=self.created_at)
        return Execution.objects.filter(before, status=Status.PENDING).count() + 1

    # --- Moves: each is compare-and-set, and writes its event in the same transaction ---------

    def start(self, *, worker: str, lease: Any) -> None:
        """A runner takes it: the next attempt begins, under a lease of `lease` (a timedelta)."""
        number = self.attempt + 1
        with transaction.atomic():
            self._move_to(
                Status.RUNNING,
                "execution.started",
                {"worker": worker},
                expect={"attempt": self.attempt, "stop_requested_at": None},
                attempt=number,
                started_at=self.started_at or timezone.now(),
                lease_worker=worker,
                lease_until=Now() + lease,
            )
            Attempt.objects.create(execution=self, number=number, worker=worker, started_at=timezone.now())

    def complete(self, output: str) -> None:
        """The engine delivered its result."""
        with transaction.atomic():
            self._end(Status.COMPLETED, "execution.completed", {}, final_output=output)

    def fail(self, failure: Failure, *, partial_output: str = "") -> None:
        """It cannot go on; the failure's code and sentence say why."""
        with transaction.atomic():
            self._end(
                Status.FAILED,
                "execution.failed",
                {"error_code": failure.code.value, "error_message": failure.sentence},
                error_code=failure.code,
                error_message=failure.sentence,
                final_output=partial_output,
            )

    def stop(self, *, partial_output: str = "") -> None:
        """A person asked for it; what was finished is kept."""
        with transaction.atomic():
            self._end(
                Status.STOPPED,
                "execution.stopped",
                {"error_code": ErrorCode.STOPPED_BY_USER.value},
                error_code=ErrorCode.STOPPED_BY_USER,
                error_message=str(ErrorCode.STOPPED_BY_USER.label),
                final_output=partial_output,
            )

    def recover(self, *, reason: str) -> None:
        """Its runner is gone: back into the queue for the next attempt, which begins after the last finished task.

        `reason` is a sentence for people. After `max_attempts` it fails instead.
        """
        if self.stop_requested_at is not None:
            self.stop()
        elif self.attempt >= self.max_attempts:
            self.fail(Failure(ErrorCode.WORKER_LOST, f"{reason} ({self.attempt}/{self.max_attempts})"))
        else:
            now = timezone.now()
            with transaction.atomic():
                data = {"reason": reason, "attempt": self.attempt}
                self._move_to(Status.PENDING, "execution.recovered", data, lease_worker="", lease_until=None)
                self.task_runs.filter(status=TaskRun.Status.RUNNING).update(
                    status=TaskRun.Status.PENDING, started_at=None
                )
                self.attempts.filter(number=self.attempt, ended_at=None).update(ended_at=now, outcome=Status.FAILED)

    def _end(self, status: Status, event: str, data: dict[str, Any], **changes: Any) -> None:
        now = timezone.now()
        open_tasks = self.task_runs.filter(status=TaskRun.Status.RUNNING)
        ended_as = TaskRun.Status.STOPPED if status == Status.STOPPED else TaskRun.Status.FAILED
        self._move_to(status, event, data, ended_at=now, lease_worker="", lease_until=None, **changes)
        open_tasks.update(status=ended_as, ended_at=now)
        self.attempts.filter(number=self.attempt, ended_at=None).update(ended_at=now, outcome=status)

    def _move_to(
        self, status: Status, event: str, data: dict[str, Any], *, expect: dict[str, Any] | None = None, **changes: Any
    ) -> None:
        old = Status(self.status)
        if status not in TRANSITIONS[old]:
            raise InvalidTransition(
                f"An execution that is {old.value} cannot become {status.value}.",
                hint="Read the execution again: somebody may have moved it.",
            )
        # The attempt fences off a runner that lost its lease and comes back late.
        expected = {"attempt": self.attempt, **(expect or {})}
        with transaction.atomic():
            won = Execution.objects.filter(pk=self.pk, status=old, **expected).update(status=status, **changes)
            if not won:
                raise TransitionLost(f"The execution was no longer {old.value}.")
            attempt = changes.get("attempt", self.attempt)
            events.append(self.stream_id, [events.NewEvent(event, data=data, attempt=attempt)])
        self.refresh_from_db()

    def request_stop(self, *, by: Any) -> None:
        """Ask for a stop: at once when nothing runs yet, else the runner obeys. Safe to repeat.

        Raises `InvalidTransition` when the execution has ended.
        """
        if self.status in ENDED:
            raise InvalidTransition("This execution has already ended.", hint="There is nothing left to stop.")
        Execution.objects.filter(pk=self.pk, status__in=ACTIVE, stop_requested_at=None).update(
            stop_requested_at=Now(), stop_requested_by=by
        )
        self.refresh_from_db()
        if self.status in ACTIVE and self.status != Status.RUNNING:
            try:
                self.stop()
            except TransitionLost:
                self.refresh_from_db()  # a runner took it in this moment, and will see the request

    def renew_lease(self, lease: Any) -> bool:
        """Keep it for `lease` (a timedelta) more; False when it was taken away."""
        return bool(
            Execution.objects.filter(
                pk=self.pk, status=Status.RUNNING, attempt=self.attempt, lease_worker=self.lease_worker
            ).update(lease_until=Now() + lease)
        )

    def add_usage(self, *, prompt_tokens: int, completion_tokens: int, cost_usd: Any, is_unpriced: bool) -> None:
        """Add one closed call to the totals. One update, safe beside others; with every call, so it is plain SQL."""
        rows.execute(
            "UPDATE executions_execution SET prompt_tokens = prompt_tokens + %s, "
            "completion_tokens = completion_tokens + %s, cost_usd = cost_usd + %s, "
            "unpriced_calls = unpriced_calls + %s WHERE id = %s",
            [prompt_tokens, completion_tokens, cost_usd or 0, int(is_unpriced), rows.key(Execution, self.pk)],
        )


class Attempt(models.Model):
    """One try at an execution by one runner. How it ended never changes."""

    id = models.BigAutoField(primary_key=True)
    execution = models.ForeignKey(Execution, on_delete=models.CASCADE, related_name="attempts")
    number = models.PositiveIntegerField()
    worker = models.CharField(max_length=200)
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)
    outcome = models.CharField(max_length=10, choices=Status.choices, blank=True)
    # How far the attempt's event file was read, in bytes; stored with the events it gave.
    events_offset = models.BigIntegerField(default=0)

    class Meta:
        ordering = ["number"]
        constraints = [
            models.UniqueConstraint(fields=["execution", "number"], name="attempt_numbers_differ"),
            models.CheckConstraint(
                condition=Q(outcome="", ended_at__isnull=True) | (~Q(outcome="") & Q(ended_at__isnull=False)),
                name="attempt_outcome_when_ended",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.execution_id} #{self.number}"


class TaskRun(models.Model):
    """A task of an execution: where it stands and what it gave."""

    class Status(models.TextChoices):
        PENDING = "pending", _("Waiting")
        RUNNING = "running", _("Running")
        COMPLETED = "completed", _("Completed")
        FAILED = "failed", _("Failed")
        STOPPED = "stopped", _("Stopped")

        @property
        def tone(self) -> str:
            return Status(self.value).tone

        @property
        def icon(self) -> str:
            return Status(self.value).icon

    id = models.BigAutoField(primary_key=True)
    execution = models.ForeignKey(Execution, on_delete=models.CASCADE, related_name="task_runs")
    task = models.CharField(max_length=40, help_text=_("The task's key in the RunSpec: its id at kickoff."))
    name = models.CharField(_("name"), max_length=200)
    role = models.CharField(_("role"), max_length=200, blank=True)
    position = models.PositiveSmallIntegerField(default=0)
    status = models.CharField(_("status"), max_length=10, choices=Status.choices, default=Status.PENDING)
    attempt = models.PositiveIntegerField(default=0)
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    output = models.TextField(_("output"), blank=True)
    error = models.TextField(_("error"), blank=True)

    class Meta:
        ordering = ["position", "id"]
        indexes = [models.Index(fields=["task", "id"])]
        constraints = [models.UniqueConstraint(fields=["execution", "task"], name="one_task_run_a_task")]

    def __str__(self) -> str:
        return self.name

    @property
    def duration_seconds(self) -> float | None:
        if self.started_at is None:
            return None
        return ((self.ended_at or timezone.now()) - self.started_at).total_seconds()


class RoleModel(models.Model):
    """Which model a role of an execution uses now: what the gateway resolves `role:<key>` with."""

    id = models.BigAutoField(primary_key=True)
    execution = models.ForeignKey(Execution, on_delete=models.CASCADE, related_name="role_models")
    key = models.CharField(max_length=40, help_text=_("The agent's key in the RunSpec, or “manager”."))
    role = models.CharField(max_length=200)
    llm_model = models.ForeignKey(LLMModel, on_delete=models.PROTECT, related_name="+")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["execution", "key"], name="one_model_a_role")]

    def __str__(self) -> str:
        return f"{self.role} → {self.llm_model_id}"
