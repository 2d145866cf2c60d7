"""Agents, and the crews in which they work on tasks."""

import uuid

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import Q
from django.urls import reverse
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from crews import placeholders
from crews.llm_config import validate_llm_config
from crews.models.catalog import EMBEDDED, LLMModel
from crews.models.tool import Tool
from portal.accounts.models import AccessQuerySet, Guarded
from portal.lib.problems import FieldError


class Agent(Guarded):
    """A role with a goal, a backstory, an LLM model and tools; may join several crews."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    role = models.CharField(_("role"), max_length=200)
    goal = models.TextField(_("goal"))
    backstory = models.TextField(_("backstory"), blank=True)
    llm_model = models.ForeignKey(
        LLMModel, on_delete=models.PROTECT, default=EMBEDDED, related_name="agents", verbose_name=_("LLM model")
    )
    llm_config = models.JSONField(
        _("LLM parameters"),
        default=dict,
        blank=True,
        validators=[validate_llm_config],
        help_text=_("For example {“temperature”: 0.4, “max_tokens”: 600}"),
    )
    tools = models.ManyToManyField(Tool, blank=True, verbose_name=_("tools"))
    allow_delegation = models.BooleanField(_("may delegate"), default=False)
    max_iterations = models.PositiveSmallIntegerField(
        _("steps at most"), default=4, validators=[MinValueValidator(1), MaxValueValidator(100)]
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = AccessQuerySet.as_manager()

    class Meta:
        ordering = ["role", "id"]

    def __str__(self) -> str:
        return self.role

    @property
    def texts(self) -> dict[str, str]:
        """The fields in which `{field_name}` stands for an input."""
        return {"role": self.role, "goal": self.goal, "backstory": self.backstory}

    def clean(self) -> None:
        """No text may name an input that a crew of the same owner, in which the agent works, does not have.

        Crews of other people that use a shared agent are not named here: they say so before a run.
        """
        super().clean()
        if self._state.adding:
            return
        works_in = Q(members__agent=self) | Q(manager_agent=self)
        crews = Crew.objects.filter(works_in, access__owner=self.access.owner_id).distinct().prefetch_related("inputs")
        for crew in crews:
            known = {field.field_name for field in crew.inputs.all()}
            _raise(placeholders.unknown_names(self.texts, known, whose=crew.name))


class Crew(Guarded):
    """Agents that work together on tasks."""

    class Process(models.TextChoices):
        SEQUENTIAL = "sequential", _("One after the other")
        PARALLEL = "parallel", _("Side by side")
        HIERARCHICAL = "hierarchical", _("Led by a manager")

    class Type(models.TextChoices):
        BASE = "base", _("Base")
        GENERATED = "generated", _("Generated")
        CREATOR = "creator", _("Creator")

    class Engine(models.TextChoices):
        CREWAI = "crewai", "CrewAI"

    class Status(models.TextChoices):
        ACTIVE = "active", _("Active")
        INACTIVE = "inactive", _("Inactive")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(_("name"), max_length=200)
    description = models.TextField(_("description"), blank=True)
    crew_type = models.CharField(_("type"), max_length=10, choices=Type.choices, default=Type.BASE)
    process = models.CharField(_("process"), max_length=12, choices=Process.choices, default=Process.SEQUENTIAL)
    manager_llm_model = models.ForeignKey(
        LLMModel, on_delete=models.PROTECT, null=True, blank=True, related_name="+", verbose_name=_("manager's model")
    )
    manager_agent = models.ForeignKey(
        Agent, on_delete=models.PROTECT, null=True, blank=True, related_name="+", verbose_name=_("manager")
    )
    engine = models.CharField(_("engine"), max_length=20, choices=Engine.choices, default=Engine.CREWAI)
    status = models.CharField(_("status"), max_length=10, choices=Status.choices, default=Status.ACTIVE)
    max_duration_seconds = models.PositiveIntegerField(
        _("time limit of a run, seconds"), default=3600, validators=[MinValueValidator(1)]
    )
    task_timeout_seconds = models.PositiveIntegerField(
        _("time limit of a task, seconds"), default=1800, validators=[MinValueValidator(1)]
    )
    max_llm_calls = models.PositiveIntegerField(
        _("LLM calls of a run at most"), default=200, validators=[MinValueValidator(1)]
    )
    approval_timeout_seconds = models.PositiveIntegerField(
        _("time to answer a question, seconds"),
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text=_("A run that asks a person fails when nobody has answered by then. Empty: it waits."),
    )
    approval_reminder_seconds = models.PositiveIntegerField(
        _("remind after, seconds"),
        null=True,
        blank=True,
        validators=[MinValueValidator(60)],
        help_text=_("Whoever may answer is reminded each time this much has passed. Empty: never."),
    )
    agents = models.ManyToManyField(Agent, through="CrewMember", related_name="crews", verbose_name=_("agents"))
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = AccessQuerySet.as_manager()

    class Meta:
        ordering = ["name", "id"]
        indexes = [models.Index(fields=["name", "id"])]
        constraints = [
            models.CheckConstraint(
                condition=Q(process__in=["sequential", "parallel", "hierarchical"]), name="crew_process_is_known"
            ),
            models.CheckConstraint(
                condition=Q(max_duration_seconds__gte=1, task_timeout_seconds__gte=1, max_llm_calls__gte=1),
                name="crew_limits_are_positive",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("crews:crew-detail", args=[self.pk])

    def clean(self) -> None:
        """A crew with a manager names who manages, or at least the manager's model."""
        super().clean()
        if self.process == self.Process.HIERARCHICAL and not (self.manager_agent_id or self.manager_llm_model_id):
            message = gettext("A crew that is led needs a manager: name an agent, or a model for the manager.")
            raise ValidationError({"manager_agent": ValidationError(message, code="manager_missing")})
        if self.task_timeout_seconds and self.max_duration_seconds < self.task_timeout_seconds:
            message = gettext("A task cannot have more time than the whole run.")
            raise ValidationError({"task_timeout_seconds": ValidationError(message, code="longer_than_run")})

    def has_place_for(self, agent_id: uuid.UUID) -> bool:
        """Whether tasks may be given to this agent: a member, or the manager."""
        return self.manager_agent_id == agent_id or self.members.filter(agent=agent_id).exists()


class CrewMember(models.Model):
    """An agent's place in a crew."""

    crew = models.ForeignKey(Crew, on_delete=models.CASCADE, related_name="members")
    agent = models.ForeignKey(Agent, on_delete=models.PROTECT, related_name="memberships")
    position = models.PositiveSmallIntegerField(default=0)

    class Meta:
        ordering = ["position", "id"]
        constraints = [models.UniqueConstraint(fields=["crew", "agent"], name="one_membership_an_agent")]

    def __str__(self) -> str:
        return f"{self.agent} in {self.crew}"


class Task(models.Model):
    """A description and an expected output, given to an agent of the crew."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    crew = models.ForeignKey(Crew, on_delete=models.CASCADE, related_name="tasks", verbose_name=_("crew"))
    agent = models.ForeignKey(
        Agent, on_delete=models.PROTECT, null=True, blank=True, related_name="tasks", verbose_name=_("agent")
    )
    name = models.CharField(_("name"), max_length=200)
    description = models.TextField(_("description"))
    expected_output = models.TextField(_("expected output"))
    execution_order = models.PositiveSmallIntegerField(_("order"), default=1)
    context = models.ManyToManyField(
        "self", symmetrical=False, blank=True, related_name="dependants", verbose_name=_("takes the output of")
    )
    async_execution = models.BooleanField(_("runs beside the next one"), default=False)
    human_input = models.BooleanField(_("asks a person"), default=False)
    tools = models.ManyToManyField(Tool, blank=True, verbose_name=_("tools"))
    status: str | None  # of its latest run, where `crews.extensions.with_statuses` has asked

    class Meta:
        ordering = ["execution_order", "name"]
        constraints = [models.UniqueConstraint(fields=["crew", "name"], name="task_names_differ_in_a_crew")]

    def __str__(self) -> str:
        return self.name

    @property
    def texts(self) -> dict[str, str]:
        """The fields in which `{field_name}` stands for an input."""
        return {"description": self.description, "expected_output": self.expected_output}

    def clean(self) -> None:
        """Its agent is a member of the crew, and its texts name inputs that the crew has."""
        super().clean()
        if not self.crew_id:
            return
        if self.agent_id and not self.crew.has_place_for(self.agent_id):
            message = gettext("“%(agent)s” is no member of this crew.") % {"agent": self.agent}
            raise ValidationError({"agent": ValidationError(message, code="not_a_member")})
        known = set(self.crew.inputs.values_list("field_name", flat=True))
        _raise(placeholders.unknown_names(self.texts, known))


class CrewInput(models.Model):
    """A field of a crew's run form; `{field_name}` in its texts is replaced by the value."""

    class Type(models.TextChoices):
        TEXT = "text", _("Line of text")
        TEXTAREA = "textarea", _("Text")
        SELECT = "select", _("Choice")
        NUMBER = "number", _("Number")
        BOOLEAN = "boolean", _("Yes or no")
        FILE = "file", _("File")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    crew = models.ForeignKey(Crew, on_delete=models.CASCADE, related_name="inputs", verbose_name=_("crew"))
    field_name = models.CharField(
        _("name"), max_length=50, validators=[RegexValidator(r"^[a-z][a-z0-9_]*$", _("Like this: target_audience"))]
    )
    field_type = models.CharField(_("type"), max_length=10, choices=Type.choices, default=Type.TEXT)
    field_label = models.CharField(_("label"), max_length=200, blank=True)
    options = models.JSONField(_("choices"), default=list, blank=True)
    default = models.TextField(_("default"), blank=True)
    is_required = models.BooleanField(_("required"), default=True)
    display_order = models.PositiveSmallIntegerField(_("order"), default=1)

    class Meta:
        ordering = ["display_order", "field_name"]
        constraints = [
            models.UniqueConstraint(fields=["crew", "field_name"], name="input_names_differ_in_a_crew"),
            models.CheckConstraint(
                condition=Q(field_type__in=["text", "textarea", "select", "number", "boolean", "file"]),
                name="input_type_is_known",
            ),
        ]

    def __str__(self) -> str:
        return self.field_name

    @property
    def label(self) -> str:
        """What a person reads beside the field."""
        return self.field_label or self.field_name.replace("_", " ").capitalize()

    def clean(self) -> None:
        """A choice has options, a default is a value of the type, and a name that texts use stays."""
        from crews.inputs import default_problem  # it imports this module

        super().clean()
        options = self.options
        if not isinstance(options, list) or not all(isinstance(option, str) and option.strip() for option in options):
            raise ValidationError({"options": ValidationError(gettext("Give a list of texts."), code="not_texts")})
        if self.field_type == self.Type.SELECT and not options:
            message = gettext("A choice needs at least one option.")
            raise ValidationError({"options": ValidationError(message, code="required")})
        if len(set(options)) < len(options):
            message = gettext("Each option may stand here once.")
            raise ValidationError({"options": ValidationError(message, code="repeated")})
        if self.default and self.field_type == self.Type.FILE:
            message = gettext("A file has no default.")
            raise ValidationError({"default": ValidationError(message, code="invalid")})
        if self.field_type in self.Type.values and (message := default_problem(self)):
            raise ValidationError({"default": ValidationError(message, code="invalid")})
        if not self._state.adding:
            before = CrewInput.objects.only("field_name").filter(pk=self.pk).first()
            if before and before.field_name != self.field_name and (users := before.used_in()):
                message = gettext("{%(name)s} is still used in: %(where)s.") % {
                    "name": before.field_name,
                    "where": ", ".join(users),
                }
                raise ValidationError({"field_name": ValidationError(message, code="in_use")})

    def used_in(self) -> list[str]:
        """The names of the crew's tasks and agents whose texts use this input."""
        crew = self.crew
        users: list[Task | Agent] = [
            *crew.tasks.all(),
            *crew.agents.all(),
            *([crew.manager_agent] if crew.manager_agent else []),
        ]
        return list(
            dict.fromkeys(
                str(user)
                for user in users
                if any(self.field_name in placeholders.names_in(text) for text in user.texts.values())
            )
        )


def _raise(errors: list[FieldError]) -> None:
    if errors:
        found: dict[str, list[ValidationError]] = {}
        for error in errors:
            found.setdefault(error.field, []).append(ValidationError(error.detail, code=error.code))
        raise ValidationError(found)
