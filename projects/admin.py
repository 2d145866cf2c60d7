"""Projects in Django admin: to look at. They are worked on their pages and through the API."""

from typing import Any

from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from portal.lib.admin import ReadOnlyAdmin, ReadOnlyInline
from projects.models import (
    Approver,
    Attachment,
    Comment,
    Deliverable,
    DeliverableAccess,
    DeliverableFile,
    Project,
    Review,
    RoleLLMMapping,
    Stage,
    StageRun,
    Template,
)


class _ShowsAll:
    """Shows the fields that only the portal writes, too."""

    model: type[Model]
    hidden: frozenset[str] = frozenset()

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        kept = [field.name for field in self.model._meta.concrete_fields if not field.editable]
        own = super().get_readonly_fields(request, obj)  # type: ignore[misc]
        return [name for name in (*own, *kept) if name not in self.hidden]


class Look(_ShowsAll, ReadOnlyAdmin):
    """Rows to look at, with all that they hold."""


class LookBeside(_ShowsAll, ReadOnlyInline):
    """Rows beside the one they belong to, with all that they hold."""


class StageInline(LookBeside):
    model = Stage
    fields = ["stage_order", "stage_name", "responsible_role", "stage_status", "is_stale", "actual_hours"]


class MappingInline(LookBeside):
    model = RoleLLMMapping
    fields = ["role_name", "llm_model", "llm_config", "is_active"]
    show_change_link = False


class AttachmentInline(LookBeside):
    model = Attachment
    fields = ["name", "size", "created_at"]
    show_change_link = False


@admin.register(Project)
class ProjectAdmin(Look):
    list_display = ["name", "selected_ai", "status", "current_stage", "progress_percentage", "whose", "created_at"]
    list_filter = ["status", "selected_ai", "project_type", "language"]
    list_select_related = ["access__owner"]
    search_fields = ["name", "=id"]
    date_hierarchy = "created_at"
    inlines = [StageInline, MappingInline, AttachmentInline]
    fieldsets = [
        (None, {"fields": ["name", "description", "selected_ai", "project_type", "template", "crew", "access"]}),
        (_("Course"), {"fields": ["status", "current_stage", "progress_percentage", "round", "auto_advance"]}),
        (_("Requirement"), {"fields": ["requirement", "target_audience", "language", "technical_requirements"]}),
        (_("Frame"), {"fields": ["estimated_hours", "actual_hours", "deadline", "budget_usd", "archived_at"]}),
        (_("In detail"), {"fields": ["deliverables_link", "events_link", "created_at", "updated_at"]}),
    ]
    readonly_fields = ["deliverables_link", "events_link"]

    @admin.display(description=_("owner"), ordering="access__owner__username")
    def whose(self, project: Project) -> str:
        return project.access.owner.get_username()

    @admin.display(description=_("deliverables"))
    def deliverables_link(self, project: Project) -> str:
        address = reverse("admin:projects_deliverable_changelist", query={"project__id__exact": str(project.pk)})
        return format_html('<a href="{}">{}</a>', address, _("deliverables"))

    @admin.display(description=_("events"))
    def events_link(self, project: Project) -> str:
        address = reverse("admin:executions_executionevent_changelist", query={"stream__id__exact": project.stream_id})
        return format_html('<a href="{}">{}</a>', address, _("events"))


class RunInline(LookBeside):
    model = StageRun
    fields = ["execution", "round", "cause", "started_by", "created_at", "settled_at"]
    show_change_link = False


class ApproverInline(LookBeside):
    model = Approver
    fields = ["user", "delegated_by", "is_escalation", "created_at"]
    show_change_link = False


@admin.register(Stage)
class StageAdmin(Look):
    list_display = ["stage_name", "project", "responsible_role", "stage_status", "is_stale", "review_since"]
    list_filter = ["stage_status", "stage_name", "is_stale"]
    list_select_related = ["project"]
    search_fields = ["project__name", "=id"]
    inlines = [RunInline, ApproverInline]
    ordering = ["-project__created_at", "stage_order"]


class FileInline(LookBeside):
    model = DeliverableFile
    fields = ["path", "size"]
    show_change_link = False


class ReviewInline(LookBeside):
    model = Review
    fields = ["reviewer", "role", "decision", "comments", "sha256", "created_at"]
    show_change_link = False


class CommentInline(LookBeside):
    model = Comment
    fields = ["author", "text", "created_at"]
    show_change_link = False


@admin.register(Deliverable)
class DeliverableAdmin(Look):
    list_display = ["title", "version", "deliverable_type", "status", "created_by_role", "project", "created_at"]
    list_filter = ["status", "deliverable_type", "file_type", "is_latest"]
    list_select_related = ["project"]
    search_fields = ["title", "=id", "=lineage", "=sha256"]
    date_hierarchy = "created_at"
    inlines = [FileInline, ReviewInline, CommentInline]
    exclude = ["search_text"]
    hidden = frozenset({"search_text"})

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).defer(*Deliverable.HEAVY)


@admin.register(DeliverableAccess)
class DeliverableAccessAdmin(Look):
    list_display = ["created_at", "access_type", "accessed_by_role", "accessed_by", "deliverable"]
    list_filter = ["access_type"]
    list_select_related = ["accessed_by", "deliverable"]
    search_fields = ["=deliverable__id", "=project__id"]
    ordering = ["-id"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).defer(*(f"deliverable__{name}" for name in Deliverable.HEAVY))


@admin.register(Template)
class TemplateAdmin(Look):
    list_display = ["name", "id", "project_type", "selected_ai", "is_builtin", "created_by"]
    list_filter = ["project_type", "selected_ai", "is_builtin"]
    list_select_related = ["created_by"]
    search_fields = ["id", "name"]
