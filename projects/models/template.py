"""Templates: what a project of a kind starts with."""

from typing import Any

from django.conf import settings
from django.core.validators import RegexValidator
from django.db import models
from django.db.models import Exists, OuterRef, Q
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from portal.accounts.models import AccessGrant, AccessQuerySet, Role, User, Visibility
from projects.models.project import Project


class TemplateQuerySet(AccessQuerySet):
    def visible_to(self, user: Any) -> Any:
        """Those that come along, one's own, and those that others share. One query."""
        if not isinstance(user, User) or not user.is_active:
            return self.none()
        if user.has_role(Role.ADMIN):
            return self
        granted = AccessGrant.objects.filter(access=OuterRef("access"), user=user)
        shown = Q(access__owner=user) | Q(access__visibility=Visibility.SHARED) | Exists(granted)
        return self.filter(Q(is_builtin=True) | shown)


class Template(models.Model):
    """Stages, outline, recommended models and folders of a kind of project. Its id is its name (`web_app`).

    `stages`: [{stage_name, responsible_role, requires_approval?, instructions?, estimated_hours?, depends_on}], the
    last a list of names of stages;
    `recommended_models`: {role: purpose or catalog id}; `folders`: paths of the code's folder structure.
    """

    id = models.CharField(
        primary_key=True, max_length=60, validators=[RegexValidator(r"^[a-z][a-z0-9_]*$", _("Use a-z, 0-9 and _."))]
    )
    name = models.CharField(_("name"), max_length=200)
    description = models.TextField(_("description"), blank=True)
    project_type = models.CharField(_("type"), max_length=20, choices=Project.Type.choices)
    selected_ai = models.CharField(_("engine"), max_length=10, choices=Project.Engine.choices)
    requirement_outline = models.TextField(_("outline of the requirement"), blank=True)
    stages = models.JSONField(_("stages"), default=list)
    recommended_models = models.JSONField(_("recommended models"), default=dict, blank=True)
    folders = models.JSONField(_("folders"), default=list, blank=True)
    technical_requirements = models.JSONField(default=dict, blank=True)
    is_builtin = models.BooleanField(default=False, editable=False)
    access = models.ForeignKey("accounts.AccessList", on_delete=models.PROTECT, null=True, blank=True, related_name="+")
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = TemplateQuerySet.as_manager()

    class Meta:
        db_table = "project_templates"
        ordering = ["-is_builtin", "name", "id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(is_builtin=True, access__isnull=True) | Q(is_builtin=False, access__isnull=False),
                name="own_templates_belong_to_somebody",
            )
        ]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("projects:template-detail", args=[self.pk])
