"""What hangs on an execution: its attempts, the state of its tasks, and the models of its roles."""

from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from crews.models import LLMModel
from executions.status import Status


class Attempt(models.Model):
    """One try at an execution by one runner. How it ended never changes."""

    id = models.BigAutoField(primary_key=True)
    execution = models.ForeignKey("executions.Execution", on_delete=models.CASCADE, related_name="attempts")
    number = models.PositiveIntegerField()
    worker = models.CharField(max_length=200)
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)
    outcome = models.CharField(max_length=10, choices=Status.choices, blank=True)
    reason = models.TextField(_("why it ended"), blank=True, help_text=_("A sentence for people."))
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

    @property
    def why(self) -> str:
        """Why it ended, in the reader's language as far as the sentence is one of ours without names in it."""
        return gettext(self.reason) if self.reason else ""


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
    execution = models.ForeignKey("executions.Execution", on_delete=models.CASCADE, related_name="task_runs")
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
    is_inherited = models.BooleanField(default=False, help_text=_("Finished in the run that this one was forked from."))

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
    execution = models.ForeignKey("executions.Execution", on_delete=models.CASCADE, related_name="role_models")
    key = models.CharField(max_length=40, help_text=_("The agent's key in the RunSpec, or “manager”."))
    role = models.CharField(max_length=200)
    llm_model = models.ForeignKey(LLMModel, on_delete=models.PROTECT, related_name="+")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["execution", "key"], name="one_model_a_role")]

    def __str__(self) -> str:
        return f"{self.role} → {self.llm_model_id}"
