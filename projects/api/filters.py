"""Field filters of lists."""

from typing import Any

from django.db.models import Q
from django_filters import rest_framework as filters

from crews.api.filters import OwnedFilter
from projects.models import Deliverable, DeliverableAccess, Project, Template
from projects.status import ProjectStatus


class ProjectFilter(OwnedFilter):
    status = filters.MultipleChoiceFilter(choices=ProjectStatus.choices)
    template_id = filters.CharFilter(field_name="template_id", label="Made from this template")
    crew_id = filters.UUIDFilter(field_name="crew_id", label="Worked on by this crew")
    is_archived = filters.BooleanFilter(method="archived", label="Without it: those that are not archived")
    deadline_before = filters.IsoDateTimeFilter(field_name="deadline", lookup_expr="lt")
    deadline_after = filters.IsoDateTimeFilter(field_name="deadline", lookup_expr="gt")

    class Meta:
        model = Project
        fields = ["selected_ai", "project_type", "current_stage", "language", "status"]

    def filter_queryset(self, queryset: Any) -> Any:
        found = super().filter_queryset(queryset)
        return found if self.form.cleaned_data["is_archived"] is not None else found.current()

    def archived(self, projects: Any, name: str, value: bool) -> Any:
        return projects.filter(archived_at__isnull=not value)


class DeliverableFilter(filters.FilterSet):
    type = filters.MultipleChoiceFilter(field_name="deliverable_type", choices=Deliverable.Type.choices)
    status = filters.MultipleChoiceFilter(choices=Deliverable.Status.choices)
    stage_id = filters.UUIDFilter(field_name="stage_id", label="Of this stage")
    created_by_role = filters.CharFilter(field_name="created_by_role", lookup_expr="iexact")
    is_latest = filters.BooleanFilter(label="true: of each deliverable the latest version alone")

    class Meta:
        model = Deliverable
        fields = ["file_type", "is_latest", "lineage"]


class FoundFilter(filters.FilterSet):
    """Of a search, beside its words."""

    type = filters.MultipleChoiceFilter(field_name="deliverable_type", choices=Deliverable.Type.choices)

    class Meta:
        model = Deliverable
        fields: list[str] = []


class AccessFilter(filters.FilterSet):
    accessed_by_role = filters.CharFilter(field_name="accessed_by_role", lookup_expr="iexact")
    accessed_by_id = filters.UUIDFilter(field_name="accessed_by_id")

    class Meta:
        model = DeliverableAccess
        fields = ["access_type"]


class TemplateFilter(filters.FilterSet):
    q = filters.CharFilter(method="words", label="Words of its name, description or outline")

    class Meta:
        model = Template
        fields = ["project_type", "selected_ai", "is_builtin"]

    def words(self, templates: Any, name: str, value: str) -> Any:
        for word in value.split()[:20]:
            templates = templates.filter(
                Q(name__icontains=word) | Q(description__icontains=word) | Q(requirement_outline__icontains=word)
            )
        return templates
