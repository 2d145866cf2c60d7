"""How templates look to programs."""

from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from rest_framework import serializers

from crews.api.serializers import DefinitionSerializer
from portal.accounts.models import Visibility
from projects import actions
from projects.models import Stage, Template


class TemplateStageSerializer(serializers.Serializer[Any]):
    """A stage of the projects that are made from it."""

    stage_name = serializers.ChoiceField(choices=Stage.Name.choices)
    responsible_role = serializers.CharField(max_length=100)
    requires_approval = serializers.BooleanField(required=False)
    quorum = serializers.IntegerField(required=False, min_value=1, max_value=10)
    excludes_author = serializers.BooleanField(required=False)
    review_hours = serializers.IntegerField(required=False, allow_null=True, min_value=1, max_value=10_000)
    instructions = serializers.CharField(required=False, allow_blank=True, trim_whitespace=False)
    estimated_hours = serializers.FloatField(required=False, allow_null=True, min_value=0, max_value=999_999)
    depends_on = serializers.ListField(
        child=serializers.ChoiceField(choices=Stage.Name.choices), help_text=gettext_lazy("Names of stages.")
    )


class TemplateSerializer(DefinitionSerializer[Template]):
    """Stages, outline, recommended models and folders of a kind of project. Its id is its name."""

    stages = serializers.ListField(
        child=TemplateStageSerializer(), required=False, max_length=10,
        help_text=gettext_lazy("Without them: those of the engine."),
    )  # fmt: skip
    recommended_models = serializers.DictField(
        child=serializers.CharField(max_length=100),
        required=False,
        help_text=gettext_lazy("Role → what it is for (research, documents, code, fast), or a catalog id."),
    )
    folders = serializers.ListField(child=serializers.CharField(max_length=250), required=False, max_length=100)
    technical_requirements = serializers.DictField(required=False)
    owner_id = serializers.UUIDField(source="access.owner_id", read_only=True, default=None, allow_null=True)
    visibility = serializers.ChoiceField(
        choices=Visibility.choices,
        required=False,
        help_text=gettext_lazy("“shared”: every user may use it. Those that come along always are."),
    )
    url = serializers.SerializerMethodField()

    class Meta:
        model = Template
        fields = [
            *("id", "name", "description", "project_type", "selected_ai", "requirement_outline", "stages"),
            *("recommended_models", "folders", "technical_requirements", "is_builtin", "owner_id", "visibility"),
            *("created_at", "updated_at", "url"),
        ]

    def get_url(self, template: Template) -> str:
        return f"/api/templates/{template.pk}"

    def to_representation(self, instance: Template) -> dict[str, Any]:
        shown = super().to_representation(instance)
        shown["visibility"] = instance.access.visibility if instance.access else Visibility.SHARED.value
        return shown

    def validate_id(self, value: str) -> str:
        if self.instance is not None and value != self.instance.pk:
            raise serializers.ValidationError(_("The id of a template stays."), code="immutable")
        return value

    def _reset(self, attrs: dict[str, Any], name: str) -> None:
        if name != "visibility":  # it stands on the access list, and stays unless it is named
            super()._reset(attrs, name)

    def create(self, validated_data: dict[str, Any]) -> Template:
        return actions.save_template(None, self.person, **validated_data)

    def update(self, instance: Template, validated_data: dict[str, Any]) -> Template:
        validated_data.pop("id", None)
        return actions.save_template(instance, self.person, **validated_data)


class TemplateStatsSerializer(serializers.Serializer[Any]):
    """How many templates you see, and how many projects that you see were made from each."""

    total = serializers.IntegerField()
    builtin = serializers.IntegerField()
    by_project_type = serializers.DictField(child=serializers.IntegerField())
    by_selected_ai = serializers.DictField(child=serializers.IntegerField())
    projects = serializers.DictField(child=serializers.IntegerField(), help_text=gettext_lazy("Template → projects."))


class CopyTemplateSerializer(serializers.Serializer[Any]):
    id = serializers.RegexField(r"^[a-z][a-z0-9_]*$", max_length=60, required=False, source="key")
    name = serializers.CharField(max_length=200, required=False)
