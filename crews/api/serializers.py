"""How definitions look to programs."""

from typing import Any, TypeVar, cast

from django.core.exceptions import ValidationError
from django.db import models, transaction
from django.db.models import Q
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from rest_framework import serializers

from crews import actions, catalog_actions
from crews.api.fields import IdList
from crews.models import Agent, Crew, CrewInput, LLMModel, LLMProvider, Task, Tool
from portal.accounts import sharing
from portal.accounts.models import User, Visibility
from portal.accounts.permissions import Action, require
from portal.lib.problems import FieldError, InvalidValues, model_errors

M = TypeVar("M", bound=models.Model)


class DefinitionSerializer(serializers.ModelSerializer[M]):
    """Base: what the models' own checks find is told by the names of the API; a PUT resets what it leaves out."""

    @property
    def person(self) -> User:
        return cast(User, self.context["request"].user)

    def save(self, **kwargs: Any) -> M:
        try:
            with transaction.atomic():
                return super().save(**kwargs)
        except ValidationError as exc:
            names = {str(field.source): name for name, field in self.fields.items()}
            raise InvalidValues(model_errors(exc, names)) from exc

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if self.instance is not None and not self.partial:
            for field in self._writable_fields:
                if field.source not in attrs and not field.write_only and "." not in str(field.source):
                    self._reset(attrs, str(field.source))
        return attrs

    def _reset(self, attrs: dict[str, Any], name: str) -> None:
        field = cast(Any, self.Meta.model)._meta.get_field(name)
        if isinstance(field, models.ManyToManyField):
            if not field.remote_field.through or field.remote_field.through._meta.auto_created:
                attrs[name] = []
        elif isinstance(field, models.Field):
            value = field.get_default()
            if isinstance(field, models.ForeignKey) and value is not None:
                value = cast(Any, field.remote_field.model).objects.get(pk=value)
            attrs[name] = value

    def assigned(self, instance: M, attrs: dict[str, Any]) -> M:
        """`instance` with the plain fields of `attrs`, not saved."""
        for name, value in attrs.items():
            setattr(instance, name, value)
        return instance


def tools_field() -> IdList:
    return IdList(
        rows=lambda field: Tool.objects.all(),
        ids=lambda instance: [tool.pk for tool in instance.tools.all()],
        required=False,
        help_text=gettext_lazy("Ids of tools."),
    )


class GuardedSerializer(DefinitionSerializer[M]):
    """Base of what has an owner."""

    owner_id = serializers.UUIDField(source="access.owner_id", read_only=True)
    visibility = serializers.ChoiceField(
        source="access.visibility",
        choices=Visibility.choices,
        required=False,
        help_text=gettext_lazy("“shared”: every user may see, run and copy it. The owner and admins change this."),
    )

    def visibility_in(self, attrs: dict[str, Any]) -> str | None:
        return attrs.pop("access", {}).get("visibility")

    def share(self, instance: Any, visibility: str | None) -> None:
        if visibility is not None and visibility != instance.visibility:
            sharing.set_visibility(instance, visibility, by=self.person)


class AgentSerializer(GuardedSerializer[Agent]):
    """A role with a goal, a backstory, an LLM model and tools."""

    tools = tools_field()

    class Meta:
        model = Agent
        fields = [
            *("id", "role", "goal", "backstory", "llm_model", "llm_config", "tools", "allow_delegation"),
            *("max_iterations", "owner_id", "visibility", "created_at", "updated_at"),
        ]

    def create(self, validated_data: dict[str, Any]) -> Agent:
        visibility = self.visibility_in(validated_data) or Visibility.PRIVATE
        return actions.create_agent(by=self.person, visibility=visibility, **validated_data)

    def update(self, instance: Agent, validated_data: dict[str, Any]) -> Agent:
        self.share(instance, self.visibility_in(validated_data))
        tools = validated_data.pop("tools", None)
        return actions.save_agent(self.assigned(instance, validated_data), tools=tools)


def _usable_agents(field: serializers.Field) -> models.QuerySet[Agent]:
    """What the person sees, and who works in the crew already."""
    serializer = cast(CrewSerializer, field.parent)
    crew = serializer.instance if isinstance(serializer.instance, Crew) else None
    usable = Q(pk__in=Agent.objects.visible_to(serializer.person).values("pk"))
    if crew is not None:
        usable |= Q(memberships__crew=crew)
    return Agent.objects.filter(usable).distinct()


class UsableAgent(serializers.PrimaryKeyRelatedField[Agent]):
    """The id of an agent that the person may use."""

    def get_queryset(self) -> Any:
        return _usable_agents(self)


class CrewSerializer(GuardedSerializer[Crew]):
    """Agents that work together on tasks."""

    agent_ids = IdList(
        source="agents",
        rows=_usable_agents,
        ids=lambda crew: [member.agent_id for member in crew.members.all()],
        required=False,
        help_text=gettext_lazy("The members, in their order."),
    )
    manager_agent_id = UsableAgent(
        source="manager_agent",
        queryset=Agent.objects.none(),
        pk_field=serializers.UUIDField(),
        required=False,
        allow_null=True,
        help_text=gettext_lazy("Who leads a hierarchical crew."),
    )

    class Meta:
        model = Crew
        fields = [
            *("id", "name", "description", "crew_type", "process", "manager_llm_model", "manager_agent_id", "engine"),
            *("status", "max_duration_seconds", "task_timeout_seconds", "max_llm_calls", "approval_timeout_seconds"),
            *("approval_reminder_seconds", "agent_ids", "owner_id", "visibility", "created_at", "updated_at"),
        ]

    def create(self, validated_data: dict[str, Any]) -> Crew:
        visibility = self.visibility_in(validated_data) or Visibility.PRIVATE
        return actions.create_crew(by=self.person, visibility=visibility, **validated_data)

    def update(self, instance: Crew, validated_data: dict[str, Any]) -> Crew:
        self.share(instance, self.visibility_in(validated_data))
        agents = validated_data.pop("agents", None)
        return actions.save_crew(self.assigned(instance, validated_data), agents=agents)


class VisibleCrew(serializers.PrimaryKeyRelatedField[Crew]):
    """The id of a crew that the person sees."""

    def get_queryset(self) -> Any:
        return Crew.objects.visible_to(cast(TaskSerializer, self.parent).person).select_related("access")


def _visible_tasks(field: IdList) -> models.QuerySet[Task]:
    person = cast(TaskSerializer, field.parent).person
    return Task.objects.filter(crew__in=Crew.objects.visible_to(person))


class TaskAgent(serializers.PrimaryKeyRelatedField[Agent]):
    """The id of an agent; that it is a member of the crew is checked by the task."""

    def get_queryset(self) -> Any:
        person = cast(TaskSerializer, self.parent).person
        crews = Crew.objects.visible_to(person).values("pk")
        visible = Agent.objects.visible_to(person).values("pk")
        return Agent.objects.filter(Q(pk__in=visible) | Q(memberships__crew__in=crews)).distinct()


class TaskSerializer(DefinitionSerializer[Task]):
    """A description and an expected output, given to an agent of the crew."""

    crew_id = VisibleCrew(source="crew", queryset=Crew.objects.none(), pk_field=serializers.UUIDField())
    agent_id = TaskAgent(
        source="agent",
        queryset=Agent.objects.none(),
        pk_field=serializers.UUIDField(),
        required=False,
        allow_null=True,
        help_text=gettext_lazy("A member of the crew; may be empty in a hierarchical crew."),
    )
    context = IdList(  # type: ignore[assignment]
        rows=_visible_tasks,
        ids=lambda task: [other.pk for other in task.context.all()],
        required=False,
        help_text=gettext_lazy("Ids of the tasks of this crew whose output it takes."),
    )
    tools = tools_field()
    status = serializers.CharField(
        read_only=True, allow_null=True, help_text=gettext_lazy("Of its latest run; null when it never ran.")
    )

    class Meta:
        model = Task
        fields = [
            *("id", "crew_id", "agent_id", "name", "description", "expected_output", "execution_order", "context"),
            *("async_execution", "human_input", "tools", "status"),
        ]
        # `Task.full_clean` looks after unique names; the validator made here would need both fields in a PATCH.
        validators: list[Any] = []

    def validate_crew_id(self, crew: Crew) -> Crew:
        if self.instance is None:
            require(self.person, Action.CHANGE, crew)
        elif crew.pk != self.instance.crew_id:
            raise serializers.ValidationError(_("A task stays in its crew."), code="immutable")
        return crew

    def create(self, validated_data: dict[str, Any]) -> Task:
        return self._save(Task(), validated_data)

    def update(self, instance: Task, validated_data: dict[str, Any]) -> Task:
        return self._save(instance, validated_data)

    def _save(self, task: Task, attrs: dict[str, Any]) -> Task:
        context, tools = attrs.pop("context", None), attrs.pop("tools", None)
        return actions.save_task(self.assigned(task, attrs), context=context, tools=tools)


class CrewInputSerializer(DefinitionSerializer[CrewInput]):
    """A field of a crew's run form; `{field_name}` in its texts is replaced by the value."""

    options = serializers.ListField(
        child=serializers.CharField(), required=False, help_text=gettext_lazy("What a “select” offers.")
    )

    class Meta:
        model = CrewInput
        fields = [
            *("id", "field_name", "field_type", "field_label", "options", "default", "is_required"),
            "display_order",
        ]
        validators: list[Any] = []

    def create(self, validated_data: dict[str, Any]) -> CrewInput:
        return self._save(CrewInput(crew=self.context["crew"]), validated_data)

    def update(self, instance: CrewInput, validated_data: dict[str, Any]) -> CrewInput:
        return self._save(instance, validated_data)

    def _save(self, definition: CrewInput, attrs: dict[str, Any]) -> CrewInput:
        definition = self.assigned(definition, attrs)
        definition.full_clean()
        definition.save()
        return definition


class ToolSerializer(DefinitionSerializer[Tool]):
    """Something an agent may call."""

    class Meta:
        model = Tool
        fields = ["id", "name", "kind", "description", "config", "enabled"]
        read_only_fields = ["name", "kind", "config"]


class LLMProviderSerializer(DefinitionSerializer[LLMProvider]):
    """Where models are reached."""

    api_key = serializers.CharField(
        write_only=True,
        required=False,
        allow_blank=True,
        max_length=4000,
        help_text=gettext_lazy("Never shown again. Leave it out to keep the stored one; empty removes it."),
    )
    has_key = serializers.BooleanField(read_only=True)
    notice = serializers.SerializerMethodField(help_text=gettext_lazy("What else this change did; mostly empty."))

    class Meta:
        model = LLMProvider
        fields = [
            "id",
            "name",
            "kind",
            "api_base",
            "api_key",
            "has_key",
            "needs_key",
            "allow_private",
            "enabled",
            "created_at",
            "notice",
        ]

    def get_notice(self, provider: LLMProvider) -> str:
        said = []
        if provider.key_was_dropped:
            said.append(
                _("The stored key was dropped, because it was given for another host. Enter the key of the new one.")
            )
        if provider.private_was_dropped:
            said.append(_("Requests to private networks were allowed for another host, and are not for this one."))
        return " ".join(said)

    def create(self, validated_data: dict[str, Any]) -> LLMProvider:
        return self._save(LLMProvider(), validated_data)

    def update(self, instance: LLMProvider, validated_data: dict[str, Any]) -> LLMProvider:
        return self._save(instance, validated_data)

    def _save(self, provider: LLMProvider, attrs: dict[str, Any]) -> LLMProvider:
        provider = self.assigned(provider, attrs)
        if "allow_private" in self.initial_data:
            provider.private_given_for = provider.origin
        provider.full_clean()
        provider.save()
        return provider


class LLMModelSerializer(DefinitionSerializer[LLMModel]):
    """An entry of the catalog; its id is its name. Prices are US$ per million tokens, null: unpriced."""

    provider_id = serializers.PrimaryKeyRelatedField(
        source="provider", queryset=LLMProvider.objects.all(), pk_field=serializers.UUIDField()
    )
    good_for = serializers.ListField(
        child=serializers.CharField(max_length=50),
        required=False,
        help_text=gettext_lazy("What it suits: research, code, documents, fast."),
    )
    fallbacks = IdList(
        rows=lambda field: LLMModel.objects.all(),
        ids=lambda model: [row.fallback_id for row in model.fallback_rows.all()],
        child=serializers.CharField(),
        required=False,
        help_text=gettext_lazy("Catalog ids to try when it cannot answer, in order."),
    )
    is_runnable = serializers.BooleanField(read_only=True)
    why_not_runnable = serializers.CharField(
        read_only=True, help_text=gettext_lazy("Why no run can use it now; empty when one can.")
    )

    class Meta:
        model = LLMModel
        fields = [
            *("id", "name", "description", "provider_id", "route", "context_window", "max_concurrency", "price_in"),
            *("price_out", "is_local", "native_tools", "good_for", "defaults", "fallbacks", "enabled", "is_runnable"),
            *("why_not_runnable", "health", "health_detail", "health_checked_at", "created_at"),
        ]
        read_only_fields = ["health", "health_detail", "health_checked_at", "created_at"]

    def validate_id(self, value: str) -> str:
        if self.instance is not None and value != self.instance.pk:
            raise serializers.ValidationError(_("The id of a model stays."), code="immutable")
        return value

    def create(self, validated_data: dict[str, Any]) -> LLMModel:
        fallbacks = validated_data.pop("fallbacks", None)
        return catalog_actions.save_model(LLMModel(**validated_data), fallbacks=fallbacks)

    def update(self, instance: LLMModel, validated_data: dict[str, Any]) -> LLMModel:
        fallbacks = validated_data.pop("fallbacks", None)
        return catalog_actions.save_model(self.assigned(instance, validated_data), fallbacks=fallbacks)


class ReportSerializer(serializers.Serializer[Any]):
    """What trying a provider showed."""

    ok = serializers.BooleanField(allow_null=True, help_text=gettext_lazy("Null: it cannot be tried without a run."))
    detail = serializers.CharField(help_text=gettext_lazy("One plain sentence."))
    models = serializers.ListField(child=serializers.CharField(), help_text=gettext_lazy("What it serves."))


def refuse_repeated(definitions: list[dict[str, Any]]) -> None:
    """Raise `InvalidValues` when two inputs of a list have one name."""
    names = [definition["field_name"] for definition in definitions]
    errors = [
        FieldError(f"{index}.field_name", "repeated", _("Another input of the list has this name."))
        for index, name in enumerate(names)
        if name in names[:index]
    ]
    if errors:
        raise InvalidValues(errors)
