"""How projects, their stages and role mappings look to programs."""

from typing import Any, cast

from django.db import models
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from crews.api.serializers import DefinitionSerializer, GuardedSerializer
from crews.inputs import InputFile
from crews.models import Crew, LLMModel
from executions.status import Status as ExecutionStatus
from portal.accounts.models import User, Visibility
from projects import actions
from projects.models import Approver, Attachment, Project, RoleLLMMapping, Stage, StageRun, Template


class Hours(serializers.DecimalField):
    """Hours of work."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_digits=8, decimal_places=2, min_value=0, **kwargs)


class VisibleTo(serializers.PrimaryKeyRelatedField[Any]):
    """The id of a row of `model` that the person of the request sees."""

    def __init__(self, model: type[models.Model], **kwargs: Any) -> None:
        self.model = model
        super().__init__(queryset=model._default_manager.none(), **kwargs)

    def get_queryset(self) -> Any:
        rows: Any = self.model._default_manager
        return rows.visible_to(self.context["request"].user)


# --- Projects -----------------------------------------------------------------------------------------


class ProjectSummarySerializer(serializers.ModelSerializer[Project]):
    """A project without its texts, as lists show it."""

    owner_id = serializers.UUIDField(source="access.owner_id")
    visibility = serializers.ChoiceField(source="access.visibility", choices=Visibility.choices)
    template_id = serializers.CharField(allow_null=True)
    crew_id = serializers.UUIDField(allow_null=True)
    url = serializers.SerializerMethodField()

    class Meta:
        model = Project
        fields: list[str] = [
            *("id", "name", "description", "selected_ai", "status", "current_stage", "progress_percentage"),
            *("project_type", "target_audience", "language", "template_id", "workspace_path", "estimated_hours"),
            *("actual_hours", "deadline", "budget_usd", "crew_id", "auto_advance", "round", "owner_id"),
            *("visibility", "archived_at", "created_at", "updated_at", "url"),
        ]
        read_only_fields = fields

    def get_url(self, project: Project) -> str:
        return f"/api/projects/{project.pk}"


class ProjectSerializer(GuardedSerializer[Project]):
    """A requirement worked through stages into deliverables by one engine."""

    template_id = serializers.CharField(read_only=True, allow_null=True)
    crew_id = VisibleTo(
        Crew,
        source="crew",
        pk_field=serializers.UUIDField(),
        required=False,
        allow_null=True,
        help_text=gettext_lazy("A crew of yours whose agents do the work; for “crew-ai” alone."),
    )
    technical_requirements = serializers.DictField(required=False)
    url = serializers.SerializerMethodField()

    class Meta:
        model = Project
        fields: list[str] = [
            *("id", "name", "description", "selected_ai", "status", "current_stage", "progress_percentage"),
            *("project_type", "target_audience", "requirement", "language", "template_id"),
            *("technical_requirements", "workspace_path", "estimated_hours", "actual_hours", "deadline"),
            *("budget_usd", "crew_id", "auto_advance", "round", "owner_id", "visibility", "archived_at"),
            *("created_at", "updated_at", "url"),
        ]
        read_only_fields = ["status", "workspace_path", "actual_hours", "round", "archived_at"]

    def get_url(self, project: Project) -> str:
        return f"/api/projects/{project.pk}"

    def validate_selected_ai(self, value: str) -> str:
        if self.instance is not None and value != self.instance.selected_ai:
            raise serializers.ValidationError(_("A project stays with its engine; duplicate it."), code="immutable")
        return value

    def _reset(self, attrs: dict[str, Any], name: str) -> None:
        if name != "selected_ai":
            super()._reset(attrs, name)

    def update(self, instance: Project, validated_data: dict[str, Any]) -> Project:
        self.share(instance, self.visibility_in(validated_data))
        validated_data.pop("selected_ai", None)
        return actions.update(instance, self.person, **validated_data)


class MappingSerializer(serializers.ModelSerializer[RoleLLMMapping]):
    """Which model a role works with, and with which parameters."""

    role_name = serializers.CharField(max_length=100, help_text=gettext_lazy("In any case of letters."))
    llm_model = serializers.PrimaryKeyRelatedField(
        queryset=LLMModel.objects.select_related("provider"), pk_field=serializers.CharField()
    )
    llm_config = serializers.DictField(required=False, help_text=gettext_lazy("temperature, max_tokens…"))

    class Meta:
        model = RoleLLMMapping
        fields = ["role_name", "llm_model", "llm_config", "is_active", "updated_at"]
        read_only_fields = ["is_active", "updated_at"]


class NewMappingsSerializer(serializers.Serializer[Any]):
    mappings = MappingSerializer(many=True, allow_empty=False)


class RecommendedSerializer(serializers.Serializer[Any]):
    """What is recommended for a role: `best`, or what can be reached in its place."""

    role_name = serializers.CharField()
    purpose = serializers.CharField(help_text=gettext_lazy("research, documents, code or fast."))
    llm_model = serializers.CharField()
    best = serializers.CharField()
    is_best = serializers.BooleanField()


class RecommendSerializer(serializers.Serializer[Any]):
    selected_ai = serializers.ChoiceField(choices=Project.Engine.choices, required=False)
    template_id = VisibleTo(Template, source="template", pk_field=serializers.CharField(), required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        template = attrs.get("template")
        attrs.setdefault("selected_ai", template.selected_ai if template else Project.Engine.CREW_AI)
        return attrs


class ProjectMappingsSerializer(serializers.Serializer[Any]):
    """The model of each role, and what is recommended for it now."""

    mappings = MappingSerializer(many=True)
    recommended = RecommendedSerializer(many=True)


class AttachmentSerializer(serializers.ModelSerializer[Attachment]):
    """A text file that belongs to the requirement."""

    class Meta:
        model = Attachment
        fields = ["id", "name", "size", "created_at"]
        read_only_fields = fields


class AttachmentTextSerializer(AttachmentSerializer):
    class Meta(AttachmentSerializer.Meta):
        fields = [*AttachmentSerializer.Meta.fields, "content"]
        read_only_fields = fields


class NewAttachmentSerializer(serializers.Serializer[Any]):
    """A text file: `name` and `content`, or an uploaded `file`."""

    name = serializers.CharField(max_length=200, required=False)
    content = serializers.CharField(required=False, allow_blank=True, trim_whitespace=False)
    file = serializers.FileField(required=False, help_text=gettext_lazy("In a form (multipart/form-data)."))

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        missing = {name for name in ("name", "content") if name not in attrs}
        if missing and "file" not in attrs:
            raise serializers.ValidationError(dict.fromkeys(missing, _("This field is required.")), code="required")
        return attrs

    @staticmethod
    def input_file(given: dict[str, Any]) -> InputFile:
        """What was sent, as actions take it."""
        if (file := given.get("file")) is not None:
            return InputFile(name=given.get("name") or file.name or "", content=file.read())
        return InputFile(name=given["name"], content=given["content"].encode())


class _StartsSerializer(serializers.Serializer[Any]):
    """What a new project may be given beside its fields."""

    mappings = MappingSerializer(
        many=True,
        required=False,
        write_only=True,
        help_text=gettext_lazy("Models of roles; for the others the recommended one."),
    )
    attachments = NewAttachmentSerializer(many=True, required=False, write_only=True)
    start = serializers.BooleanField(
        required=False, write_only=True, help_text=gettext_lazy("Start it at once; a key needs the scope “run”.")
    )

    def starting(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of `actions.create` that stand in `attrs`, which loses them."""
        files = [NewAttachmentSerializer.input_file(file) for file in attrs.pop("attachments", [])]
        return {"files": files, "api_key_id": self.context.get("api_key_id")}


class NewProjectSerializer(ProjectSerializer, _StartsSerializer):
    """A project to be made. What is not given comes from the template, if one is named."""

    template_id = VisibleTo(  # type: ignore[assignment]
        Template, source="template", pk_field=serializers.CharField(), required=False, allow_null=True
    )

    class Meta(ProjectSerializer.Meta):
        fields = [*ProjectSerializer.Meta.fields, "mappings", "attachments", "start"]

    def create(self, validated_data: dict[str, Any]) -> Project:
        visibility = self.visibility_in(validated_data) or Visibility.PRIVATE
        starting = self.starting(validated_data)
        return actions.create(by=self.person, visibility=visibility, **starting, **validated_data)


class FromTemplateSerializer(_StartsSerializer):
    """A project to be made from a template."""

    name = serializers.CharField(max_length=200)
    description = serializers.CharField(required=False, allow_blank=True)
    requirement = serializers.CharField(
        required=False,
        allow_blank=True,
        trim_whitespace=False,
        help_text=gettext_lazy("Without it: what the description and the template's outline say."),
    )


class DuplicateSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(
        max_length=200, required=False, allow_blank=True, default="", help_text=gettext_lazy("Without it: as it is.")
    )
    until = serializers.CharField(
        max_length=40,
        required=False,
        help_text=gettext_lazy(
            "A stage, by id or name: the approved work of those before it is copied too, and the copy goes on there."
        ),
    )


class ArchiveSerializer(serializers.Serializer[Any]):
    archived = serializers.BooleanField(default=True, help_text=gettext_lazy("false: take it back."))


class SaveAsTemplateSerializer(serializers.Serializer[Any]):
    """A template with the stages, gates and models of the project."""

    name = serializers.CharField(max_length=200)
    id = serializers.RegexField(r"^[a-z][a-z0-9_]*$", max_length=60, required=False, source="key")
    description = serializers.CharField(required=False, allow_blank=True)
    visibility = serializers.ChoiceField(choices=Visibility.choices, default=Visibility.PRIVATE)


# --- Stages -------------------------------------------------------------------------------------------


class ApproverSerializer(serializers.ModelSerializer[Approver]):
    """Somebody who may review the stage beside the owner and the editors of the project."""

    user_id = serializers.UUIDField()
    username = serializers.CharField(source="user.username")
    delegated_by_id = serializers.UUIDField(allow_null=True)

    class Meta:
        model = Approver
        fields = ["user_id", "username", "delegated_by_id", "is_escalation"]
        read_only_fields = fields


class StageSerializer(serializers.ModelSerializer[Stage]):
    """A step of a project with a responsible role. Give it a queryset of `base.shown_stages`."""

    project_id = serializers.UUIDField()
    depends_on = serializers.SerializerMethodField(help_text=gettext_lazy("Ids of the stages to be approved first."))
    escalate_to_id = serializers.UUIDField(allow_null=True)
    approvers = ApproverSerializer(many=True)
    execution_id = serializers.SerializerMethodField(help_text=gettext_lazy("Its latest run; null before the first."))
    execution_status = serializers.SerializerMethodField()

    class Meta:
        model = Stage
        fields: list[str] = [
            *("id", "project_id", "stage_name", "stage_order", "depends_on", "stage_status", "is_stale"),
            *("responsible_role", "instructions", "estimated_hours", "actual_hours", "has_given_hours"),
            *("start_date", "end_date", "notes", "problem", "requires_approval", "quorum", "excludes_author"),
            *("review_hours", "escalate_to_id", "review_since", "escalated_at", "approvers", "execution_id"),
            "execution_status",
        ]
        read_only_fields = fields

    @extend_schema_field(serializers.ListField(child=serializers.UUIDField()))
    def get_depends_on(self, stage: Stage) -> list[str]:
        return [str(other.pk) for other in stage.depends_on.all()]

    @extend_schema_field(serializers.UUIDField(allow_null=True))
    def get_execution_id(self, stage: Stage) -> str | None:
        run = _latest_run(stage)
        return str(run.execution_id) if run else None

    @extend_schema_field(serializers.ChoiceField(choices=ExecutionStatus.choices, allow_null=True))
    def get_execution_status(self, stage: Stage) -> str | None:
        run = _latest_run(stage)
        return run.execution.status if run else None


def _latest_run(stage: Stage) -> StageRun | None:
    return next(iter(stage.runs.all()), None)


class StartedStageSerializer(StageSerializer):
    """The stage, in progress; `execution_id` is the run that was started."""

    execution_id = serializers.UUIDField(source="started.pk")  # type: ignore[assignment]
    execution_status = serializers.CharField(source="started.status")  # type: ignore[assignment]


class StageChangeSerializer(DefinitionSerializer[Stage]):
    """Options of a stage and its gate; what is not named stays."""

    escalate_to_id = serializers.PrimaryKeyRelatedField(
        source="escalate_to",
        queryset=User.objects.filter(is_active=True),
        pk_field=serializers.UUIDField(),
        required=False,
        allow_null=True,
        help_text=gettext_lazy("Who is asked when the time is over; null: the owner."),
    )
    approver_ids = serializers.ListField(
        source="approvers",
        child=serializers.PrimaryKeyRelatedField(
            queryset=User.objects.filter(is_active=True), pk_field=serializers.UUIDField()
        ),
        required=False,
        max_length=50,
        help_text=gettext_lazy("Who may review it beside owner and editors; they must see the project."),
    )

    class Meta:
        model = Stage
        fields = [
            *("responsible_role", "instructions", "estimated_hours", "notes", "requires_approval", "quorum"),
            *("excludes_author", "review_hours", "escalate_to_id", "approver_ids"),
        ]

    def update(self, instance: Stage, validated_data: dict[str, Any]) -> Stage:
        return actions.set_stage(instance, self.person, **validated_data)


class StageStartSerializer(serializers.Serializer[Any]):
    responsible_role = serializers.CharField(
        max_length=100, required=False, help_text=gettext_lazy("Another role of the project than the stage's own.")
    )
    estimated_hours = Hours(required=False, allow_null=True)


class StageCompleteSerializer(serializers.Serializer[Any]):
    actual_hours = Hours(required=False, help_text=gettext_lazy("Instead of the measured ones."))
    notes = serializers.CharField(required=False, allow_blank=True, trim_whitespace=False)


class DelegateSerializer(serializers.Serializer[Any]):
    user_id = serializers.PrimaryKeyRelatedField(
        source="to",
        queryset=User.objects.filter(is_active=True),
        pk_field=serializers.UUIDField(),
        help_text=gettext_lazy("Who may review it in your name; they must see the project."),
    )


class RollBackSerializer(serializers.Serializer[Any]):
    reason = serializers.CharField(required=False, allow_blank=True, default="", max_length=2000)


class ProjectStateSerializer(serializers.ModelSerializer[Project]):
    """Where a project stands, with each of its stages."""

    project_id = serializers.UUIDField(source="pk")
    stages_completed = serializers.SerializerMethodField(help_text=gettext_lazy("Those that are not out of date."))
    total_stages = serializers.SerializerMethodField()
    stages = serializers.SerializerMethodField()

    class Meta:
        model = Project
        fields = [
            *("project_id", "status", "current_stage", "progress_percentage", "round", "actual_hours"),
            *("stages_completed", "total_stages", "stages"),
        ]
        read_only_fields = fields

    def _stages(self, project: Project) -> list[Stage]:
        return cast(list[Stage], self.context["stages"])

    def get_stages_completed(self, project: Project) -> int:
        return sum(stage.is_done for stage in self._stages(project))

    def get_total_stages(self, project: Project) -> int:
        return len(self._stages(project))

    @extend_schema_field(StageSerializer(many=True))
    def get_stages(self, project: Project) -> Any:
        return StageSerializer(self._stages(project), many=True).data
