"""How a project looks in numbers."""

from typing import Any

from django.utils.translation import gettext_lazy
from rest_framework import serializers

from projects.analytics import days


class RoleActivitySerializer(serializers.Serializer[Any]):
    hours = serializers.FloatField()
    deliverables = serializers.IntegerField()


class WorkSerializer(serializers.Serializer[Any]):
    """What was made by a role with a model, what was decided about it, and what it cost."""

    role = serializers.CharField(allow_blank=True)
    llm_model = serializers.CharField(allow_blank=True)
    deliverables = serializers.IntegerField(help_text=gettext_lazy("Versions."))
    approved = serializers.IntegerField()
    rejected = serializers.IntegerField()
    rework = serializers.IntegerField(help_text=gettext_lazy("Versions that answer a rejection."))
    cost_usd = serializers.DecimalField(max_digits=16, decimal_places=8)
    unpriced_calls = serializers.IntegerField(help_text=gettext_lazy("Calls of a model without a price."))
    cost_per_approved = serializers.DecimalField(
        max_digits=16, decimal_places=8, allow_null=True, help_text=gettext_lazy("null: nothing was approved.")
    )


class AnalyticsSerializer(serializers.Serializer[Any]):
    """A project in numbers."""

    progress_percentage = serializers.IntegerField()
    stages_completed = serializers.IntegerField()
    total_stages = serializers.IntegerField()
    deliverables_created = serializers.IntegerField()
    average_stage_duration = serializers.SerializerMethodField(help_text=gettext_lazy("For people: “2.5 days”."))
    role_activity = serializers.DictField(child=RoleActivitySerializer())
    models = WorkSerializer(many=True)

    def get_average_stage_duration(self, numbers: dict[str, Any]) -> str:
        return days(numbers["average_stage_duration"])


class DashboardSerializer(serializers.Serializer[Any]):
    """All projects in numbers."""

    total_projects = serializers.IntegerField()
    active_projects = serializers.IntegerField()
    completed_projects = serializers.IntegerField()
    total_deliverables = serializers.IntegerField()
    projects_by_stage = serializers.DictField(child=serializers.IntegerField())
