"""A project: a requirement, the engine that works on it, and the model of each role."""

import uuid
from typing import Self

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from crews.llm_config import validate_llm_config
from crews.models import Crew, LLMModel
from executions.models import EventStream
from portal.accounts.models import AccessQuerySet, Guarded
from projects.status import ProjectStatus


class ProjectQuerySet(AccessQuerySet):
    def current(self) -> Self:
        """Those that are not archived."""
        return self.filter(archived_at=None)


class Project(Guarded):
    """A requirement worked through stages into deliverables by one engine.

    Its id is also its event stream's. The status machine is drawn in `projects.status`; only
    `projects.actions` moves it.
    """

    class Engine(models.TextChoices):
        """`selected_ai`; `engine` is its name among the engines."""

        CREW_AI = "crew-ai", "CrewAI"
        META_GPT = "meta-gpt", "MetaGPT"

    class Type(models.TextChoices):
        WEB_APP = "web_app", _("Web application")
        MOBILE_APP = "mobile_app", _("Mobile app")
        API = "api", _("API")
        DESKTOP = "desktop", _("Desktop program")
        DATA_ANALYSIS = "data_analysis", _("Data analysis")
        ML = "ml", _("Machine learning")

    class Language(models.TextChoices):
        KO = "ko", "한국어"
        EN = "en", "English"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    stream = models.OneToOneField(EventStream, on_delete=models.PROTECT, related_name="project")
    name = models.CharField(_("name"), max_length=200)
    description = models.TextField(_("description"), blank=True)
    selected_ai = models.CharField(_("engine"), max_length=10, choices=Engine.choices, default=Engine.CREW_AI)
    status = models.CharField(
        _("status"), max_length=12, choices=ProjectStatus.choices, default=ProjectStatus.PLANNING, editable=False
    )
    current_stage = models.CharField(_("current stage"), max_length=20, blank=True, editable=False)
    progress_percentage = models.PositiveSmallIntegerField(_("progress, %"), default=0, editable=False)
    project_type = models.CharField(_("type"), max_length=20, choices=Type.choices, default=Type.WEB_APP)
    target_audience = models.CharField(_("for whom"), max_length=500, blank=True)
    requirement = models.TextField(_("requirement"), blank=True)
    language = models.CharField(_("language"), max_length=2, choices=Language.choices, default=Language.EN)
    template = models.ForeignKey(
        "projects.Template", on_delete=models.SET_NULL, null=True, blank=True, related_name="projects"
    )
    technical_requirements = models.JSONField(_("technical requirements"), default=dict, blank=True)
    workspace_path = models.CharField(max_length=200, blank=True, editable=False)
    estimated_hours = models.DecimalField(
        _("estimated hours"), max_digits=8, decimal_places=2, null=True, blank=True, validators=[MinValueValidator(0)]
    )
    actual_hours = models.DecimalField(_("hours"), max_digits=10, decimal_places=4, default=0, editable=False)
    deadline = models.DateTimeField(_("deadline"), null=True, blank=True)
    budget_usd = models.DecimalField(
        _("budget, US$"), max_digits=12, decimal_places=6, null=True, blank=True, validators=[MinValueValidator(0)]
    )
    crew = models.ForeignKey(
        Crew, on_delete=models.SET_NULL, null=True, blank=True, related_name="projects", verbose_name=_("crew")
    )
    auto_advance = models.BooleanField(
        _("go on by itself"), default=True, help_text=_("Start each stage as soon as all it depends on is approved.")
    )
    round = models.PositiveIntegerField(_("round"), default=1, editable=False)
    archived_at = models.DateTimeField(_("archived"), null=True, blank=True, editable=False)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    updated_at = models.DateTimeField(_("changed"), auto_now=True)

    objects = ProjectQuerySet.as_manager()

    class Meta:
        db_table = "projects"
        ordering = ["-created_at", "-id"]
        indexes = [
            models.Index(fields=["-created_at", "-id"], name="projects_by_age"),
            models.Index(fields=["status", "-created_at", "-id"], name="projects_by_status"),
            models.Index(fields=["selected_ai", "-created_at", "-id"], name="projects_by_engine"),
            models.Index(fields=["access"], name="projects_by_access"),
        ]
        constraints = [
            models.CheckConstraint(condition=Q(status__in=ProjectStatus.values), name="project_status_is_known"),
            models.CheckConstraint(
                condition=Q(progress_percentage__range=(0, 100)), name="project_progress_is_a_percentage"
            ),
            models.CheckConstraint(
                condition=Q(selected_ai="crew-ai") | Q(crew__isnull=True), name="only_crewai_projects_have_a_crew"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def engine(self) -> str:
        """The engine's key in `executions.engines.registry`."""
        return {"crew-ai": "crewai", "meta-gpt": "metagpt"}[self.selected_ai]

    @property
    def is_archived(self) -> bool:
        return self.archived_at is not None

    def get_absolute_url(self) -> str:
        return reverse("projects:project-detail", args=[self.pk])


class RoleLLMMapping(models.Model):
    """Which model a role of a project works with, and with which parameters. It may change at any time."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="mappings")
    role_name = models.CharField(_("role"), max_length=100)
    llm_model = models.ForeignKey(LLMModel, on_delete=models.PROTECT, related_name="+", verbose_name=_("LLM model"))
    llm_config = models.JSONField(_("LLM parameters"), default=dict, blank=True, validators=[validate_llm_config])
    is_active = models.BooleanField(_("active"), default=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        db_table = "project_role_llm_mapping"
        ordering = ["role_name"]
        constraints = [models.UniqueConstraint(fields=["project", "role_name"], name="one_model_a_role_of_a_project")]

    def __str__(self) -> str:
        return f"{self.role_name} → {self.llm_model_id}"


class Attachment(models.Model):
    """A text file that belongs to the requirement; every stage is given it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="attachments")
    name = models.CharField(_("name"), max_length=200)
    content = models.TextField(_("content"))
    size = models.PositiveIntegerField(_("size, bytes"), validators=[MaxValueValidator(1 << 20)])
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "project_attachments"
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["project", "name"], name="attachment_names_differ")]

    def __str__(self) -> str:
        return self.name
