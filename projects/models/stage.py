"""The stages of a project, and the runs that carried them out."""

import uuid
from typing import Any

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from executions.models import Execution
from portal.lib.problems import Conflict
from projects.models.project import Project
from projects.status import STAGE_AT_WORK, STAGE_MOVES, StageStatus


class Stage(models.Model):
    """A step of a project with a responsible role; may need approval.

    `depends_on`: stages that must be approved before it starts. `is_stale`: what it was made from has
    changed since.
    """

    class Name(models.TextChoices):
        REQUIREMENT = "requirement", _("Requirement")
        DESIGN = "design", _("Design")
        ARCHITECTURE = "architecture", _("Architecture")
        PLANNING = "planning", _("Plan")
        DEVELOPMENT = "development", _("Development")
        TESTING = "testing", _("Testing")
        DEPLOYMENT = "deployment", _("Deployment")
        RESEARCH = "research", _("Research")
        WRITING = "writing", _("Writing")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="stages")
    stage_name = models.CharField(_("stage"), max_length=20, choices=Name.choices)
    stage_order = models.PositiveSmallIntegerField(_("order"), validators=[MinValueValidator(1), MaxValueValidator(10)])
    depends_on = models.ManyToManyField("self", symmetrical=False, blank=True, related_name="dependants")
    stage_status = models.CharField(
        _("status"), max_length=12, choices=StageStatus.choices, default=StageStatus.PENDING, editable=False
    )
    is_stale = models.BooleanField(_("out of date"), default=False, editable=False)
    responsible_role = models.CharField(_("responsible role"), max_length=100)
    instructions = models.TextField(
        _("instructions"), blank=True, help_text=_("What the role is asked beyond what its stage asks of it anyway.")
    )
    estimated_hours = models.DecimalField(
        _("estimated hours"), max_digits=8, decimal_places=2, null=True, blank=True, validators=[MinValueValidator(0)]
    )
    actual_hours = models.DecimalField(_("hours"), max_digits=10, decimal_places=4, default=0)
    has_given_hours = models.BooleanField(default=False, help_text=_("The hours were given by a person."))
    start_date = models.DateTimeField(_("started"), null=True, blank=True, editable=False)
    end_date = models.DateTimeField(_("ended"), null=True, blank=True, editable=False)
    notes = models.TextField(_("notes"), blank=True)
    problem = models.TextField(_("why it does not go on"), blank=True, editable=False)
    # The gate
    requires_approval = models.BooleanField(_("needs approval"), default=True)
    quorum = models.PositiveSmallIntegerField(
        _("approvals needed"), default=1, validators=[MinValueValidator(1), MaxValueValidator(10)]
    )
    excludes_author = models.BooleanField(
        _("second pair of eyes"),
        default=False,
        help_text=_("Who started the stage's run, or edited the deliverable, may not approve it."),
    )
    review_hours = models.PositiveIntegerField(
        _("time to review, hours"), null=True, blank=True, validators=[MinValueValidator(1)],
        help_text=_("After that it is passed on to whoever stands below. Empty: it waits."),
    )  # fmt: skip
    escalate_to = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+",
        verbose_name=_("passed on to"),
    )  # fmt: skip
    review_since = models.DateTimeField(_("in review since"), null=True, blank=True, editable=False)
    review_due_at = models.DateTimeField(_("to be reviewed by"), null=True, blank=True, editable=False)
    escalated_at = models.DateTimeField(_("passed on"), null=True, blank=True, editable=False)

    class Meta:
        db_table = "project_stages"
        ordering = ["stage_order"]
        indexes = [
            models.Index(
                fields=["review_due_at"],
                condition=Q(stage_status="review", escalated_at=None),
                name="stages_to_escalate",
            ),
            models.Index(fields=["id"], condition=Q(stage_status="failed"), name="stages_failed"),
            models.Index(fields=["stage_status", "review_since"], name="stages_by_status"),
        ]
        constraints = [
            models.UniqueConstraint(fields=["project", "stage_order"], name="stage_orders_differ"),
            models.UniqueConstraint(fields=["project", "stage_name"], name="stage_names_differ"),
            models.CheckConstraint(condition=Q(stage_order__range=(1, 10)), name="stage_order_in_range"),
            models.CheckConstraint(condition=Q(stage_status__in=StageStatus.values), name="stage_status_is_known"),
            models.CheckConstraint(condition=Q(stage_name__in=[
                "requirement", "design", "architecture", "planning", "development", "testing", "deployment",
                "research", "writing",
            ]), name="stage_name_is_known"),
            models.CheckConstraint(condition=Q(quorum__range=(1, 10)), name="stage_quorum_in_range"),
        ]  # fmt: skip

    def __str__(self) -> str:
        return self.stage_name

    @property
    def label(self) -> str:
        """The stage's name for people."""
        return str(Stage.Name(self.stage_name).label)

    @property
    def is_at_work(self) -> bool:
        return self.stage_status in STAGE_AT_WORK

    @property
    def is_done(self) -> bool:
        """Completed, with what it was made from unchanged since."""
        return self.stage_status == StageStatus.COMPLETED and not self.is_stale

    def move_to(self, status: StageStatus, **changes: Any) -> None:
        """Make one move of the table and save it with `changes`. The project's row is locked by the caller.

        Raises `Conflict` for a move that is not in the table.
        """
        old = StageStatus(self.stage_status)
        if status not in STAGE_MOVES[old]:
            raise Conflict(
                f"A stage that is {old.value} cannot become {status.value}.",
                code="invalid_transition",
                hint="Read the project again: somebody may have moved it.",
            )
        self.stage_status = status
        for name, value in changes.items():
            setattr(self, name, value)
        self.save(update_fields=["stage_status", *changes])


class StageRun(models.Model):
    """One run of a stage: which execution carried it out, and what came of it.

    `settled_at` is empty until the project has taken in how the run ended; a stage has one such run at most.
    """

    class Cause(models.TextChoices):
        START = "start", _("Started")
        REWORK = "rework", _("Sent back")
        RERUN = "rerun", _("Run again")

    id = models.BigAutoField(primary_key=True)
    stage = models.ForeignKey(Stage, on_delete=models.CASCADE, related_name="runs")
    execution = models.OneToOneField(Execution, on_delete=models.PROTECT, related_name="stage_run")
    round = models.PositiveIntegerField(default=1)
    cause = models.CharField(max_length=10, choices=Cause.choices, default=Cause.START)
    started_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    # The deliverables it was started from: what a later change of them makes stale.
    sources = models.ManyToManyField("projects.Deliverable", related_name="fed_runs", blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    settled_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "project_stage_runs"
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["stage"], condition=Q(settled_at__isnull=True), name="one_open_run_a_stage")
        ]
        indexes = [
            models.Index(fields=["execution"], condition=Q(settled_at__isnull=True), name="stage_runs_to_settle")
        ]

    def __str__(self) -> str:
        return f"{self.stage} {self.execution_id}"
